"""Every operation has one row in the table, or is refused without a handler."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pyfuse3
import pytest
import trio

from mirrorfs.backing.statx import Status
from mirrorfs.fs.entry import Entry
from mirrorfs.fuse.handlers import Handlers
from mirrorfs.fuse.operations import Operation, table
from mirrorfs.fuse.protocol import Opcode
from tests.fuse.listed import listed

if TYPE_CHECKING:
    from collections.abc import Callable

# Whose defaults are right. The kernel answers poll itself after ENOSYS.
NOT_NEEDED = {"init", "stacktrace", "access", "poll"}
WITHOUT_ROW = {Opcode.INTERRUPT, Opcode.ACCESS, Opcode.POLL}
UNKNOWN_TO_PYFUSE3 = {"fallocate", "copy_file_range", "lseek"}
ENTRY = Entry(77, Status(0o100644, *[0] * 13), 1.0, 1.0)


def methods(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if name[0] != "_"}


def test_every_handler_of_pyfuse3_is_in_the_table() -> None:
    in_table = {row.name for row in table(MagicMock()).values()}
    assert in_table == (methods(pyfuse3.Operations) - NOT_NEEDED) | UNKNOWN_TO_PYFUSE3


def test_every_handler_of_pyfuse3_is_overridden() -> None:
    overridden = {name for name in vars(Handlers) if name[0] != "_"}
    assert methods(pyfuse3.Operations) - NOT_NEEDED <= overridden


def test_every_opcode_but_a_few_has_a_row() -> None:
    assert set(table(MagicMock())) == set(Opcode) - WITHOUT_ROW


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (lambda row: not row.is_answered, {"forget"}),
        (lambda row: row.is_interruptible, {"copy_file_range"}),
    ],
    ids=["not answered", "interruptible"],
)
def test_an_operation_knows_what_is_special_about_it(
    kind: Callable[[Operation], bool], expected: set[str]
) -> None:
    assert {row.name for row in table(MagicMock()).values() if kind(row)} == expected


class Noted:
    """A handler that notes its arguments."""

    def __init__(self, answer: Any) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._answer = answer

    async def call(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        return self._answer


@pytest.mark.parametrize(("opcode", "has_attributes"), [("READDIR", False), ("READDIRPLUS", True)])
def test_a_listing_is_made_of_what_fits_into_the_answer(opcode: str, has_attributes: bool) -> None:
    taken: list[bool] = []
    calls: list[tuple[int, int]] = []

    async def read(handle: int, start: int, take: Callable[[bytes, Entry, int], bool]) -> None:
        calls.append((handle, start))
        for number in range(100):
            taken.append(take(b"name%d" % number, ENTRY, number + 1))
            if not taken[-1]:
                return

    fs = MagicMock(folders=MagicMock(read=read))
    row = table(fs)[Opcode[opcode]]

    async def use() -> bytes | bytearray:
        return row.encode(await row.handler(9, 3, 1000))

    answer = trio.run(use)
    assert calls == [(9, 3)]
    assert not taken[-1]
    names = [one.name for one in listed(answer, has_attributes)]
    assert names == [b"name%d" % number for number in range(len(taken) - 1)] != []


def test_extended_attributes_are_asked_for_without_the_size_and_answered_with_it() -> None:
    get, list_names = Noted(b"value"), Noted([b"user.a", b"user.b"])
    rows = table(MagicMock(xattrs=MagicMock(get=get.call, list=list_names.call)))

    async def use() -> None:
        row = rows[Opcode.GETXATTR]
        assert row.encode(await row.handler(100, 5, b"user.a")) == b"value"
        assert row.encode(await row.handler(0, 5, b"user.a")) == bytes([5, *[0] * 7])
        with pytest.raises(OSError, match="out of range"):
            await row.handler(4, 5, b"user.a")
        row = rows[Opcode.LISTXATTR]
        assert row.encode(await row.handler(14, 5, "caller")) == b"user.a\0user.b\0"

    trio.run(use)
    assert get.calls == [(5, b"user.a")] * 3
    assert list_names.calls == [(5, "caller")]
