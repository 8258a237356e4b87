"""Appending when the file grew beside the mount, and writers who may not keep setuid."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands import run
from tests.mounted import CLASSES
from tests.posix import checks
from tests.posix.checks import USER, as_user, let_others_through
from tests.posix.space import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.mounted import Mirror


def append_beside(mirror: Mirror, name: str, data: bytes) -> None:
    with (mirror.backing / name).open("ab") as file:
        file.write(data)


def test_an_append_goes_to_the_end_of_a_file_that_grew_beside_the_mount(mirror: Mirror) -> None:
    with (mirror.path / "log").open("ab", buffering=0) as file:
        file.write(b"one\n")
        append_beside(mirror, "log", b"beside\n")
        file.write(b"two\n")
        append_beside(mirror, "log", b"beside again\n")
        time.sleep(1.2)
        file.write(b"three\n")
    expected = b"one\nbeside\ntwo\nbeside again\nthree\n"
    assert (mirror.backing / "log").read_bytes() == expected
    time.sleep(1.2)
    assert mirror.read("log") == expected


def test_two_appenders_do_not_overwrite_each_other(mirror: Mirror) -> None:
    fds = [os.open(mirror.path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND) for _ in range(2)]
    for number in range(200):
        os.write(fds[number % 2], b"%03d\n" % number)
    for fd in fds:
        os.close(fd)
    assert mirror.read("log") == b"".join(b"%03d\n" % number for number in range(200))


@contextmanager
def flagged(path: Path, flag: str) -> Iterator[None]:
    run("chattr", f"+{flag}", path)
    try:
        yield
    finally:
        run("chattr", f"-{flag}", path)


def test_times_of_an_append_only_file_cannot_be_set_but_to_now(mirror: Mirror) -> None:
    path = mirror.path / "log"
    path.write_bytes(b"one\n")
    with flagged(mirror.backing / "log", "a"):
        before = path.stat()
        with pytest.raises(PermissionError):
            os.utime(path, ns=(10**18, 10**18))
        assert path.stat().st_mtime_ns == before.st_mtime_ns
        os.utime(path)
        assert path.stat().st_mtime_ns > before.st_mtime_ns


@pytest.fixture(params=["i", "a"])
def flag(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def what_is_refused(path: Path) -> list[object]:
    """What several ways to change a file say, and what it holds afterwards."""

    def opened(flags: int) -> None:
        os.close(os.open(path, flags))

    said = [
        checks.said(opened, flags)
        for flags in (
            os.O_WRONLY,
            os.O_RDWR,
            os.O_WRONLY | os.O_TRUNC,
            os.O_WRONLY | os.O_APPEND,
            os.O_WRONLY | os.O_APPEND | os.O_TRUNC,
        )
    ]
    size = path.stat().st_size
    return [*said, *(checks.said(os.truncate, path, cut) for cut in (2, size, size + 9)), size]


def test_an_open_file_that_becomes_append_only_or_immutable_refuses_as_a_plain_one(
    mirror: Mirror, flag: str
) -> None:
    plain = mirror.backing.parent / "plain"
    found = []
    for view, below in ((mirror.path / "file", mirror.backing / "file"), (plain, plain)):
        with view.open("ab", buffering=0) as writer:
            writer.write(b"0123456789")
            with flagged(below, flag):
                refused = what_is_refused(view)
                same = checks.said(os.ftruncate, writer.fileno(), 10)
                found.append((refused, same, below.read_bytes()))
    plain.unlink()
    assert found[0] == found[1]
    assert found[0][2] == b"0123456789"


BLOCK = 4096
DATA = b"d" * BLOCK
CALLS: list[Callable[[int, int], Any]] = [
    lambda fd, _: os.write(fd, bytes(2 * BLOCK)),
    lambda fd, _: os.write(fd, DATA + bytes(3 * BLOCK) + DATA),
    lambda fd, _: os.write(fd, bytes(100)),
    lambda fd, _: os.write(fd, b"odd" + bytes(2 * BLOCK) + b"odd"),
    lambda fd, _: os.write(fd, bytes(5 * BLOCK + 7)),
    lambda fd, _: os.write(fd, b""),
    lambda fd, _: os.pwrite(fd, bytes(BLOCK), 0),
    lambda fd, _: os.pwrite(fd, DATA, 100 * BLOCK),
    lambda fd, _: os.pwrite(fd, bytes(BLOCK), 200 * BLOCK + 5),
    lambda fd, _: os.ftruncate(fd, 0),
    lambda fd, _: os.ftruncate(fd, 5),
    lambda fd, _: os.ftruncate(fd, os.fstat(fd).st_size),
    lambda fd, _: os.ftruncate(fd, 1 << 30),
    lambda fd, _: fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, BLOCK),
    lambda fd, _: fallocate(fd, ZERO_RANGE, 0, BLOCK),
    lambda fd, _: fallocate(fd, KEEP_SIZE, 300 * BLOCK, BLOCK),
    lambda fd, _: fallocate(fd, 0, 300 * BLOCK, BLOCK),
    lambda fd, source: os.copy_file_range(source, fd, 3 * BLOCK, 0, 310 * BLOCK),
    lambda fd, _: os.utime(fd),
    lambda fd, _: os.utime(fd, ns=(1, 1)),
    lambda fd, _: os.fsync(fd),
]


def what_a_writer_sees(view: Path, below: Path, flags: int, is_flagged_first: bool) -> list[object]:
    """What each of `CALLS` says of an append-only file, and how large it is then; what it holds in
    the end.
    """
    below.write_bytes(b"begun" * 1000)
    source = below.with_name(below.name + "-source")
    source.write_bytes(DATA + bytes(BLOCK) + DATA)
    with contextlib.ExitStack() as stack:
        if is_flagged_first:
            stack.enter_context(flagged(below, "a"))
        reader = stack.enter_context(checks.opened(view.with_name(source.name), os.O_RDONLY))
        fd = stack.enter_context(checks.opened(view, flags))
        if not is_flagged_first:
            stack.enter_context(flagged(below, "a"))
        seen = [(checks.said(call, fd, reader), os.fstat(fd).st_size) for call in CALLS]
        return [*seen, view.read_bytes(), below.read_bytes()]


@pytest.mark.parametrize("options", ["", "zeros=keep", "preallocate=ignore"])
def test_an_append_only_file_is_as_in_a_plain_folder(
    loop_fs: Path, mount_mirror: Callable[..., Mirror], options: str
) -> None:
    """However it was opened, and whether it became append-only before or afterwards."""
    (loop_fs / "backing").mkdir()
    (loop_fs / "plain").mkdir()
    mirror = mount_mirror(loop_fs / "backing", options, noisy=bool(options))
    for name, flags, is_flagged_first in (
        ("appender", os.O_WRONLY | os.O_APPEND, True),
        ("reading appender", os.O_RDWR | os.O_APPEND, True),
        ("appender before", os.O_WRONLY | os.O_APPEND, False),
        ("writer before", os.O_RDWR, False),
    ):
        plain = loop_fs / "plain" / name
        expected = what_a_writer_sees(plain, plain, flags, is_flagged_first)
        view, below = mirror.path / name, mirror.backing / name
        assert what_a_writer_sees(view, below, flags, is_flagged_first) == expected
        counted = vars(mirror.account(name))
        assert counted["received_bytes"] == sum(counted[kind] for kind in CLASSES)


def test_a_handle_that_stopped_appending_writes_at_the_offset_of_each_write(mirror: Mirror) -> None:
    fd = os.open(mirror.path / "file", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.write(fd, b"0123456789")
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    os.pwrite(fd, b"xx", 2)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    os.write(fd, b"end")
    os.close(fd)
    assert mirror.read("file") == b"01xx456789end"
    assert (mirror.backing / "file").read_bytes() == b"01xx456789end"


def cut(path: Path) -> None:
    os.truncate(path, 1)


def open_empty(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


def overwrite(path: Path, data: bytes = b"new") -> None:
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, data, 0)
    os.close(fd)


def reserve(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.posix_fallocate(fd, 0, 8192)
    os.close(fd)


@pytest.mark.parametrize("change", [cut, open_empty, overwrite, reserve])
def test_setuid_goes_when_another_user_changes_a_file(
    mirror: Mirror, change: Callable[[Path], None]
) -> None:
    let_others_through(mirror.path / "x", mirror.backing / "x")
    seen = []
    for folder in (mirror.backing, mirror.path):
        path = folder / f"{change.__name__}-{folder.name}"
        path.write_bytes(b"old")
        path.chmod(0o6777)
        as_user(lambda path=path: change(path))  # type: ignore[misc]
        seen.append(stat.S_IMODE(path.stat().st_mode))
    assert seen == [0o777, 0o777]


def test_setuid_goes_even_if_a_write_changes_nothing(mirror: Mirror) -> None:
    let_others_through(mirror.path / "x")
    path = mirror.path / "tool"
    path.write_bytes(b"same" * 1024)
    path.chmod(0o4777)
    as_user(lambda: overwrite(path, b"same" * 1024))
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    assert mirror.account("tool").written_bytes == 4096


def test_root_keeps_setuid_at_a_write_and_a_new_owner_does_not(mirror: Mirror) -> None:
    path = mirror.path / "tool"
    path.write_bytes(b"old")
    path.chmod(0o4755)
    overwrite(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o4755
    os.chown(path, USER, -1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
