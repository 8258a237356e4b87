"""What is measured: a plain folder, mirrorfs, and libfuse's passthrough_ll in C, which does less.

The peer is the mirrorfs of another checkout.
"""

import functools
import gzip
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.benchmark import machine
from tools.benchmark.machine import run

PLAIN, LL = "plain folder", "passthrough_ll"
MIRROR, PEER = "mirrorfs", "peer"
ROOT = Path(__file__).parents[2]
_EXAMPLES = Path("/usr/share/doc/libfuse3-dev/examples")
_MOUNT_SECONDS = 20

Words = list[str | Path]
Command = Callable[[Path, Path, str], Words]


@dataclass(frozen=True, slots=True)
class Mounted:
    """A folder to measure in, and the one that it shows; `pid` of its daemon, 0 for none."""

    path: Path
    backing: Path
    pid: int = 0

    def cpu_seconds(self) -> float:
        """User and system time of the daemon so far, of threads that have ended as well."""
        # The CPU-time clock of another process (clock_getcpuclockid(3)): nanoseconds, not ticks.
        return time.clock_gettime(~self.pid << 3 | 2) if self.pid else 0.0

    def memory_mib(self, field: str) -> float:
        """A size in the daemon's /proc/PID/status: VmHWM, VmRSS, RssAnon."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines() if self.pid else []
        return sum(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024

    def counters(self) -> dict[str, int]:
        """What mirrorfs has counted; empty for the others."""
        account = self.path / ".mirrorfs/stats.json"
        if self.path == self.backing or not account.exists():
            return {}
        counters = json.loads(account.read_text())["counters"]
        return {name: value for name, value in counters.items() if isinstance(value, int)}


@dataclass(frozen=True, slots=True)
class Contender:
    """`command` makes the words that mount a folder on another, with options for -o; `program` is
    the command of mirrorfs, None for the others.
    """

    name: str
    command: Command | None = None
    program: Path | None = None

    @contextmanager
    def mounted(self, backing: Path, point: Path, options: str = "") -> Iterator[Mounted]:
        """From when the mount at `point` answers until its daemon has ended."""
        backing.mkdir(exist_ok=True)
        if self.command is None:
            yield Mounted(backing, backing)
            return
        point.mkdir(exist_ok=True)
        with machine.daemon(*self.command(backing, point, options)) as process:
            try:
                end = time.monotonic() + _MOUNT_SECONDS
                while not point.is_mount():
                    if process.poll() is not None or time.monotonic() > end:
                        process.kill()
                        raise SystemExit(f"{self.name} did not mount")
                    time.sleep(0.02)
                yield Mounted(point, backing, process.pid)
            finally:
                run("umount", "--lazy", point, is_vital=False)


@dataclass(frozen=True, slots=True)
class Setting:
    """What every part of the benchmark is measured with.

    `disk` and `memory` are folders that are removed at the end, the second on a tmpfs. `quick` is a
    quarter of the data; `runs`, `kinds` of file systems, speeds and sizes of the image are empty
    where the part decides.
    """

    contenders: dict[str, Contender]
    disk: Path
    memory: Path
    quick: bool
    runs: int
    kinds: list[str]
    disk_mb_s: list[float]
    image_mib: int = 0
    content_mib: int = 0

    def disks(self, usual: Sequence[str]) -> list[str]:
        """Those of the kinds that a loop device can have, or the usual ones if none was chosen."""
        return [kind for kind in self.kinds or usual if kind in machine.KINDS]

    @property
    def mirrors(self) -> list[str]:
        """This checkout's mirrorfs, and the peer if there is one."""
        return [name for name in (MIRROR, PEER) if name in self.contenders]


def known(peer: Path | None = None) -> dict[str, Contender]:
    """All by name, in the order of their turns; the peer only if its checkout is given."""
    # Neighbours in time are disturbed alike: mirrorfs beside those that it is held against.
    found = [
        Contender(PLAIN),
        Contender(LL, _passthrough_ll),
        _mirror(MIRROR, ROOT),
        *([_mirror(PEER, _checked(peer))] if peer else []),
    ]
    return {contender.name: contender for contender in found}


def _mirror(name: str, checkout: Path) -> Contender:
    program = checkout / ".venv/bin/mirrorfs"
    return Contender(name, functools.partial(_mirrorfs, program), program)


def _mirrorfs(program: Path, backing: Path, point: Path, options: str) -> Words:
    words = ",".join(filter(None, [f"log={point}.log", options]))
    return [program, "mount", backing, point, "-f", "-o", words]


def _checked(peer: Path) -> Path:
    """The checkout, if its environment runs the package that lies in it."""
    python = peer.resolve() / ".venv/bin/python"
    shown = python.exists() and run(
        python, "-I", "-c", "import mirrorfs; print(*mirrorfs.__path__)"
    )
    if shown != f"{peer.resolve()}/mirrorfs\n":
        raise SystemExit(f"--peer {peer}: not set up; run {peer}/tools/bootstrap")
    return peer.resolve()


def _passthrough_ll(backing: Path, point: Path, _options: str) -> Words:
    return [_example("passthrough_ll"), "-f", "-o", f"source={backing}", point]


@functools.cache
def _example(name: str) -> Path:
    """libfuse's own example, compiled as Debian ships it."""
    folder = ROOT / "build/benchmark"
    folder.mkdir(parents=True, exist_ok=True)
    for part in (f"{name}.c", "passthrough_helpers.h"):
        packed, plain = _EXAMPLES / f"{part}.gz", _EXAMPLES / part
        text = gzip.decompress(packed.read_bytes()) if packed.exists() else plain.read_bytes()
        (folder / part).write_bytes(text)
    flags = run("pkg-config", "fuse3", "--cflags", "--libs").split()
    run("gcc", "-O2", folder / f"{name}.c", "-o", folder / name, *flags)
    return folder / name
