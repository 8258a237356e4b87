"""What digests cost: the ways that are measured, what a round finds, and what its rows become."""

from __future__ import annotations

import json
import os
import random
import signal
from typing import TYPE_CHECKING

import pytest

from tests.commands import run
from tests.privileges import needs_root
from tools.benchmark import (
    contenders,
    copies,
    digest_rounds,
    digest_tables,
    digests,
    figures,
    machine,
)
from tools.benchmark import floor as floor_module
from tools.benchmark.contenders import MIRROR, PEER, PLAIN, Contender, Setting
from tools.benchmark.copies import CHANGED, FIRST, NIGHTS, UNCHANGED, CopyError, Cost, Images
from tools.benchmark.digest_rounds import CAT, FLOOR, NEW, SCRUB, Piece, Read, Round, Way
from tools.benchmark.digest_tables import Found

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
WAYS = list(digest_rounds.OPTIONS)
BY_DIGEST, BY_BYTES, OFF = (f"{MIRROR}, {way}" for way in WAYS)
HELP = "echo 'digests=on|off  compare=bytes|digest'"


def taken(seconds: float, scrub_mb_s: float = 0.0) -> Round:
    pieces = {
        name: Piece(Cost(seconds / 2, seconds, 4096, {}, read_bytes=512), 10**6, 8192)
        for name in (*NIGHTS, *NEW)
    }
    speeds = {CAT: 100.0, SCRUB: scrub_mb_s} if scrub_mb_s else {}
    reads = {name: Read(1 / mb_s, 10**6, 10**6, 30.0) for name, mb_s in speeds.items()}
    return Round(pieces, reads)


@pytest.fixture
def found() -> Found:
    rounds = {
        PLAIN: [taken(10.0)],
        FLOOR: [taken(4.0)],
        BY_DIGEST: [taken(5.0)],
        BY_BYTES: [taken(8.0, scrub_mb_s=90.0)],
        OFF: [taken(6.4)],
    }
    return Found({"xfs": rounds}, {"xfs": rounds})


def images(folder: Path) -> Images:
    return Images(folder / "first", folder / "second", 3, 2, 1)


def test_a_night_is_held_against_the_floor_the_plain_folder_and_one_without_digests(
    found: Found,
) -> None:
    medians = {name: ratio.median for name, ratio in digest_tables.ratios(found).items()}
    start = f"digests: xfs: {UNCHANGED}, {BY_DIGEST}"
    assert medians[f"{start} (/ {FLOOR})"] == 1.25
    assert medians[f"{start} (/ {PLAIN})"] == 0.5
    assert medians[f"{start} (/ {OFF})"] == 5.0 / 6.4


def test_new_data_and_a_scrub_are_better_if_they_are_faster(found: Found) -> None:
    ratios = digest_tables.ratios(found)
    scrub = ratios[f"digests: xfs: {SCRUB} (/ {CAT})"]
    new = ratios[f"digests: xfs, new data: 1 MiB, {BY_BYTES} (/ {OFF})"]
    assert scrub.median == pytest.approx(0.9)
    assert new.median == pytest.approx(0.8)
    assert scrub.better == new.better == figures.MORE


def test_rows_have_times_ratios_and_bytes(found: Found, tmp_path: Path) -> None:
    lines = digest_tables.lines(found, images(tmp_path))
    cells = "2.5 | 5.0 | 1.25 | 0.50 | 0.78 | 512 | 4,096 | 8,192"
    assert f"| xfs | {BY_DIGEST} | {CHANGED} | {cells} |" in lines
    assert (
        f"| xfs | {OFF} | {CHANGED} | 3.2 | 6.4 | 1.60 | 0.64 |  | 512 | 4,096 | 8,192 |" in lines
    )
    assert f"| xfs | {BY_BYTES} | {SCRUB} | 90 | 0.90 | 1,000,000 | 30.0 | 0.0 |" in lines


def test_a_round_that_failed_is_shown_and_is_no_success(found: Found, tmp_path: Path) -> None:
    assert found.is_good
    found.held["xfs"][BY_DIGEST].append(Round())
    assert not found.is_good
    assert f"| xfs | {BY_DIGEST} | **FAILED** |" in digest_tables.lines(found, images(tmp_path))


def test_what_was_found_can_be_written(found: Found, tmp_path: Path) -> None:
    figures.publish({"nights": found.held}, [], tmp_path / "json", None)
    written = json.loads((tmp_path / "json").read_text())["nights"]["xfs"][BY_BYTES][0]
    assert written["pieces"][FIRST]["cost"]["read_bytes"] == 512
    assert written["reads"][SCRUB]["peak_mib"] == 30.0


@pytest.mark.parametrize(
    ("names", "ways"),
    [
        ([PLAIN, MIRROR], [PLAIN, FLOOR, BY_DIGEST, BY_BYTES, OFF]),
        (
            [MIRROR, PEER],
            [f"{at}, {way}" for at in (MIRROR, PEER) for way in digest_rounds.OPTIONS],
        ),
    ],
)
def test_each_checkout_is_measured_in_every_way(
    names: list[str], ways: list[str], tmp_path: Path
) -> None:
    known = {name: Contender(name) for name in names}
    found = digests.ways(Setting(known, tmp_path, tmp_path, True, 0, [], []))
    assert list(found) == ways
    assert [name for name in ways if found[name].is_scrubbed] == [
        name for name in ways if name.endswith("compare=bytes")
    ]


