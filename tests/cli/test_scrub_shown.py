"""What a scrub has found is shown by `status`, `check` and the metrics, until it is made good."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs.catalog import database, scrubs
from mirrorfs.errors import ExitCode
from tests.commands import mirrorfs, wait_for
from tests.remembered import wait_for_sessions
from tests.rot import image_of, rot
from tests.scrubbed import CHUNK, MIB, copied, data, scrubbed, wait_for_digests

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

CONTENT = data(4 * MIB)


@pytest.fixture
def damaged(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    """A mount with a file of which a scrub has found two chunks damaged."""
    mirror = mount_mirror(ext4_folder, "session_quiet=0")
    path = copied(mirror, "vm.img", CONTENT)
    copied(mirror, "good.img", CONTENT)
    wait_for_sessions(mirror, "good.img")
    for place in (3, 40):
        rot(image_of(ext4_folder), path, place * CHUNK)
    scrubbed(mirror.path, code=ExitCode.DIFFERENCE)
    return mirror


def damage(mirror: Mirror) -> list[tuple[bytes, int, list[tuple[int, int]]]]:
    """What the catalog has: the paths, how many chunks are left, and which were found."""
    db = database.open_to_read(mirror.state_folder)
    assert db is not None
    try:
        return [(one.path, one.left_chunks, one.damaged) for one in scrubs.damage(db)]
    finally:
        db.close()


def status(mirror: Mirror) -> dict[str, Any]:
    done = mirrorfs("status", "--json", mirror.path, check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def metric(mirror: Mirror, name: str, file: str = "") -> float:
    for line in (mirror.path / ".mirrorfs/metrics").read_text().splitlines():
        if line.startswith(f"mirrorfs_{name}{{") and (not file or f'file="{file}"' in line):
            return float(line.rpartition(" ")[2])
    pytest.fail(f"there is no {name}")


def test_status_and_check_tell_of_it(damaged: Mirror) -> None:
    done = mirrorfs("status", damaged.path, check=False)
    assert done.returncode == ExitCode.FAILED
    first, second = [line for line in done.stdout.splitlines() if ".img" in line]
    assert "vm.img" in first
    assert "damaged: 2 of its chunks of 64 KiB; good" in first
    assert "damaged" not in second
    assert "ago: damaged files: 1" in done.stdout
    found = status(damaged)
    assert found["last_scrub"]
    assert {one["file"]: one["damaged_chunks"] for one in found["files"]} == {
        "vm.img": 2,
        "good.img": 0,
    }
    done = mirrorfs("check", damaged.path, check=False)
    assert done.returncode == 2
    assert done.stdout.startswith("CRITICAL: vm.img damaged: 2 chunks of 64 KiB (mirrorfs scrub) |")
    assert "'damaged'=1;;0;0;2" in done.stdout


def test_a_session_that_writes_it_anew_makes_it_good(damaged: Mirror) -> None:
    assert damage(damaged) == [(b"vm.img", 2, [(3, 4), (40, 41)])]
    damaged.write("vm.img", 3 * CHUNK, CONTENT[3 * CHUNK : 4 * CHUNK])
    wait_for(lambda: [left for _, left, _ in damage(damaged)] == [1])
    assert "damaged: 1 chunk of" in mirrorfs("check", damaged.path, check=False).stdout
    damaged.write("vm.img", 0, CONTENT)
    wait_for(lambda: not damage(damaged))
    assert mirrorfs("check", damaged.path).stdout.startswith("OK")
    wait_for_digests(damaged, "vm.img")
    scrubbed(damaged.path)


def test_a_scrub_that_finds_it_good_forgets_it(damaged: Mirror) -> None:
    rot(image_of(damaged.backing), damaged.backing / "vm.img", 3 * CHUNK)
    scrubbed(damaged.path, code=ExitCode.DIFFERENCE)
    assert damage(damaged) == [(b"vm.img", 1, [(40, 41)])]
    rot(image_of(damaged.backing), damaged.backing / "vm.img", 40 * CHUNK)
    scrubbed(damaged.path / "vm.img")
    assert not damage(damaged)


def test_what_the_page_cache_still_has_is_written_anew(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    """Else a copy would be compared with that, and not with the disk."""
    mirror = mount_mirror(ext4_folder, "session_quiet=0")
    path = copied(mirror, "vm.img", CONTENT)
    assert path.read_bytes() == CONTENT
    rot(image_of(ext4_folder), path, 3 * CHUNK, is_cached=True)
    assert path.read_bytes() == CONTENT
    scrubbed(mirror.path, code=ExitCode.DIFFERENCE)
    assert path.read_bytes() != CONTENT
    mirror.write("vm.img", 0, CONTENT)
    wait_for(lambda: not damage(mirror))
    wait_for_digests(mirror, "vm.img")
    scrubbed(mirror.path)


def test_it_goes_with_the_file(damaged: Mirror) -> None:
    os.rename(damaged.path / "vm.img", damaged.path / "moved.img")
    wait_for(lambda: [path for path, _, _ in damage(damaged)] == [b"moved.img"])
    assert {one["file"]: one["damaged_chunks"] for one in status(damaged)["files"]} == {
        "moved.img": 2,
        "good.img": 0,
    }
    # A whole new one in its place is another file.
    (damaged.path / "new").write_bytes(CONTENT)
    os.rename(damaged.path / "new", damaged.path / "moved.img")
    wait_for(lambda: not damage(damaged))
    assert not any(one["damaged_chunks"] for one in status(damaged)["files"])


def test_another_file_of_its_name_beside_the_mount_is_not_called_damaged(damaged: Mirror) -> None:
    damaged.umount()
    (damaged.backing / "vm.img").unlink()
    (damaged.backing / "vm.img").write_bytes(CONTENT)
    assert "damaged:" not in mirrorfs("check", damaged.backing, check=False).stdout
    files, _ = scrubbed(damaged.backing)
    assert files["vm.img"]["learned_chunks"] == 64
    assert not damage(damaged)


def test_the_metrics_have_it(damaged: Mirror) -> None:
    damaged.umount()
    damaged.mount()  # the daemon looks for it at once, and then each minute
    wait_for(lambda: metric(damaged, "last_scrub_timestamp_seconds"))
    assert metric(damaged, "file_damaged_chunks", "vm.img") == 2
    assert metric(damaged, "file_damaged_chunks", "good.img") == 0
    damaged.write("vm.img", 0, CONTENT)
    wait_for(lambda: metric(damaged, "file_damaged_chunks", "vm.img") == 0)


def test_status_knows_what_was_learned(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=0")
    copied(mirror, "vm.img", CONTENT)
    wait_for_sessions(mirror, "vm.img")
    mirror.umount()
    for left in (ext4_folder / ".mirrorfs/digests").glob("0-*"):
        left.unlink()
    scrubbed(ext4_folder)
    done = mirrorfs("status", "--json", ext4_folder)
    assert json.loads(done.stdout)["files"][0]["known_chunks"] == 64


def test_a_scrub_that_is_too_long_ago_is_warned_of(damaged: Mirror) -> None:
    words = ("check", damaged.path, "--match", "good.img", "--max-scrub-age")
    assert mirrorfs(*words, "1d").stdout.startswith("OK")
    done = mirrorfs(*words, "0s", check=False)
    assert done.returncode == 1
    assert done.stdout.startswith(f"WARNING: {damaged.path} last scrubbed ")


def test_a_scrub_that_never_was_is_warned_of(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=0")
    copied(mirror, "vm.img", CONTENT)
    wait_for_sessions(mirror, "vm.img")
    scrubbed(mirror.path / "vm.img")  # of a part
    done = mirrorfs("check", mirror.path, "--max-scrub-age", "35d", check=False)
    assert done.returncode == 1
    assert f"{mirror.path} last scrubbed never (should be < 35 d)" in done.stdout
    assert status(mirror)["last_scrub"] is None
