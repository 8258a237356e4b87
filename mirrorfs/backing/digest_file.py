"""The file in which the digests of one backing file are kept, in the folder `digests` of the state
folder. Its name is the identity of the backing file, so that it follows no name.

A header says of which content they are: the stamp of the backing file. While a session changes it,
the header says that it is *open*. Then come groups: a byte for each chunk that tells what is known
of it, a checksum, and the digests. What was never written is a hole, and means: nothing is known.

Guarantees: what is damaged, torn, of another version, of another file, or open, reads as nothing
known. Whoever changes a digest file holds its lock (flock(2)); who cannot get that soon takes the
file's name away, and begins a new one. A crash leaves the file as it was, or open.

It is read and written, not mapped: with a full disk or a bad one a map would end the process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from mirrorfs import _native
from mirrorfs.backing import state_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = b"digests"
SECRET = b"secret"
DIGEST_BYTES = 16
GROUP_CHUNKS = 4080
_PAGE_BYTES = 4096
_STATES_BYTES = GROUP_CHUNKS + DIGEST_BYTES  # with the checksum: one page
_DIGESTS_BYTES = GROUP_CHUNKS * DIGEST_BYTES
_GROUP_BYTES = _STATES_BYTES + (1 << 16)
_HEADER = struct.Struct("<8sIIQQQqQqq")
_MAGIC, _VERSION = b"mirrorfs", 1
_SECRET_BYTES = 8
_LOCK_SECONDS = 1.0
_LOCK_STEP_SECONDS = 0.002


class Chunk(IntEnum):
    """What is known of a chunk."""

    UNKNOWN = 0
    KNOWN = 1  # its digest
    ZEROS = 2
    DAMAGED = 3  # its digest, and that the disk gives something else


class Stamp(NamedTuple):
    """Of one content of a file: its size in bytes and its times in ns, as statx(2) has them."""

    size: int
    mtime_ns: int
    ctime_ns: int


class Identity(NamedTuple):
    """Of a backing file. `device` is 0 for the file system that the backing folder is on: its
    number may change when the machine is started.
    """

    device: int
    inode: int
    born_ns: int

    @property
    def name(self) -> bytes:
        """The name of its digest file."""
        return b"%x-%x-%x" % self


class Mark(IntEnum):
    """What the header says of the digests."""

    CLOSED = 1
    OPEN = 2


@dataclass(frozen=True, slots=True)
class Header:
    """What the digests are of."""

    mark: Mark
    identity: Identity
    seed: int
    stamp: Stamp


@dataclass(slots=True)
class Group:
    """What is known of `GROUP_CHUNKS` chunks: a state (`Chunk`) and a digest each. Of digests there
    are as many as were set, up to the last: most files are small.
    """

    states: bytearray = field(default_factory=lambda: bytearray(GROUP_CHUNKS))
    digests: bytearray = field(default_factory=bytearray)
    is_changed: bool = False
    pages: int = 0  # those of the digests that have changed, a bit each

    def set(self, first: int, states: bytes, digests: bytes = b"") -> None:
        """Let the chunks from `first` on, counted within the group, have these; without `digests`
        those stay as they are.
        """
        self.states[first : first + len(states)] = states
        self.is_changed = True
        if digests:
            start = first * DIGEST_BYTES
            end = start + len(digests)
            self.digests.extend(bytes(max(0, start - len(self.digests))))
            self.digests[start:end] = digests
            pages = range(start // _PAGE_BYTES, -(-end // _PAGE_BYTES))
            self.pages |= ((1 << len(pages)) - 1) << pages.start

    def get(self, first: int, stop: int) -> tuple[bytes, bytes]:
        """The states and digests of the chunks `[first, stop)`, counted within the group."""
        digests = bytes(self.digests[first * DIGEST_BYTES : stop * DIGEST_BYTES])
        return bytes(self.states[first:stop]), digests.ljust((stop - first) * DIGEST_BYTES, b"\0")


class DigestFile:
    """One that is open, and locked; `among` are the descriptors of all. Every method raises
    OSError.
    """

    def __init__(self, fd: int, among: set[int]) -> None:
        self._fd = fd
        self._among = among
        among.add(fd)

    @property
    def fd(self) -> int:
        """Its descriptor."""
        return self._fd

    def header(self, identity: Identity, seed: int) -> Header | None:
        """What it says; None if that is of no use for the file `identity` and the secret `seed`."""
        data = os.pread(self._fd, _HEADER.size + DIGEST_BYTES, 0)
        if len(data) < _HEADER.size + DIGEST_BYTES:
            return None
        fields = data[: _HEADER.size]
        magic, version, mark, found_seed, *rest = _HEADER.unpack(fields)
        if (magic, version, found_seed) != (_MAGIC, _VERSION, seed):
            return None
        if data[_HEADER.size :] != _native.chunk_digests(fields, seed, _PAGE_BYTES):
            return None
        if Identity(*rest[:3]) != identity or mark not in {Mark.CLOSED, Mark.OPEN}:
            return None
        return Header(Mark(mark), identity, seed, Stamp(*rest[3:]))

    def set_header(self, header: Header) -> None:
        """Let it say this. One sector: it is there, or the one before."""
        fields = _HEADER.pack(
            _MAGIC, _VERSION, header.mark, header.seed, *header.identity, *header.stamp
        )
        check = _native.chunk_digests(fields, header.seed, _PAGE_BYTES)
        _write(self._fd, fields + check, 0)

    def group(self, number: int, seed: int) -> Group:
        """What it holds of a group; nothing is known where its checksum is wrong."""
        place = _PAGE_BYTES + number * _GROUP_BYTES
        group = Group()
        states = os.pread(self._fd, _STATES_BYTES, place)
        if len(states) < _STATES_BYTES or not any(states):
            return group
        group.states[:] = states[:GROUP_CHUNKS]
        group.digests[:] = os.pread(self._fd, _DIGESTS_BYTES, place + _STATES_BYTES)
        if states[GROUP_CHUNKS:] != _checksum(group, seed):
            return Group()
        return group

    def groups(self, first: int, stop: int) -> Iterator[int]:
        """The numbers in `[first, stop)` of the groups of which something may be known."""
        while first < stop:
            try:
                place = os.lseek(self._fd, _PAGE_BYTES + first * _GROUP_BYTES, os.SEEK_DATA)
            except OSError as exc:
                if exc.errno != errno.ENXIO:
                    raise
                return  # only a hole follows
            number = (place - _PAGE_BYTES) // _GROUP_BYTES
            if number < stop:
                yield number
            first = number + 1

    def set_group(self, number: int, group: Group, seed: int) -> None:
        """Write what has changed of a group."""
        place = _PAGE_BYTES + number * _GROUP_BYTES
        _write(self._fd, bytes(group.states) + _checksum(group, seed), place)
        pages, first = group.pages, 0
        while pages:
            blank = (pages & -pages).bit_length() - 1
            pages, first = pages >> blank, first + blank
            count = (~pages & (pages + 1)).bit_length() - 1
            start, end = first * _PAGE_BYTES, (first + count) * _PAGE_BYTES
            _write(self._fd, group.digests[start:end], place + _STATES_BYTES + start)
            pages, first = pages >> count, first + count
        group.is_changed, group.pages = False, 0

    def cut(self, chunks: int) -> None:
        """Free what it holds of chunks from this number on, as far as those are whole groups."""
        end = _PAGE_BYTES + -(-chunks // GROUP_CHUNKS) * _GROUP_BYTES
        if os.fstat(self._fd).st_size > end:
            os.ftruncate(self._fd, end)

    def sync(self) -> None:
        """Make it durable."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Close it, which gives the lock away."""
        self._among.discard(self._fd)
        os.close(self._fd)