@pytest.mark.parametrize(
    ("mount", "scrub", "lacking"),
    [
        ("true", "exit 2", "option digests=on|off, option compare=bytes|digest, command scrub"),
        (HELP, "exit 2", "command scrub"),
        ("echo 'digests=on|off'", "echo usage", "option compare=bytes|digest"),
    ],
)
def test_what_a_checkout_lacks_is_said_in_one_line(
    mount: str, scrub: str, lacking: str, tmp_path: Path
) -> None:
    contender = Contender(MIRROR, program=program(tmp_path, mount, scrub))
    with pytest.raises(SystemExit) as caught:
        digests.require(contender)
    assert str(caught.value) == f"tools/bench: digests: {contender.program} lacks {lacking}"


def test_a_checkout_that_has_all_is_measured(tmp_path: Path) -> None:
    digests.require(Contender(MIRROR, program=program(tmp_path, HELP, "echo usage")))
    digests.require(Contender(PLAIN))


def program(folder: Path, mount: str, scrub: str) -> Path:
    """One that answers to two words."""
    path = folder / "program"
    path.write_text(f'#!/bin/sh\ncase "$1" in mount) {mount};; scrub) {scrub};; esac\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def made(tmp_path: Path) -> Images:
    """8 MiB of data and as much hole; the second night changes 64 KiB."""
    data = bytearray(random.Random(1).randbytes(8 * MIB))
    first, second = (tmp_path / name / "vm.img" for name in ("first", "second"))
    for image in (first, second):
        image.parent.mkdir()
        image.write_bytes(data)
        os.truncate(image, 16 * MIB)
        data[MIB : MIB + (64 << 10)] = bytes(64 << 10)[:-1] + b"x"
    copies.set_later(second)
    return Images(first, second, 16 * MIB, 8 * MIB, 64 << 10)


@pytest.fixture
@needs_root
def disk(tmp_path: Path) -> Iterator[machine.Disk]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    with machine.new_disk(tmp_path, "ext4", size_gib=1) as made:
        yield made
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_plain_folder_is_written_anew_every_night(disk: machine.Disk, made: Images) -> None:
    found = digest_rounds.measure(disk, Way(contenders.known()[PLAIN]), made, None)
    for night in NIGHTS:
        piece = found.pieces[night]
        assert piece.data_bytes == 16 * MIB
        assert 16 * MIB <= piece.cost.device_bytes <= piece.ended_bytes < 20 * MIB
    assert found.reads == {}


def test_the_floor_gets_all_and_writes_nothing(disk: machine.Disk, made: Images) -> None:
    found = digest_rounds.measure(disk, Way(digest_rounds.floor_contender()), made, None)
    assert list(found.pieces) == list(NIGHTS)
    assert all(piece.cost.device_bytes < MIB for piece in found.pieces.values())


def test_a_floor_that_did_not_get_all_is_no_figure(disk: machine.Disk, made: Images) -> None:
    copies.set_later(made.first)
    larger = Images(made.first, made.second, 17 * MIB, 8 * MIB, 64 << 10)
    with pytest.raises(CopyError, match="did not get the whole image"):
        digest_rounds.measure(disk, Way(digest_rounds.floor_contender()), larger, None)


def test_the_mirror_reads_what_it_compares_and_writes_what_changed(
    disk: machine.Disk, made: Images
) -> None:
    found = digest_rounds.measure(disk, Way(contenders.known()[MIRROR]), made, None)
    first, changed = found.pieces[FIRST].cost, found.pieces[CHANGED].cost
    assert 8 * MIB <= first.device_bytes < 10 * MIB
    assert changed.device_bytes < 2 * MIB
    assert changed.read_bytes >= 8 * MIB
    assert found.pieces[UNCHANGED].cost.counted["written_bytes"] == 0


def test_new_data_is_written_by_requests_of_each_size(disk: machine.Disk) -> None:
    found = digest_rounds.new_data(disk, Way(contenders.known()[MIRROR]), 8 * MIB)
    for name, size in NEW.items():
        piece = found.pieces[name]
        assert (disk.backing / f"{size}").stat().st_size == piece.data_bytes == 8 * MIB
        assert piece.cost.counted["received_bytes"] == 8 * MIB
        assert piece.cost.device_bytes >= 8 * MIB


def test_a_program_that_reads_is_measured_cold(disk: machine.Disk, made: Images) -> None:
    plain = Contender(PLAIN, program=program(disk.own, "true", "cat $2/vm.img"))
    found = digest_rounds.measure(disk, Way(plain, is_scrubbed=True), made, None)
    for read in (found.reads[CAT], found.reads[SCRUB]):
        assert read.data_bytes >= 16 * MIB
        assert read.read_bytes >= 16 * MIB
        assert read.peak_mib > 0


def test_a_program_that_cannot_read_says_why(disk: machine.Disk, made: Images) -> None:
    plain = Contender(PLAIN, program=program(disk.own, "true", "echo it is rotten >&2; exit 8"))
    with pytest.raises(CopyError, match="it is rotten"):
        digest_rounds.measure(disk, Way(plain, is_scrubbed=True), made, None)


@needs_root
def test_the_floor_shows_what_the_folder_had(tmp_path: Path) -> None:
    backing = tmp_path / "backing"
    backing.mkdir()
    (backing / "vm.img").write_bytes(b"x" * 5000)
    with digest_rounds.floor_contender().mounted(backing, tmp_path / "mount") as mounted:
        file = mounted.path / "vm.img"
        assert file.stat().st_size == 5000
        assert not (mounted.path / "other").exists()
        run("dd", "if=/dev/urandom", f"of={file}", "bs=10000", "count=1", "conv=notrunc")
        assert file.stat().st_size == 10_000
        assert os.getxattr(mounted.path, floor_module.RECEIVED) == b"10000"
    assert (backing / "vm.img").read_bytes() == b"x" * 5000
