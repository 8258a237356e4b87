"""What a client can see of a folder, as checks that run on any folder.

Each check gets an empty folder and returns what it saw; times, inode numbers and paths, which
differ from folder to folder by nature, stay out of it. An error is seen as its name. A check gives
its name to tests (`test_parity`), and is no part of the name of another: `-k` finds it alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Look = Callable[[Path], Any]
EXTENSION = "the extension"
ZEROED_RANGES = "ranges that can be zeroed"  # tmpfs has none
USER, GROUP = 12345, 23456
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # of security.capability

_PR_SET_KEEPCAPS = 8  # linux/prctl.h

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


@dataclass(frozen=True, slots=True)
class Check:
    """`needs` names what the mount, or the file system below, must have."""

    look: Look
    needs: tuple[str, ...] = ()


CHECKS: dict[str, Check] = {}


def check(look: Look) -> Look:
    """Decorator: the function is a check by its own name."""
    CHECKS[look.__name__] = Check(look)
    return look


def check_that_needs(*needs: str) -> Callable[[Look], Look]:
    """Decorator for a check that is not possible everywhere."""

    def note(look: Look) -> Look:
        CHECKS[look.__name__] = Check(look, needs)
        return look

    return note


def check_rows(rows: Mapping[str, tuple[Any, ...]], look: Callable[..., Any], *needs: str) -> None:
    """A check for each row, by the row's name: `look` gets the folder and what is in the row."""

    def of_row(row: tuple[Any, ...]) -> Look:
        return lambda folder: look(folder, *row)

    for name, row in rows.items():
        CHECKS[name] = Check(of_row(row), needs)


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


def tree(folder: Path) -> list[Any]:
    """All that is below a folder: names, what is `seen` of each, and the content of files."""
    return [
        (
            str(path.relative_to(folder)),
            seen(path),
            path.read_bytes() if stat.S_ISREG(path.lstat().st_mode) else None,
        )
        for path in sorted(folder.rglob("*"))
    ]


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
