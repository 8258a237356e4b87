"""Digging holes into files in place, for a command: through the mount that serves them, which keeps
its writers out for as long as it looks at a block; or, where none does, beside it, with a lease
(fcntl(2), F_SETLEASE) that nobody else has the file open meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mirrorfs.backing import holes, recovery_attribute, state_folder
from mirrorfs.backing.digest_file import FOLDER, Folder, Identity, Mark
from mirrorfs.backing.mounts import MIRRORFS_TYPE
from mirrorfs.backing.paths import show
from mirrorfs.backing.probe import probe
from mirrorfs.backing.statx import statx
from mirrorfs.daemon import mounted, processes, timed_calls
from mirrorfs.errors import InUseError, MirrorfsError
from mirrorfs.fs.sparsifier import SPARSIFY_ATTRIBUTE
from mirrorfs.mirror import sparsifying
from mirrorfs.mirror.known_digests import stamp_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirrorfs.backing.probe import Abilities
    from mirrorfs.backing.statx import Status

_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE_BYTES = 4 << 20
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_REASONS = {
    errno.EBUSY: "it is being rewritten; run this again later",
    errno.EPERM: "only root and its owner may do that",
    errno.EIO: "a failed fsync makes its content doubtful, or the disk fails",
    errno.EOPNOTSUPP: "the file system below cannot make holes",
    errno.ELOOP: "is a symbolic link",
}


@dataclass(frozen=True, slots=True)
class Result:
    """Of one file. `zeros` are the bytes of its data that were found zero, in whole blocks, where
    nothing was to be changed; `before` and `after` what it takes on the disk. Sizes in bytes.
    """

    path: bytes
    size: int
    before: int
    after: int
    zeros: int = 0


def place_of(path: bytes) -> bytes:
    """Where what is meant by `path`, absolute and without symbolic links, is to be reached: through
    the mount, if one serves it. Raises NoAnswerError, InUseError if a daemon serves it whose mount
    cannot be seen, and MirrorfsError if the mount cannot be asked.
    """
    over = mounted.covering(path)
    if over is None or over.fs_type == MIRRORFS_TYPE:
        if over is not None:
            mounted.Statistics(over).read()
        return path
    serving = [one for one in mounted.every() if _is_in(path, one.source) and one.root == b"/"]
    if serving:
        mount = max(serving, key=lambda one: len(one.source))
        mounted.Statistics(mount).read()
        return os.path.normpath(mount.path + b"/" + path[len(mount.source) :])
    folder = path
    while folder != b"/":
        with contextlib.suppress(OSError):
            if timed_calls.call(processes.is_locked, folder, over.device):
                raise InUseError(
                    f"{show(path)}: a mirrorfs serves {show(folder)} whose mount cannot be seen "
                    "from here; run this where it is mounted, or end it"
                )
        folder = os.path.dirname(folder)
    return path


def files(path: bytes) -> Iterator[bytes]:
    """The regular file `path`, or all below it, in the same file system, but for state folders.
    Raises OSError.
    """
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        yield path
        return
    with os.scandir(path) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_file(follow_symlinks=False):
            yield entry.path
        elif entry.is_dir(follow_symlinks=False) and entry.name != state_folder.FOLDER:
            # What is mounted inside is another matter.
            is_same = entry.stat(follow_symlinks=False).st_dev == status.st_dev
            yield from files(entry.path) if is_same else ()


def sparsify(path: bytes, is_dry: bool, is_forced: bool, tell: Callable[[int], object]) -> Result:
    """Dig holes into a file, or, if `is_dry`, find out where; `is_forced`: without a lease. `tell`
    is called with the bytes that were gone through. Raises MirrorfsError, InUseError for a file
    that somebody else has open.
    """
    try:
        fd = os.open(path, os.O_RDONLY | _FLAGS)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise MirrorfsError(f"{show(path)}: is no regular file")
            block = _block(fd)
            if block is not None:
                return _through(path, fd, block, is_dry, tell)
            abilities = _abilities(path)
            if is_dry:
                return _counted(path, fd, abilities.unit_bytes, abilities.tells_holes(fd), tell)
        finally:
            os.close(fd)
        return _beside(path, abilities, is_forced, tell)
    except OSError as exc:
        reason = _REASONS.get(exc.errno or 0, exc.strerror)
        raise MirrorfsError(f"{show(path)}: {reason}") from None


def _block(fd: int) -> int | None:
    """The size of the blocks (bytes) of a file in a mount; None for one that is in none."""
    over = mounted.covering(os.readlink(b"/proc/self/fd/%d" % fd))
    if over is None or over.fs_type != MIRRORFS_TYPE:
        return None
    try:
        return int(os.getxattr(fd, SPARSIFY_ATTRIBUTE))
    except OSError as exc:
        if exc.errno == errno.ENODATA:
            raise OSError(exc.errno, "the mount is of a version that cannot do this") from None
        raise


def _through(
    path: bytes, fd: int, block: int, is_dry: bool, tell: Callable[[int], object]
) -> Result:
    if is_dry:
        return _counted(path, fd, block, True, tell)
    before = os.fstat(fd)
    for start, end in _pieces(fd, before.st_size, True, tell):
        os.setxattr(fd, SPARSIFY_ATTRIBUTE, b"%d:%d" % (start, end))
    return _result(path, before, os.fstat(fd))


def _counted(
    path: bytes, fd: int, block: int, is_trusted: bool, tell: Callable[[int], object]
) -> Result:
    """What would be dug, without any change."""
    before = os.fstat(fd)
    zeros = 0
    for start, end in _pieces(fd, before.st_size, is_trusted, tell):
        found = sparsifying.zero_ranges(fd, start, end, block, is_trusted)
        zeros += sum(stop - first for first, stop in found)
    return _result(path, before, before, zeros)


def _beside(
    path: bytes, abilities: Abilities, is_forced: bool, tell: Callable[[int], object]
) -> Result:
    fd = os.open(path, os.O_RDWR | _FLAGS)
    try:
        if not abilities.punch:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if _is_unfinished(fd):
            raise MirrorfsError(
                f"{show(path)}: a crash has left it unfinished; mount its folder once before"
            )
        before = os.fstat(fd)
        stamped = statx(fd)
        if not is_forced:
            _take_lease(fd, path)
        try:
            for start, end in _pieces(fd, before.st_size, abilities.tells_holes(fd), tell):
                if not is_forced:
                    _check_lease(fd, path)
                _dig(fd, start, end, abilities)
        finally:
            if os.fstat(fd).st_ctime_ns != before.st_ctime_ns:
                _restamp(path, stamped, statx(fd))
        return _result(path, before, os.fstat(fd))
    finally:
        os.close(fd)  # the lease goes, too


def _dig(fd: int, start: int, end: int, abilities: Abilities) -> None:
    # A signal between the holes and the time of the file would leave the wrong time.
    old = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        unit, is_trusted = abilities.unit_bytes, abilities.tells_holes(fd)
        sparsifying.dig(fd, list(sparsifying.zero_ranges(fd, start, end, unit, is_trusted)))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _is_unfinished(fd: int) -> bool:
    try:
        os.getxattr(fd, recovery_attribute.NAME)
    except OSError as exc:
        if exc.errno in {errno.ENODATA, errno.EOPNOTSUPP}:
            return False
        raise
    return True


def _take_lease(fd: int, path: bytes) -> None:
    # Who breaks it is to be noticed, not to end this process.
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as exc:
        if exc.errno == errno.EAGAIN:
            raise InUseError(
                f"{show(path)}: another program has it open; end that, or pass --force if it does "
                "not write"
            ) from None
        raise InUseError(
            f"{show(path)}: nobody can be kept out of it here ({exc.strerror}); pass --force if "
            "nobody writes it"
        ) from None


def _check_lease(fd: int, path: bytes) -> None:
    """InUseError if somebody waits to open the file: who is let in when it is closed."""
    if fcntl.fcntl(fd, fcntl.F_GETLEASE) != fcntl.F_WRLCK:
        raise InUseError(f"{show(path)}: another program opens it; run this again later")


def _pieces(
    fd: int, size: int, is_trusted: bool, tell: Callable[[int], object]
) -> Iterator[tuple[int, int]]:
    """The pieces of a file, of `size` bytes, that hold data."""
    place = 0
    while place < size:
        first = holes.next_data(fd, place) if is_trusted else place
        start = size if first is None else max(place, first - first % _PIECE_BYTES)
        tell(min(start, size) - place)
        if start >= size:
            return
        place = min(start + _PIECE_BYTES, size)
        yield start, start + _PIECE_BYTES
        tell(place - start)


def _result(path: bytes, before: os.stat_result, after: os.stat_result, zeros: int = 0) -> Result:
    return Result(path, before.st_size, before.st_blocks * 512, after.st_blocks * 512, zeros)


def _abilities(path: bytes) -> Abilities:
    """What the file system of a file can do, which is tried in its folder."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    folder = os.open(os.path.dirname(path), flags)
    try:
        return probe(folder, writable=True)
    finally:
        os.close(folder)


def _restamp(path: bytes, before: Status, after: Status) -> None:
    """Let the digests of a file, if there are any in a state folder above it, have its new stamp:
    its content is what it was. Where that is not possible, a scrub learns them anew.
    """
    root = os.path.dirname(path)
    while not os.path.isdir(os.path.join(root, state_folder.FOLDER, FOLDER)):
        if root == b"/":
            return
        root = os.path.dirname(root)
    device = 0 if os.stat(root).st_dev == after.dev else after.dev
    identity = Identity(device, after.ino, after.btime_ns)
    with contextlib.suppress(OSError):
        parent = os.open(os.path.join(root, state_folder.FOLDER), os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, parent)
            folder = Folder(parent)
            stack.callback(folder.close)
            file = folder.try_open(identity)
            if file is None:
                return
            stack.callback(file.close)
            header = file.header(identity, folder.seed)
            is_right = header is not None and header.stamp == stamp_of(before)
            if header is not None and is_right and header.mark is Mark.CLOSED:
                file.set_header(replace(header, stamp=stamp_of(after)))


def _is_in(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")
