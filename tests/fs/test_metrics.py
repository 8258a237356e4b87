"""Which files the metrics show one by one, and what a file system in use shows of itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mirrorfs.catalog.standing import WATCHED_BYTES
from mirrorfs.fs.metrics import MAX_FILES, choose
from tests.fs.filesystems import make_file, opened_filesystem, read_control
from tests.fs.standings import MIB, stands
from tests.fs.tables import in_main_loop

if TYPE_CHECKING:
    from pathlib import Path


def chosen(paths: list[bytes], *globs: bytes) -> list[bytes]:
    return [one.path for one in choose(map(stands, paths), globs).files]


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        (b"*", [b"a.img", b"b.qcow2", b"sub/c.img", "sub/\u00fc.raw".encode()]),
        (b"*.img", [b"a.img", b"sub/c.img"]),
        (b"c.*", [b"sub/c.img"]),
        (b"sub/*", [b"sub/c.img", "sub/\u00fc.raw".encode()]),
        (b"/sub/*", []),
        (b"?.raw", ["sub/\u00fc.raw".encode()]),
        (b"[ab].*", [b"a.img", b"b.qcow2"]),
        (b"A.img", []),
        (b"a", []),
    ],
)
def test_a_file_is_shown_whose_name_or_path_matches(glob: bytes, expected: list[bytes]) -> None:
    paths = [b"sub/c.img", "sub/\u00fc.raw".encode(), b"b.qcow2", b"a.img"]
    assert chosen(paths, glob) == expected
    assert chosen(paths, b"no such", glob) == expected


def test_small_files_are_not_shown() -> None:
    sizes = {b"small": WATCHED_BYTES - 1, b"large": WATCHED_BYTES}
    found = choose((stands(path, size) for path, size in sizes.items()), (b"*",))
    assert ([one.path for one in found.files], found.left_out) == ([b"large"], 0)


def test_of_too_many_files_the_ones_that_take_most_space_are_shown() -> None:
    count = MAX_FILES + 7
    standings = [stands(b"%d" % n, 2**40, allocated=n * MIB) for n in range(count)]
    found = choose(standings, (b"*",))
    assert {one.path for one in found.files} == {b"%d" % n for n in range(7, count)}
    assert found.left_out == 7


def test_no_two_files_have_the_same_series() -> None:
    found = choose([stands(b"a\xff"), stands(b"a%FF"), stands(b"b")], (b"*",))
    assert ([one.path for one in found.files], found.left_out) == ([b"a%FF", b"b"], 1)


@in_main_loop
async def test_metrics_count_what_is_known_and_open(tmp_path: Path) -> None:
    async with opened_filesystem(tmp_path) as fs:
        await make_file(fs, b"file")
        text = (await read_control(fs, b"metrics")).decode()
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples]
    values = {sample.name: sample.value for sample in samples}
    assert values["mirrorfs_known_inodes"] == 2
    assert values["mirrorfs_open_files"] == 2  # the file, and the one that is read
    assert values["mirrorfs_up"] == 1
    assert values["mirrorfs_last_session_timestamp_seconds"] == 0
    backing = os.fspath(tmp_path)
    for sample in samples:
        assert sample.labels["mount_point"] == "/mnt/mirror"
        assert sample.labels["backing"] == backing


@in_main_loop
async def test_without_sessions_nothing_is_said_of_them(tmp_path: Path) -> None:
    async with opened_filesystem(tmp_path, "history=0") as fs:
        text = (await read_control(fs, b"metrics")).decode()
    named = {line.partition("{")[0] for line in text.splitlines() if not line.startswith("#")}
    assert "mirrorfs_up" in named
    assert not {name for name in named if "file_" in name or "session" in name}
    assert not {"mirrorfs_apparent_bytes", "mirrorfs_incomplete_files"} & named
