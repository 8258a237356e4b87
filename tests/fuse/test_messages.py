"""Requests of the kernel become arguments of handlers, and what those return becomes answers."""

from __future__ import annotations

import ctypes
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs.backing.credentials import Credentials
from mirrorfs.backing.statx import Status
from mirrorfs.fs.entry import NO_CHANGES, Changes, CopyRequest, Entry, Opened, WriteRequest
from mirrorfs.fuse import messages
from tests.fuse import kernel_messages as kernel
from tests.fuse.kernel_messages import GID, NODE, PID, UID, UNIQUE, message

if TYPE_CHECKING:
    from collections.abc import Callable

CALLER = Credentials(UID, GID, PID)
MASKED = Credentials(UID, GID, PID, 0o027)
BIG = 1 << 62
MODE, SET_UID, SET_GID, SIZE, ATIME, MTIME, FH = (1 << bit for bit in range(7))
TIMES: dict[str, Any] = {"atime": 5, "atimensec": 6, "mtime": 7, "mtimensec": 999_999_999}
S = 1_000_000_000
BEFORE_1970 = (1 << 64) - 3  # seconds, as the kernel sends them

REQUESTS: dict[str, tuple[Callable[[memoryview], Any], memoryview, tuple[Any, ...]]] = {
    "node": (messages.node_in, message(), (NODE,)),
    "name": (messages.node_name_in, message(None, b"na\xff me\0"), (NODE, b"na\xff me")),
    "forget": (messages.forget_in, message(kernel.FORGET_IN, nlookup=BIG), ([(NODE, BIG)],)),
    "mknod": (
        messages.mknod_in,
        message(kernel.MKNOD_IN, b"name\0", mode=0o10644, rdev=0x501, umask=0o027),
        (NODE, b"name", 0o10644, 0x501, MASKED),
    ),
    "mkdir": (
        messages.mkdir_in,
        message(kernel.MKDIR_IN, b"name\0", mode=0o755, umask=0o027),
        (NODE, b"name", 0o755, MASKED),
    ),
    "symlink": (
        messages.symlink_in,
        message(None, b"name\0target/of it\0"),
        (NODE, b"name", b"target/of it", CALLER),
    ),
    "link": (
        messages.link_in,
        message(kernel.LINK_IN, b"name\0", oldnodeid=55),
        (55, NODE, b"name"),
    ),
    "rename": (
        messages.rename_in,
        message(kernel.RENAME_IN, b"old\0new\0", newdir=55),
        (NODE, b"old", 55, b"new", 0, CALLER),
    ),
    "rename2": (
        messages.rename2_in,
        message(kernel.RENAME2_IN, b"old\0new\0", newdir=55, flags=2),
        (NODE, b"old", 55, b"new", 2, CALLER),
    ),
    "open": (
        messages.open_in,
        message(kernel.OPEN_IN, flags=os.O_RDWR | os.O_APPEND),
        (NODE, os.O_RDWR | os.O_APPEND, CALLER),
    ),
    "opendir": (
        messages.opendir_in,
        message(kernel.OPEN_IN, flags=os.O_NOATIME),
        (NODE, os.O_NOATIME),
    ),
    "create": (
        messages.create_in,
        message(kernel.CREATE_IN, b"name\0", flags=os.O_WRONLY, mode=0o100600, umask=0o027),
        (NODE, b"name", 0o100600, os.O_WRONLY, MASKED),
    ),
    "flush": (messages.handle_in, message(kernel.FLUSH_IN, fh=BIG), (BIG,)),
    "release": (messages.handle_in, message(kernel.RELEASE_IN, fh=BIG), (BIG,)),
    "fsync": (messages.fsync_in, message(kernel.FSYNC_IN, fh=9, fsync_flags=0), (9, False)),
    "fdatasync": (messages.fsync_in, message(kernel.FSYNC_IN, fh=9, fsync_flags=1), (9, True)),
    "read": (
        messages.read_in,
        message(kernel.READ_IN, fh=9, offset=BIG, size=4096),
        (9, BIG, 4096),
    ),
    "fallocate": (
        messages.fallocate_in,
        message(kernel.FALLOCATE_IN, fh=9, offset=5, length=BIG, mode=3),
        (9, 3, 5, BIG, CALLER),
    ),
    "lseek": (
        messages.lseek_in,
        message(kernel.LSEEK_IN, fh=9, offset=BIG, whence=os.SEEK_HOLE),
        (9, BIG, os.SEEK_HOLE),
    ),
    "copy_file_range": (
        messages.copy_file_range_in,
        message(
            kernel.COPY_FILE_RANGE_IN,
            fh_in=1, off_in=2, nodeid_out=3, fh_out=4, off_out=5, len=6, flags=7,
        ),
        (CopyRequest(UNIQUE, 1, 2, 4, 5, 6, 7, CALLER),),
    ),
    "statfs": (messages.none_in, message(), ()),
    "setxattr": (
        messages.setxattr_in,
        message(kernel.SETXATTR_IN, b"user.na\xff me\0va\0lue and more", size=6, flags=2),
        (NODE, b"user.na\xff me", b"va\0lue", CALLER, 2),
    ),
    "setxattr of nothing": (
        messages.setxattr_in,
        message(kernel.SETXATTR_IN, b"user.name\0", size=0, flags=0),
        (NODE, b"user.name", b"", CALLER, 0),
    ),
    "getxattr": (
        messages.getxattr_in,
        message(kernel.GETXATTR_IN, b"user.name\0", size=65536),
        (65536, NODE, b"user.name"),
    ),
    "listxattr": (messages.listxattr_in, message(kernel.GETXATTR_IN, size=0), (0, NODE, CALLER)),
    "setattr of nothing": (
        messages.setattr_in,
        message(kernel.SETATTR_IN, valid=0),
        (NODE, NO_CHANGES, None, CALLER),
    ),
    "setattr of all": (
        messages.setattr_in,
        message(
            kernel.SETATTR_IN,
            valid=127, fh=9, size=BIG, mode=0o100644, uid=11, gid=12, **TIMES,
        ),
        (NODE, Changes(0o100644, 11, 12, BIG, 5 * S + 6, 8 * S - 1), 9, CALLER),
    ),
    "setattr of a time before 1970": (
        messages.setattr_in,
        message(kernel.SETATTR_IN, valid=MTIME, mtime=BEFORE_1970, mtimensec=1),
        (NODE, Changes(mtime_ns=-3 * S + 1), None, CALLER),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_becomes_the_arguments_of_its_handler(name: str) -> None:
    decode, sent, expected = REQUESTS[name]
    assert decode(sent) == expected


@pytest.mark.parametrize(
    ("bit", "expected"),
    [
        (MODE, Changes(mode=1)),
        (SET_UID, Changes(uid=2)),
        (SET_GID, Changes(gid=3)),
        (SIZE, Changes(size=4)),
        (ATIME, Changes(atime_ns=5 * S + 6)),
        (MTIME, Changes(mtime_ns=8 * S - 1)),
    ],
)
def test_only_what_is_valid_of_a_setattr_is_changed(bit: int, expected: Changes) -> None:
    sent = message(kernel.SETATTR_IN, valid=bit, mode=1, uid=2, gid=3, size=4, fh=9, **TIMES)
    assert messages.setattr_in(sent) == (NODE, expected, None, CALLER)
    sent = message(kernel.SETATTR_IN, valid=FH, fh=0)
    assert messages.setattr_in(sent) == (NODE, NO_CHANGES, 0, CALLER)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_many_lookups_are_forgotten_at_once(count: int) -> None:
    pairs = [(number, BIG + number) for number in range(count)]
    text = b"".join(bytes(kernel.FORGET_ONE(nodeid=a, nlookup=b)) for a, b in pairs)
    sent = message(kernel.BATCH_FORGET_IN, text, count=count)
    assert messages.batch_forget_in(sent) == (pairs,)


KILL, SYNC = 1 << 2, os.O_SYNC


@pytest.mark.parametrize(
    ("write_flags", "flags", "expected"),
    [
        (0, os.O_WRONLY, (CALLER, False, False, 0)),
        (KILL, os.O_WRONLY, (CALLER, True, False, 0)),
        (3, os.O_RDWR | os.O_APPEND, (CALLER, False, True, 0)),
        (0, os.O_DSYNC, (CALLER, False, False, os.O_DSYNC)),
        (KILL | 1, SYNC | os.O_APPEND, (CALLER, True, True, SYNC)),
    ],
)
def test_a_write_says_what_it_takes_and_where_it_goes(
    write_flags: int, flags: int, expected: tuple[Any, ...]
) -> None:
    sent = message(
        kernel.WRITE_IN, b"da\0ta", fh=9, offset=BIG, size=5, write_flags=write_flags, flags=flags
    )
    (request,) = messages.write_in(sent)
    assert request == WriteRequest(9, BIG, request.data, *expected)
    assert bytes(request.data) == b"da\0ta"
    assert request.data.obj is sent.obj  # lent, not copied


STATUS = Status(
    stat.S_IFREG | 0o640, 2, 11, 12, 13, 14, 15, 16, 17 * S + 18, 19, 20 * S + 21, -S + 22, 23, 24
)
ENTRY = Entry(NODE, STATUS, 1.5, 0.25, 0xFFFFFFFF)
ATTR: dict[str, int] = {
    "ino": NODE, "size": 14, "blocks": 15, "atime": 17, "mtime": -1, "ctime": 20, "atimensec": 18,
    "mtimensec": 22, "ctimensec": 21, "mode": 0o100640, "nlink": 2, "uid": 11, "gid": 12,
    "rdev": 23, "blksize": 16, "_flags": 0,
}  # fmt: skip


def values(kind: type[ctypes.Structure], answer: bytes | bytearray) -> dict[str, Any]:
    """The fields of an answer, which is that structure and nothing else."""
    assert len(answer) == ctypes.sizeof(kind)
    filled: Any = kind.from_buffer_copy(answer)
    found = {name: getattr(filled, name) for name, *_ in filled._fields_}
    if "attr" in found:
        found["attr"] = values(kernel.ATTR, bytes(found["attr"]))
    return found


def test_an_entry_has_times_for_the_name_and_for_the_attributes() -> None:
    assert values(kernel.ENTRY_OUT, messages.entry_out(ENTRY)) == {
        "nodeid": NODE,
        "generation": 0xFFFFFFFF,
        "entry_valid": 1,
        "attr_valid": 0,
        "entry_valid_nsec": 500_000_000,
        "attr_valid_nsec": 250_000_000,
        "attr": ATTR,
    }


def test_attributes_have_the_time_for_which_they_may_be_kept() -> None:
    entry = ENTRY._replace(attribute_seconds=3600.0)
    assert values(kernel.ATTR_OUT, messages.attributes_out(entry)) == {
        "attr_valid": 3600,
        "attr_valid_nsec": 0,
        "_dummy": 0,
        "attr": ATTR,
    }


def test_a_time_that_is_rounded_up_to_a_second_is_one() -> None:
    entry = ENTRY._replace(attribute_seconds=0.9999999999)
    found = values(kernel.ATTR_OUT, messages.attributes_out(entry))
    assert (found["attr_valid"], found["attr_valid_nsec"]) == (1, 0)


def test_a_device_number_is_cut_to_what_the_kernel_takes() -> None:
    entry = ENTRY._replace(status=STATUS._replace(rdev=(1 << 40) + 5))
    assert values(kernel.ATTR_OUT, messages.attributes_out(entry))["attr"]["rdev"] == 5


@pytest.mark.parametrize(("is_direct", "flags"), [(False, 1 << 1), (True, 1 << 1 | 1 << 0)])
def test_an_opened_file_keeps_its_cache_and_may_bypass_it(is_direct: bool, flags: int) -> None:
    expected = {"fh": BIG, "open_flags": flags, "_padding": 0}
    opened = messages.opened_out(Opened(BIG, is_direct))
    assert values(kernel.OPEN_OUT, opened) == expected
    created = messages.created_out((ENTRY, Opened(BIG, is_direct)))
    assert created == messages.entry_out(ENTRY) + opened


def test_other_answers_are_numbers_data_or_nothing() -> None:
    folder = values(kernel.OPEN_OUT, messages.folder_out(BIG))
    assert folder == {"fh": BIG, "open_flags": 0, "_padding": 0}
    assert values(kernel.WRITE_OUT, messages.count_out(5)) == {"size": 5, "_padding": 0}
    assert values(kernel.LSEEK_OUT, messages.offset_out(BIG)) == {"offset": BIG}
    assert messages.nothing_out(None) == b""
    data = bytearray(b"data")
    assert messages.data_out(data) is data  # not copied
