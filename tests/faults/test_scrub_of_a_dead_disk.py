"""A scrub of a disk that has died, or that a daemon serves which hangs, ends with what it knows."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

from mirrorfs.errors import ExitCode
from tests.commands import mirrorfs, run
from tests.disks import loop_mounted
from tests.rot import drop_caches, place_of
from tests.scrubbed import MIB, copied, data, scrubbed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror


def test_a_dead_disk(tmp_path: Path, mount_mirror: Callable[..., Mirror]) -> None:
    with loop_mounted("xfs", tmp_path, 400) as disk:
        backing, state = disk / "backing", tmp_path / "state"
        backing.mkdir()
        mirror = mount_mirror(backing, f"session_quiet=0,state={state}", noisy=True)
        mirror.write("vm.img", 0, data(2 * MIB))
        mirror.umount()
        scrubbed(backing, "--state", state)
        run("xfs_io", "-x", "-c", "shutdown", disk)
        done = mirrorfs("scrub", backing, "--state", state, check=False)
        assert done.returncode == ExitCode.FAILED
        assert "Input/output error" in done.stderr + done.stdout
        assert "Traceback" not in done.stderr


def test_a_disk_of_which_a_part_is_lost(
    tmp_path: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    with loop_mounted("ext4", tmp_path, 400) as disk:
        state = tmp_path / "state"
        mirror = mount_mirror(disk, f"session_quiet=0,state={state}", noisy=True)
        for name in ("vm.img", "next.img"):
            mirror.write(name, 0, data(4 * MIB))
        mirror.umount()
        words = (disk, "--state", state)
        scrubbed(*words)
        lost = place_of(disk / "vm.img", MIB)
        is_next_lost = place_of(disk / "next.img", 0) > lost
        drop_caches()
        image = tmp_path / "ext4.img"
        size = image.stat().st_size
        os.truncate(image, lost)
        done = mirrorfs("scrub", "--json", *words, check=False)
        os.truncate(image, size)  # with zeros there
        assert done.returncode == ExitCode.DIFFERENCE, done
        files = {one.get("file"): one for one in map(json.loads, done.stdout.splitlines())}
        assert files["vm.img"]["unreadable"] == [[MIB, 4 * MIB]]
        assert files["vm.img"]["unreadable_chunks"] == 48
        assert files["next.img"]["state"] == ("damaged" if is_next_lost else "good")
        # What cannot be read, and what is zeros now, is not taken for good.
        again, _ = scrubbed(*words, code=ExitCode.DIFFERENCE)
        assert again["vm.img"]["damaged"] == [[MIB, 4 * MIB]]
        # Repaired from the source, it is.
        (tmp_path / "vm.img").write_bytes(data(4 * MIB))
        (tmp_path / "next.img").write_bytes(data(4 * MIB))
        done = mirrorfs("scrub", *words, "--repair-from", tmp_path)
        assert "vm.img: 48 chunks repaired" in done.stdout
        scrubbed(*words)


def test_a_daemon_that_hangs_is_not_waited_for(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=0")
    copied(mirror, "vm.img", data(2 * MIB))
    (ext4_folder / "beside.img").write_bytes(data(2 * MIB, 2))
    pid = mirror.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        files, _ = scrubbed(mirror.path)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert {name: one["state"] for name, one in files.items()} == {
        "vm.img": "good",
        "beside.img": "in-use",
    }
    files, _ = scrubbed(mirror.path)
    assert files["beside.img"]["learned_chunks"] == 32
