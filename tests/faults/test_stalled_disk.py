"""A file system below that does not answer holds up the clients that use it, and no others."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.commands import is_in_a_call, run, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.mounted import Mirror

MIB = 1 << 20
WRITER = "import os, sys; os.pwrite(int(sys.argv[1]), b'y' * 5000, 0)"
APPENDER = "import os, sys; os.pwrite(int(sys.argv[1]), b'y' * 8192, 8192)"
COMMITTER = "import os, sys; fd = os.open(sys.argv[1], os.O_RDWR); os.utime(fd); os.fsync(fd)"
READER = "import os, sys; os.read(int(sys.argv[1]), 100)"


@contextlib.contextmanager
def nested_disk(
    image: Path, point: Path, kind: str = "ext4", times: str = "noatime"
) -> Iterator[Path]:
    """A file system of its own below the backing folder."""
    with image.open("wb") as file:
        file.truncate(512 * MIB)
    run(f"mkfs.{kind}", "-q", "-F" if kind == "ext4" else "-f", image)
    point.mkdir()
    run("mount", "-o", f"loop,{times}", image, point)
    try:
        yield point
    finally:
        run("fsfreeze", "-u", point, check=False)
        run("umount", "--lazy", point)


@contextlib.contextmanager
def clients(program: str, paths: list[Path], flags: int) -> Iterator[Callable[[], list[int]]]:
    """So many processes that use one file each, opened before; gives a function that starts them.

    They have ended when the block has: what stalls them must be over by then.
    """
    fds = [os.open(path, flags) for path in paths]
    started: list[subprocess.Popen[bytes]] = []

    def start() -> list[int]:
        for fd in fds:
            words = [sys.executable, "-S", "-c", program, str(fd)]
            started.append(subprocess.Popen(words, pass_fds=[fd], stderr=subprocess.DEVNULL))
        for client, fd in zip(started, fds, strict=True):
            wait_for(functools.partial(is_in_a_call, client.pid, fd))
        time.sleep(0.5)  # a call that is answered after all would be over
        assert all(client.poll() is None for client in started)
        return [client.pid for client in started]

    try:
        yield start
    finally:
        for client in started:
            client.wait(60)
        for fd in fds:
            with contextlib.suppress(OSError):  # a test may have ended the mount
                os.close(fd)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A client that waits for a daemon cannot even be killed, nor can we, if we are to close what
    is open there; so another process lets it go on after a while.
    """
    going_on = subprocess.Popen(["sh", "-c", f"sleep 90; kill -CONT {pid}"], start_new_session=True)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
        os.killpg(going_on.pid, signal.SIGKILL)
        going_on.wait()


def check_others(mirror: Mirror, number: int) -> None:
    """What does not concern the stalled file system is done at once, as far as a busy machine does
    anything at once.
    """
    begun = time.monotonic()
    for _ in range(8):
        run("timeout", "20", "true")
    usual, begun = time.monotonic() - begun, time.monotonic()
    for command in (
        ["cat", mirror.path / ".mirrorfs/stats"],
        ["ls", mirror.path],
        ["md5sum", mirror.path / f"other-{number}"],
        ["dd", "if=/dev/zero", f"of={mirror.path}/new-{number}", "bs=1M", "count=4", "status=none"],
        ["rm", mirror.path / f"new-{number}"],
        ["mkdir", mirror.path / f"folder-{number}"],
        ["df", mirror.path],
        ["getfattr", "-d", mirror.path / "other-0"],
    ):
        done = run("timeout", "-s", "KILL", "20", *command, check=False)
        assert done.returncode == 0, command
    assert time.monotonic() - begun < max(3, 10 * usual)


def make_others(backing: Path) -> None:
    for number in range(4):
        (backing / f"other-{number}").write_bytes(os.urandom(MIB))


