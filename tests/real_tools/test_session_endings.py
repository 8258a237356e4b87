"""How sessions of real programs end."""

from __future__ import annotations

import contextlib
import errno
import getpass
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.commands import run, spelled, wait_for
from tests.disks import loop_mounted
from tests.faults.conftest import faulty_mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.mounted import Mirror

from tests.real_tools.noted import MIB, age, is_receiving, noted, sessions, wait_for_sessions

# So that a copy lasts until it is cut off.
SLOW = "--bwlimit=4M"
CHUNK = 64 << 10


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
