"""Real file systems on loop devices, and real mounts on them. Nothing here is simulated."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs.backing import progress_table
from tests import preloaded, privileges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# A job in the background of a shell inherits these ignored, and so would every command below.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Every command would else be compiled anew, which takes as long as all the rest of its start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

MIRRORFS = [sys.executable, "-m", "mirrorfs"]
MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
CLASSES = ("written_bytes", "unchanged_bytes", "punched_bytes", "hole_bytes", "shared_bytes")
# Everything is imported before the change of user, who may not be let into the checkout.
_AS_NOBODY = """
import os, sys
import mirrorfs.cli.commands, mirrorfs.cli.demo, mirrorfs.cli.mount, mirrorfs.cli.stats
import mirrorfs.cli.umount
import mirrorfs.daemon.launch, mirrorfs.daemon.main_loop
from mirrorfs.cli.main import main
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(main(sys.argv[1:]))
"""
_CLONE_NEWNS = 0x20000
# All that were used; each may have had a table in memory (`mirrorfs.backing.progress_table`).
STATE_FOLDERS: set[bytes] = set()
PRELOADED = preloaded.Server()
OWNER_OF = progress_table.owner_of


def pytest_addoption(parser: pytest.Parser) -> None:
    help_ = "only the tests that need neither root nor a mount"
    parser.addoption("--quick", action="store_true", help=help_)


def pytest_configure(config: pytest.Config) -> None:
    """Where tests run beside others (pytest-xdist), each process has its mounts to itself: a new
    namespace would else keep a copy of all mounts, and with it the daemons. No test has begun yet.
    """
    if "PYTEST_XDIST_WORKER" in os.environ and not config.getoption("--quick"):
        if ctypes.CDLL(None).unshare(_CLONE_NEWNS):
            pytest.exit("the tests need a mount namespace of their own: run them as root")
        run("mount", "--make-rprivate", "/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the tests that need root or a mount the marker `root`, and deselect them if only the
    others are wanted.
    """
    for item in items:
        if privileges.is_for_root(item) and not item.get_closest_marker("root"):
            item.add_marker("root")
    if config.getoption("--quick"):
        deselected = [item for item in items if item.get_closest_marker("root")]
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if not item.get_closest_marker("root")]


def spelled(words: Iterable[object]) -> list[str]:
    """The words of a command: text, paths, numbers, or raw bytes."""
    return [os.fsdecode(word) if isinstance(word, bytes) else str(word) for word in words]


