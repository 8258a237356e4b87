"""What real programs leave in the history: which session it was, and how it ended."""

from __future__ import annotations

import contextlib
import errno
import getpass
import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs.catalog import database, ranges
from tests.commands import run, spelled, wait_for
from tests.disks import loop_mounted
from tests.faults.conftest import faulty_mounted
from tests.mounted import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.mounted import Mirror

MIB = 1 << 20
CHUNK = 64 << 10
SIZE = 24 * MIB
# So that a copy lasts until it is cut off.
SLOW = "--bwlimit=4M"
SUMMED = (*CLASSES, "received_bytes", "write_requests", "failed_bytes", "freed_bytes")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 MiB, every second MiB of which is data; older than a minute, so that rsync, which
    compares times by the second, can tell it from a copy that was cut off.
    """
    path = tmp_path_factory.mktemp("images") / "vm.img"
    chance = random.Random(3)
    with path.open("wb") as file:
        for index in range(0, SIZE // MIB, 2):
            file.seek(index * MIB)
            file.write(chance.randbytes(MIB))
        file.truncate(SIZE)
    path.chmod(0o640)
    age(path, 3600)
    return path


def age(path: Path, seconds: int) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


@pytest.fixture
def quick(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    """A mount in which a session ends soon after its last writer."""
    return mount_mirror(ext4_folder, "session_quiet=0")


def sessions(mirror: Mirror) -> list[dict[str, Any]]:
    """The sessions that are over, the first one first."""
    text = (mirror.path / ".mirrorfs/history.json").read_text()
    found: list[dict[str, Any]] = json.loads(text)["sessions"]
    return found[::-1]


def wait_for_sessions(mirror: Mirror, count: int) -> list[dict[str, Any]]:
    wait_for(lambda: len(sessions(mirror)) >= count)
    found = sessions(mirror)
    assert len(found) == count
    return found


def noted(mirror: Mirror, query: str) -> bytes | None:
    """What the catalog has, by a query for one value; None while there is nothing."""
    reader = database.open_to_read(mirror.state_folder)
    if reader is None:
        return None
    with contextlib.closing(reader):
        row = reader.execute(query).fetchone()
    return None if row is None else bytes(row[0])


def is_receiving(mirror: Mirror) -> bool:
    """Whether a copy is in the middle."""
    received: int = mirror.counters().received_bytes
    return received >= MIB


def changed(mirror: Mirror, image: Path, folder: Path) -> Path:
    """The image with other data in it, copied whole into the mount before."""
    run("rsync", "-a", "--inplace", image, f"{mirror.path}/vm.img")
    wait_for_sessions(mirror, 1)
    path = folder / "vm.img"
    content = bytearray(image.read_bytes())
    content[::4096] = bytes(byte ^ 1 for byte in content[::4096])
    path.write_bytes(content)
    path.chmod(0o640)
    age(path, 1800)
    return path


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
    assert one["allocated_after"] == status.st_blocks * 512
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
    assert (night["size_before"], night["allocated_before"]) == (SIZE, SIZE // 2)
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("is_first", [True, False], ids=["first copy", "later copy"])
def test_rsync_in_place_that_is_cut_off_is_incomplete(
    quick: Mirror, image: Path, tmp_path: Path, number: int, is_first: bool
) -> None:
    source = image if is_first else changed(quick, image, tmp_path)
    before = quick.counters().received_bytes
    words = ["rsync", "-a", "--inplace", "--no-whole-file", SLOW, source, quick.path / "vm.img"]
    process = subprocess.Popen(spelled(words), stderr=subprocess.DEVNULL)
    wait_for(lambda: quick.counters().received_bytes >= before + MIB)
    process.send_signal(number)
    process.wait()
    one = wait_for_sessions(quick, 1 if is_first else 2)[-1]
    assert (one["file"], one["incomplete"]) == ("vm.img", True)
    assert one["ended"] in {"unstamped", "killed"}
    run("rsync", "-a", "--inplace", source, f"{quick.path}/vm.img")
    assert wait_for_sessions(quick, 2 if is_first else 3)[-1]["ended"] == "closed"


def test_what_rsync_keeps_of_a_copy_that_is_cut_off_is_incomplete(
    quick: Mirror, image: Path
) -> None:
    words = ["rsync", "-a", "--partial", SLOW, image, quick.path / "vm.img"]
    process = subprocess.Popen(spelled(words), stderr=subprocess.DEVNULL)
    wait_for(lambda: is_receiving(quick))
    process.send_signal(signal.SIGINT)
    process.wait()
    [one] = wait_for_sessions(quick, 1)
    assert (one["file"], one["ended"], one["incomplete"]) == ("vm.img", "unstamped", True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_rsync_that_is_cut_off_leaves_an_abandoned_session(
    quick: Mirror, image: Path, number: int
) -> None:
    words = ["rsync", "-a", SLOW, image, quick.path / "vm.img"]
    process = subprocess.Popen(spelled(words), stderr=subprocess.DEVNULL)
    wait_for(lambda: is_receiving(quick))
    process.send_signal(number)
    process.wait()
    [one] = wait_for_sessions(quick, 1)
    assert (one["file"], one["ended"], one["incomplete"]) == ("vm.img", "abandoned", True)
    assert one["written_as"].startswith(".vm.img.")


def test_a_temporary_file_that_is_left_is_abandoned(quick: Mirror, image: Path) -> None:
    """As after `kill -9` of the receiver."""
    (quick.path / ".vm.img.Ab12Cd").write_bytes(image.read_bytes()[:MIB])
    [one] = wait_for_sessions(quick, 1)
    assert (one["file"], one["written_as"], one["ended"]) == (
        "vm.img",
        ".vm.img.Ab12Cd",
        "abandoned",
    )


def test_an_ssh_connection_that_is_cut_leaves_an_incomplete_session(
    quick: Mirror, image: Path, sshd: list[str]
) -> None:
    remote = " ".join(["ssh", *sshd]).replace("-P", "-p")
    target = f"{getpass.getuser()}@127.0.0.1:{quick.path}/vm.img"
    process = subprocess.Popen(
        ["rsync", "-a", "--inplace", SLOW, "-e", remote, image, target], stderr=subprocess.DEVNULL
    )
    wait_for(lambda: is_receiving(quick))
    children = run("pgrep", "-P", process.pid, "-x", "ssh").stdout.split()
    os.kill(int(children[0]), signal.SIGKILL)
    process.wait()
    [one] = wait_for_sessions(quick, 1)
    assert (one["ended"], one["program"], one["incomplete"]) == ("unstamped", "rsync", True)


def test_cp_that_is_killed_is_killed(quick: Mirror, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "source")
    process = subprocess.Popen(["cp", "--copy-contents", tmp_path / "source", quick.path / "x"])
    with (tmp_path / "source").open("wb") as source:
        source.write(b"x" * MIB)
        source.flush()
        wait_for(lambda: is_receiving(quick))
        process.kill()
        process.wait()
        [one] = wait_for_sessions(quick, 1)
    assert (one["ended"], one["program"], one["incomplete"]) == ("killed", "cp", True)


def test_what_was_killed_stays_so_when_a_shell_closes_the_file_after_it(
    quick: Mirror, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "source")
    script = (
        f'(cat "{tmp_path}/source" & echo $! > "{tmp_path}/pid"; wait; true) > "{quick.path}/x"'
    )
    shell = subprocess.Popen(["bash", "-c", script], stderr=subprocess.DEVNULL)
    with (tmp_path / "source").open("wb") as source:
        source.write(b"x" * MIB)
        source.flush()
        wait_for(lambda: is_receiving(quick))
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        shell.wait()
        [one] = wait_for_sessions(quick, 1)
    assert (one["ended"], one["incomplete"]) == ("killed", True)


def test_a_program_that_ends_without_closing_has_exited(quick: Mirror) -> None:
    code = "import os,sys; os.write(os.open(sys.argv[1], 577), b'x' * 5000); os._exit(0)"
    run(sys.executable, "-c", code, quick.path / "x")
    [one] = wait_for_sessions(quick, 1)
    assert (one["ended"], one["incomplete"]) == ("exited", False)


@pytest.fixture
def writer(quick: Mirror) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has a file open, having written to it."""
    process = subprocess.Popen(["dd", f"of={quick.path}/x", "bs=64k"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"x" * MIB)
    process.stdin.flush()
    wait_for(lambda: is_receiving(quick))
    yield process
    process.kill()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    process.wait()


def test_a_daemon_that_dies_leaves_a_session_that_the_next_one_ends(
    quick: Mirror, writer: subprocess.Popen[bytes]
) -> None:
    wait_for(lambda: noted(quick, "SELECT path FROM sessions") == b"x")
    quick.kill()
    quick.mount()
    [one] = wait_for_sessions(quick, 1)
    assert (one["file"], one["ended"], one["incomplete"]) == ("x", "daemon-died", True)
    assert one["begin"] <= one["end"]


def test_an_unmount_in_the_middle_is_noted(quick: Mirror, writer: subprocess.Popen[bytes]) -> None:
    pid = quick.pid
    watch = os.pidfd_open(pid)
    for _ in range(2):  # the second does not wait for the writer
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.2)
    wait_for(lambda: not quick.path.is_mount())
    os.close(watch)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))
    quick.noisy = True  # it says that a file was still open
    quick.mount()
    [one] = wait_for_sessions(quick, 1)
    assert (one["file"], one["ended"], one["incomplete"]) == ("x", "unmounted", True)


