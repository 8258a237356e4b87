"""The file for the text-file collector: its name, and how it is replaced."""

from __future__ import annotations

import itertools
import logging
import os
import stat
from typing import TYPE_CHECKING

import pytest

from mirrorfs.fs.metrics_file import MetricsFile, name_of

if TYPE_CHECKING:
    from pathlib import Path

POINTS = {
    b"/mnt/mirror": b"mirrorfs-mnt-mirror.prom",
    b"/mnt-mirror": b"mirrorfs-mnt%2Dmirror.prom",
    b"/mnt%2Dmirror": b"mirrorfs-mnt%252Dmirror.prom",
    b"/mnt_mirror": b"mirrorfs-mnt_mirror.prom",
    b"/a b\n\xff~": b"mirrorfs-a%20b%0A%FF%7E.prom",
    b"/mnt/mirror.prom": b"mirrorfs-mnt-mirror.prom.prom",
}
NAME = "mirrorfs-mnt-mirror.prom"


@pytest.fixture
def file(tmp_path: Path) -> MetricsFile:
    return MetricsFile(os.fsencode(tmp_path), b"/mnt/mirror")


@pytest.mark.parametrize("point", POINTS)
def test_the_name_says_which_mount_point_it_is_about(point: bytes) -> None:
    assert name_of(point) == POINTS[point]


def test_long_mount_points_have_names_of_their_own() -> None:
    points = [b"/" + b"/".join([b"a" * 250] * 3) + end for end in (b"", b"/b", b"-b", b"-c")]
    points += [b"/" + b"\xff" * count for count in (66, 67, 68, 69)]
    names = {name_of(point) for point in points}
    assert len(names) == len(points)
    assert all(len(name) <= 255 and name.endswith(b".prom") for name in names)


def test_the_file_is_replaced_as_a_whole(file: MetricsFile, tmp_path: Path) -> None:
    file.write(b"one\n")
    with open(tmp_path / NAME, "rb") as reader:
        file.write(b"two\n")
        assert reader.read() == b"one\n"
    assert (tmp_path / NAME).read_bytes() == b"two\n"
    assert os.listdir(tmp_path) == [NAME]


@pytest.mark.parametrize("umask", [0, 0o077])
def test_the_collector_may_read_it_and_nobody_else_write(
    file: MetricsFile, tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        file.write(b"text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o644


def test_no_link_is_followed(file: MetricsFile, tmp_path: Path) -> None:
    """Else whoever may write the folder could have root overwrite any file."""
    (tmp_path / "victim").write_bytes(b"precious")
    for name in (NAME, "mirrorfs-mnt-mirror.new"):
        (tmp_path / name).symlink_to("victim")
    file.write(b"text")
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert (tmp_path / NAME).read_bytes() == b"text"
    assert not (tmp_path / NAME).is_symlink()


def test_what_a_crash_has_left_is_replaced(file: MetricsFile, tmp_path: Path) -> None:
    (tmp_path / "mirrorfs-mnt-mirror.new").write_bytes(b"half")
    file.write(b"whole")
    assert os.listdir(tmp_path) == [NAME]


def test_a_folder_that_is_gone_costs_one_line_until_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = tmp_path / "folder"
    file = MetricsFile(os.fsencode(folder), b"/mnt/mirror")
    for text, _ in itertools.product((b"a", b"b"), range(3)):
        file.write(text)
    said = f"metrics are not written to {folder}: No such file or directory"
    assert caplog.messages == [said]
    folder.mkdir()
    file.write(b"c")
    assert (folder / NAME).read_bytes() == b"c"
    (folder / NAME).unlink()
    folder.rmdir()
    file.write(b"d")
    assert caplog.messages == [said, said]
