"""The native module, on a real mount of a file system of ten files (tiny_fs.py)."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirrorfs.fuse.protocol import Opcode
from tests.commands import run
from tests.mount import tiny_callables as tiny_fs
from tests.mount.tiny_mounts import TOP

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.mount.tiny_mounts import Tiny
    from tests.mounted import Mirror

PUNCH_KEEP = 3


def test_requests_reach_their_receivers(tiny: Tiny) -> None:
    assert tiny.seek(5) == 6
    assert tiny.seek(5, os.SEEK_HOLE) == 6
    assert tiny.fallocate(PUNCH_KEEP, 0, 4096) == "done"
    assert tiny.fallocate(0, 1 << 40, 1 << 41) == "ENOSPC"
    assert tiny.reported("fallocate", 2) == [
        [tiny_fs.HANDLE, PUNCH_KEEP, 0, 4096],
        [tiny_fs.HANDLE, 0, 1 << 40, 1 << 41],
    ]


def test_a_request_names_its_caller(tiny: Tiny) -> None:
    assert tiny.seek(tiny_fs.WHO) == tiny_fs.WHO + 1
    assert tiny.reported("who") == [
        [tiny_fs.INODE, tiny_fs.HANDLE, os.SEEK_DATA, os.getuid(), os.getgid(), os.getpid()]
    ]


def test_the_state_shows_what_was_negotiated(tiny: Tiny) -> None:
    state = tiny.state()
    assert (state["hooked"], state["reason"], state["sees_requests"]) == (1, "", True)
    assert state["protocol"][0] == 7
    assert state["want"] & ~state["capable"] == 0
    assert state["max_write"] >= 1 << 17
    assert tiny.reported("released") == [[0, 0]]


def test_an_exception_of_a_receiver_is_eio_and_the_mount_lives(tiny: Tiny) -> None:
    assert tiny.seek(tiny_fs.RAISE) == "EIO"
    assert tiny.reported("unraisable") == [["ZeroDivisionError('on purpose')"]]
    assert tiny.seek(5) == 6


def test_a_thread_may_answer_later(tiny: Tiny) -> None:
    assert [tiny.seek(tiny_fs.THREAD) for _ in range(3)] == [8, 8, 8]


def test_a_request_is_answered_with_bytes_or_an_errno(tiny: Tiny) -> None:
    assert [tiny.write(offset) for offset in (0, 1, 2, 3, 4096)] == [3, 3, 3, "ENOSPC", 3]


def test_a_request_of_any_size_arrives_whole(tiny: Tiny) -> None:
    for size in (1, 4096, 1 << 17, 1 << 20):
        assert os.pwrite(tiny.fd, bytes(size), 4096) == size


def test_a_result_that_is_no_answer_becomes_eio(tiny: Tiny) -> None:
    for offset in tiny_fs.NO_ANSWERS:
        assert tiny.write(offset) == "EIO", offset
    assert tiny.write(tiny_fs.WRITE_RAISES) == "EIO"
    reported = [str(words[0]) for words in tiny.reported("unraisable", 6)]
    assert [text.split("(")[0] for text in reported] == [
        "TypeError",  # a text
        "OverflowError",
        "TypeError",  # None
        "TypeError",  # a tuple of one
        "TypeError",  # a tuple of three
        "ZeroDivisionError",
    ]
    assert tiny.write(1) == 3


def test_a_killed_caller_waits_for_its_answer(tiny: Tiny) -> None:
    caller = tiny.wait_in_background(1)
    tiny.reported("kept")
    caller.kill()
    assert tiny.reported("interrupted") == [[]]
    assert caller.poll() is None  # the kernel lets it wait for what the file system has begun
    assert not (tiny.path / "answer").exists()
    caller.communicate(timeout=60)
    assert caller.returncode == -signal.SIGKILL
    assert tiny.seek(5) == 6


def test_a_request_that_is_open_at_the_end_is_answered_by_the_kernel(tiny: Tiny) -> None:
    callers = [tiny.wait_in_background(number) for number in (1, 2, 3)]
    tiny.reported("kept", 3)
    tiny.end()
    for caller in callers:
        _, complaint = caller.communicate(timeout=60)
        assert b"ConnectionAbortedError" in complaint or b"ENOTCONN" in complaint
    assert tiny.reported("end") == [[3]]
    assert tiny.reported("released") == [[0, 0]]


def test_a_mount_whose_native_module_came_after_pyfuse3_works_without_it(
    mount_tiny: Callable[..., Tiny],
) -> None:
    tiny = mount_tiny("--pyfuse3-first")
    assert tiny.reported("bound") == [[False, "pyfuse3 was imported before it"]]
    assert_plain(tiny)


def test_a_mount_whose_native_module_is_not_bound_or_installed_works_without_it(
    mount_tiny: Callable[..., Tiny],
) -> None:
    assert_plain(mount_tiny("--no-bind"))
    tiny = mount_tiny("--no-install")
    assert_plain(tiny)
    state = tiny.state()
    assert (state["hooked"], state["reason"]) == (0, "nothing was installed")


def assert_plain(tiny: Tiny) -> None:
    """The kernel answers an lseek itself, and takes the file for one piece of data."""
    assert tiny.seek(5) == 5
    assert tiny.fallocate(PUNCH_KEEP, 0, 4096) == "ENOTSUP"
    assert os.pread(tiny.fd, 4, 0) == b"xxxx"


def test_what_was_not_installed_is_left_to_libfuse(mount_tiny: Callable[..., Tiny]) -> None:
    tiny = mount_tiny("--without", str(int(Opcode.LSEEK)))
    assert tiny.seek(5) == 5  # libfuse knows no lseek here, so the kernel answers
    assert tiny.fallocate(PUNCH_KEEP, 0, 4096) == "done"
    assert tiny.state()["hooked"] == 1


def test_the_umask_is_left_to_the_file_system(mount_tiny: Callable[..., Tiny]) -> None:
    for word, mode in (None, 0o640), ("--dont-mask", 0o666):
        tiny = mount_tiny(*[word] if word else [])
        for command in "touch", "mkfifo":
            run(command, tiny.path / "new", check=False, umask=0o027)
        assert tiny.reported("create") == [[mode, 0o027]]
        assert tiny.reported("mknod") == [[mode, 0o027]]


def test_a_mirror_has_the_native_module_in_place(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder)
    assert "_native" in Path(f"/proc/{mirror.pid}/maps").read_text()


@pytest.mark.slow
def test_many_requests_leave_no_memory_behind(tiny: Tiny) -> None:
    hurry(tiny, 20_000)
    before = tiny.rss_kib()
    hurry(tiny, 200_000)
    assert tiny.rss_kib() - before < 512


def hurry(tiny: Tiny, count: int) -> None:
    """Requests that are answered in every way, and, a hundredth of them, raise."""
    for _ in range(count // 100):
        for _ in range(98):
            os.lseek(tiny.fd, 5, os.SEEK_DATA)
        for offset in (*range(7), tiny_fs.AFTER_AT_ONCE):
            tiny.write(offset)
        assert tiny.seek(tiny_fs.RAISE_SILENTLY) == "EIO"


def build(folder: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build the extension as setup.py does, into folder."""
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", folder]
    environment = {**os.environ, "CFLAGS": " ".join(flags), **environment}
    return run(*command, "--build-temp", folder / "temp", cwd=TOP, env=environment)


