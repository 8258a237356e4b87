"""Tools copy an image to a name that is taken by something odd, twice at once, or die half way:
what is left is what a plain folder holds.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands import run, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

# One file system that cannot share blocks, and one that can.
pytestmark = pytest.mark.parametrize("loop_fs", ["ext4", "xfs"], indirect=True)
MIB = 1 << 20
BLOCK = 4096
NOBODY = 65534
NAME = "vm.img"
TEMPORARY = ".vm.img.AbCdEf"  # as rsync may have left one


def old_content() -> bytes:
    return random.Random(3).randbytes(3 * MIB)


def new_content(seed: int = 4) -> bytes:
    """Most of it is old, some is zeros, and it ends in the middle of a block."""
    chance, content = random.Random(seed), bytearray(old_content()[: 3 * MIB - 999])
    for _ in range(20):
        place = chance.randrange(len(content) - BLOCK)
        content[place : place + BLOCK] = chance.choice([chance.randbytes(BLOCK), bytes(BLOCK)])
    return bytes(content)


def make_old(path: Path) -> Path:
    path.write_bytes(old_content())
    os.utime(path, ns=(10**18, 10**18))
    return path


def a_folder(folder: Path) -> None:
    (folder / NAME).mkdir()
    make_old(folder / NAME / "inside")


def a_link(folder: Path) -> None:
    make_old(folder / "real.img")
    (folder / NAME).symlink_to("real.img")


def a_link_to_nothing(folder: Path) -> None:
    (folder / NAME).symlink_to("missing.img")


def two_names(folder: Path) -> None:
    os.link(make_old(folder / NAME), folder / "other.img")


def no_permissions(folder: Path) -> None:
    make_old(folder / NAME).chmod(0)


def another_owner(folder: Path) -> None:
    os.chown(make_old(folder / NAME), NOBODY, NOBODY)
    (folder / NAME).chmod(0o6750)


def attributes(folder: Path) -> None:
    os.setxattr(make_old(folder / NAME), "user.kept", b"yes")
    run("setfacl", "-m", "u:65534:r", folder / NAME)


def a_temporary_file(folder: Path) -> None:
    make_old(folder / NAME)
    make_old(folder / TEMPORARY).chmod(0o600)


def a_fifo_beside(folder: Path) -> None:
    make_old(folder / NAME)
    os.mkfifo(folder / TEMPORARY)


TARGETS = [
    a_folder,
    a_link,
    a_link_to_nothing,
    two_names,
    no_permissions,
    another_owner,
    attributes,
    a_temporary_file,
    a_fifo_beside,
]
TOOLS = {
    "rsync": "rsync -a {source} {target}",
    "rsync -S": "rsync -aS {source} {target}",
    "rsync --inplace": "rsync -a --inplace {source} {target}",
    "rsync --inplace -S": "rsync -a --inplace -S {source} {target}",
    "rsync -HAX": "rsync -aHAX {source} {target}",
    "rsync -b": "rsync -ab {source} {target}",
    "cp": "cp {source} {target}",
    "cp -a": "cp -a {source} {target}",
    "cp --remove-destination": "cp --remove-destination {source} {target}",
    "cp -b": "cp -b {source} {target}",
    "mv": "cp {source} {target}.new && mv {target}.new {target}",
    "dd": "dd if={source} of={target} bs=300k status=none",
    "cat": "cat {source} > {target}",
    "cat >>": "cat {source} >> {target}",
    "install": "install -m 640 {source} {target}",
    "tar -x": "tar -C $(dirname {source}) -cf - vm.img | tar -C $(dirname {target}) -xf -",
    "tar -x --overwrite": "tar -C $(dirname {source}) -cSf - vm.img"
    " | tar -C $(dirname {target}) --overwrite -xf -",
    "truncate": "truncate -s 100k {target} && cat {source} >> {target}",
    "qemu-img": "qemu-img convert -f raw -O raw {source} {target}",
}


def seen(folder: Path) -> dict[str, Any]:
    """All that a user can see of a tree, but what differs from copy to copy."""
    found: dict[str, Any] = {}
    first_name: dict[int, str] = {}
    for path in sorted(folder.rglob("*")):
        if ".mirrorfs" in path.parts:
            continue
        status, name = path.lstat(), str(path.relative_to(folder))
        entry = [stat.filemode(status.st_mode), status.st_uid, status.st_gid, status.st_nlink]
        entry.append(first_name.setdefault(status.st_ino, name))
        if path.is_symlink():
            entry.append(path.readlink())
        elif path.is_file():
            entry += [status.st_size, path.read_bytes()]
            entry += [(key, os.getxattr(path, key)) for key in sorted(os.listxattr(path))]
            if status.st_mtime_ns in {10**18, 2 * 10**18}:
                entry.append(status.st_mtime_ns)
        found[name] = entry
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source" / NAME
    path.parent.mkdir()
    path.write_bytes(new_content())
    os.utime(path, ns=(2 * 10**18, 2 * 10**18))
    return path


@pytest.mark.timeout(600)
@pytest.mark.parametrize("prepare", TARGETS, ids=lambda prepare: prepare.__name__)
def test_copy_onto_an_odd_target_leaves_what_a_plain_folder_holds(
    mirror: Mirror, source: Path, prepare: Callable[[Path], None]
) -> None:
    plain = mirror.backing.parent / f"{mirror.backing.name}-plain"
    plain.mkdir()
    for number, command in enumerate(TOOLS.values()):
        codes = []
        for root in (plain, mirror.path):
            folder = root / str(number)
            folder.mkdir()
            prepare(folder)
            line = command.format(source=source, target=folder / NAME)
            codes.append(subprocess.run(line, shell=True, capture_output=True).returncode)
        tool = list(TOOLS)[number]
        assert codes[0] == codes[1], tool
        assert seen(mirror.path / str(number)) == seen(plain / str(number)), tool
    mirror.umount()
    assert seen(mirror.backing) == seen(plain)
    for folder in (plain, mirror.backing):  # all tests share this disk
        shutil.rmtree(folder)


@pytest.mark.parametrize("tool", ["rsync", "rsync -S", "cp --remove-destination", "install"])
def test_two_copies_at_once_leave_one_of_them_whole(
    mirror: Mirror, source: Path, tool: str
) -> None:
    make_old(mirror.path / NAME)
    other = source.parent / "other" / NAME
    other.parent.mkdir()
    other.write_bytes(new_content(5))
    for _ in range(4):
        lines = [TOOLS[tool].format(source=s, target=mirror.path / NAME) for s in (source, other)]
        copies = [subprocess.Popen(line, shell=True, stderr=subprocess.DEVNULL) for line in lines]
        for copy in copies:
            copy.wait()
        assert mirror.read(NAME) in {source.read_bytes(), other.read_bytes()}
        other.touch()
        source.touch()
    mirror.umount()
    assert (mirror.backing / NAME).read_bytes() in {source.read_bytes(), other.read_bytes()}


@pytest.mark.parametrize("size", [BLOCK, MIB + 777, 2 * MIB])
def test_tool_that_dies_half_way_leaves_all_that_it_wrote(mirror: Mirror, size: int) -> None:
    make_old(mirror.path / NAME)
    content = new_content()
    with (mirror.path / NAME).open("wb") as target:
        reading, writing = os.pipe()
        cat = subprocess.Popen(["cat"], stdin=reading, stdout=target)
        os.close(reading)
        for place in range(0, size, BLOCK):
            os.write(writing, content[place : min(place + BLOCK, size)])
        wait_for(lambda: os.fstat(target.fileno()).st_size == size)
        cat.kill()
        cat.wait()
        os.close(writing)
    assert mirror.read(NAME) == content[:size]
    mirror.umount()
    assert (mirror.backing / NAME).read_bytes() == content[:size]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_rsync_that_dies_half_way_leaves_the_old_file(
    mirror: Mirror, source: Path, how: signal.Signals
) -> None:
    make_old(mirror.path / NAME)
    copy = subprocess.Popen(
        ["rsync", "-a", "--bwlimit=200", source, mirror.path / NAME], stderr=subprocess.DEVNULL
    )
    wait_for(lambda: any(path.stat().st_size for path in mirror.path.glob(f".{NAME}.*")))
    copy.send_signal(how)
    assert copy.wait()
    # The other two processes of rsync see to themselves.
    wait_for(lambda: run("pgrep", "-f", mirror.path / NAME, check=False).returncode)
    assert mirror.read(NAME) == old_content()
    mirror.umount()
    left = [path.read_bytes() for path in mirror.backing.glob(f".{NAME}.*")]
    assert all(source.read_bytes().startswith(data) for data in left)
    assert (mirror.backing / NAME).read_bytes() == old_content()
