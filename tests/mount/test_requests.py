"""Requests whose handlers end at once, or wait for a disk and go on."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from tests.commands import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

TIMES = (1_000_000_001_000_000_002, -3_000_000_004)  # ns; one lies before 1970


# Each in a folder of its own, which the kernel locks meanwhile.
CALLS: dict[str, Callable[[Path], object]] = {
    "create": lambda folder: os.close(os.open(folder / "new", os.O_CREAT | os.O_RDWR, 0o640)),
    "mkdir": lambda folder: (folder / "new").mkdir(0o750),
    "rmdir": lambda folder: (folder / "empty").rmdir(),
    "rename": lambda folder: os.rename(folder / "file", folder / "new"),
    "unlink": lambda folder: (folder / "file").unlink(),
    "chmod": lambda folder: (folder / "file").chmod(0o600),
    "utime": lambda folder: os.utime(folder / "file", ns=TIMES),
    "truncate": lambda folder: os.truncate(folder / "file", 5),
}


def test_requests_that_wait_for_a_frozen_disk_are_done_afterwards(
    mirror: Mirror, tmp_path: Path
) -> None:
    threads = []
    for folder in (tmp_path / "plain", mirror.path):
        for name, call in CALLS.items():
            (folder / name / "empty").mkdir(parents=True)
            (folder / name / "file").write_bytes(b"content")
            if folder is mirror.path:
                threads.append(threading.Thread(target=call, args=(folder / name,), daemon=True))
            else:
                call(folder / name)
    run("fsfreeze", "--freeze", mirror.backing)
    try:
        for thread in threads:
            thread.start()
        threads[0].join(0.3)
        assert all(thread.is_alive() for thread in threads)
        assert mirror.stats()["pid"]
    finally:
        run("fsfreeze", "--unfreeze", mirror.backing)
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    found = (mirror.backing / "utime" / "file").stat()
    assert (found.st_atime_ns, found.st_mtime_ns) == TIMES
    wanted = tree(tmp_path / "plain")
    assert tree(mirror.path) == wanted
    assert tree(mirror.backing) == wanted


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Modes and contents of what was made by CALLS."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for name in CALLS
        for path in sorted((folder / name).rglob("*"))
    }


def test_a_time_set_to_now_is_not_later_than_a_write_that_follows(mirror: Mirror) -> None:
    for number in range(20):
        mirror.write(f"touched-{number}", 0, b"")
        os.utime(mirror.path / f"touched-{number}")
        mirror.write(f"written-{number}", 0, b"data")
        first, second = (
            (mirror.backing / f"{name}-{number}").stat() for name in ("touched", "written")
        )
        assert first.st_mtime_ns <= second.st_mtime_ns


def test_the_kernel_keeps_what_it_has_read_when_a_file_is_opened_again(mirror: Mirror) -> None:
    data = os.urandom(1 << 20)
    mirror.write("file", 0, data)
    assert mirror.read("file") == data
    before = mirror.counters().read_bytes
    assert mirror.read("file") == data
    assert mirror.counters().read_bytes == before
