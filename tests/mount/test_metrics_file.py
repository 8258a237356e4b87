"""Metrics of real mounts: the file for the text-file collector, and the control file."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import time
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mirrorfs.fs.metrics_file import name_of
from tests.commands import mirrorfs, run, wait_for
from tests.disks import loop_mounted

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.mounted import Mirror

MIB = 1 << 20


def parsed(text: str) -> dict[str, dict[str, float]]:
    """By name, then by the label `file`, empty for what is about the mount."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            found.setdefault(one.name, {})[one.labels.get("file", "")] = one.value
    return found


class Collected:
    """The file of one mount in a folder."""

    def __init__(self, folder: Path, mirror: Mirror) -> None:
        self.path = folder / os.fsdecode(name_of(os.fsencode(mirror.path)))

    def values(self) -> dict[str, dict[str, float]]:
        return parsed(self.path.read_text())

    def of_mount(self, name: str) -> float:
        return self.values()[f"mirrorfs_{name}"][""]

    def of_files(self, name: str) -> dict[str, float]:
        return self.values().get(f"mirrorfs_file_{name}", {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "collector"
    made.mkdir()
    return made


@pytest.fixture
def mount(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], folder: Path
) -> Callable[..., tuple[Mirror, Collected]]:
    def mount(words: str = "", noisy: bool = False) -> tuple[Mirror, Collected]:
        options = ",".join(filter(None, [f"metrics={folder},session_quiet=0", words]))
        mirror = mount_mirror(ext4_folder, options, noisy)
        collected = Collected(folder, mirror)
        wait_for(collected.path.exists)
        return mirror, collected

    return mount


def test_the_file_follows_the_sessions(
    mount: Callable[..., tuple[Mirror, Collected]], folder: Path
) -> None:
    began = time.time()
    mirror, collected = mount()
    assert collected.of_mount("up") == 1
    assert collected.of_mount("last_session_timestamp_seconds") == 0
    mirror.write("vm.img", 0, b"x" * 2 * MIB)
    mirror.write("vm.img", 8 * MIB - 1, b"\0")
    mirror.write("small", 0, b"x")
    wait_for(lambda: collected.of_files("size_bytes"))
    assert collected.of_files("size_bytes") == {"vm.img": 8 * MIB}
    assert collected.of_files("allocated_bytes") == {"vm.img": 2 * MIB}
    assert collected.of_files("changed_ratio") == {"vm.img": 1}
    assert collected.of_files("incomplete") == {"vm.img": 0}
    assert collected.of_files("unusual") == {"vm.img": 0}
    assert began <= collected.of_files("last_success_timestamp_seconds")["vm.img"] <= time.time()
    assert collected.of_mount("apparent_bytes") == 8 * MIB
    assert collected.of_mount("last_session_timestamp_seconds") >= began
    assert collected.of_mount("incomplete_files") == 0
    assert collected.of_mount("files_left_out") == 0
    below = os.statvfs(mirror.backing)
    assert collected.of_mount("size_bytes") == below.f_blocks * below.f_frsize
    assert 0 < collected.of_mount("free_bytes") < collected.of_mount("size_bytes")
    assert stat.S_IMODE(collected.path.stat().st_mode) == 0o644
    assert os.listdir(folder) == [collected.path.name]


def test_an_interrupted_copy_is_incomplete_and_has_no_success(
    mount: Callable[..., tuple[Mirror, Collected]],
) -> None:
    mirror, collected = mount()
    path = mirror.path / "vm.img"
    with path.open("wb") as target, subprocess.Popen(["cat"], stdin=PIPE, stdout=target) as writer:
        target.close()
        assert writer.stdin
        writer.stdin.write(b"x" * 4 * MIB)
        writer.stdin.flush()
        wait_for(lambda: path.stat().st_size == 4 * MIB)
        writer.kill()
    wait_for(lambda: collected.of_files("incomplete"))
    assert collected.of_files("incomplete") == {"vm.img": 1}
    assert collected.of_files("last_success_timestamp_seconds") == {"vm.img": 0}
    assert collected.of_mount("incomplete_files") == 1


def test_only_files_that_the_pattern_means_are_shown(
    mount: Callable[..., tuple[Mirror, Collected]],
) -> None:
    mirror, collected = mount("keep_pattern=*.img:sub/*")
    (mirror.path / "sub").mkdir()
    for name in ("a.img", "b.raw", "sub/c.raw"):
        mirror.write(name, 0, b"x" * MIB)
    wait_for(lambda: collected.of_mount("apparent_bytes") == 3 * MIB)
    assert set(collected.of_files("size_bytes")) == {"a.img", "sub/c.raw"}
    assert collected.of_mount("files_left_out") == 0
    config = (mirror.path / ".mirrorfs/config.json").read_text()
    assert '"value": "*.img:sub/*"' in config
    assert f'"value": "{collected.path.parent}"' in config


def test_the_control_file_says_the_same(mount: Callable[..., tuple[Mirror, Collected]]) -> None:
    mirror, collected = mount()
    mirror.write("vm.img", 0, b"x" * MIB)
    wait_for(lambda: collected.of_files("size_bytes"))
    found = parsed((mirror.path / ".mirrorfs/metrics").read_text())
    kept = collected.values()
    assert found.keys() == kept.keys()
    for name in found.keys() - {"mirrorfs_open_files", "mirrorfs_known_inodes"}:
        if "uptime" not in name and "metrics_timestamp" not in name:
            assert found[name] == kept[name], name
    assert stat.S_IMODE((mirror.path / ".mirrorfs/metrics").stat().st_mode) == 0o400


def test_an_unmount_leaves_the_last_figures_and_says_so(
    mount: Callable[..., tuple[Mirror, Collected]],
) -> None:
    mirror, collected = mount()
    mirror.write("vm.img", 0, b"x" * MIB)
    mirror.umount()
    assert collected.of_mount("up") == 0
    assert collected.of_mount("received_bytes_total") == MIB
    assert collected.of_files("size_bytes") == {"vm.img": MIB}
    last = collected.of_files("last_success_timestamp_seconds")
    mirror.mount()
    wait_for(lambda: collected.of_mount("up") == 1)
    assert collected.of_files("last_success_timestamp_seconds") == last
    assert collected.of_mount("received_bytes_total") == 0


def test_a_killed_daemon_leaves_figures_that_grow_old(
    mount: Callable[..., tuple[Mirror, Collected]],
) -> None:
    mirror, collected = mount()
    mirror.kill()
    assert collected.of_mount("up") == 1
    assert collected.of_mount("metrics_timestamp_seconds") <= time.time()


@pytest.mark.parametrize("words", ["history=0", "ro"])
def test_a_mount_that_notes_no_sessions_has_a_file_all_the_same(
    mount: Callable[..., tuple[Mirror, Collected]], words: str
) -> None:
    mirror, collected = mount(words)
    assert collected.of_mount("free_bytes") > 0
    assert not [name for name in collected.values() if "file_" in name or "session" in name]
    mirror.umount()
    assert collected.of_mount("up") == 0


def test_two_mounts_have_a_file_each_and_promtool_likes_both(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], folder: Path
) -> None:
    for name in ("a", "b"):
        (ext4_folder / name).mkdir()
    mirrors = [mount_mirror(ext4_folder / name, f"metrics={folder}") for name in ("a", "b")]
    for mirror in mirrors:
        mirror.write('odd "\\\n\udcff.img', 0, b"x" * MIB)
        mirror.umount()
    files = sorted(folder.iterdir())
    assert len(files) == 2
    texts = [file.read_text() for file in files]
    assert len({text.partition("mount_point=")[2].partition("}")[0] for text in texts}) == 2
    heads = [[line for line in text.splitlines() if line.startswith("#")] for text in texts]
    assert heads[0] == heads[1]
    for text in texts:
        assert parsed(text)["mirrorfs_file_size_bytes"] == {'odd "\\\n%FF.img': MIB}
        done = run("promtool", "check", "metrics", input=text)
        assert done.stdout + done.stderr == ""


