"""Which files are written past the mount's page cache."""

from __future__ import annotations

import os
from typing import Any, cast

import pytest

from mirrorfs.fs import direct_writes
from mirrorfs.fs.handles import FileHandle

WRITER, BOTH, READER = os.O_WRONLY, os.O_RDWR, os.O_RDONLY


@pytest.mark.parametrize(
    ("release", "coherent"),
    [
        ("6.18.44-fc", True),
        ("6.18.3", True),
        ("6.18.2", False),
        ("6.18", False),
        ("6.12.63+deb13-amd64", False),
        ("6.12.64+deb13-amd64", True),
        ("6.17.13", False),
        ("6.19-rc1", True),
        ("7.0.1", True),
        ("6.1.0-30-amd64", False),
        ("6.9.999", False),
        ("weird", False),
    ],
)
def test_kernels_that_keep_their_cache_right_over_direct_writes(
    release: str, coherent: bool
) -> None:
    assert direct_writes.is_coherent(release) is coherent


class Release:
    release = "6.17.13"


@pytest.mark.parametrize(
    ("option", "reason"),
    [("off", "turned off by direct_writes=off"), ("auto", "this kernel may show"), ("on", "")],
)
def test_writes_go_through_the_cache_where_that_is_safer_unless_the_user_says_so(
    monkeypatch: pytest.MonkeyPatch, option: str, reason: str
) -> None:
    monkeypatch.setattr(os, "uname", Release)
    refusal = direct_writes.refusal(option)
    assert refusal.startswith(reason)
    assert bool(refusal) is bool(reason)


def test_nothing_is_refused_on_a_kernel_that_keeps_its_cache_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Release, "release", "6.19.0")
    monkeypatch.setattr(os, "uname", Release)
    assert direct_writes.refusal("auto") == ""
    assert direct_writes.refusal("off") != ""


def opened(flags: int, *others: FileHandle, is_copy: bool = False) -> FileHandle:
    handle = FileHandle(cast("Any", None))
    direct_writes.choose(handle, others, flags, is_copy)
    return handle


def how(handle: FileHandle) -> str:
    return ("direct" if handle.is_direct else "cached") + (", may map" if handle.may_map else "")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (READER, "cached"),
        (WRITER, "direct"),
        (WRITER | os.O_APPEND | os.O_TRUNC, "direct"),
        (BOTH, "cached, may map"),
    ],
)
def test_a_file_that_is_only_written_is_written_directly(flags: int, expected: str) -> None:
    assert how(opened(flags)) == expected


def test_a_copy_under_a_temporary_name_is_written_directly_though_it_may_be_read() -> None:
    assert how(opened(BOTH, is_copy=True)) == "direct"
    assert how(opened(READER, is_copy=True)) == "cached"


@pytest.mark.parametrize("is_copy", [True, False])
def test_a_file_that_may_be_mapped_for_writing_is_not_written_directly(is_copy: bool) -> None:
    mapper = opened(BOTH)
    assert how(opened(WRITER, mapper)) == "cached"
    assert how(opened(BOTH, mapper, is_copy=is_copy)) == "cached, may map"


def test_a_file_that_is_written_directly_cannot_be_mapped_for_writing_meanwhile() -> None:
    writer = opened(WRITER)
    assert how(opened(BOTH, opened(READER), writer)) == "direct"
    assert how(opened(WRITER, writer)) == "direct"


def test_readers_keep_no_file_from_being_written_directly() -> None:
    assert how(opened(WRITER, opened(READER), opened(READER))) == "direct"
    assert how(opened(BOTH, opened(READER))) == "cached, may map"
