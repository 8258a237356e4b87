"""Random sessions of all kinds, with remounts, killed daemons and changes beside the mount between
them: no digest that would be believed is ever another than that of what lies there, and files that
are written by whole chunks are known.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import syscalls
from tests.commands import run, wait_for
from tests.digested import CHUNK, WORTH, all_right, known_of, wait_for_seal
from tests.disks import MKFS
from tests.model.test_sparse_model import blank
from tests.remembered import is_under_way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.digested import Known
    from tests.mounted import Mirror

BLOCK, MIB = 4096, 1 << 20
MAX_BYTES = 4 * MIB
# What a client gets through in one request, wherever its buffer lies.
MAX_WRITE = 15 * CHUNK
# How many files of each kind, and how many phases of so many steps each.
FILES, PHASES, STEPS = 8, 3, 8
WAYS = (
    *(
        "write",
        "write",
        "write",
        "same",
        "append",
        "truncate",
        "by_path",
        "punch",
        "zero",
        "copied",
    ),
    *("copied", "renamed", "linked", "attributes", "reopen", "emptied", "another", "sync"),
)
ODD_WAYS = ("preallocate", "copy", "mapped", "pieces")
SEEDS = int(os.environ.get("MIRRORFS_TEST_DIGEST_SEEDS", "1"))


@dataclass
class Written:
    """A file as it should be, and the handles by which it is written. One that is `whole` is
    written by whole chunks only.
    """

    mirror: Mirror
    name: str
    whole: bool
    chance: random.Random
    content: bytearray = field(default_factory=bytearray)
    handles: list[int] = field(default_factory=list)
    # A further name.
    link: str | None = None
    steps: list[str] = field(default_factory=list)
    # All of it was written by whole chunks, in sessions that are remembered.
    is_certain: bool = True

    @property
    def path(self) -> Path:
        return self.mirror.path / self.name

    @property
    def backing(self) -> Path:
        return self.mirror.backing / self.name

    @property
    def fd(self) -> int:
        if not self.handles:
            self.handles.append(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644))
        return self.chance.choice(self.handles)

    def length(self, most: int) -> int:
        """Of whole chunks; or of blocks, or any."""
        unit = CHUNK if self.whole else self.chance.choice([CHUNK, CHUNK, BLOCK, 1])
        return self.chance.randrange(most // unit + 1) * unit

    def piece(self, other: Written) -> bytes:
        """What is to be written next, not nothing."""
        size = max(self.length(MAX_WRITE), CHUNK if self.whole else 1)
        kind = self.chance.randrange(3)
        if kind == 0:
            return bytes(size)
        if kind == 1:
            return self.chance.randbytes(size)
        unit = CHUNK if self.whole else self.chance.choice([CHUNK, BLOCK, 777])
        parts = [bytes(unit), self.chance.randbytes(unit), bytes(other.content[:unit]).ljust(unit)]
        return b"".join(self.chance.choices(parts, k=-(-size // unit)))[:size]

    def close(self) -> None:
        for fd in self.handles:
            os.close(fd)
        self.handles.clear()

    def step(self, other: Written) -> None:
        """One random step; `other` is a file of the same kind."""
        ways = ["write", "write", "write", "same", "append", "truncate", "by_path", "punch", "zero"]
        ways += [
            "renamed",
            "linked",
            "attributes",
            "reopen",
            "emptied",
            "another",
            "sync",
            "copied",
        ]
        if not self.whole:
            ways += ["preallocate", "copy", "mapped", "pieces"]
        way = self.chance.choice(ways)
        self.steps.append(way)
        getattr(self, f"_{way}")(other)
        self.note_end()

    def note_end(self) -> None:
        """Of a small file nothing is kept when its session is over, as it may be by now."""
        if not self.handles and 0 < len(self.content) < WORTH:
            self.is_certain = False

    def put(self, offset: int, data: bytes) -> None:
        self.extend(offset)
        self.content[offset : offset + len(data)] = data

    def extend(self, size: int) -> None:
        self.content.extend(bytes(max(0, size - len(self.content))))

    def _write(self, other: Written) -> None:
        data, offset = self.piece(other), self.length(MAX_BYTES - MAX_WRITE)
        assert os.pwrite(self.fd, data, offset) == len(data)
        self.put(offset, data)

    def _pieces(self, other: Written) -> None:
        """In order, as tools do that have a buffer of some size."""
        offset, size = self.length(MAX_BYTES - MIB), self.chance.choice([4096, 10_000, 32768])
        data = (self.piece(other) * 3)[: 4 * CHUNK]
        for place in range(0, len(data), size):
            os.pwrite(self.fd, data[place : place + size], offset + place)
        self.put(offset, data)

    def _same(self, _other: Written) -> None:
        offset = self.length(MAX_BYTES)
        data = bytes(self.content[offset : offset + max(CHUNK, self.length(MAX_WRITE))])
        os.pwrite(self.fd, data, offset)

    def _append(self, other: Written) -> None:
        if len(self.content) < MAX_BYTES:
            data = self.piece(other)
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            assert os.write(fd, data) == len(data)
            os.close(fd)
            self.content.extend(data)

    def _truncate(self, _other: Written) -> None:
        self.resized(os.ftruncate, self.fd)

    def _by_path(self, _other: Written) -> None:
        if self.content:
            self.resized(os.truncate, self.path)

    def resized(self, call: Callable[..., None], file: object) -> None:
        size = self.length(MAX_BYTES)
        call(file, size)
        del self.content[size:]
        self.extend(size)

    def _punch(self, _other: Written) -> None:
        start, size = self.length(MAX_BYTES), max(CHUNK, self.length(MIB))
        syscalls.punch_hole(self.fd, start, start + size)
        blank(self.content, start, min(start + size, len(self.content)))

    def _zero(self, _other: Written) -> None:
        start, size = self.length(MAX_BYTES - MIB), max(CHUNK, self.length(MIB))
        keep_size = self.chance.random() < 0.5
        syscalls.zero_range(self.fd, start, start + size, keep_size)
        if not keep_size:
            self.extend(start + size)
        blank(self.content, start, min(start + size, len(self.content)))

    def _preallocate(self, _other: Written) -> None:
        start, size = self.length(MAX_BYTES - MIB), max(CHUNK, self.length(MIB))
        keep_size = self.chance.random() < 0.5
        syscalls.preallocate(self.fd, start, start + size, keep_size)
        if not keep_size:
            self.extend(start + size)

    def _copied(self, other: Written) -> None:
        """As cp does it, into a temporary file that is renamed over this one."""
        self.close()
        temporary = self.mirror.path / f".{self.name}.tmp"
        data = bytes(self.content)[: self.length(MAX_BYTES)] + self.piece(other)
        data = data[: len(data) - len(data) % CHUNK] if self.whole else data
        with temporary.open("wb", buffering=0) as file:
            for place in range(0, len(data), 4 * CHUNK):
                file.write(data[place : place + 4 * CHUNK])
        temporary.rename(self.path)
        self.content[:] = data
        self.is_certain = True
        if self.link is not None:
            (self.mirror.path / self.link).unlink()
            self.link = None

    def _copy(self, other: Written) -> None:
        source = self.chance.choice([self, other])
        start, offset = self.length(MAX_BYTES), self.length(MAX_BYTES - MIB)
        size = self.length(MIB)
        if source is self and start < offset + size and offset < start + size:
            return  # EINVAL
        data, done = bytes(source.content[start : start + size]), 0
        while done < len(data):
            done += os.copy_file_range(
                source.fd, self.fd, len(data) - done, start + done, offset + done
            )
        if data:
            self.put(offset, data)

    def _mapped(self, other: Written) -> None:
        if self.content:
            data = self.piece(other)
            offset = self.chance.randrange(len(self.content))
            with mmap.mmap(self.fd, len(self.content)) as mapped:
                data = data[: len(self.content) - offset]
                mapped[offset : offset + len(data)] = data
            self.content[offset : offset + len(data)] = data

    def _renamed(self, _other: Written) -> None:
        if self.content:
            new = self.name[:-1] if self.name.endswith("'") else self.name + "'"
            self.path.rename(self.mirror.path / new)
            self.name = new

    def _linked(self, _other: Written) -> None:
        if self.link is not None:
            (self.mirror.path / self.link).unlink()
            self.link = None
        elif self.content:
            self.link = f"link of {self.name}"
            os.link(self.path, self.mirror.path / self.link)

    def _attributes(self, _other: Written) -> None:
        if self.content:
            touch(self.path, self.chance)

    def _reopen(self, _other: Written) -> None:
        self.close()

    def _emptied(self, _other: Written) -> None:
        self.close()
        self.handles.append(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644))
        self.content.clear()

    def _another(self, _other: Written) -> None:
        if self.fd and len(self.handles) < 3:
            self.handles.append(os.open(self.path, os.O_RDWR))

    def _sync(self, _other: Written) -> None:
        self.chance.choice([os.fsync, os.fdatasync])(self.fd)

    def change_beside(self) -> None:
        """Change a byte of the backing file, and perhaps its size, as another program would."""
        place = self.chance.randrange(len(self.content))
        with self.backing.open("r+b") as file:
            file.seek(place)
            file.write(bytes([self.content[place] ^ 1]))
            if self.chance.random() < 0.3:
                file.truncate(len(self.content) + CHUNK)
        self.content[place] ^= 1
        self.extend(self.backing.stat().st_size)
        self.is_certain = False


def touch(path: Path, chance: random.Random) -> None:
    """Change something of a file besides its content, and its names."""
    way = chance.randrange(6)
    if way == 0:
        path.chmod(chance.choice([0o600, 0o644, 0o4755]))
    elif way == 1:
        os.utime(path, ns=(chance.randrange(10**18), chance.randrange(10**18)))
    elif way == 2:
        os.utime(path)
    elif way == 3:
        os.setxattr(path, "user.note", chance.randbytes(9))
    elif way == 4:
        os.chown(path, chance.randrange(3), 0)
    else:
        for name in os.listxattr(path):
            if name == "user.note":
                os.removexattr(path, name)


class Sessions:
    """Files that are written through a mount, phase by phase."""

    def __init__(self, mirror: Mirror, seed: int) -> None:
        self.mirror = mirror
        self.chance = random.Random(seed)
        self.files = [
            Written(mirror, f"{kind}-{n}", kind == "whole", random.Random(seed * 1000 + 2 * n + k))
            for k, kind in enumerate(["whole", "odd"])
            for n in range(FILES)
        ]

    def phase(self) -> None:
        """A session of each file, or some, interleaved."""
        for _ in range(STEPS):
            for file in self.files:
                file.step(
                    self.chance.choice([one for one in self.files if one.whole == file.whole])
                )
        for file in self.files:
            file.close()
            file.note_end()

    def written(self) -> Iterator[Written]:
        return (file for file in self.files if file.backing.exists())

    def worth(self) -> list[str]:
        """The files of which all must be known after a session."""
        return [
            file.name
            for file in self.written()
            if file.whole and file.is_certain and len(file.content) >= WORTH
        ]

    def check(self) -> dict[str, Known]:
        """Nothing wrong is known, and what must be known is; the content is as it should be."""
        found = all_right(self.mirror.backing)
        for file in self.written():
            assert file.backing.read_bytes() == file.content, file
            if file.name in self.worth():
                known = found[file.name]
                assert known.is_all, (file.name, known, file.steps)
        return found

    def wait_for_end(self) -> None:
        """Return when the digests of all sessions are closed."""
        wait_for(lambda: not is_under_way(self.mirror))
        wait_for_seal(self.mirror.backing, *self.worth())
        wait_for(
            lambda: (
                not {known.why for known in known_of(self.mirror.backing).values()}
                & {"busy", "open"}
            )
        )

    def remount(self) -> None:
        self.mirror.umount()
        self.check()
        self.mirror.mount()

    def kill(self) -> None:
        """The daemon dies with sessions under way."""
        for file in self.files:
            file.step(file)
        busy = [file for file in self.files if file.handles]
        for file in busy:
            os.pwrite(file.fd, b"x", 0)
        self.mirror.kill()
        for file in busy:
            for fd in file.handles:
                with contextlib.suppress(OSError):
                    os.close(fd)
            file.handles.clear()
        found = all_right(self.mirror.backing)
        assert not {file.name for file in busy if found[file.name].believed}
        self.mirror.end()
        self.mirror.mount()
        for file in self.files:
            # What of it had arrived is another test's.
            file.content[:] = file.backing.read_bytes() if file.backing.exists() else b""
            file.is_certain = file.is_certain and not file.content

    def change_beside(self) -> None:
        changed = [file for file in self.written() if file.content and self.chance.random() < 0.5]
        for file in changed:
            file.change_beside()
        found = all_right(self.mirror.backing)
        assert not {file.name for file in changed if found[file.name].believed}
        # Else the kernel shows clients what it has in its cache.
        run("sh", "-c", "echo 2 > /proc/sys/vm/drop_caches")
        self.mirror.umount()
        self.mirror.mount()


@pytest.fixture
def folder(
    request: pytest.FixtureRequest, file_systems: Callable[[str], Path], tmp_path: Path
) -> Iterator[Path]:
    """A new folder on the file system that the test has chosen."""
    kind = request.param
    place = tmp_path / "tmpfs" if kind == "tmpfs" else file_systems(kind) / tmp_path.name
    place.mkdir()
    if kind == "tmpfs":
        run("mount", "-t", "tmpfs", "none", place)
    backing = place / "backing"
    backing.mkdir()
    yield backing
    if kind == "tmpfs":
        run("umount", "--lazy", place)
    else:
        run("rm", "-rf", place)


PLACES = [
    *[(kind, "") for kind in (*MKFS, "tmpfs")],
    ("ext4", "zeros=keep"),
    ("xfs", "unchanged=write"),
    ("btrfs", "block=64k"),
    ("xfs", "basis=off"),
    ("ext4", "compare=digest"),
]


@pytest.mark.slow
@pytest.mark.timeout(120 + 120 * SEEDS)
@pytest.mark.parametrize(("folder", "options"), PLACES, indirect=["folder"])
def test_no_digest_is_ever_wrong(
    folder: Path, mount_mirror: Callable[..., Mirror], options: str
) -> None:
    words = ",".join(filter(None, ["session_quiet=0", options]))
    for seed in range(SEEDS):
        backing = folder / str(seed)
        backing.mkdir()
        mirror = mount_mirror(backing, words, noisy=True)
        sessions = Sessions(mirror, seed)
        for number in range(PHASES):
            sessions.phase()
            sessions.wait_for_end()
            sessions.check()
            for file in sessions.written():
                touch(file.path, sessions.chance)
            sessions.wait_for_end()
            [sessions.remount, sessions.kill, sessions.change_beside][number % 3]()
        sessions.phase()
        mirror.umount()
        found = sessions.check()
        assert sum(known.known for known in found.values()) > 20
