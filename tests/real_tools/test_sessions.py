"""What real programs leave in the history."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.catalog import ranges
from tests.commands import run, wait_for
from tests.mounted import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

from tests.real_tools.noted import MIB, SIZE, age, noted, sessions, wait_for_sessions

CHUNK = 64 << 10
SUMMED = (*CLASSES, "received_bytes", "write_requests", "failed_bytes", "freed_bytes")


COPIES = {
    "rsync": (["rsync", "-a"], "rsync", True),
    "rsync --inplace": (["rsync", "-a", "--inplace"], "rsync", True),
    "rsync without times": (["rsync"], "rsync", False),
    "cp": (["cp"], "cp", False),
    "cp -p": (["cp", "-p"], "cp", True),
    "install": (["install"], "install", False),
}


@pytest.mark.parametrize("tool", COPIES)
def test_a_copy_is_one_session_under_its_final_name(quick: Mirror, image: Path, tool: str) -> None:
    words, program, is_stamped = COPIES[tool]
    run(*words, image, quick.path / "vm.img")
    [one] = wait_for_sessions(quick, 1)
    status = os.stat(quick.backing / "vm.img")
    assert (one["file"], one["ended"], one["incomplete"]) == ("vm.img", "closed", False)
    assert (one["program"], one["uid"], one["written_as"]) == (program, os.getuid(), None)
    assert one["stamped"] == is_stamped
    assert (one["size_before"], one["size_after"]) == (0, SIZE)
    # What the file system itself needs may come with the sync that ends a session.
    assert 0 <= status.st_blocks * 512 - one["allocated_after"] <= CHUNK
    assert (one["inode"], one["device"]) == (status.st_ino, status.st_dev)
    assert (one["changed_bytes"], one["changed_chunks"]) == (SIZE // 2, SIZE // 2 // CHUNK)
    assert one["errors"] == {}


def test_a_night_of_rsync_says_what_changed(quick: Mirror, image: Path, tmp_path: Path) -> None:
    run("rsync", "-a", "--inplace", image, quick.path)
    wait_for_sessions(quick, 1)
    content = bytearray(image.read_bytes())
    content[5 * MIB : 5 * MIB + 3] = b"new"  # in a hole
    content[8 * MIB : 8 * MIB + 4096] = bytes(4096)  # over data
    source = tmp_path / "vm.img"
    source.write_bytes(content)
    run("rsync", "-a", "--inplace", "--whole-file", source, quick.path)
    night = wait_for_sessions(quick, 2)[1]
    assert (night["changed_chunks"], night["changed_bytes"]) == (2, 8192)
    assert night["size_before"] == SIZE
    # A file system may need a block for its own notes of where the data is.
    assert SIZE // 2 <= night["allocated_before"] <= SIZE // 2 + CHUNK
    assert night["unusual"] is None
    line = next(line for line in quick.log.read_text().splitlines() if " in 2 chunks" in line)
    assert "INFO" in line
    assert "vm.img 24.0 MiB: received " in line
    assert "wrote 4.00 KiB in 2 chunks, " in line
    assert line.endswith(" s (rsync)")


def test_all_sessions_add_up_to_the_account(quick: Mirror, image: Path) -> None:
    for name in ("a", "b"):
        run("cp", image, quick.path / name)
    run("cp", "--reflink=never", quick.path / "a", quick.path / "c")
    run("dd", "if=/dev/zero", f"of={quick.path}/a", "bs=1M", "count=5", "conv=notrunc")
    run("truncate", "-s", "1M", quick.path / "b")
    run("fallocate", "-p", "-o", "0", "-l", "64k", quick.path / "b")
    wait_for(lambda: {one["file"] for one in sessions(quick)} == {"a", "b", "c"})

    def adds_up() -> bool:
        counted = vars(quick.counters())
        noted = [one["counters"] for one in sessions(quick)]
        return all(sum(one[name] for one in noted) == counted[name] for name in SUMMED)

    wait_for(adds_up)
    for one in sessions(quick):
        count = one["counters"]
        assert count["received_bytes"] == sum(count[name] for name in CLASSES)


def test_a_copy_inside_the_mount_is_a_session(quick: Mirror, image: Path) -> None:
    run("cp", image, quick.path / "vm.img")
    run("cp", quick.path / "vm.img", quick.path / "copy.img")
    copy = wait_for_sessions(quick, 2)[1]
    assert (copy["file"], copy["program"], copy["ended"]) == ("copy.img", "cp", "closed")
    assert copy["counters"]["received_bytes"] == SIZE // 2 or copy["size_after"] == SIZE


def test_the_chunks_that_changed_are_noted(quick: Mirror) -> None:
    with (quick.path / "x").open("wb") as file:
        file.truncate(100 * CHUNK)
        for chunk in (3, 4, 50):
            file.seek(chunk * CHUNK + 5)
            file.write(b"x")
    wait_for_sessions(quick, 1)
    assert ranges.decode(noted(quick, "SELECT ranges FROM sessions") or b"") == [(3, 5), (50, 51)]


def test_data_that_turns_to_zeros_is_unusual(quick: Mirror, image: Path) -> None:
    quick.noisy = True
    run("cp", image, quick.path / "vm.img")
    wait_for_sessions(quick, 1)
    run("dd", "if=/dev/zero", f"of={quick.path}/vm.img", "bs=1M", "count=20", "conv=notrunc")
    one = wait_for_sessions(quick, 2)[1]
    assert one["unusual"] == "83 % of its data turned to zeros"
    assert one["zeroed_bytes"] == 10 * MIB
    [line] = quick.troubles()
    assert "WARNING" in line
    assert line.endswith("vm.img: unusual: 83 % of its data turned to zeros")


def test_a_file_that_changes_more_than_ever_is_unusual(
    quick: Mirror, image: Path, tmp_path: Path
) -> None:
    quick.noisy = True
    content = bytearray(image.read_bytes())
    source = tmp_path / "vm.img"
    for night in range(5):
        content[night : night + 1] = b"x"
        source.write_bytes(content)
        age(source, 3600 - night)
        run("rsync", "-a", "--inplace", "--no-whole-file", source, quick.path)
        wait_for_sessions(quick, night + 1)
    content[::2048] = bytes(byte ^ 0xFF for byte in content[::2048])
    source.write_bytes(content)
    run("rsync", "-a", "--inplace", "--no-whole-file", source, quick.path)
    found = wait_for_sessions(quick, 6)
    assert [one["unusual"] for one in found[:5]] == [None] * 5
    assert "of its data changed, where" in found[5]["unusual"]


def test_a_file_that_is_renamed_later_keeps_its_history(quick: Mirror, image: Path) -> None:
    (quick.path / "daily.0").mkdir()
    run("cp", image, quick.path / "daily.0/vm.img")
    wait_for_sessions(quick, 1)
    os.rename(quick.path / "daily.0", quick.path / "daily.1")
    wait_for(lambda: noted(quick, "SELECT path FROM files") == b"daily.1/vm.img")


def test_without_history_nothing_is_noted(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "history=0,session_quiet=0")
    mirror.write("x", 0, b"x" * 5000)
    mirror.umount()
    assert os.listdir(ext4_folder) == ["x"]


def test_a_folder_mounted_over_itself_has_a_history_too(
    ext4_folder: Path, tmp_path: Path, mount_mirror: Callable[..., Mirror], image: Path
) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=0")
    mirror.umount()
    mirror.path = ext4_folder
    mirror.mount()
    run("cp", image, mirror.path / "vm.img")
    wait_for_sessions(mirror, 1)
    mirror.umount()
    assert (ext4_folder / ".mirrorfs/catalog.sqlite3").exists()
    mirror.mount()
    assert [one["file"] for one in wait_for_sessions(mirror, 1)] == ["vm.img"]
    mirror.umount()