def has_ended(pid: int) -> bool:
    """Whether a process is no more, or all but for its parent."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


@pytest.mark.parametrize("count", [60, 110])
def test_writers_on_a_frozen_disk_hold_up_no_other_client(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path, count: int
) -> None:
    make_others(ext4_folder)
    with nested_disk(tmp_path / "image", ext4_folder / "nested") as nested:
        files = [nested / f"file-{number}" for number in range(count)]
        for file in files:
            file.write_bytes(b"x" * 5000)
        mirror = mount_mirror(ext4_folder)
        paths = [mirror.path / "nested" / file.name for file in files]
        with clients(WRITER, paths, os.O_RDWR) as start:
            run("fsfreeze", "-f", nested)
            try:
                start()
                check_others(mirror, 0)
                assert (mirror.path / "nested/file-1").stat().st_size == 5000
            finally:
                run("fsfreeze", "-u", nested)
        assert all(file.read_bytes() == b"y" * 5000 for file in files)
        mirror.umount()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_append_to_a_frozen_disk_holds_up_no_other_client(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path, kind: str
) -> None:
    """A call that may not wait waits all the same where the file system is frozen (file_start_write
    in the kernel), so nothing is written in the main loop.
    """
    make_others(ext4_folder)
    with nested_disk(tmp_path / "image", ext4_folder / "nested", kind) as nested:
        file = nested / "file"
        file.write_bytes(b"x" * 8192)
        mirror = mount_mirror(ext4_folder)
        with clients(APPENDER, [mirror.path / "nested/file"], os.O_RDWR) as start:
            run("fsfreeze", "-f", nested)
            try:
                start()
                check_others(mirror, 0)
            finally:
                run("fsfreeze", "-u", nested)
        assert file.read_bytes() == b"x" * 8192 + b"y" * 8192
        mirror.umount()


def test_readers_on_a_disk_without_answer_hold_up_no_other_client(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    """More of them than the kernel reads ahead for by itself. The disk is a file on a mount whose
    daemon is stopped.
    """
    make_others(ext4_folder)
    (tmp_path / "images").mkdir()
    holder = mount_mirror(tmp_path / "images")
    with nested_disk(holder.path / "image", ext4_folder / "nested") as nested:
        for number in range(40):
            (nested / f"file-{number}").write_bytes(os.urandom(MIB))
        mirror = mount_mirror(ext4_folder)
        paths = [mirror.path / f"nested/file-{number}" for number in range(40)]
        with clients(READER, paths, os.O_RDONLY) as start:
            run("sync")
            Path("/proc/sys/vm/drop_caches").write_text("1")
            with stopped(holder.pid):
                start()
                for number in range(4):
                    check_others(mirror, number)
        mirror.umount()


@pytest.mark.parametrize("action", ["os.pread(fd, 100, 0)", "os.getxattr(fd, 'user.long')"])
def test_read_from_the_cache_of_a_disk_without_answer_holds_up_no_other_client(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path, action: str
) -> None:
    """A read of cached data moves the time of the last access, which waits for a journal that is
    being written; and an attribute may have a block of its own.
    """
    make_others(ext4_folder)
    (tmp_path / "images").mkdir()
    holder = mount_mirror(tmp_path / "images")
    with nested_disk(holder.path / "image", ext4_folder / "nested", times="relatime") as nested:
        for number in range(4):
            (nested / f"file-{number}").write_bytes(b"x" * 8192)
        os.setxattr(nested / "file-1", "user.long", b"y" * 2000)
        mirror = mount_mirror(ext4_folder)
        committer = [sys.executable, "-c", COMMITTER]
        reader = f"import os, sys; fd = int(sys.argv[1]); {action}"
        run("fsfreeze", "-f", nested)  # the journal holds on to what was not written in place
        run("fsfreeze", "-u", nested)
        run(*committer, nested / "file-3")  # and begins anew with a block of its own
        with clients(reader, [mirror.path / "nested/file-1"], os.O_RDWR) as start:
            if "xattr" in action:
                Path("/proc/sys/vm/drop_caches").write_text("1")
            with stopped(holder.pid):
                committing = subprocess.Popen([*committer, nested / "file-0"])
                time.sleep(1)
                start()
                check_others(mirror, 0)
        assert committing.wait(60) == 0
        mirror.umount()


def nest_mirror(folder: Path, mount_mirror: Callable[..., Mirror], below: Path) -> int:
    """Another mirrorfs, of a new folder `below` with a file, in `folder/nested`; its daemon."""
    below.mkdir()
    (below / "file").write_bytes(b"content")
    inner = mount_mirror(below)
    (folder / "nested").mkdir()
    run("mount", "--bind", inner.path, folder / "nested")
    return inner.pid


def test_server_without_answer_holds_up_no_other_client(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    """Another mirrorfs below, stopped: known to us or not, listed or used."""
    make_others(ext4_folder)
    inner_pid = nest_mirror(ext4_folder, mount_mirror, tmp_path / "below")
    try:
        for met_before in (False, True):
            mirror = mount_mirror(ext4_folder, "attr_timeout=0")
            if met_before:
                assert mirror.read("nested/file") == b"content"
            started = []
            with stopped(inner_pid):
                for _ in range(30):
                    command: list[str | Path] = ["cat", mirror.path / "nested/file"]
                    started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
                    started.append(
                        subprocess.Popen(
                            ["ls", "-l", mirror.path / "nested"], stdout=subprocess.DEVNULL
                        )
                    )
                time.sleep(2)
                assert all(client.poll() is None for client in started)
                check_others(mirror, int(met_before))
            assert [client.wait(60) for client in started] == [0] * len(started)
            mirror.umount()
    finally:
        run("umount", "--lazy", ext4_folder / "nested")


def test_term_during_a_stall_logs_what_was_cut_off(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    """A frozen disk keeps the threads of a process until it is thawed; all else is over before."""
    with nested_disk(tmp_path / "image", ext4_folder / "nested") as nested:
        for number in range(60):
            (nested / f"file-{number}").write_bytes(b"x" * 5000)
        mirror = mount_mirror(ext4_folder, noisy=True)
        pid = mirror.pid
        paths = [mirror.path / f"nested/file-{number}" for number in range(60)]
        with clients(WRITER, paths, os.O_RDWR) as start:
            run("fsfreeze", "-f", nested)
            try:
                pids = start()
                os.kill(pid, signal.SIGTERM)
                wait_for(lambda: has_ended(pid))
                assert not mirror.path.is_mount()
                wait_for(lambda: all(map(has_ended, pids)))
            finally:
                run("fsfreeze", "-u", nested)
        log = mirror.log.read_text()
        assert "ext4 (7:" in log
        assert "does not answer; cut off, with unknown effect: " in log
        assert "files still open: 60;" in log
        assert f"INFO {mirror.path}: unmounted: " in log
        assert ": could not be written: Input/output error" in log
        assert "Success" not in log
        assert "Traceback" not in log
        wait_for(lambda: has_ended(pid))
        # Nothing is left behind: the folder can be served again.
        again = mount_mirror(ext4_folder)
        assert again.read("nested/file-0") in {b"x" * 5000, b"y" * 5000}


def test_term_while_a_server_does_not_answer_ends_the_mount(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    inner_pid = nest_mirror(ext4_folder, mount_mirror, tmp_path / "below")
    try:
        mirror = mount_mirror(ext4_folder, "attr_timeout=0", noisy=True)
        pid = mirror.pid
        with stopped(inner_pid):
            client = subprocess.Popen(["cat", mirror.path / "nested/file"])
            time.sleep(1)
            os.kill(pid, signal.SIGTERM)
            wait_for(lambda: has_ended(pid))
            assert client.wait(60)
            assert not mirror.path.is_mount()
        assert "unmounted" in mirror.log.read_text()
    finally:
        run("umount", "--lazy", ext4_folder / "nested")
