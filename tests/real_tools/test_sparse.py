"""Tools that know holes: through the mount they see them, make them, and skip them.

Requests and bytes are counted, not seconds.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from typing import TYPE_CHECKING

import pytest

from mirrorfs.daemon.readahead import set_readahead
from tests.commands import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import SimpleNamespace

    from tests.mounted import Mirror

MIB = 1 << 20
SIZE, DATA = 64 * MIB, 8 * MIB
SLACK = 256 << 10


def make_image(path: Path, seed: int = 3) -> Path:
    """64 MiB with 1 MiB of data at the beginning of every 8."""
    chance = random.Random(seed)
    with path.open("wb") as file:
        for start in range(0, SIZE, 8 * MIB):
            file.seek(start)
            file.write(chance.randbytes(MIB))
        file.truncate(SIZE)
    return path


def occupied(path: Path) -> int:
    return path.stat().st_blocks * 512


def difference(before: SimpleNamespace, after: SimpleNamespace) -> dict[str, int]:
    return {
        name: value - getattr(before, name)
        for name, value in vars(after).items()
        if name != "errors"
    }


def pieces(path: Path) -> dict[int, bytes]:
    """All data of a file by its offset; holes are left out."""
    found: dict[int, bytes] = {}
    with path.open("rb") as file:
        end = 0
        while True:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                return found
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found[start] = os.pread(file.fileno(), end - start, start)


ALONE = r"""
for point in $(awk '$3 ~ /^fuse/ {print $2}' /proc/mounts); do
    [ "$point" = "$1" ] || umount -l "$point"
done
shift
exec xfs_io "$@"
"""


def xfs_io(mirror: Mirror, *words: str | Path) -> str:
    """xfs_io asks every mount of the machine before it begins, and waits for one that hangs: here
    it sees no other FUSE mount than this one.
    """
    return run("unshare", "--mount", "sh", "-c", ALONE, "sh", mirror.path, *words).stdout


@pytest.fixture
def image(mirror: Mirror) -> Path:
    return make_image(mirror.path / "vm.img")


def test_fallocate_punches_zeroes_allocates_and_digs(mirror: Mirror, image: Path) -> None:
    below = mirror.backing / image.name
    content = bytearray(image.read_bytes())
    run("fallocate", "-p", "-o", 1000, "-l", MIB // 2, image)
    content[1000 : 1000 + MIB // 2] = bytes(MIB // 2)
    assert occupied(below) <= DATA - MIB // 2 + SLACK
    run("fallocate", "-z", "-o", 8 * MIB, "-l", MIB, image)
    content[8 * MIB : 9 * MIB] = bytes(MIB)
    run("fallocate", "-z", "-n", "-o", SIZE, "-l", MIB, image)
    assert below.read_bytes() == image.read_bytes() == content
    assert occupied(below) <= DATA - 3 * MIB // 2 + SLACK
    run("fallocate", "-z", "-o", SIZE, "-l", 100, image)
    assert image.stat().st_size == SIZE + 100
    run("fallocate", "-l", SIZE + MIB, image)
    assert image.stat().st_size == SIZE + MIB
    assert occupied(below) >= SIZE
    assert mirror.account(image.name).discarded_bytes == MIB // 2 + MIB + 100
    run("fallocate", "-d", image)
    assert below.read_bytes() == content + bytes(MIB)
    done = run("fallocate", "-c", "-o", 0, "-l", 4096, image, check=False)
    assert "not supported" in done.stderr


def test_fallocate_dig_frees_what_was_stored_as_zeros(mirror: Mirror) -> None:
    (mirror.backing / "dense").write_bytes(b"x" * MIB + bytes(8 * MIB) + b"x" * MIB)
    run("fallocate", "-d", mirror.path / "dense")
    assert occupied(mirror.backing / "dense") <= 2 * MIB + SLACK


def test_map_of_holes_is_that_of_the_backing_file(mirror: Mirror, image: Path) -> None:
    def seen(path: Path) -> list[tuple[int, int, bool]]:
        parts = json.loads(run("qemu-img", "map", "-f", "raw", "--output=json", path).stdout)
        return [(part["start"], part["length"], part["data"]) for part in parts]

    assert seen(image) == seen(mirror.backing / image.name)
    assert sum(length for _, length, data in seen(image) if data) <= DATA + SLACK
    where, below = (
        xfs_io(mirror, "-r", "-c", "seek -a -r 0", path)
        for path in (image, mirror.backing / image.name)
    )
    assert where == below
    assert where.count("DATA") == 8


@pytest.mark.parametrize(
    "command",
    [
        ["cp", "{image}", "{out}"],
        ["sh", "-c", "tar -C {folder} -cSf - vm.img | tar -C {target} -xf -"],
        ["qemu-img", "convert", "-f", "raw", "-O", "raw", "{image}", "{out}"],
    ],
    ids=["cp", "tar -S", "qemu-img convert"],
)
def test_copy_out_of_the_mount_reads_no_hole(
    loop_fs: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path, command: list[str]
) -> None:
    """The kernel's own readahead, which does not know holes, is kept out of the count."""
    mirror = mount_mirror(loop_fs)
    set_readahead(os.fsencode(mirror.path), 128 << 10)
    image = make_image(mirror.path / "vm.img")
    out = tmp_path / image.name
    names = {"image": image, "out": out, "folder": image.parent, "target": tmp_path}
    before = mirror.counters()
    run(*(word.format(**names) for word in command))
    assert out.read_bytes() == (mirror.backing / image.name).read_bytes()
    assert occupied(out) <= DATA + SLACK
    assert difference(before, mirror.counters())["read_bytes"] <= DATA + 4 * MIB


