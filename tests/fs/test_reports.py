"""The texts of the control files: their formats are contracts with scripts."""

from __future__ import annotations

import errno
import json
import os

import pytest

from mirrorfs import __version__
from mirrorfs.fs import reports
from mirrorfs.mirror.counters import NAMES, Account, Counters

KEY = (1, 2, 3)


@pytest.fixture
def account() -> Account:
    """An account that was reset in between."""
    made = Account()
    made.add(
        KEY,
        Counters(received_bytes=100, written_bytes=60, hole_bytes=40, write_requests=1),
        Counters(),
    )
    made.add_error(errno.EIO)
    made.reset()
    made.add(KEY, Counters(received_bytes=7, unchanged_bytes=7, write_requests=1), Counters())
    made.add_error(errno.ENOENT)
    return made


def test_stats_are_names_and_values_since_mount_and_since_reset(account: Account) -> None:
    lines = reports.stats_text(account.snapshot()).decode().splitlines()
    names = [line.split()[0] for line in lines]
    assert names == [
        *NAMES,
        "errors.EIO",
        "errors.ENOENT",
        *(f"since_reset.{name}" for name in NAMES),
        "since_reset.errors.EIO",
        "since_reset.errors.ENOENT",
    ]
    values = dict(line.split() for line in lines)
    assert values["received_bytes"] == "107"
    assert values["since_reset.received_bytes"] == "7"
    assert (values["since_reset.errors.EIO"], values["since_reset.errors.ENOENT"]) == ("0", "1")


def test_the_names_of_counters_are_a_contract() -> None:
    assert list(NAMES) == [
        "received_bytes",
        "written_bytes",
        "unchanged_bytes",
        "punched_bytes",
        "hole_bytes",
        "shared_bytes",
        "failed_bytes",
        "discarded_bytes",
        "write_requests",
        "read_bytes",
        "compared_bytes",
        "trusted_bytes",
        "freed_bytes",
    ]


def test_stats_json_has_the_schema_the_mount_and_both_counts(account: Account) -> None:
    text = reports.stats_json(
        account.snapshot(),
        b"/back\xff%",
        b"/state",
        12.5,
        {"type": "ext4"},
        {"read_bytes": 3},
        {"chunks": 4, "known_chunks": 3},
        b".mirrorfs",
    )
    found = json.loads(text)
    assert text.endswith(b"}\n")
    assert (found.pop("state_folder"), found.pop("life")) == ("/state", {"read_bytes": 3})
    assert found.pop("digests") == {"chunks": 4, "known_chunks": 3}
    assert found.pop("counters")["errors"] == {"EIO": 1, "ENOENT": 1}
    since_reset = found.pop("since_reset")
    assert since_reset.pop("errors") == {"EIO": 0, "ENOENT": 1}
    assert list(since_reset) == list(NAMES)
    assert found == {
        "schema": 1,
        "pid": os.getpid(),
        "version": __version__,
        "backing": "/back%FF%25",
        "mounted_at": 12.5,
        "file_system": {"type": "ext4"},
        "control": ".mirrorfs",
    }


def test_other_json_files_have_the_schema_too() -> None:
    assert json.loads(reports.files_json({"a": {"x": 1}})) == {
        "schema": 1,
        "files": {"a": {"x": 1}},
    }
    assert json.loads(reports.config_json({}, {}, {"seeds": {"on": True}})) == {
        "schema": 1,
        "options": {},
        "file_system": {},
        "extras": {"seeds": {"on": True}},
    }


def test_the_attribute_of_a_file_is_compact_json(account: Account) -> None:
    text = reports.file_json(account.file(KEY))
    assert b" " not in text
    assert json.loads(text)["received_bytes"] == 107


@pytest.mark.parametrize("data", [b"1", b"1\n", b" 1 "])
def test_one_written_to_reset_starts_the_counts_anew(account: Account, data: bytes) -> None:
    reports.parse_reset(account, data)
    assert set(account.snapshot().since_reset.values()) == {0}
    assert account.snapshot().since_mount["received_bytes"] == 107


@pytest.mark.parametrize("data", [b"", b"0", b"11", b"yes", b"1 1"])
def test_anything_else_written_to_reset_is_invalid(account: Account, data: bytes) -> None:
    with pytest.raises(OSError) as caught:
        reports.parse_reset(account, data)
    assert caught.value.errno == errno.EINVAL
    assert account.snapshot().since_reset["received_bytes"] == 7
