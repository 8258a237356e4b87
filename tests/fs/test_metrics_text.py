"""The text of the metrics: names, types and HELP are a contract with scrapers and dashboards."""

from __future__ import annotations

import errno
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mirrorfs.fs import metrics_text
from mirrorfs.fs.metrics_text import Labels
from mirrorfs.mirror.counters import Account, Counters
from tests.fs.standings import MIB, NS, stands

CONTRACT = """\
mirrorfs_received_bytes_total counter Bytes received from clients
mirrorfs_written_bytes_total counter Received bytes handed to the file system below
mirrorfs_unchanged_bytes_total counter Received bytes that were there already
mirrorfs_punched_bytes_total counter Received zero bytes over data, made part of a hole
mirrorfs_hole_bytes_total counter Received zero bytes over a hole or beyond the end
mirrorfs_shared_bytes_total counter Received bytes that share a block with another file
mirrorfs_failed_bytes_total counter Bytes of requests that failed
mirrorfs_discarded_bytes_total counter Bytes that clients asked to be a hole
mirrorfs_write_requests_total counter Write requests
mirrorfs_read_bytes_total counter Bytes read by clients
mirrorfs_compared_bytes_total counter Bytes read below in order to compare
mirrorfs_trusted_bytes_total counter Bytes known to be equal by their digests, and not read below
mirrorfs_freed_bytes_total counter Bytes freed below by punching and truncating
mirrorfs_errors_total counter Requests answered with an error
mirrorfs_failed_requests_total counter Requests answered with an error, whatever it was
mirrorfs_known_inodes gauge Known inodes
mirrorfs_open_files gauge Open files
mirrorfs_uptime_seconds gauge Seconds since mount
mirrorfs_up gauge 1 while the mount is served; an unmount leaves 0 in the file that metrics=FOLDER \
names
mirrorfs_metrics_timestamp_seconds gauge When these metrics were made
mirrorfs_free_bytes gauge Free space of the file system below, as df shows it, at the last look
mirrorfs_size_bytes gauge Size of the file system below, at the last look
mirrorfs_apparent_bytes gauge Sum of the sizes of the watched files: those of 1 MiB and more whose \
sessions are known
mirrorfs_incomplete_files gauge Watched files whose last session left them incomplete
mirrorfs_last_session_timestamp_seconds gauge When the last session of any file ended; 0 if none \
is known
mirrorfs_last_scrub_timestamp_seconds gauge When the last complete scrub of all files ended; 0 if \
none did
mirrorfs_chunks gauge Chunks of 64 KiB of the files of which digests are kept
mirrorfs_known_chunks gauge Chunks of 64 KiB whose digest is known
mirrorfs_files_left_out gauge Watched files that keep_pattern selects, but for which there was no \
room in these metrics
mirrorfs_file_last_success_timestamp_seconds gauge When the last good session of the file ended; 0 \
if there was none
mirrorfs_file_size_bytes gauge Size of the file after its last session
mirrorfs_file_allocated_bytes gauge Space that the file took below after its last session
mirrorfs_file_changed_ratio gauge Share of the data of the file that its last session changed, \
from 0 to 1
mirrorfs_file_incomplete gauge 1 if the last session of the file left it incomplete
mirrorfs_file_unusual gauge 1 if the last session of the file was unusual
mirrorfs_file_damaged_chunks gauge Chunks of 64 KiB of the file that the last scrub found damaged, \
and that were not written anew since
"""
LABELS = Labels(b'/mnt/"\\\xff', b"/back\n")
# As the library reads them back.
MOUNT = {"mount_point": '/mnt/"\\%FF', "backing": "/back\n"}
ODD = b'a \\"\n\xc3\xbc{}.img'
FILES = [
    stands(b"vm.img", good_ns=1_700_000_000 * NS + 250_000_000),
    stands(ODD, 2 * MIB, good_ns=None, is_incomplete=True, unusual="much changed", allocated=MIB),
]
GAUGES = {"known_inodes": 5, "up": True, "free_bytes": 1 << 62}

Series = dict[tuple[tuple[str, str], ...], float]


@pytest.fixture
def text() -> str:
    account = Account()
    account.add((1, 2, 3), Counters(received_bytes=107, written_bytes=107), Counters())
    for code in (errno.EIO, errno.ENOENT):
        account.add_error(code)
    return metrics_text.text(LABELS, account.snapshot(), dict(GAUGES), FILES).decode()


def series(text: str, name: str) -> Series:
    """The samples with this name, by their labels but for those of the mount, which all have."""
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name:
                assert sample.labels.items() >= MOUNT.items()
                own = tuple((k, v) for k, v in sample.labels.items() if k not in MOUNT)
                assert own not in found
                found[own] = sample.value
    return found


def test_names_types_and_help_texts_are_a_contract(text: str) -> None:
    lines = text.splitlines()
    helped = [line.removeprefix("# HELP ") for line in lines if line.startswith("# HELP ")]
    typed = dict(line.split()[2:] for line in lines if line.startswith("# TYPE "))
    told = [f"{name} {typed[name]} {said}" for name, _, said in (h.partition(" ") for h in helped)]
    assert told == CONTRACT.splitlines()


def test_every_counter_ends_with_total_and_nothing_else_does() -> None:
    kinds = [line.split()[:2] for line in CONTRACT.splitlines()]
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in kinds)


def test_promtool_finds_nothing_to_say(text: str) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_no_sample_has_a_timestamp_since_one_spoils_the_file(text: str) -> None:
    for family in text_string_to_metric_families(text):
        assert all(sample.timestamp is None for sample in family.samples)


def test_each_series_names_the_mount_and_the_backing_folder(text: str) -> None:
    assert series(text, "mirrorfs_received_bytes_total") == {(): 107}
    assert series(text, "mirrorfs_known_inodes") == {(): 5}
    assert series(text, "mirrorfs_up") == {(): 1}
    assert series(text, "mirrorfs_free_bytes") == {(): 1 << 62}


def test_what_is_not_known_has_no_sample(text: str) -> None:
    assert series(text, "mirrorfs_size_bytes") == {}
    assert series(text, "mirrorfs_incomplete_files") == {}


def test_errors_a_backup_is_alerted_of_have_a_series_before_the_first(text: str) -> None:
    counts = {labels[0][1]: n for labels, n in series(text, "mirrorfs_errors_total").items()}
    assert counts == {"EDQUOT": 0, "EIO": 1, "ENOENT": 1, "ENOSPC": 0, "EROFS": 0}
    assert series(text, "mirrorfs_failed_requests_total") == {(): 2}


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("last_success_timestamp_seconds", 1_700_000_000.25, 0),
        ("size_bytes", 8 * MIB, 2 * MIB),
        ("allocated_bytes", 8 * MIB, MIB),
        ("changed_ratio", 0.25, 0.25),
        ("incomplete", 0, 1),
        ("unusual", 0, 1),
    ],
)
def test_each_file_has_its_series(text: str, name: str, good: float, bad: float) -> None:
    found = series(text, f"mirrorfs_file_{name}")
    assert found == {(("file", "vm.img"),): good, (("file", ODD.decode()),): bad}
