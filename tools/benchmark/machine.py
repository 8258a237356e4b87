"""What a measurement needs of the machine: programs, scratch space, loop devices, cold caches."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KINDS = ("ext4", "xfs", "btrfs")  # on loop devices
TMPFS = "tmpfs"
_END_SECONDS = 30
# Control groups version 1; the root group holds for every process.
_LIMITS = [
    Path(f"/sys/fs/cgroup/blkio/blkio.throttle.{way}_bps_device") for way in ("read", "write")
]
_MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}


def say(text: str) -> None:
    print(f"tools/benchmark: {text}", file=sys.stderr, flush=True)


def run(*command: str | Path, is_vital: bool = True) -> str:
    """Output of a program. SystemExit with one line if it fails or is not installed."""
    # In a session of its own: a Ctrl-C at the terminal reaches us alone, and we end the program.
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, start_new_session=True
    )
    if done.returncode and is_vital:
        raise SystemExit(f"{' '.join(map(str, command))} failed: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def daemon(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program in the foreground. The block makes it end; it is killed if it does not."""
    # Without PYTHONPATH, since the daemon of another checkout must import its own package. In a
    # session of its own, since a Ctrl-C at the terminal must not end it before it is unmounted.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A folder that is removed at the end, with every mount and loop device below it."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    work = Path(tempfile.mkdtemp(prefix="mirrorfs-bench-", dir=parent))
    try:
        yield work
    finally:
        # A second Ctrl-C must not leave mounts behind.
        earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
        places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for place in reversed(places):
            if place.startswith(f"{work}/"):
                run("umount", "--lazy", place, is_vital=False)
        for line in run("losetup", "--list", "-n", "-O", "NAME,BACK-FILE").splitlines():
            device, _, file = line.partition(" ")
            if file.strip().startswith(f"{work}/"):
                run("losetup", "--detach", device, is_vital=False)
        shutil.rmtree(work, ignore_errors=True)
        signal.signal(signal.SIGINT, earlier)


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system mounted at `point` on a loop device that is made of `image`.

    `own` is a folder beside it for mounts, `backing` one on it.
    """

    own: Path
    image: Path
    point: Path
    device: Path
    backing: Path

    def moved_bytes(self) -> tuple[int, int]:
        """Read and written so far, according to the kernel's count of sectors."""
        fields = (self.device / "stat").read_text().split()
        return int(fields[2]) * 512, int(fields[6]) * 512

    def settle(self) -> None:
        """Let the file system write what it still holds, its own journal included."""
        for _ in range(2):
            run("sync", "-f", self.point)
        os.sync()

    @contextmanager
    def held(self, mb_s: float | None) -> Iterator[None]:
        """Hold it to so many MB/s of reading and as many of writing; None leaves it free."""
        limits = _LIMITS if mb_s is not None else []
        number = (self.device / "dev").read_text().strip()
        if not all(limit.exists() for limit in limits):
            raise SystemExit(f"{_LIMITS[0]} is missing; mount the controller blkio of cgroup v1")
        try:
            for limit in limits:
                limit.write_text(f"{number} {int((mb_s or 0) * 1e6)}\n")
            yield
        finally:
            for limit in limits:
                limit.write_text(f"{number} 0\n")


@contextmanager
def new_disk(work: Path, kind: str, size_gib: int = 12) -> Iterator[Disk]:
    """A new file system in a sparse file below `work`, so that no story meets what another left."""
    with scratch(work) as own:
        image, point = own / "image", own / "disk"
        point.mkdir()
        image.touch()
        os.truncate(image, size_gib << 30)
        run(*_MKFS[kind], image)
        device = Path(run("losetup", "--find", "--show", image).strip())
        run("mount", device, point)
        (point / "backing").mkdir()
        yield Disk(own, image, point, Path("/sys/block", device.name), point / "backing")


def drop_caches() -> None:
    """Empty the machine's caches of pages, names and attributes. A tmpfs keeps its files, and a
    program what it has mapped.
    """
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def make_cold(*paths: Path) -> None:
    """Drop what the page cache holds of those files that exist; dirty pages are written first."""
    for path in filter(Path.exists, paths):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def require_cold(*paths: Path) -> None:
    """SystemExit if the page cache still holds some of these: no figure would be that of a disk."""
    for path in filter(Path.exists, paths):
        if int(run("fincore", "-b", "-n", "-o", "RES", path)) > path.stat().st_size // 100:
            raise SystemExit(f"{path}: does not leave the page cache")


def read_through(path: Path) -> None:
    """Read a file once, from wherever it lies."""
    buffer = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