def test_an_unmount_right_after_a_copy_spoils_nothing(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], image: Path
) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=3600")
    run("rsync", "-a", image, f"{mirror.path}/vm.img")
    mirror.umount()
    mirror.mount()
    [one] = wait_for_sessions(mirror, 1)
    assert (one["file"], one["ended"], one["stamped"]) == ("vm.img", "closed", True)


def test_who_comes_back_soon_goes_on_with_the_same_session(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=3600")
    for place in range(3):
        mirror.write("x", place * CHUNK, b"x" * CHUNK)
    mirror.umount()
    mirror.mount()
    [one] = wait_for_sessions(mirror, 1)
    assert (one["changed_chunks"], one["counters"]["write_requests"]) == (3, 3)


def test_a_full_disk_fails_the_session(
    tmp_path: Path, mount_mirror: Callable[..., Mirror], image: Path
) -> None:
    with loop_mounted("ext4", tmp_path, 12) as disk:
        mirror = mount_mirror(disk, f"session_quiet=0,state={tmp_path}/state", noisy=True)
        done = run("cp", "--sparse=never", image, mirror.path / "vm.img", check=False)
        assert done.returncode
        [one] = wait_for_sessions(mirror, 1)
        assert (one["ended"], one["incomplete"]) == ("failed", True)
        assert one["errors"]["ENOSPC"] >= 1
        mirror.umount()


def test_a_failed_fsync_fails_the_session(ext4_folder: Path, tmp_path: Path) -> None:
    with faulty_mounted(ext4_folder, tmp_path) as mirror:
        mirror.order(f"fsync {errno.EIO}")
        run("dd", "if=/dev/zero", f"of={mirror.path}/x", "count=1", "conv=fsync", check=False)
        mirror.order()
        wait_for(lambda: sessions(mirror))
        [one] = sessions(mirror)
        assert (one["ended"], one["errors"]) == ("failed", {"EIO": 1})


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