def test_a_lost_folder_costs_one_line_and_no_request(
    mount: Callable[..., tuple[Mirror, Collected]], folder: Path
) -> None:
    mirror, collected = mount(noisy=True)
    collected.path.unlink()
    folder.rmdir()
    for number in range(2):
        mirror.write("vm.img", number * MIB, b"x" * MIB)
        wait_for(lambda: mirror.troubles())
    folder.mkdir()
    mirror.write("vm.img", 0, b"y")
    wait_for(collected.path.exists)
    assert len(mirror.troubles()) == 1
    assert f"metrics are not written to {folder}: No such file or directory" in mirror.troubles()[0]


def test_a_full_folder_costs_one_line_and_keeps_the_last_text(
    tmp_path: Path, ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    (tmp_path / "disk").mkdir()
    with loop_mounted("ext4", tmp_path / "disk", 16) as folder:
        mirror = mount_mirror(ext4_folder, f"metrics={folder},session_quiet=0", noisy=True)
        collected = Collected(folder, mirror)
        wait_for(collected.path.exists)
        with open(folder / "ballast", "wb", buffering=0) as ballast, pytest.raises(OSError) as full:
            while True:
                ballast.write(b"x" * 4096)
        assert full.value.errno == errno.ENOSPC
        mirror.write("vm.img", 0, b"x" * MIB)
        wait_for(mirror.troubles)
        assert f"metrics are not written to {folder}: No space left" in mirror.troubles()[0]
        assert collected.of_mount("up") == 1
        assert not collected.path.with_suffix(".new").exists()
        (folder / "ballast").unlink()
        mirror.umount()
        assert collected.of_mount("up") == 0
        assert len(mirror.troubles()) == 1


def test_a_folder_whose_disk_hangs_holds_up_no_request(
    tmp_path: Path, ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    (tmp_path / "disk").mkdir()
    with loop_mounted("ext4", tmp_path / "disk", 16) as folder:
        mirror = mount_mirror(ext4_folder, f"metrics={folder},session_quiet=0")
        collected = Collected(folder, mirror)
        wait_for(collected.path.exists)
        run("fsfreeze", "-f", folder)
        try:
            mirror.write("vm.img", 0, b"x" * MIB)
            threads = Path(f"/proc/{mirror.pid}/task")
            wait_for(lambda: any(_waits_for_a_thaw(one) for one in threads.iterdir()))
            mirror.write("vm.img", 0, b"y" * MIB)
            wait_for(lambda: "file_size" in (mirror.path / ".mirrorfs/metrics").read_text())
        finally:
            run("fsfreeze", "-u", folder)
        wait_for(lambda: collected.of_files("size_bytes") == {"vm.img": MIB})


def _waits_for_a_thaw(task: Path) -> bool:
    return "percpu_rwsem_wait" in (task / "wchan").read_text()  # sb_start_write


def test_a_mount_that_was_replaced_leaves_the_file_to_its_successor(
    tmp_path: Path, ext4_folder: Path, mount_mirror: Callable[..., Mirror], folder: Path
) -> None:
    for name in ("a", "b"):
        (ext4_folder / name).mkdir()
    options = f"metrics={folder},session_quiet=0"
    first = mount_mirror(ext4_folder / "a", options)
    collected = Collected(folder, first)
    pid = first.pid
    with open(first.path / "kept", "wb", buffering=0) as kept:
        mirrorfs("umount", "--lazy", first.path)
        log = tmp_path / "second.log"
        mirrorfs("mount", ext4_folder / "b", first.path, "-o", f"{options},log={log}")
        wait_for(lambda: 'backing="' + str(ext4_folder / "b") in collected.path.read_text())
        kept.write(b"x" * MIB)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))
    assert f'backing="{ext4_folder}/b"' in collected.path.read_text()
    assert f'backing="{ext4_folder}/a"' not in collected.path.read_text()
    assert collected.of_mount("up") == 1


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("missing", "is no folder; make it first"),
        ("file", "is no folder; make it first"),
        ("backing/sub", "would be part of the backup; name a folder elsewhere"),
        ("point", "would be part of the backup; name a folder elsewhere"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path, where: str, said: str) -> None:
    for name in ("backing", "backing/sub", "point"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    words = ("mount", tmp_path / "backing", tmp_path / "point", "-o", f"metrics={tmp_path}/{where}")
    done = mirrorfs(*words, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"mirrorfs: option metrics: {tmp_path}/{where} ")
    assert line.endswith(said)
    assert not (tmp_path / "point").is_mount()