def test_conversion_onto_a_dense_image_makes_it_sparse(mirror: Mirror, tmp_path: Path) -> None:
    source = make_image(tmp_path / "source.raw")
    target = mirror.path / "target.raw"
    with target.open("wb") as file:
        file.write(random.Random(9).randbytes(SIZE))
    before = mirror.counters()
    run("qemu-img", "convert", "-n", "-S", "4k", "-f", "raw", "-O", "raw", source, target)
    done = difference(before, mirror.counters())
    assert target.read_bytes() == source.read_bytes()
    assert occupied(mirror.backing / "target.raw") <= DATA + SLACK
    assert done["write_requests"] <= 16
    assert done["discarded_bytes"] >= SIZE - DATA - SLACK


def test_discards_of_a_guest_free_blocks(mirror: Mirror, image: Path) -> None:
    below = mirror.backing / image.name
    before = occupied(below)
    run("qemu-io", "-f", "raw", "-c", "discard 0 512k", "-c", "write -z -u 8M 512k", image)
    assert occupied(below) <= before - MIB + SLACK
    assert below.read_bytes()[: MIB // 2] == bytes(MIB // 2)


def test_rsync_punches_new_holes_instead_of_sending_zeros(mirror: Mirror, tmp_path: Path) -> None:
    source = tmp_path / "vm.img"
    source.write_bytes(random.Random(5).randbytes(32 * MIB))
    run("rsync", "-a", source, f"{mirror.path}/")
    with source.open("r+b") as file:
        file.seek(8 * MIB)
        file.write(bytes(16 * MIB))
    os.utime(source, (2e9, 2e9))
    before = mirror.counters()
    run("rsync", "-aS", "--inplace", "--no-whole-file", source, f"{mirror.path}/")
    done = difference(before, mirror.counters())
    below = mirror.backing / "vm.img"
    assert below.read_bytes() == source.read_bytes()
    assert occupied(below) <= 16 * MIB + SLACK
    assert done["write_requests"] <= 16
    assert done["written_bytes"] <= 64 << 10


def test_fstrim_of_an_image_in_the_mount_frees_its_blocks(mirror: Mirror, tmp_path: Path) -> None:
    """What a virtual machine does to its disk: make files, delete them, discard."""
    image, point = mirror.path / "disk.img", tmp_path / "inside"
    image.touch()
    os.truncate(image, 128 * MIB)
    run("mkfs.ext4", "-q", "-F", image)
    point.mkdir()
    run("mount", "-o", "loop", image, point)
    try:
        (point / "big").write_bytes(random.Random(1).randbytes(48 * MIB))
        (point / "kept").write_bytes(b"kept" * 100_000)
        os.sync()
        full = occupied(mirror.backing / "disk.img")
        (point / "big").unlink()
        os.sync()
        run("fstrim", point)
        os.sync()
        assert full - occupied(mirror.backing / "disk.img") >= 0.95 * 48 * MIB
        assert (point / "kept").read_bytes() == b"kept" * 100_000
    finally:
        run("umount", point)
    run("e2fsck", "-fn", image)


def test_copy_inside_the_mount_shares_or_stays_sparse(mirror: Mirror, image: Path) -> None:
    os.truncate(image, 6 << 30)
    target = mirror.path / "copy.img"
    before = mirror.counters()
    xfs_io(mirror, "-f", "-c", f"copy_range {image}", target)
    done = difference(before, mirror.counters())
    assert target.stat().st_size == 6 << 30
    assert pieces(mirror.backing / "copy.img") == pieces(mirror.backing / image.name)
    assert pieces(target) == pieces(image)
    assert occupied(mirror.backing / "copy.img") <= DATA + SLACK
    assert done["received_bytes"] == 6 << 30
    assert done["hole_bytes"] == (6 << 30) - DATA
    can_share = mirror.stats()["file_system"]["can_share_blocks"]
    assert done["shared_bytes"] == (DATA if can_share else 0)
    assert done["written_bytes"] == (0 if can_share else DATA)
    assert (done["write_requests"], done["read_bytes"]) == (0, 0)


def test_copy_range_onto_an_equal_file_writes_nothing(mirror: Mirror, image: Path) -> None:
    """Where blocks cannot be shared, a copy is compared like any other write."""
    if mirror.stats()["file_system"]["can_share_blocks"]:
        expected = {"shared_bytes": DATA, "written_bytes": 0, "unchanged_bytes": 0}
    else:
        expected = {"shared_bytes": 0, "written_bytes": 0, "unchanged_bytes": DATA}
    target = mirror.path / "copy.img"
    shutil.copyfile(mirror.backing / image.name, mirror.backing / "copy.img")
    before = mirror.counters()
    xfs_io(mirror, "-c", f"copy_range {image}", target)
    done = difference(before, mirror.counters())
    assert {name: done[name] for name in expected} == expected
    run("cmp", image, target)
