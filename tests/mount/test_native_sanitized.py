"""A real mount whose extension was built with AddressSanitizer and UBSan, which find nothing."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.commands import run
from tests.posix.space import KEEP_SIZE, PUNCH_HOLE, borders, fallocate

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.mounted import Mirror

TOP = Path(__file__).parents[2]
BLOCK = 4096
SANITIZE = "-fsanitize=address,undefined"
FLAGS = f"{SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1"


def built(folder: Path) -> list[str]:
    """The names of the extension modules in a folder."""
    return sorted(path.name.partition(".")[0] for path in folder.glob("_*.so"))


def build(folder: Path) -> Path:
    """Build all extension modules, so that they are checked; returns where they are."""
    words = [sys.executable, "setup.py", "build_ext", "--build-lib", folder]
    environment = {**os.environ, "CFLAGS": FLAGS, "LDFLAGS": SANITIZE}
    run(*words, "--build-temp", folder / "temp", cwd=TOP, env=environment)
    assert built(folder / "mirrorfs") == built(TOP / "mirrorfs") != []
    return folder / "mirrorfs"


def environment(folder: Path) -> dict[str, str]:
    """Lets a command load the modules in this folder. Leaks are not looked for: Python leaves many
    at exit.
    """
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text(
        f"import mirrorfs\nmirrorfs.__path__.insert(0, {str(folder / 'mirrorfs')!r})\n"
    )
    library = run("gcc", "-print-file-name=libasan.so").stdout.strip()
    return {
        "PYTHONPATH": str(folder / "site"),
        "LD_PRELOAD": library,
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": f"detect_leaks=0:log_path={folder}/found",
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={folder}/found",
    }


def write_and_read(folder: Path) -> None:
    """What clients do with one file."""
    content = bytearray(os.urandom(40 * BLOCK))
    fd = os.open(folder / "image", os.O_RDWR | os.O_CREAT)
    assert os.pwrite(fd, content, 0) == len(content)
    assert os.pwrite(fd, bytes(9 * BLOCK), 8 * BLOCK) == 9 * BLOCK
    content[8 * BLOCK : 17 * BLOCK] = bytes(9 * BLOCK)
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 20 * BLOCK, BLOCK)
    content[20 * BLOCK : 21 * BLOCK] = bytes(BLOCK)
    assert os.copy_file_range(fd, fd, BLOCK, 0, 30 * BLOCK) == BLOCK
    content[30 * BLOCK : 31 * BLOCK] = content[:BLOCK]
    assert os.pread(fd, len(content), 0) == content
    assert 8 * BLOCK in borders(fd)
    os.fsync(fd)
    os.ftruncate(fd, 5 * BLOCK + 7)
    with mmap.mmap(fd, 0) as view:
        view[:5] = b"hello"
    content[:5] = b"hello"
    os.close(fd)
    assert (folder / "image").read_bytes() == content[: 5 * BLOCK + 7]


def use_names(folder: Path) -> None:
    """What clients do with names and attributes; some of it fails."""
    for number in range(100):
        (folder / f"{number:0100}").touch()
    assert len(os.listdir(folder)) == 101
    os.setxattr(folder / "image", "user.colour", b"blue" * 100)
    assert os.listxattr(folder / "image") == ["user.colour"]
    os.link(folder / "image", folder / "hard")
    os.symlink("image", folder / "soft")
    os.rename(folder / "hard", folder / "moved")
    for call in (os.stat, os.unlink, os.rmdir, os.readlink):
        with pytest.raises(FileNotFoundError):
            call(folder / "missing")
    with pytest.raises(OSError, match="too long"):
        os.mkdir(folder / ("n" * 256))
    os.statvfs(folder)
    os.utime(folder / "moved", ns=(1, 2))
    for path in folder.iterdir():
        path.unlink()


def use(mirror: Mirror) -> None:
    """Four clients at once, and one that is killed in the middle of a request."""
    folders = [mirror.path / f"client-{number}" for number in range(4)]
    failed: list[BaseException] = []

    def work(folder: Path) -> None:
        try:
            for _ in range(2):
                write_and_read(folder)
                use_names(folder)
        except BaseException as exc:
            failed.append(exc)

    for folder in folders:
        folder.mkdir()
    threads = [threading.Thread(target=work, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    reader = f"import os; fd = os.open({str(mirror.path)!r}, 0)\nwhile True: os.listdir(fd)"
    killed = subprocess.Popen([sys.executable, "-c", reader])  # in the middle of a request
    for thread in threads:
        thread.join()
    killed.kill()
    killed.wait()
    assert failed == []


# Data of every alignment and of lengths around those that xxHash treats apart.
_DIGESTS = """
import os
from mirrorfs import _native
data = memoryview(os.urandom(1 << 18))
for length in (0, 1, 3, 4, 8, 9, 16, 17, 128, 129, 240, 241, 1024, 65535, 65536, 65537, 200_000):
    for start in range(17):
        found = _native.chunk_digests(data[start : start + length], 2**64 - start - 1, 65536)
        assert len(found) == -(-length // 65536) * 16
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_sanitizers_find_nothing_in_a_mount(
    tmp_path: Path, ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    place = build(tmp_path)
    surroundings = environment(tmp_path)
    try:
        run(sys.executable, "-c", _DIGESTS, env={**os.environ, **surroundings})
        mirror = mount_mirror(ext4_folder, **surroundings)
        pid = mirror.pid
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert [name for name in built(place) if f"{place}/{name}." not in maps] == []
        use(mirror)
        assert mirror.pid == pid
        mirror.umount()
    finally:
        found = [path.read_text() for path in tmp_path.glob("found.*")]
        print(*found, sep="\n")  # a mount that dies of it says less
    assert found == []
