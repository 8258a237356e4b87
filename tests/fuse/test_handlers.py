"""What pyfuse3 calls goes through the table, and comes back as pyfuse3's objects."""

from __future__ import annotations

import errno
import os
import stat
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pyfuse3
import pytest
import trio
from pyfuse3 import FUSEError

from mirrorfs.backing.credentials import Credentials
from mirrorfs.backing.statx import Status
from mirrorfs.fs.entry import Changes, Entry, Opened, WriteRequest
from mirrorfs.fuse.guard import Guard
from mirrorfs.fuse.handlers import Handlers
from mirrorfs.fuse.operations import Operation
from mirrorfs.mirror.counters import Account

if TYPE_CHECKING:
    from collections.abc import Callable

CONTEXT: Any = SimpleNamespace(uid=1, gid=2, pid=3, umask=0o027)
CALLER = Credentials(1, 2, 3, 0o027)
S = 1_000_000_000
STATUS = Status(
    stat.S_IFREG | 0o640, 2, 11, 12, 13, 14, 15, 16, 17 * S + 1, 19, 20 * S + 2, 3 * S + 5, 23, 24
)
ENTRY = Entry(77, STATUS, 1.5, 0.25, 9)


class Session:
    """Handlers whose table has one operation, which notes its arguments and then does `act`."""

    def __init__(self, name: str, act: Callable[[], object]) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.account = Account()

        async def handler(*arguments: object) -> object:
            self.calls.append(arguments)
            return act()

        row: Any = Operation(name, cast("Any", None), handler, cast("Any", None))
        folders = SimpleNamespace(read=handler)
        attributes = SimpleNamespace(file_system=handler)
        xattrs = SimpleNamespace(get=handler, list=handler, set=handler, remove=handler)
        fs: Any = SimpleNamespace(folders=folders, attributes=attributes, xattrs=xattrs)
        self.handlers: Any = Handlers(fs, [row], Guard(self.account))

    def call(self, name: str, *arguments: object) -> Any:
        return trio.run(getattr(self.handlers, name), *arguments)


def fail() -> object:
    raise OSError(errno.EDOM, os.strerror(errno.EDOM))


CALLS: list[tuple[str, tuple[object, ...], tuple[object, ...]]] = [
    ("lookup", (1, b"a", CONTEXT), (1, b"a")),
    ("getattr", (5, CONTEXT), (5,)),
    ("mknod", (1, b"a", 0o644, 7, CONTEXT), (1, b"a", 0o644, 7, CALLER)),
    ("mkdir", (1, b"a", 0o755, CONTEXT), (1, b"a", 0o755, CALLER)),
    ("symlink", (1, b"a", b"target", CONTEXT), (1, b"a", b"target", CALLER)),
    ("link", (5, 1, b"a", CONTEXT), (5, 1, b"a")),
    ("unlink", (1, b"a", CONTEXT), (1, b"a")),
    ("rmdir", (1, b"a", CONTEXT), (1, b"a")),
    ("rename", (1, b"a", 2, b"b", 4, CONTEXT), (1, b"a", 2, b"b", 4, CALLER)),
    ("fsync", (9, True), (9, True)),
    ("fsyncdir", (9, False), (9, False)),
    ("flush", (9,), (9, Credentials(0, 0))),
    ("release", (9,), (9,)),
    ("releasedir", (9,), (9,)),
    ("forget", ([(5, 1)],), ([(5, 1)],)),
    ("opendir", (5, CONTEXT), (5, 0)),
    ("write", (9, 100, b"data"), (WriteRequest(9, 100, b"data"),)),
    ("read", (9, 100, 50), (9, 100, 50)),
    ("readlink", (5, CONTEXT), (5,)),
    ("open", (5, os.O_RDWR, CONTEXT), (5, os.O_RDWR, CALLER)),
    # Without the size of the answer, which pyfuse3 sees to: past the table.
    ("getxattr", (5, b"user.a", CONTEXT), (5, b"user.a")),
    ("listxattr", (5, CONTEXT), (5, CALLER)),
    ("setxattr", (5, b"user.a", b"value", CONTEXT), (5, b"user.a", b"value", CALLER)),
    ("removexattr", (5, b"user.a", CONTEXT), (5, b"user.a")),
]
RESULTS: dict[str, object] = {"read": b"", "open": Opened(9)}