class Folder:
    """The folder `digests` in the state folder `parent_fd`; made where there is none. No more than
    `most_open` digest files are to be open. Raises OSError.
    """

    def __init__(self, parent_fd: int, most_open: int = 1000) -> None:
        self._most_open = most_open
        self._open: set[int] = set()
        with contextlib.suppress(FileExistsError):
            os.mkdir(FOLDER, 0o700, dir_fd=parent_fd)
        self.fd = state_folder.open_folder(parent_fd, FOLDER)
        try:
            self.seed = _secret(self.fd)
        except OSError:
            os.close(self.fd)
            raise

    def open(self, identity: Identity) -> DigestFile | None:
        """The digest file of a backing file, locked; None if there is none, or if somebody else has
        the lock for long: then there is none any more. Raises OSError, EMFILE if too many are open.
        """
        if len(self._open) >= self._most_open:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        try:
            fd = state_folder.open_file(self.fd, identity.name, os.O_RDWR)
        except FileNotFoundError:
            return None
        if not _lock(fd):
            os.close(fd)
            self.remove(identity, is_durable=True)
            return None
        if _has_name(fd, self.fd, identity.name):
            return DigestFile(fd, self._open)
        os.close(fd)  # another has begun a new one
        return None

    def look(self, identity: Identity) -> DigestFile | None:
        """The digest file of a backing file, not locked and only to be read: what it says may be
        about to change. None if there is none.
        """
        try:
            fd = state_folder.open_file(self.fd, identity.name, os.O_RDONLY)
        except FileNotFoundError:
            return None
        return DigestFile(fd, self._open)

    def has(self, file: DigestFile, identity: Identity) -> bool:
        """Whether that is still the digest file of a backing file: who cannot get its lock takes
        its name away.
        """
        return _has_name(file.fd, self.fd, identity.name)

    def names(self) -> list[bytes]:
        """The names of all digest files."""
        return [os.fsencode(name) for name in os.listdir(self.fd) if name != SECRET.decode()]

    def try_open(self, identity: Identity) -> DigestFile | None:
        """The digest file of a backing file, locked; None if there is none. Raises BlockingIOError
        if somebody else has the lock.
        """
        try:
            fd = state_folder.open_file(self.fd, identity.name, os.O_RDWR)
        except FileNotFoundError:
            return None
        if not _try_lock(fd):
            os.close(fd)
            raise BlockingIOError(errno.EAGAIN, "it is in use")
        if _has_name(fd, self.fd, identity.name):
            return DigestFile(fd, self._open)
        os.close(fd)
        return None

    def make(self, identity: Identity) -> DigestFile:
        """A new digest file, locked, in place of one that there may be."""
        self.remove(identity)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        fd = state_folder.open_file(self.fd, identity.name, flags)
        if not _lock(fd):
            os.close(fd)
            raise OSError(errno.EAGAIN, "another process has just taken it")
        return DigestFile(fd, self._open)

    def remove(self, identity: Identity, is_durable: bool = False) -> None:
        """Forget the digests of a backing file, also after a power cut if `is_durable`."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(identity.name, dir_fd=self.fd)
        if is_durable:
            os.fsync(self.fd)

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)


def _checksum(group: Group, seed: int) -> bytes:
    data = bytes(group.states) + group.digests.ljust(_DIGESTS_BYTES, b"\0")
    return _native.chunk_digests(data, seed, _GROUP_BYTES)


def _write(fd: int, data: bytes | bytearray, place: int) -> None:
    if os.pwrite(fd, data, place) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _lock(fd: int) -> bool:
    """Get the lock; False if that takes long."""
    end = time.monotonic() + _LOCK_SECONDS
    while not _try_lock(fd):
        if time.monotonic() > end:
            return False
        time.sleep(_LOCK_STEP_SECONDS)
    return True


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _has_name(fd: int, folder_fd: int, name: bytes) -> bool:
    try:
        there = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(fd))


def _secret(folder_fd: int) -> int:
    """The seed of all digests in the folder, made once."""
    fd = state_folder.open_file(folder_fd, SECRET, os.O_RDWR | os.O_CREAT)
    try:
        found = os.pread(fd, _SECRET_BYTES, 0)
        if len(found) < _SECRET_BYTES:
            fcntl.flock(fd, fcntl.LOCK_EX)  # another process may just be making it
            found = os.pread(fd, _SECRET_BYTES, 0)
        if len(found) < _SECRET_BYTES:
            found = os.urandom(_SECRET_BYTES)
            _write(fd, found, 0)
            os.fsync(fd)
    finally:
        os.close(fd)
    return int.from_bytes(found, "little")
