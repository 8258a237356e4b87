"""What a client can see of a folder, as a list of checks that run on any folder.

Each check gets an empty folder and returns what it saw; times, inode numbers and paths, which
differ from folder to folder by nature, stay out of it. An error is seen as its name.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Check = Callable[[Path], Any]
CHECKS: dict[str, Check] = {}
USER, GROUP = 12345, 23456
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # of security.capability

_PR_SET_KEEPCAPS = 8  # linux/prctl.h

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def said(call: Callable[..., Any], *args: Any, **words: Any) -> Any:
    """What a call returns, or the name of its error."""
    try:
        return call(*args, **words)
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0, str(exc.errno))


def seen(path: Path) -> tuple[str, int, int, int, int]:
    """Kind and mode, links, owner, group, size (of files and links)."""
    status = path.lstat()
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return oct(status.st_mode), status.st_nlink, status.st_uid, status.st_gid, size


@contextmanager
def opened(path: Path, flags: int, mode: int = 0o644) -> Iterator[int]:
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)


def as_user(
    call: Callable[[], Any],
    uid: int = USER,
    groups: tuple[int, ...] = (),
    with_: int | None = None,
    without: int | None = None,
) -> Any:
    """What a call says in a process of another user, which keeps or gives up a capability of root's
    (its number, linux/capability.h).
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            os.setgroups(groups)
            os.setgid(uid)
            libc.prctl(_PR_SET_KEEPCAPS, with_ is not None)
            os.setuid(uid)
            if with_ is not None:
                _set_capabilities(1 << with_)
            if without is not None:
                _set_capabilities(~(1 << without))
            os.write(writing, repr(said(call)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(child, 0)
    return answer


def _set_capabilities(mask: int) -> None:
    """Let this process have those of its permitted capabilities below 32 that are in `mask`, and
    no others of these (capset(2)).
    """
    header = struct.pack("=Ii", 0x20080522, 0)
    sets = ctypes.create_string_buffer(24)  # effective, permitted, inheritable; and of 32 to 63
    libc.capget(header, sets)
    _, permitted, *_ = struct.unpack("=6I", sets.raw)
    if libc.capset(header, struct.pack("=6I", permitted & mask, permitted & mask, 0, 0, 0, 0)) < 0:
        raise OSError(ctypes.get_errno(), "capset")


def let_others_through(*paths: Path) -> None:
    """Make every folder above these passable: some checks act as other users."""
    for path in paths:
        for folder in path.parents:
            mode = stat.S_IMODE(folder.stat().st_mode)
            if not mode & 0o001:
                folder.chmod(mode | 0o011)


def put(path: Path, content: bytes = b"content") -> Path:
    path.write_bytes(content)
    return path


def rename_with(flags: int, source: Path, target: Path) -> Any:
    if libc.renameat2(-100, os.fsencode(source), -100, os.fsencode(target), flags) < 0:
        return errno.errorcode[ctypes.get_errno()]
    return 0
