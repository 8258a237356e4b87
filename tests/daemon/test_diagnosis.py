"""What doctor thinks of facts. Pure: each check has a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mirrorfs.backing.mounts import Mount
from mirrorfs.catalog.judgement import Found
from mirrorfs.catalog.standing import WATCHED_BYTES, Standing
from mirrorfs.daemon import diagnosis, machine_checks
from mirrorfs.daemon.copies import parse, rsync_flags
from mirrorfs.daemon.facts import Copy, Entry, Examined, Machine
from mirrorfs.daemon.finding import Anonymous, Finding, Level, Plain, command, sentence
from mirrorfs.daemon.overview import Overview, Sizes, Space
from mirrorfs.daemon.remembered import Place

DAY = 86_400 * 10**9
NOW = 1_800_000_000 * 10**9
MIB, GIB = 1 << 20, 1 << 30
MACHINE = Machine(
    kernel="6.18.0",
    is_root=True,
    is_virtual=False,
    cpuidle_governor="menu",
    halt_poll_ns=None,
    has_fuse_device=True,
    has_fusermount=True,
    user_allow_other=True,
)
ABILITIES = {"type": "xfs", "can_punch": True, "can_share_blocks": True, "seek_data_trusted": True}
SPACE = Space(100 * GIB, 60 * GIB, 40 * GIB, Sizes(50 * GIB, 38 * GIB), 12 * GIB, 2 * GIB)
PLACE = Place(b"/srv/b", b"/srv/b/.mirrorfs", Mount(1, b"/", b"/mnt/m", "", b"/srv/b", "0:9"))
VIEW = Overview(PLACE, True, [], SPACE, now_ns=NOW)
WELL = Examined(
    name=b"/mnt/m",
    backing=b"/srv/b",
    state="answers",
    pid=7,
    options={
        name: {"value": value, "from": "default"}
        for name, value in {"basis": "auto", "log": "syslog", "allow_other": True}.items()
    },
    abilities=ABILITIES,
    features={"seeds": {"on": True}, "direct_writes": {"on": True}},
    open_files=20_000,
    overview=VIEW,
    chunks=1000,
    known_chunks=990,
    knows_scrubs=True,
    scrubbed_ns=NOW - 20 * DAY,
)


def found_of(one: Examined = WELL, machine: Machine = MACHINE) -> list[Finding]:
    return diagnosis.findings(machine, [one])


def option(name: str, value: object) -> dict[str, Any]:
    return {"options": {**WELL.options, name: {"value": value, "from": "given"}}}


def space(**more: Any) -> dict[str, Any]:
    return {"overview": replace(VIEW, space=replace(SPACE, **more))}


def off(name: str, reason: str) -> dict[str, Any]:
    return {"features": {**WELL.features, name: {"on": False, "reason": reason}}}


def test_nothing_is_found_where_all_is_well() -> None:
    assert found_of() == []


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"state": "dead"}, "problem dead"),
        ({"state": "hangs"}, "problem hangs"),
        ({"state": "stopped"}, "problem stopped"),
        ({"state": "private"}, "note private"),
        ({"unseen": "cannot be read", "overview": None}, "problem unseen"),
        ({"state": "dead", "unseen": "dead", "overview": None}, "problem dead"),
        ({"overview": replace(VIEW, unread=3)}, "note unread"),
        ({"abilities": {**ABILITIES, "can_punch": False}}, "problem no-holes"),
        ({"abilities": {**ABILITIES, "seek_data_trusted": False}}, "slow seek-data"),
        ({"abilities": {**ABILITIES, "can_share_blocks": False}}, "note no-clones"),
        (
            {"abilities": {**ABILITIES, "can_share_blocks": False}, **option("basis", "self")},
            "",
        ),
        (off("direct_writes", "this kernel or libfuse cannot"), "slow feature-direct_writes"),
        (off("direct_writes", "turned off by direct_writes=off"), ""),
        (off("seeds", "the state folder cannot be used"), "slow feature-seeds"),
        (off("seeds", "mounted read-only"), ""),
        (off("umask_by_default_acl", "no"), "note feature-umask_by_default_acl"),
        (off("new", "no"), "note feature-new"),
        (option("log", "nowhere"), "problem log"),
        (option("log", "/var/log/m"), ""),
        ({"open_files": 4096}, ""),
        ({"open_files": 1024}, "slow descriptors"),
        ({"open_files": None}, ""),
        (space(free=20 * GIB), ""),
        (space(free=11 * GIB), "note will-not-fit"),
        (space(free=4 * GIB, missing=0), "problem little-free"),
        (space(free=5 * GIB, missing=0), ""),
        (space(pinned=5 * GIB), "slow pinned"),
        (space(pinned=255 * MIB, used=300 * MIB), ""),
        (space(pinned=None), ""),
        ({"overview": replace(VIEW, space=None)}, ""),
        ({"state_free": 63 * MIB, "state_folder": b"/var/s"}, "problem state-full"),
        ({"state_free": 64 * MIB}, ""),
        ({"known_chunks": 900}, ""),
        ({"known_chunks": 899}, "note digests-unknown"),
        ({"chunks": 0, "known_chunks": 0, "scrubbed_ns": None}, ""),
        ({"scrubbed_ns": None}, "note scrub"),
        ({"scrubbed_ns": NOW - 36 * DAY}, "note scrub"),
        ({"scrubbed_ns": None, "knows_scrubs": False}, ""),
        ({"damaged": (b"vm.img",)}, "problem damaged"),
        ({"user_id": 1000, **option("allow_other", False)}, "note allow_other"),
        ({"user_id": 1000}, ""),
    ],
)
def test_a_place(facts: dict[str, Any], expected: str) -> None:
    found = found_of(replace(WELL, **facts))
    assert ", ".join(f"{one.level} {one.check}" for one in found) == expected
    for one in found:
        assert "{" not in sentence(one, Plain()) + command(one, Plain())


@pytest.mark.parametrize(
    ("standing", "is_gone", "expected"),
    [
        ({}, False, ""),
        ({"is_incomplete": True, "ending": "killed"}, False, "problem incomplete"),
        ({"good_ns": None}, False, "note never-copied"),
        ({}, True, "problem gone"),
        ({"unusual": "{odd}"}, False, "problem unusual"),
    ],
)
def test_a_file(standing: dict[str, Any], is_gone: bool, expected: str) -> None:
    view = replace(VIEW, files=[file(is_gone=is_gone, **standing)])
    found = found_of(replace(WELL, overview=view))
    assert ", ".join(f"{one.level} {one.check}" for one in found) == expected
    for one in found:
        assert sentence(one, Plain()).startswith("a b.img: ")
        assert command(one, Plain()) == "mirrorfs history '/mnt/m/a b.img'"
        assert "{{" not in sentence(one, Plain())
    # Nothing is said of files where nothing is noted.
    assert not found_of(replace(WELL, overview=replace(view, is_remembered=False)))


def file(is_gone: bool = False, **more: Any) -> Found:
    values: dict[str, Any] = {
        "path": b"a b.img",
        "good_ns": NOW - DAY,
        "last_ns": NOW - DAY,
        "ending": "closed",
        "size": WATCHED_BYTES,
        "allocated": WATCHED_BYTES,
        "changed_share": 0.01,
        "is_incomplete": False,
        "unusual": "",
        "program": "rsync",
    }
    return Found(Standing(**{**values, **more}), is_gone)


def test_many_files_are_summed_up() -> None:
    view = replace(VIEW, files=[file(is_incomplete=True)] * 25)
    found = found_of(replace(WELL, overview=view, damaged=(b"x",) * 12))
    assert len(found) == 22
    assert "{name}: 15 more files are not as they should be" in [one.text for one in found]


def test_the_worst_comes_first() -> None:
    found = found_of(replace(WELL, scrubbed_ns=None, open_files=10, **option("log", "nowhere")))
    assert [one.level for one in found] == [Level.PROBLEM, Level.SLOW, Level.NOTE]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, ""),
        ({"has_fuse_device": False}, "fuse-device"),
        ({"has_fusermount": False}, ""),
        ({"has_fusermount": False, "is_root": False}, "fusermount"),
        ({"is_virtual": True}, "haltpoll"),
        ({"is_virtual": True, "cpuidle_governor": "haltpoll", "halt_poll_ns": 0}, "haltpoll"),
        ({"is_virtual": True, "cpuidle_governor": "haltpoll", "halt_poll_ns": 200_000}, ""),
        ({"halt_poll_ns": 0}, ""),
    ],
)
def test_the_machine(facts: dict[str, Any], expected: str) -> None:
    found = diagnosis.findings(replace(MACHINE, **facts), [])
    assert ", ".join(one.check for one in found) == expected


ENTRY = Entry(4, b"/srv/b", b"/mnt/m", "fuse.mirrorfs", "nosuid,nofail", True, True, True)


@pytest.mark.parametrize(
    ("facts", "allows", "expected"),
    [
        ({}, False, ""),
        ({"has_source": False}, True, "fstab-backing"),
        ({"has_point": False}, True, "fstab-mount-point"),
        ({"has_helper": False}, True, "fstab-helper"),
        ({"has_helper": False, "fs_type": "mirrorfs"}, True, "fstab-helper"),
        ({"refusal": "unknown option 'x'"}, True, "fstab-options"),
        ({"options": "user,allow_other"}, False, "user_allow_other"),
        ({"options": "user,allow_other"}, True, ""),
        ({"options": "allow_other"}, False, ""),
    ],
)
def test_a_line_of_fstab(facts: dict[str, Any], allows: bool, expected: str) -> None:
    machine = replace(MACHINE, entries=(replace(ENTRY, **facts),), user_allow_other=allows)
    found = diagnosis.findings(machine, [])
    assert ", ".join(one.check for one in found) == expected
    assert all(one.level is Level.PROBLEM for one in found)


@pytest.mark.parametrize(
    ("words", "can_clone", "expected"),
    [
        (b"rsync -a --inplace /a /mnt/m", False, ""),
        (b"rsync -a /a /mnt/m", True, ""),
        (b"rsync -a /a /mnt/m", None, ""),
        (b"rsync -a /a /mnt/m", False, "rsync-inplace"),
        (b"rsync -aS --inplace /a /mnt/m", False, "rsync-sparse"),
        (b"rsync --sparse -a /a /mnt/m", True, "rsync-sparse"),
        (b"rsync --server -vlogDtprSe.iLsfxCIvu --inplace . /mnt/m/", False, "rsync-sparse"),
        (b"rsync --server -vlogDtpre.iLsfxCIvuS --inplace . /mnt/m/", False, ""),
        (b"rsync --server --sender -vSe.iLs . /mnt/m/", False, None),
        (b"rsync -aT /tmp /a /mnt/m", True, "rsync-temp-dir"),
        (b"rsync -a --temp-dir=/tmp /a /mnt/m", True, "rsync-temp-dir"),
        (b"rsync -a --temp-dir -S /a /mnt/m", True, "rsync-temp-dir"),
        (b"rsync -a --inplace --preallocate /a /mnt/m", False, "rsync-preallocate"),
        (b"rsync -a -e ssh /mnt/m host:/b", True, None),
        (b"rsync -a /a /mnt/mother", False, None),
        (b"rsync -a /a m/sub/../x", False, "rsync-inplace"),
        (b"rsync /mnt/m", True, None),
        (b"dd if=/a of=/mnt/m/x conv=sparse,notrunc", True, "dd-sparse"),
        (b"dd if=/a of=/mnt/m/x conv=notrunc", True, ""),
        (b"dd if=/mnt/m/x", True, None),
        (b"cp -a /a /mnt/m", True, None),
        (b"", True, None),
    ],
)
def test_a_running_program(words: bytes, can_clone: bool | None, expected: str | None) -> None:
    copy = parse(5, words.split(), b"/mnt", [b"/", b"/mnt/m"][1:])
    if copy is None:
        assert expected is None
        return
    found = list(machine_checks.of_copy(copy, can_clone))
    assert ", ".join(one.check for one in found) == expected


def test_a_copy_belongs_to_the_innermost_mount() -> None:
    copy = parse(5, b"/usr/bin/rsync -a /a /mnt/m/sub/x".split(), b"/", [b"/mnt/m", b"/mnt/m/sub"])
    assert copy == Copy(5, "rsync", (b"-a", b"/a", b"/mnt/m/sub/x"), b"/mnt/m/sub/x", b"/mnt/m/sub")


def test_old_bytes_are_warned_of() -> None:
    assert rsync_flags([b"-WS", b"--no-whole-file"]) == {
        "--whole-file",
        "--sparse",
        "--no-whole-file",
    }
    words = (b"-aS", b"--inplace", b"--no-whole-file")
    [found] = machine_checks.of_copy(Copy(5, "rsync", words, b"/mnt/m", b"/mnt/m"), True)
    assert "old bytes" in found.text


def test_an_anonymous_report_has_no_names() -> None:
    spell = Anonymous(["backup1", "alice", "al"])
    names: dict[str, bytes | str] = {
        "name": b"/mnt/my secret",
        "file": b"payroll {x}.img",
        "reason": "/mnt/my secret/y: alice@backup1 said: payroll {x}.img; see /etc/hosts. almost",
    }
    one = Finding(Level.NOTE, "x", "{file} in {name}: {reason}", "ls {file} {name}", names)
    # As the names come.
    assert command(one, spell) == "ls PATH2 PATH1"
    assert sentence(one, spell) == (
        "PATH2 in PATH1: PATH1PATH3: NAME2@NAME1 said: PATH2; see PATH4. almost"
    )
    assert command(one, Plain()) == "ls 'payroll {x}.img' '/mnt/my secret'"