def run(*command: object, check: bool = True, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """A command with its output as text; fails the test with that output."""
    done = subprocess.run(spelled(command), capture_output=True, text=True, check=False, **kwargs)
    if check and done.returncode:
        pytest.fail(f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def mirrorfs(*words: object, check: bool = True, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """The command of the user."""
    return run(*MIRRORFS, *words, check=check, timeout=60, **kwargs)


def mirrorfs_preloaded(*words: object) -> None:
    """The command without the start of an interpreter; it must succeed."""
    done = PRELOADED.run(*spelled(words))
    if done.returncode:
        pytest.fail(f"{words} ended with {done.returncode}\n{done.stderr}")


def as_nobody(
    *words: object, check: bool = True, under: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """The command as an ordinary user; wants the fixture `fuse_for_all`. `under` is a command that
    runs it, such as prlimit(1).
    """
    return run(*under, MIRRORFS[0], "-c", _AS_NOBODY, *words, check=check, timeout=60)


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Return as soon as it holds; fails the test if that does not come."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not so within {seconds:.0f} seconds")
        time.sleep(0.01)


def wait_until_it_listens(process: subprocess.Popen[Any]) -> None:
    """Return when a command of ours takes signals itself, no longer the interpreter that starts, or
    when it has ended.
    """

    def listens() -> bool:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        return process.poll() is not None or bool(caught >> (signal.SIGTERM - 1) & 1)

    wait_for(listens)


def is_in_a_call(pid: int, fd: int) -> bool:
    """Whether a process waits in a system call for this descriptor (proc_pid_syscall(5))."""
    words = Path(f"/proc/{pid}/syscall").read_text().split()
    return len(words) > 1 and words[1] == f"{fd:#x}"


@contextlib.contextmanager
def loop_mounted(kind: str, folder: Path, size_mib: int) -> Iterator[Path]:
    """A new file system of this kind on a loop device, mounted."""
    image = folder / f"{kind}.img"
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    run(*MKFS[kind], image)
    try:
        with image_mounted(image, folder / kind) as point:
            yield point
    finally:
        image.unlink()


@contextlib.contextmanager
def image_mounted(image: Path, point: Path, *words: str) -> Iterator[Path]:
    """The file system in `image` on a loop device, mounted at `point`, which is made; `words` are
    more for mount(8).
    """
    point.mkdir()
    run("mount", "-o", "loop", *words, image, point)
    try:
        yield point
    finally:
        run("umount", "--lazy", point)


@dataclass
class Mirror:
    """A mount as a user has it: a backing folder, a mount point, and a daemon in another
    process.
    """

    backing: Path
    path: Path
    log: Path
    options: str = ""
    noisy: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    is_killed: bool = False

    @property
    def state_folder(self) -> bytes:
        words = [word.partition("=") for word in self.options.split(",")]
        given = [value for name, _, value in words if name == "state"]
        return os.fsencode(given[-1] if given else self.backing / ".mirrorfs")

    def mount(self, *words: str) -> Mirror:
        STATE_FOLDERS.add(self.state_folder)
        self.is_killed = False
        options = ",".join(filter(None, [f"log={self.log}", self.options]))
        command = ("mount", self.backing, self.path, "-o", options, *words)
        if self.environment:  # which may say what is to be loaded
            mirrorfs(*command, env={**os.environ, **self.environment})
        else:
            mirrorfs_preloaded(*command)
        return self

    def umount(self) -> None:
        mirrorfs_preloaded("umount", self.path)

    @property
    def pid(self) -> int:
        return int(self.stats()["pid"])

    def kill(self) -> None:
        """What a crash does: the daemon is gone, the dead mount stays."""
        pid = self.pid
        watch = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        import select

        select.select([watch], [], [], 60)
        os.close(watch)
        self.is_killed = True

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / ".mirrorfs/stats.json").read_bytes())
        return found

    def counters(self) -> SimpleNamespace:
        return SimpleNamespace(**self.stats()["counters"])

    def account(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(**json.loads(os.getxattr(self.path / name, "user.mirrorfs.stats")))

    def write(self, name: str, offset: int, data: bytes) -> int:
        """One write through the mount, which makes the file if it is not there."""
        fd = os.open(self.path / name, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            return os.pwrite(fd, data, offset)
        finally:
            os.close(fd)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def holes(self, name: str) -> list[tuple[int, int]]:
        """The holes of the backing file."""
        fd = os.open(self.backing / name, os.O_RDONLY)
        try:
            size, place, found = os.fstat(fd).st_size, 0, []
            while place < size:
                hole = os.lseek(fd, place, os.SEEK_HOLE)
                if hole >= size:
                    break
                try:
                    place = os.lseek(fd, hole, os.SEEK_DATA)
                except OSError:
                    place = size
                found.append((hole, place))
            return found
        finally:
            os.close(fd)

    def troubles(self) -> list[str]:
        """Lines of the log that are worse than information."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if " WARNING " in line or " ERROR " in line]

    def end(self) -> None:
        run("umount", "--lazy", self.path, check=False)
        wait_for(lambda: not self.path.is_mount())
        if self.is_killed and self.backing.exists():
            progress_table.remove_all(
                progress_table.owner_of(self.state_folder)
            )  # else the next mount does it


@pytest.fixture(scope="session", autouse=True)
def no_server_is_left() -> Iterator[None]:
    """The server of `mirrorfs_preloaded` ends with the tests."""
    yield
    PRELOADED.stop()


def tables_left() -> list[bytes]:
    """The state folders of ours of which there is a table in memory. Those of others, who may test
    here at the same time, are none of our folders.
    """
    names = os.listdir(progress_table.FOLDER)
    return [
        folder
        for folder in STATE_FOLDERS
        if os.path.isdir(os.path.dirname(folder))
        and any(name.startswith(f"mirrorfs-{OWNER_OF(folder)}-".encode()) for name in names)
    ]


@pytest.fixture(scope="session", autouse=True)
def no_table_is_left() -> Iterator[None]:
    """Nothing of ours stays in memory after the last daemon has ended."""

    def note(folder: bytes) -> str:
        STATE_FOLDERS.add(folder)
        return OWNER_OF(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress_table, "owner_of", note)
        yield
    wait_for(lambda: not tables_left())


@pytest.fixture(scope="session")
def file_systems(
    no_table_is_left: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Path]]:
    """Gives the root of the session's file system of a kind; made at its first use."""
    made: dict[str, Path] = {}
    with contextlib.ExitStack() as stack:

        def get(kind: str) -> Path:
            if kind not in made:
                folder = tmp_path_factory.mktemp(f"loop-{kind}")
                made[kind] = stack.enter_context(loop_mounted(kind, folder, 2048))
            return made[kind]

        yield get
        wait_for(lambda: not tables_left())


def emptied(folder: Path) -> Iterator[Path]:
    """Makes a folder that is removed after the test, so that the file system stays empty. What is
    mounted inside it is left alone.
    """
    folder.mkdir()
    yield folder
    run("rm", "-rf", "--one-file-system", folder, check=False)


@pytest.fixture(params=list(MKFS))
def loop_fs(
    request: pytest.FixtureRequest, file_systems: Callable[[str], Path], tmp_path: Path
) -> Iterator[Path]:
    """A fresh empty folder on each of the three file systems."""
    yield from emptied(file_systems(request.param) / tmp_path.name)


@pytest.fixture
def ext4_folder(file_systems: Callable[[str], Path], tmp_path: Path) -> Iterator[Path]:
    """A fresh empty folder on ext4 alone, for what does not depend on the file system."""
    yield from emptied(file_systems("ext4") / tmp_path.name)


@pytest.fixture
def mount_mirror(tmp_path: Path) -> Iterator[Callable[..., Mirror]]:
    """Mounts a backing folder; everything is unmounted at the end, and a warning in the log fails
    the test.
    """
    mirrors: list[Mirror] = []

    def mount(backing: Path, options: str = "", noisy: bool = False, **environment: str) -> Mirror:
        number = len(mirrors)
        point = tmp_path / f"mirror-{number}"
        point.mkdir()
        mirror = Mirror(
            backing, point, tmp_path / f"mirror-{number}.log", options, noisy, environment
        )
        mirrors.append(mirror)
        return mirror.mount()

    yield mount
    for mirror in mirrors:
        mirror.end()
    troubles = [line for mirror in mirrors if not mirror.noisy for line in mirror.troubles()]
    assert not troubles


@pytest.fixture
def fuse_for_all() -> Iterator[None]:
    """What udev does on a usual machine: all users may open /dev/fuse."""
    with open("/dev/fuse", "rb") as device:
        fcntl.flock(device, fcntl.LOCK_EX)  # other tests may want the same
        before = stat.S_IMODE(os.stat("/dev/fuse").st_mode)
        os.chmod("/dev/fuse", 0o666)
        yield
        os.chmod("/dev/fuse", before)


def without_extension(folder: Path) -> str:
    """For PYTHONPATH: a folder, made in `folder`, with which the native module comes too late to
    get before libfuse, so that a mount has nothing but pyfuse3.
    """
    place = folder / "without"
    place.mkdir()
    (place / "sitecustomize.py").write_text("import pyfuse3\n")
    return str(place)


@pytest.fixture
def no_extension(tmp_path: Path) -> str:
    """For PYTHONPATH: without the extension."""
    return without_extension(tmp_path)


@pytest.fixture
def mirror(loop_fs: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    """A mount with the default options on each of the three file systems."""
    return mount_mirror(loop_fs)
