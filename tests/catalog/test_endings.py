"""How a session ended, and whether it was unusual, by what was seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mirrorfs.catalog import endings
from mirrorfs.catalog.endings import Observed
from mirrorfs.catalog.session import GOOD, Ending, Session
from mirrorfs.mirror.changed_chunks import CHUNK_BYTES
from mirrorfs.mirror.counters import Counters

MIB = 1 << 20
SEEN = Observed(b"vm.img")


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (SEEN, Ending.CLOSED),
        (replace(SEEN, closed=Ending.EXITED), Ending.EXITED),
        (replace(SEEN, closed=Ending.KILLED), Ending.KILLED),
        (replace(SEEN, is_open=True), Ending.UNMOUNTED),
        (replace(SEEN, is_failed=True), Ending.FAILED),
        (replace(SEEN, is_removed=True), Ending.ABANDONED),
        (replace(SEEN, path=b"x/.vm.img.Ab12Cd"), Ending.ABANDONED),
        # The one that says most.
        (replace(SEEN, is_failed=True, is_removed=True), Ending.FAILED),
        (replace(SEEN, closed=Ending.KILLED, is_removed=True), Ending.KILLED),
        (replace(SEEN, path=b".vm.img.Ab12Cd", is_open=True), Ending.UNMOUNTED),
    ],
)
def test_a_session_ends_as_its_writers_did(seen: Observed, expected: Ending) -> None:
    assert endings.ending(seen, "cp", None, 0) is expected
    assert (expected in GOOD) == (expected in {Ending.CLOSED, Ending.EXITED})


@pytest.mark.parametrize(
    ("is_stamped", "was_stamped", "expected"),
    [
        (True, True, Ending.CLOSED),
        (False, True, Ending.UNSTAMPED),
        (False, False, Ending.CLOSED),
        (False, None, Ending.CLOSED),
        (True, None, Ending.CLOSED),
    ],
)
def test_a_program_that_sets_times_is_expected_to_do_so(
    is_stamped: bool, was_stamped: bool | None, expected: Ending
) -> None:
    assert (
        endings.ending(replace(SEEN, is_stamped=is_stamped), "rsync", was_stamped, 0o100644)
        is expected
    )


@pytest.mark.parametrize(
    ("program", "mode", "is_stamped", "expected"),
    [
        ("rsync", 0o100600, False, Ending.UNSTAMPED),
        ("rsync", 0o100644, False, Ending.CLOSED),
        ("rsync", 0o100600, True, Ending.CLOSED),
        ("cp", 0o100600, False, Ending.CLOSED),
    ],
)
def test_a_copy_that_rsync_has_never_finished_is_known_by_its_mode(
    program: str, mode: int, is_stamped: bool, expected: Ending
) -> None:
    seen = replace(SEEN, is_stamped=is_stamped)
    assert endings.ending(seen, program, None, mode) is expected


@pytest.mark.parametrize("was_stamped", [None, False, True])
def test_what_rsync_keeps_of_a_file_has_the_time_zero(was_stamped: bool | None) -> None:
    seen = replace(SEEN, is_stamped=True, is_epoch=True)
    assert endings.ending(seen, "rsync", was_stamped, 0o100644) is Ending.UNSTAMPED
    assert endings.ending(seen, "cp", was_stamped, 0o100644) is Ending.CLOSED


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"vm.img", (b"vm.img", None)),
        (b"a/.vm.img.Ab12Cd", (b"a/vm.img", b"a/.vm.img.Ab12Cd")),
        (b"vm.img.0123abcd.partial", (b"vm.img", b"vm.img.0123abcd.partial")),
        (b"a/.hidden", (b"a/.hidden", None)),
        (b"a/.~tmp~/vm.img", (b"a/vm.img", b"a/.~tmp~/vm.img")),
        (b".rsync-partial/vm.img", (b"vm.img", b".rsync-partial/vm.img")),
    ],
)
def test_a_temporary_name_tells_what_is_meant(
    path: bytes, expected: tuple[bytes, bytes | None]
) -> None:
    assert endings.meant_for(path) == expected


def session(had: int, left: int, chunks: int, zeroed: int = 0, size: int = 100 * MIB) -> Session:
    return Session(
        b"vm.img",
        0,
        "rsync",
        0,
        size_before=100 * MIB,
        size_after=size,
        allocated_before=had,
        allocated_after=left,
        ended=Ending.CLOSED,
        changed_chunks=chunks,
        zeroed_bytes=zeroed,
        counters=Counters(written_bytes=chunks * CHUNK_BYTES),
    )


@pytest.mark.parametrize(
    ("one", "shares", "expected"),
    [
        (session(16 * MIB, 16 * MIB, 64), [0.01] * 10, "25 % of its data changed, where 1 % is"),
        (session(16 * MIB, 16 * MIB, 64), [0.03] * 10, ""),  # less than ten times
        (session(16 * MIB, 16 * MIB, 48), [0.001] * 10, ""),  # less than 20 %
        (session(16 * MIB, 16 * MIB, 64), [], ""),  # nothing to compare with
        (session(16 * MIB, 16 * MIB, 64), [0.01] * 2, ""),  # too few to tell what is usual
        (session(16 * MIB, 16 * MIB, 256), [1.0] * 3, ""),  # it is always so
        (session(16 * MIB, 4 * MIB, 0, 12 * MIB), [0.5], "75 % of its data turned to zeros"),
        (session(16 * MIB, 4 * MIB, 0, 12 * MIB), [], ""),  # they may have been stored zeros
        (session(16 * MIB, 8 * MIB, 0, 8 * MIB), [0.5], ""),  # just half
        (session(8192, 0, 0, 8192), [0.5], ""),  # too little to say
        (session(0, 0, 0, 16 * MIB), [0.5], ""),  # it was written in the same session
        (session(16 * MIB, 0, 0, 0, size=0), [0.5], "100 % of its data is gone"),
        (session(16 * MIB, 10 * MIB, 0, 0, size=50 * MIB), [0.5], ""),
    ],
)
def test_what_is_far_from_the_files_own_history_is_unusual(
    one: Session, shares: list[float], expected: str
) -> None:
    found = endings.unusual(one, shares, one.zeroed_bytes)
    assert found.startswith(expected)
    assert bool(found) == bool(expected)


def test_what_is_incomplete_is_not_called_unusual_as_well() -> None:
    one = session(16 * MIB, 0, 0, 0, size=0)
    assert endings.unusual(one, [0.1], 0)
    assert not endings.unusual(replace(one, ended=Ending.KILLED), [0.1], 0)
