"""What proc(5) says of the process that makes a request, while it waits for the answer."""

from __future__ import annotations

import os

# linux/sched.h
_PF_EXITING = 0x4
_PF_SIGNALED = 0x400
_FLAGS_FIELD = 6  # after the name; field 9 of all (proc_pid_stat(5))
_MAX_BYTES = 4096


def name_of(pid: int) -> str:
    """The name of a process (comm); empty if it is not to be seen here."""
    return _read(pid, "comm").decode("utf-8", "backslashreplace").rstrip("\n")


def end_of(pid: int) -> tuple[bool, bool]:
    """Whether a process is about to end, so that the kernel closes what it has left open; and
    whether a signal ends it.
    """
    _, _, rest = _read(pid, "stat").rpartition(b")")
    words = rest.split(maxsplit=_FLAGS_FIELD + 1)
    flags = int(words[_FLAGS_FIELD]) if len(words) > _FLAGS_FIELD else 0
    is_exiting = bool(flags & _PF_EXITING)
    return is_exiting, is_exiting and bool(flags & _PF_SIGNALED)


def _read(pid: int, name: str) -> bytes:
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _MAX_BYTES)
    except OSError:  # it has just ended
        return b""
    finally:
        os.close(fd)