def test_the_native_module_builds_without_a_warning(tmp_path: Path) -> None:
    strict = ["-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Wconversion"]
    done = build(tmp_path, *strict, "-Wno-sign-conversion", "-Werror")
    assert "warning" not in done.stderr
    assert list(tmp_path.glob("mirrorfs/_native.*.so"))


@pytest.mark.slow
def test_the_sanitizers_find_nothing_in_the_native_module(
    tmp_path: Path, mount_tiny: Callable[..., Tiny]
) -> None:
    """Built with AddressSanitizer and UBSan. Leaks are not looked for: Python leaves many at exit,
    and the test of memory above sees ours.
    """
    build(
        tmp_path,
        "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g",
        LDFLAGS="-fsanitize=address,undefined",
    )
    library = run("gcc", "-print-file-name=libasan.so").stdout.strip()
    sanitized = {
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=99",
        "PYTHONMALLOC": "malloc",
    }
    tiny = mount_tiny("--native", str(tmp_path / "mirrorfs"), **sanitized)
    assert f"{tmp_path}/mirrorfs/_native" in Path(f"/proc/{tiny.server.pid}/maps").read_text()
    test_requests_reach_their_receivers(tiny)
    test_a_thread_may_answer_later(tiny)
    test_a_request_is_answered_with_bytes_or_an_errno(tiny)
    test_an_exception_of_a_receiver_is_eio_and_the_mount_lives(tiny)
    hurry(tiny, 2000)
    callers = [tiny.wait_in_background(number) for number in (1, 2, 3)]
    tiny.reported("kept", 3)
    callers[0].kill()
    tiny.end()
    for caller in callers:
        caller.communicate(timeout=60)
    assert tiny.reported("released") == [[0, 0]]
