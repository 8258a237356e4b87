"""Calls with a limit of time, in a process of their own."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from pathlib import Path

import pytest

from mirrorfs.daemon import timed_calls
from mirrorfs.errors import ExitCode, MirrorfsError, NoAnswerError, UsageError
from tests.commands import wait_for


def _sleep(path: bytes, seconds: float) -> None:
    Path(os.fsdecode(path)).write_text(str(os.getpid()))
    time.sleep(seconds)


def _much(count: int) -> bytes:
    return b"x" * count


def _refuse(path: bytes) -> None:
    raise UsageError(f"not {path.decode()}")


def _open_descriptors(folder: bytes) -> dict[int, bytes]:
    found = {}
    for fd in map(int, os.listdir(folder)):
        with contextlib.suppress(OSError):  # the listing's own descriptor
            found[fd] = os.readlink(os.path.join(folder, b"%d" % fd))
    return found


def test_a_call_returns_what_its_function_returns() -> None:
    assert timed_calls.call(os.path.basename, b"/a/b") == b"b"
    assert timed_calls.call(os.path.normpath, b"/a//b") == b"/a/b"


def test_a_call_raises_the_oserror_of_its_function(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path / "none")
    with pytest.raises(FileNotFoundError) as caught:
        timed_calls.call(os.listxattr, path)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, path)


def test_a_call_raises_the_mirrorfserror_of_its_function_with_its_exit_code() -> None:
    with pytest.raises(MirrorfsError, match="not this") as caught:
        timed_calls.call(_refuse, b"this")
    assert caught.value.exit_code == ExitCode.USAGE


def test_an_answer_that_has_begun_to_come_is_taken_as_a_whole() -> None:
    call = timed_calls.TimedCall(_much, 1 << 20)  # more than a pipe holds
    assert select.select([call], [], [], 60)[0]
    assert len(call.answer(time.monotonic())) == 1 << 20


def test_a_call_that_is_abandoned_leaves_no_process(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    call = timed_calls.TimedCall(_sleep, os.fsencode(path), 100)
    wait_for(lambda: path.exists() and path.read_text())
    call.abandon()
    wait_for(lambda: not Path(f"/proc/{path.read_text()}/cmdline").exists())


def test_a_call_that_takes_too_long_is_given_up_and_its_process_ended(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    call = timed_calls.TimedCall(_sleep, os.fsencode(path), 100)
    wait_for(lambda: path.exists() and path.read_text())
    with pytest.raises(TimeoutError):
        call.answer(time.monotonic())
    wait_for(lambda: not Path(f"/proc/{path.read_text()}/cmdline").exists())


def test_a_call_that_takes_too_long_names_the_path(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with pytest.raises(NoAnswerError) as caught:
        timed_calls.call(_sleep, os.fsencode(path), 100, seconds=0.2)
    assert str(caught.value).startswith(f"{path}: no answer within 0 seconds")


def test_a_call_has_none_of_the_descriptors_of_its_caller(tmp_path: Path) -> None:
    with (tmp_path / "open").open("wb"):
        found = timed_calls.call(_open_descriptors, b"/proc/self/fd")
    assert [found.pop(stream) for stream in range(3)] == [b"/dev/null"] * 3
    (pipe,) = found.values()
    assert pipe.startswith(b"pipe:")


def test_touch_returns_the_errno_of_the_file_system(tmp_path: Path) -> None:
    assert timed_calls.touch(os.fsencode(tmp_path)) == 0
    assert timed_calls.touch(os.fsencode(tmp_path / "none")) == errno.ENOENT


def test_resolve_follows_links_as_realpath_does(tmp_path: Path) -> None:
    (tmp_path / "real/inside").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/inside")
    (tmp_path / "up").symlink_to(tmp_path / "link/..")
    (tmp_path / "nowhere").symlink_to("missing/x")
    top = os.fsencode(tmp_path)
    for path in (b"link", b"up/inside", b"./real//inside/", b"link/../x", b"nowhere/y", b"real/z"):
        wanted = os.path.realpath(os.path.join(top, path))
        assert timed_calls.resolve(os.path.join(top, path)) == wanted
    assert timed_calls.resolve(b".") == os.path.realpath(b".")
    assert timed_calls.resolve(b"/..") == b"/"


def test_resolve_refuses_a_circle_of_links_and_an_empty_path(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError) as caught:
        timed_calls.resolve(os.fsencode(tmp_path / "loop"))
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(UsageError, match="empty"):
        timed_calls.resolve(b"")
