"""`mirrorfs sparsify`: what a file holds never changes, whoever writes it meanwhile."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs.daemon import sparse_files
from mirrorfs.errors import MirrorfsError
from tests.commands import MIRRORFS, mirrorfs, run, wait_for
from tests.digested import all_right, wait_for_seal
from tests.remembered import wait_for_sessions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

BLOCK = 4096
BLOCKS = 1024
DATA = b"\x5a" * BLOCK


def dense(path: Path, seed: int, blocks: int = BLOCKS, tail: int = 1000) -> bytes:
    """A dense file, of which half the blocks are zeros; returns what it holds."""
    chance = random.Random(seed)
    content = b"".join(
        bytes(BLOCK) if chance.random() < 0.5 else chance.randbytes(16) * 256 for _ in range(blocks)
    ) + bytes(tail)
    path.write_bytes(content)
    run("sync", path)
    os.utime(path, ns=(1, 1_700_000_000_123_456_789))
    return content


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def data_blocks(content: bytes) -> int:
    return sum(any(content[place : place + BLOCK]) for place in range(0, len(content), BLOCK))


def printed(*words: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(mirrorfs("sparsify", "--json", *words).stdout)
    return found


@pytest.mark.parametrize("is_mounted", [True, False])
def test_zeros_become_holes(
    is_mounted: bool, loop_fs: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    image = loop_fs / "vm.img"
    content = dense(image, seed=1)
    before, mtime_ns = allocated(image), image.stat().st_mtime_ns
    # Also by way of the backing folder.
    path = mount_mirror(loop_fs).path / "vm.img" if is_mounted else image
    would = printed("--dry-run", image)
    assert (allocated(image), would["file"]) == (before, str(path))
    done = printed(image)
    run("sync", image)
    assert done["freed_bytes"] == before - done["allocated_after"] > BLOCKS * BLOCK // 3
    assert data_blocks(content) * BLOCK <= allocated(image) <= data_blocks(content) * BLOCK + 65536
    assert abs(would["freed_bytes"] - done["freed_bytes"]) <= 65536
    assert image.read_bytes() == path.read_bytes() == content
    assert (image.stat().st_mtime_ns, path.stat().st_mtime_ns) == (mtime_ns, mtime_ns)
    assert printed(path)["freed_bytes"] == 0


def test_while_it_is_written(loop_fs: Path, mount_mirror: Callable[..., Mirror]) -> None:
    """A client writes zeros and data, reads its own, and cuts, while holes are dug all the time."""
    model = bytearray(dense(loop_fs / "vm.img", seed=2))
    mirror = mount_mirror(loop_fs, "session_quiet=0,zeros=keep")
    path = mirror.path / "vm.img"
    is_over = threading.Event()
    requests = 0

    def dig() -> None:
        nonlocal requests
        while not is_over.is_set():
            for start in range(0, len(model), 1 << 19):
                value = b"%d:%d" % (start, start + (1 << 19))
                try:
                    os.setxattr(path, "user.mirrorfs.sparsify", value)
                except OSError as exc:
                    assert exc.errno == errno.EBUSY  # it was cut, and is not finalised yet
                else:
                    requests += 1

    digger = threading.Thread(target=dig)
    fd = os.open(path, os.O_RDWR)
    digger.start()
    try:
        chance = random.Random(3)
        end = time.monotonic() + 1
        while time.monotonic() < end or requests < 20:
            start = chance.randrange(len(model))
            length = min(chance.choice([1, 100, BLOCK, 5 * BLOCK, 1 << 17]), len(model) - start)
            data = bytes(length) if chance.random() < 0.5 else chance.randbytes(length)
            os.pwrite(fd, data, start)
            model[start : start + length] = data
            assert os.pread(fd, length, start) == data
            if chance.random() < 0.02:
                size = chance.randrange(len(model) // 2, len(model))
                os.ftruncate(fd, size)
                os.ftruncate(fd, len(model))
                model[size:] = bytes(len(model) - size)
                os.fsync(fd)
    finally:
        is_over.set()
        digger.join()
        os.close(fd)
    assert path.read_bytes() == bytes(model)
    wait_for_seal(loop_fs, "vm.img")
    mirror.umount()
    assert (loop_fs / "vm.img").read_bytes() == bytes(model)
    assert all_right(loop_fs)["vm.img"].believed


@pytest.mark.parametrize("is_mounted", [True, False])
def test_digests_stay_known(
    is_mounted: bool, ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=0,zeros=keep")
    dense(ext4_folder.parent / "source.img", seed=4)
    content = (ext4_folder.parent / "source.img").read_bytes()
    run("dd", f"if={ext4_folder.parent}/source.img", f"of={mirror.path}/vm.img", "bs=1M")
    (ext4_folder.parent / "source.img").unlink()
    sessions = len(wait_for_sessions(mirror, "vm.img"))
    known = wait_for_seal(ext4_folder, "vm.img")["vm.img"].known
    if not is_mounted:
        mirror.umount()
    assert printed(ext4_folder / "vm.img")["freed_bytes"] > 0
    if is_mounted:
        # It is no session.
        assert len(wait_for_sessions(mirror, "vm.img")) == sessions
        mirror.umount()
    found = all_right(ext4_folder)["vm.img"]
    assert (found.believed, found.known) == (True, known)
    assert (ext4_folder / "vm.img").read_bytes() == content


def test_who_may_and_what(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> None:
    dense(ext4_folder / "vm.img", seed=5, blocks=8)
    os.chmod(ext4_folder / "vm.img", 0o666)
    mirror = mount_mirror(ext4_folder)
    path = mirror.path / "vm.img"
    name = "user.mirrorfs.sparsify"
    assert os.getxattr(path, name) == b"4096"
    assert name not in os.listxattr(path)
    for value in (b"", b"1", b"5:5", b"5:4", b"-1:5", b"0:67108865", b"0:9 "):
        with pytest.raises(OSError, match="Invalid argument"):
            os.setxattr(path, name, value)
    fd = os.open(path, os.O_RDONLY)
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError, match="Operation not permitted"):
            os.setxattr(fd, name, b"0:4096")
        os.seteuid(0)
        os.fchown(fd, 65534, 65534)
        os.seteuid(65534)
        os.setxattr(fd, name, b"0:4096")
    finally:
        os.seteuid(0)
        os.close(fd)
    assert not os.listxattr(ext4_folder / "vm.img")


def test_a_file_that_is_being_rewritten(mirror: Mirror) -> None:
    content = os.urandom(4 << 20)
    mirror.write("vm.img", 0, content)
    fd = os.open(mirror.path / "vm.img", os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(fd, content[: 1 << 20])
        # In this process: the end of a child process that has it open, too, would finalise it.
        with pytest.raises(MirrorfsError, match="being rewritten"):
            sparse_files.sparsify(os.fsencode(mirror.path / "vm.img"), False, False, abs)
        os.write(fd, content[1 << 20 : 2 << 20])
    finally:
        os.close(fd)
    assert mirror.read("vm.img") == content[: 2 << 20]


def test_another_program_has_it_open(ext4_folder: Path) -> None:
    content = dense(ext4_folder / "vm.img", seed=6)
    before = allocated(ext4_folder / "vm.img")
    with (ext4_folder / "vm.img").open("rb"):
        done = mirrorfs("sparsify", ext4_folder, check=False)
        assert done.returncode == 6
        assert "another program has it open" in done.stderr
        assert allocated(ext4_folder / "vm.img") == before
        mirrorfs("sparsify", "--force", ext4_folder)
    assert allocated(ext4_folder / "vm.img") < before
    assert (ext4_folder / "vm.img").read_bytes() == content


def test_a_mount_that_cannot_be_seen(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    dense(ext4_folder / "vm.img", seed=7)
    fd = os.open(ext4_folder, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)  # what a daemon does
    try:
        assert mirrorfs("sparsify", ext4_folder / "vm.img", check=False).returncode == 6
    finally:
        os.close(fd)


def test_it_can_be_stopped_and_run_again(ext4_folder: Path) -> None:
    image = ext4_folder / "vm.img"
    content = dense(image, seed=8, blocks=8 * 1024)
    before, mtime_ns = allocated(image), image.stat().st_mtime_ns
    with subprocess.Popen([*MIRRORFS, "sparsify", image], stderr=subprocess.PIPE) as process:
        wait_for(lambda: allocated(image) < before or process.poll() is not None)
        process.send_signal(2)
        _, errors = process.communicate()
    assert process.returncode in {0, 130}  # it may have been done by then
    assert not errors
    assert image.stat().st_mtime_ns == mtime_ns
    mirrorfs("sparsify", image)
    assert allocated(image) <= data_blocks(content) * BLOCK + (1 << 20)  # with its extents
    assert (image.read_bytes() == content, image.stat().st_mtime_ns) == (True, mtime_ns)


def test_what_is_not_there(tmp_path: Path) -> None:
    done = mirrorfs("sparsify", tmp_path / "none", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "No such file" in done.stderr