@pytest.mark.parametrize(("name", "given", "expected"), CALLS, ids=[row[0] for row in CALLS])
def test_arguments_of_pyfuse3_become_those_of_the_handler(
    name: str, given: tuple[object, ...], expected: tuple[object, ...]
) -> None:
    session = Session(name, lambda: RESULTS.get(name, ENTRY))
    session.call(name, *given)
    assert session.calls == [expected]


@pytest.mark.parametrize("update", ["mode", "uid", "gid", "size", "atime", "mtime", ""])
def test_only_fields_that_are_to_be_updated_are_changed(update: str) -> None:
    names = ("mode", "uid", "gid", "size", "atime", "mtime")
    values = dict(zip(names, (0o600, 5, 6, 7, 8, 9), strict=True))
    attr = pyfuse3.EntryAttributes()
    attr.st_mode, attr.st_uid, attr.st_gid = pyfuse3.ModeT(0o600), 5, 6
    attr.st_size, attr.st_atime_ns, attr.st_mtime_ns = 7, 8, 9
    fields = SimpleNamespace(**{f"update_{name}": name == update for name in names})
    session = Session("setattr", lambda: ENTRY)
    session.call("setattr", 5, attr, fields, None, CONTEXT)
    field = update + "_ns" if update.endswith("time") else update
    expected = Changes(**{field: values[update]}) if update else Changes()
    assert session.calls == [(5, expected, None, CALLER)]


def test_an_entry_becomes_attributes() -> None:
    attr = Session("lookup", lambda: ENTRY).call("lookup", 1, b"a", CONTEXT)
    assert (attr.st_ino, attr.generation) == (77, 9)
    assert (attr.entry_timeout, attr.attr_timeout) == (1.5, 0.25)
    assert (attr.st_mode, attr.st_nlink, attr.st_uid, attr.st_gid) == (0o100640, 2, 11, 12)
    assert (attr.st_size, attr.st_blocks, attr.st_blksize, attr.st_rdev) == (14, 15, 16, 23)
    times = (attr.st_atime_ns, attr.st_mtime_ns, attr.st_ctime_ns)
    assert times == (17 * S + 1, 3 * S + 5, 20 * S + 2)


@pytest.mark.parametrize("is_direct", [True, False])
def test_a_new_file_becomes_its_attributes_and_an_open_file(is_direct: bool) -> None:
    session = Session("create", lambda: (ENTRY, Opened(9, is_direct)))
    info, attr = session.call("create", 1, b"a", 0o600, os.O_WRONLY, CONTEXT)
    assert (info.fh, info.direct_io, attr.st_ino) == (9, is_direct, 77)
    assert session.calls == [(1, b"a", 0o600, os.O_WRONLY, CALLER)]


def test_what_is_read_is_handed_over_as_bytes() -> None:
    found = Session("read", lambda: bytearray(b"lent")).call("read", 9, 0, 4)
    assert found == b"lent"
    assert type(found) is bytes


def test_an_error_becomes_that_of_pyfuse3_and_is_counted() -> None:
    session = Session("unlink", fail)
    with pytest.raises(FUSEError) as caught:
        session.call("unlink", 1, b"a", CONTEXT)
    assert caught.value.errno == errno.EDOM
    assert session.account.snapshot().errors == {"EDOM": 1}


@pytest.mark.parametrize(
    ("name", "given"), [("release", 9), ("releasedir", 9), ("forget", [(5, 1)])]
)
def test_an_error_of_which_the_kernel_wants_no_answer_does_not_end_the_mount(
    name: str, given: object
) -> None:
    session = Session(name, fail)
    session.call(name, given)
    assert session.account.snapshot().errors == {"EDOM": 1}


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("readdir", (9, 0, None)),
        ("statfs", (CONTEXT,)),
        ("getxattr", (5, b"user.a", CONTEXT)),
        ("listxattr", (5, CONTEXT)),
        ("setxattr", (5, b"user.a", b"", CONTEXT)),
        ("removexattr", (5, b"user.a", CONTEXT)),
    ],
)
def test_errors_of_handlers_that_are_called_past_the_table_are_guarded_too(
    name: str, given: tuple[object, ...]
) -> None:
    session = Session("lookup", fail)
    with pytest.raises(FUSEError) as caught:
        session.call(name, *given)
    assert caught.value.errno == errno.EDOM
    assert session.account.snapshot().errors == {"EDOM": 1}
