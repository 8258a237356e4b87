"""Real tools write through the mount: the copy is equal and sparse, and again is nearly free."""

from __future__ import annotations

import getpass
import os
import random
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.commands import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mounted import Mirror

MIB = 1 << 20
SIZE = 12 * MIB
DATA = 3 * MIB
SLACK = 128 << 10


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 MiB with 3 MiB of data in it, in pieces that do not all begin or end at a block."""
    path = tmp_path_factory.mktemp("image") / "vm.img"
    chance = random.Random(7)
    with path.open("wb") as file:
        for index in range(12):
            file.seek(index * MIB + chance.choice([0, 4096 * 3, 777]))
            file.write(chance.randbytes(DATA // 12))
        file.truncate(SIZE + 123)
    return path


IN_PLACE = {
    "rsync --inplace": ["rsync", "-a", "--inplace"],
    "rsync --inplace -S --no-whole-file": ["rsync", "-a", "--inplace", "-S", "--no-whole-file"],
}
COPIES = {
    **IN_PLACE,
    "rsync": ["rsync", "-a"],
    "rsync -S": ["rsync", "-aS"],
    "rsync --inplace -S": ["rsync", "-a", "--inplace", "-S"],
    "cp": ["cp"],
    "cp --sparse=always": ["cp", "--sparse=always"],
    "cp --sparse=never": ["cp", "--sparse=never"],
    "install": ["install"],
}


def copy_dd(source: Path, target: Path) -> None:
    run("dd", f"if={source}", f"of={target}", "bs=100k", "conv=notrunc")


def copy_cat(source: Path, target: Path) -> None:
    with source.open("rb") as reading, target.open("wb") as writing:
        subprocess.run(["cat"], stdin=reading, stdout=writing, check=True)


def copy_tar(source: Path, target: Path) -> None:
    run("sh", "-c", f"tar -C {source.parent} -cf - {source.name} | tar -C {target.parent} -xf -")


def copy_tar_sparse(source: Path, target: Path) -> None:
    run("sh", "-c", f"tar -C {source.parent} -cSf - {source.name} | tar -C {target.parent} -xf -")


def copy_qemu(source: Path, target: Path) -> None:
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", source, target)


def copy_qemu_in_place(source: Path, target: Path) -> None:
    if not target.exists():
        with target.open("wb") as file:
            file.truncate(source.stat().st_size + 511 & ~511)
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, target)


def copy_shutil(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


FUNCTIONS = {
    "dd": copy_dd,
    "cat": copy_cat,
    "tar": copy_tar,
    "tar -S": copy_tar_sparse,
    "qemu-img convert": copy_qemu,
    "qemu-img convert -n": copy_qemu_in_place,
    "shutil": copy_shutil,
}


def copy(tool: str, source: Path, target: Path) -> None:
    if tool in FUNCTIONS:
        FUNCTIONS[tool](source, target)
    else:
        run(*COPIES[tool], source, target)


def assert_equal_and_sparse(mirror: Mirror, image: Path, padded: bool = False) -> None:
    content = image.read_bytes()
    if padded:
        content += bytes(-len(content) % 512)
    assert mirror.read("vm.img") == content
    run("sync", "-f", mirror.backing)
    assert (mirror.backing / "vm.img").read_bytes() == content
    assert (mirror.backing / "vm.img").stat().st_blocks * 512 <= DATA + SLACK


@pytest.mark.parametrize("tool", [*COPIES, *FUNCTIONS])
def test_copy_is_equal_and_sparse(mirror: Mirror, image: Path, tool: str) -> None:
    for _ in range(2):
        copy(tool, image, mirror.path / "vm.img")
        assert_equal_and_sparse(mirror, image, padded="qemu" in tool)
        os.utime(mirror.path / "vm.img", ns=(1, 1))


@pytest.mark.parametrize("tool", [*IN_PLACE, "dd", "qemu-img convert -n"])
def test_second_copy_in_place_writes_only_what_changed(
    mirror: Mirror, image: Path, tmp_path: Path, tool: str
) -> None:
    copy(tool, image, mirror.path / "vm.img")
    changed = tmp_path / "vm.img"
    run("cp", "--sparse=always", image, changed)
    with changed.open("r+b") as file:
        file.seek(8 * MIB + 50_000)
        file.write(b"0123456789")
    later = time.time_ns() + 2_000_000_000
    os.utime(changed, ns=(later, later))
    before = mirror.counters()
    copy(tool, changed, mirror.path / "vm.img")
    after = mirror.counters()
    assert after.written_bytes - before.written_bytes <= 8192
    assert_equal_and_sparse(mirror, changed, padded="qemu" in tool)


def test_scp_leaves_an_equal_sparse_file(mirror: Mirror, image: Path, sshd: list[str]) -> None:
    for _ in range(2):
        run("scp", *sshd, image, f"{getpass.getuser()}@127.0.0.1:{mirror.path}/vm.img")
        assert_equal_and_sparse(mirror, image)


def test_rsync_of_a_tree_keeps_everything(mirror: Mirror, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    (source / "deep/er").mkdir(parents=True)
    (source / "file").write_bytes(b"x" * 10_000)
    (source / "deep/er/empty").write_bytes(b"")
    os.link(source / "file", source / "deep/hard")
    os.symlink("../file", source / "deep/soft")
    os.mkfifo(source / "fifo")
    os.chmod(source / "file", 0o4750)
    os.chown(source / "deep", 1234, 4321)
    os.setxattr(source / "file", "user.colour", b"blue")
    os.utime(source / "file", ns=(10**18 + 1, 10**18 + 2))
    target = mirror.path / "tree"
    run("rsync", "-aHAX", f"{source}/", target)
    again = run("rsync", "-aHAXi", "--checksum", "--delete", f"{source}/", target)
    assert again.stdout == ""
    assert (mirror.backing / "tree/file").stat().st_mtime_ns == 10**18 + 2
    assert (mirror.backing / "tree/file").stat().st_nlink == 2


def test_rsync_delete_leaves_the_control_folder_alone(mirror: Mirror, tmp_path: Path) -> None:
    mirror.write("old", 0, b"x")
    (tmp_path / "empty").mkdir()
    run("rsync", "-a", "--delete", f"{tmp_path}/empty/", f"{mirror.path}/")
    assert os.listdir(mirror.path) == []
    assert mirror.counters().write_requests == 1


def test_second_conversion_to_any_format_is_nearly_free(mirror: Mirror) -> None:
    """Each writes a header first, closes the file and opens it again; vpc writes the end of each
    block before it.
    """
    source = mirror.backing.with_name(f"{mirror.backing.name}.raw")
    with source.open("wb") as file:
        for start in (0, 5 * MIB, 9 * MIB):
            file.seek(start)
            file.write(random.Random(start).randbytes(2 * MIB))
        file.truncate(SIZE)
    for form in ("raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc", "qed", "parallels"):
        target = mirror.path / form
        run("qemu-img", "convert", "-O", form, source, target)
        before = mirror.counters().written_bytes
        run("qemu-img", "convert", "-O", form, source, target)
        assert mirror.counters().written_bytes - before < MIB, form
        assert "identical" in run("qemu-img", "compare", "-F", form, source, target).stdout
        assert (mirror.backing / form).read_bytes() == target.read_bytes(), form
    source.unlink()
