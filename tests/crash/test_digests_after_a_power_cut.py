"""Power cuts while sessions run: what was on the disk at one moment is mounted, and no digest that
would be believed there is another than that of what lies there.

The disk lies on xfs, where a clone of it shows it as it was at one moment. In between, data of
single files is sent to it without their metadata, as the kernel may do at any time.

With one sync left out of the daemon, wrong digests are found: else this would show nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import threading
from typing import TYPE_CHECKING

import pytest

from tests.commands import run
from tests.digested import Known, known_of
from tests.disks import MKFS, image_mounted, loop_mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.mounted import Mirror

CHUNK, MIB = 1 << 16, 1 << 20
STATES = int(os.environ.get("MIRRORFS_TEST_DIGEST_CUTS", "24"))
# Of each mutation so many are looked at, at most; a wrong digest is usually in the first ten.
MUTANT_STATES = 400
A_ROUND = 24
THREADS = 3
# One commit a second, so that metadata reaches the disk at odd moments, too.
OPTIONS = {"ext4": "noatime,commit=1", "xfs": "noatime", "btrfs": "noatime,commit=1"}
_NO_MARK = """
import threading
from mirrorfs.backing.digest_file import DigestFile
from mirrorfs.mirror.known_digests import KnownDigests
begin, sync, here = KnownDigests._begin, DigestFile.sync, threading.local()
def _begin(self, fd):
    here.begins = True
    try:
        begin(self, fd)
    finally:
        here.begins = False
def _sync(self):
    if not getattr(here, "begins", False):
        sync(self)
KnownDigests._begin, DigestFile.sync = _begin, _sync
"""
_NO_DATA = """
import os
from mirrorfs.mirror import sealing
class Os:
    def __getattr__(self, name):
        return getattr(os, name)
    def fsync(self, fd):
        pass
sealing.os = Os()
"""
MUTANTS = {
    "the mark is not durable before the change": _NO_MARK,
    "the data is not durable before the digests": _NO_DATA,
}


def send_data(path: Path) -> None:
    """Have the data of a file written to the disk, without its metadata (sync_file_range(2))."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
        try:
            zero = ctypes.c_longlong(0)
            assert not ctypes.CDLL(None).sync_file_range(fd, zero, zero, 7)
        finally:
            os.close(fd)


