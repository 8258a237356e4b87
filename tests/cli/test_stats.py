"""`mirrorfs stats` for people: sizes, shares, what was saved, and totals for life."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from mirrorfs.cli.stats import table
from mirrorfs.mirror.counters import NAMES
from tests.commands import mirrorfs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

MIB = 1 << 20


def counters(**given: int) -> dict[str, int]:
    return dict.fromkeys(NAMES, 0) | given


def words(text: str) -> list[str]:
    """The lines, with single blanks."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_each_class_has_its_share_and_what_was_saved_is_said() -> None:
    lines = table(
        {
            "since mount": {
                **counters(
                    received_bytes=1000 * MIB,
                    written_bytes=100 * MIB,
                    unchanged_bytes=890 * MIB,
                    hole_bytes=10 * MIB,
                    write_requests=1234,
                ),
                "errors": {"ENOSPC": 1, "EIO": 2},
            },
            "since reset": {**counters(received_bytes=3, punched_bytes=3), "errors": {"EIO": 0}},
            "for life": counters(received_bytes=4000 * MIB, written_bytes=1 << 10),
        }
    )
    assert words("\n".join(lines)) == [
        "since mount since reset for life",
        "received 0.977 GiB 3 B 3.91 GiB",
        "written 100 MiB 10 % 0 B 0 % 1.00 KiB < 0.01 %",
        "unchanged 890 MiB 89 % 0 B 0 % 0 B 0 %",
        "punched 0 B 0 % 3 B 100 % 0 B 0 %",
        "hole 10.0 MiB 1 % 0 B 0 % 0 B 0 %",
        "shared 0 B 0 % 0 B 0 % 0 B 0 %",
        "failed 0 B 0 B 0 B",
        "discarded 0 B 0 B 0 B",
        "write requests 1,234 0 0",
        "read 0 B 0 B 0 B",
        "compared 0 B 0 B 0 B",
        "trusted 0 B 0 B 0 B",
        "freed 0 B 0 B 0 B",
        "errors 3 0",
        "Errors since mount: EIO 2, ENOSPC 1",
        "Saved since mount: 900 MiB of 0.977 GiB received (90 %) did not have to be written.",
        "Saved for life: 3.91 GiB of 3.91 GiB received (100 %) did not have to be written.",
    ]


def test_every_counter_has_a_row_and_nothing_received_is_no_share() -> None:
    lines = table({"since mount": counters()})
    assert "%" not in "".join(lines)
    assert lines[-1].strip() == "Nothing was received since mount."
    for missing in NAMES:
        with pytest.raises(KeyError):
            table({"since mount": {name: 0 for name in NAMES if name != missing}})


def test_totals_for_life_go_on_with_the_next_mount(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=0")
    mirror.write("file", 0, b"x" * MIB)
    mirror.umount()
    mirror.mount()
    mirror.write("file", 0, b"x" * MIB)
    text = words(mirrorfs("stats", mirror.path).stdout)
    assert text[0] == f"{mirror.path}: {mirror.backing} (ext4)"
    assert text[2] == "received 1.00 MiB 1.00 MiB 2.00 MiB"
    assert text[3] == "written 0 B 0 % 0 B 0 % 1.00 MiB 50 %"
    saved = "received (50 %) did not have to be written."
    assert f"Saved for life: 1.00 MiB of 2.00 MiB {saved}" in text
    assert text[-1] == "Digests are known of 16 of 16 chunks (100 %)."
    found = json.loads(mirrorfs("stats", "--json", mirror.path).stdout)
    assert found["life"]["received_bytes"] == 2 * MIB
    assert found["counters"]["received_bytes"] == MIB
    assert set(found["life"]) == set(NAMES)
    assert found["control"] == ".mirrorfs"
    text = words(mirrorfs("stats", mirror.path / "file").stdout)
    assert text[:4] == [
        f"{mirror.path}/file",
        "since mount",
        "received 1.00 MiB",
        "written 0 B 0 %",
    ]


@pytest.mark.parametrize("why", ["history=0", "no folder"])
def test_where_nothing_is_remembered_there_are_no_totals_for_life(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], why: str
) -> None:
    options = why
    if why == "no folder":
        (ext4_folder / ".mirrorfs").write_text("taken")
        options = "control=.other"
    mirror = mount_mirror(ext4_folder, options, noisy=True)
    mirror.write("file", 0, b"x")
    text = mirrorfs("stats", mirror.path).stdout
    assert "for life" not in text.splitlines()[1]
    assert "Nothing is remembered between mounts" in text
    found = json.loads(mirrorfs("stats", "--json", mirror.path).stdout)
    assert (found["life"], found["state_folder"]) == (None, None)
