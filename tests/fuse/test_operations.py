"""Every operation has one row in the table, or is among the few that go through pyfuse3 alone."""

from __future__ import annotations

import inspect
from unittest.mock import MagicMock

import pyfuse3

from mirrorfs.fuse.handlers import Handlers
from mirrorfs.fuse.operations import table
from mirrorfs.fuse.protocol import Opcode

OTHERS = {"readdir", "statfs", "getxattr", "listxattr", "setxattr", "removexattr"}
# Whose defaults are right. The kernel answers poll itself after ENOSYS.
NOT_NEEDED = {"init", "stacktrace", "access", "poll"}


def methods(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if name[0] != "_"}


def test_every_handler_of_pyfuse3_is_in_the_table_or_among_the_others() -> None:
    rows = table(MagicMock())
    in_table = {row.name for row in rows.values()}
    ours = {row.name for row in rows.values() if row.is_ours}
    assert ours == {"fallocate", "copy_file_range", "lseek"}
    assert methods(pyfuse3.Operations) - NOT_NEEDED == (in_table - ours) | OTHERS
    assert not in_table & OTHERS


def test_every_handler_of_pyfuse3_is_overridden() -> None:
    overridden = {name for name in vars(Handlers) if name[0] != "_"}
    assert methods(pyfuse3.Operations) - NOT_NEEDED <= overridden


def test_every_opcode_but_that_of_signals_has_a_row() -> None:
    assert set(table(MagicMock())) == set(Opcode) - {Opcode.INTERRUPT}


def test_only_an_operation_of_ours_has_a_quick_way() -> None:
    rows = table(MagicMock()).values()
    assert {row.name for row in rows if row.at_once is not None} == {"lseek"}
