"""Real file systems on loop devices, and real mounts on them. Nothing here is simulated."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import progress_table
from tests import privileges
from tests.commands import PRELOADED, run, wait_for
from tests.disks import MKFS, loop_mounted
from tests.mounted import OWNER_OF, STATE_FOLDERS, Mirror, tables_left, without_extension

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A job in the background of a shell inherits these ignored, and so would every command below.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Every command would else be compiled anew, which takes as long as all the rest of its start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_CLONE_NEWNS = 0x20000
# The folder of all files of the tests, unless --basetemp names one; kept if one failed.
_OURS = pytest.StashKey[str]()
_PREFIX = "mirrorfs-tests-"
_KEPT_SECONDS = 3 * 86_400


def pytest_addoption(parser: pytest.Parser) -> None:
    help_ = "only the tests that need neither root nor a mount"
    parser.addoption("--quick", action="store_true", help=help_)


def pytest_configure(config: pytest.Config) -> None:
    """Where tests run beside others (pytest-xdist), each process has its mounts to itself: a new
    namespace would else keep a copy of all mounts, and with it the daemons. No test has begun yet.

    Some tests act as other users, so their files lie outside of pytest's usual folder: each pytest
    that starts on this machine closes that one to all but its owner.
    """
    if config.option.basetemp is None:
        _remove_old()
        config.option.basetemp = config.stash[_OURS] = tempfile.mkdtemp(prefix=_PREFIX)
    if "PYTEST_XDIST_WORKER" in os.environ and not config.getoption("--quick"):
        if ctypes.CDLL(None).unshare(_CLONE_NEWNS):
            pytest.exit("the tests need a mount namespace of their own: run them as root")
        run("mount", "--make-rprivate", "/")


def _remove_old() -> None:
    """Remove what tests that failed have left days ago."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if folder.stat().st_mtime < time.time() - _KEPT_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Nothing is left when all went well."""
    if exitstatus == 0 and _OURS in session.config.stash:
        shutil.rmtree(session.config.stash[_OURS], ignore_errors=True)


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


@pytest.fixture(scope="session", autouse=True)
def no_server_is_left() -> Iterator[None]:
    """The server of `mirrorfs_preloaded` ends with the tests."""
    yield
    PRELOADED.stop()


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


@pytest.fixture
def no_extension(tmp_path: Path) -> str:
    """For PYTHONPATH: without the extension."""
    return without_extension(tmp_path)


@pytest.fixture
def mirror(loop_fs: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    """A mount with the default options on each of the three file systems."""
    return mount_mirror(loop_fs)