class Nights:
    """Threads that rewrite files of their own in all ways, again and again, until `cut` has taken
    as many pictures as are wanted. Each keeps some files from night to night.
    """

    def __init__(self, mirror: Mirror, cut: Callable[[], bool], seed: int) -> None:
        self.mirror, self.cut, self.seed = mirror, cut, seed
        self.is_over = False
        self.failures: list[BaseException] = []

    def run(self) -> None:
        threads = [threading.Thread(target=self.work, args=(n,)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failures:
            raise self.failures[0]

    def work(self, number: int) -> None:
        try:
            chance = random.Random(self.seed * THREADS + number)
            while not self.is_over:
                self.night(chance, f"{number}-{chance.randrange(5)}")
        except BaseException as exc:
            self.failures.append(exc)
            self.is_over = True

    def night(self, chance: random.Random, name: str) -> None:
        way = chance.choice(["in place", "in place", "in place", "anew", "renamed", "cut", "odd"])
        path = self.mirror.path / name
        if way == "cut" and path.exists():
            os.truncate(path, chance.randrange(3 * MIB))
            self.event(chance, name)
        elif way == "renamed":
            self.copy(chance, f".{name}.AbCdEf", "anew")
            os.rename(self.mirror.path / f".{name}.AbCdEf", path)
        else:
            self.copy(chance, name, way)
        self.event(chance, name)

    def copy(self, chance: random.Random, name: str, way: str) -> None:
        flags = os.O_TRUNC if way == "anew" else 0
        fd = os.open(self.mirror.path / name, os.O_RDWR | os.O_CREAT | flags, 0o600)
        try:
            if way == "anew" or os.fstat(fd).st_size < MIB:
                for place in range(0, chance.randrange(18, 40) * CHUNK, 4 * CHUNK):
                    data = chance.choice([chance.randbytes(64) * 4096, bytes(4 * CHUNK)])
                    os.pwrite(fd, data, place)
                    self.event(chance, name, 0.1)
            for _ in range(chance.randrange(1, 8)):
                chunk = chance.randrange(24)
                size, shift = CHUNK * chance.randrange(1, 4), 0
                if way == "odd":
                    size, shift = chance.randrange(1, 2 * CHUNK), chance.randrange(CHUNK)
                os.pwrite(fd, chance.randbytes(64) * (size // 64 + 1), chunk * CHUNK + shift)
                self.event(chance, name)
        finally:
            os.close(fd)

    def event(self, chance: random.Random, name: str, share: float = 0.5) -> None:
        """What may happen at any moment."""
        if chance.random() > share:
            return
        what = chance.randrange(10)
        if what < 5:
            send_data(self.mirror.backing / name)
        elif what < 7:
            for path in (self.mirror.backing / ".mirrorfs/digests").iterdir():
                send_data(path)
        elif what == 7:
            run("sync", "-f", self.mirror.backing)
        if what < 3 or what > 7:
            self.is_over = not self.cut()


class Disk:
    """The disk, its pictures, and how often what was found in them."""

    def __init__(self, kind: str, host: Path, mount_mirror: Callable[..., Mirror]) -> None:
        self.kind, self.host, self.mount_mirror = kind, host, mount_mirror
        self.image = host / f"{kind}.img"
        with self.image.open("wb") as file:
            file.truncate(400 << 20)
        run(*MKFS[kind], self.image)
        self.states = self.rounds = 0
        self.found: list[tuple[int, str, Known]] = []

    def one_round(self, **environment: str) -> None:
        """Take pictures while sessions run, and look at each of them."""
        self.rounds += 1
        cuts: list[Path] = []
        lock = threading.Lock()

        def cut() -> bool:
            with lock:
                # There is to be something that is known on each.
                over = mirror.log.read_text().count(": received ")
                if len(cuts) < min(A_ROUND, over):
                    cuts.append(self.host / f"cut-{self.rounds}-{len(cuts)}.img")
                    run("cp", "--reflink=always", self.image, cuts[-1])
                return len(cuts) < A_ROUND

        point = self.host / f"{self.kind}-{self.rounds}"
        with image_mounted(self.image, point, "-o", OPTIONS[self.kind]) as disk:
            backing = disk / "backing"
            backing.mkdir(exist_ok=True)
            mirror = self.mount_mirror(backing, "session_quiet=0", noisy=True, **environment)
            (backing / ".mirrorfs/digests").mkdir(mode=0o700, parents=True, exist_ok=True)
            Nights(mirror, cut, self.rounds).run()
            mirror.umount()
        for picture in cuts:
            self.look_at(picture, recovers=self.states % 8 == 0 and not environment)
            picture.unlink()

    def look_at(self, picture: Path, recovers: bool) -> None:
        """Note what is known there; also after the next mount, which ends what was cut off."""
        self.states += 1
        point = self.host / f"found-{self.states}"
        with image_mounted(picture, point, "-o", OPTIONS[self.kind]) as found:
            backing = found / "backing"
            if not (backing / ".mirrorfs").is_dir():
                return
            self.note(known_of(backing))
            if recovers:
                mirror = self.mount_mirror(backing, noisy=True)
                mirror.umount()
                self.note(known_of(backing))

    def note(self, found: dict[str, Known]) -> None:
        self.found += [(self.states, name, known) for name, known in found.items()]

    @property
    def wrong(self) -> list[tuple[int, str, Known]]:
        return [one for one in self.found if one[2].wrong]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    with loop_mounted("xfs", tmp_path, 4000) as disk:
        yield disk


@pytest.mark.slow
@pytest.mark.timeout(120 + 4 * STATES)
@pytest.mark.parametrize("kind", MKFS)
def test_no_digest_is_wrong_after_a_power_cut(
    host: Path, mount_mirror: Callable[..., Mirror], kind: str
) -> None:
    disk = Disk(kind, host, mount_mirror)
    while disk.states < STATES:
        disk.one_round()
    assert not disk.wrong
    # Also while they are open there are others, or this would show nothing.
    assert sum(known.known for _, _, known in disk.found) > 10 * disk.states
    assert any(known.why == "open" for _, _, known in disk.found)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_sync_that_is_left_out_is_noticed(
    host: Path, tmp_path: Path, mount_mirror: Callable[..., Mirror], mutant: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(MUTANTS[mutant])
    disk = Disk("ext4", host, mount_mirror)
    while not disk.wrong and disk.states < MUTANT_STATES:
        disk.one_round(PYTHONPATH=str(tmp_path))
    assert disk.wrong
