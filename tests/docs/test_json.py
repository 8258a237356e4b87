"""The page on JSON names what the commands print, all of it and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs.cli.demo import Row
from tests.commands import MIRRORFS, mirrorfs
from tests.remembered import wait_for_sessions

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.mounted import Mirror

PAGE = Path(__file__).parent.parent.parent / "docs/json.md"
_NAME = re.compile(r"`(\w+)`")
_SCHEMA = 1


def sections() -> dict[str, set[str]]:
    """The names in the first columns of the tables below each heading."""
    found: dict[str, set[str]] = {}
    heading = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
            found[heading] = set()
        elif line.startswith("| `"):
            found[heading] |= set(_NAME.findall(line.split("|")[1]))
    return found


DOCUMENTED = sections()


@pytest.fixture
def mirror(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    mirror = mount_mirror(ext4_folder, "session_quiet=0")
    mirror.write("vm.img", 0, os.urandom(2 << 20))
    mirror.write("small", 0, b"x")
    wait_for_sessions(mirror, "vm.img")
    wait_for_sessions(mirror, "small")
    return mirror


def printed(*words: object) -> dict[str, Any]:
    """The first object that a command prints."""
    first: dict[str, Any] = json.loads(mirrorfs(*words).stdout.splitlines()[0])
    assert first["schema"] == _SCHEMA
    return first


def test_stats(mirror: Mirror) -> None:
    assert set(printed("stats", "--json", mirror.path)) == DOCUMENTED["mirrorfs stats --json"]
    of_a_file = printed("stats", "--json", mirror.path / "vm.img")
    assert set(of_a_file) == DOCUMENTED["mirrorfs stats --json FILE"]


def test_status(mirror: Mirror) -> None:
    found = printed("status", "--json", mirror.path)
    assert set(found) == DOCUMENTED["mirrorfs status --json"]
    assert found["files"]
    for one in found["files"]:
        assert set(one) == DOCUMENTED["An object in `files`"]
    assert set(found["space"]) == DOCUMENTED["The object `space`"]
    assert set(found["smaller"]) == DOCUMENTED["The object `smaller`"]


def test_doctor(mirror: Mirror) -> None:
    found = json.loads(mirrorfs("doctor", "--json", mirror.path, check=False).stdout)
    assert set(found) == DOCUMENTED["mirrorfs doctor --json"]
    assert set(found["places"][0]) == DOCUMENTED["An object in `places`"]
    # On ext4 there is one about sharing blocks.
    assert set(found["findings"][0]) == DOCUMENTED["An object in `findings`"]


def test_sparsify(mirror: Mirror) -> None:
    found = printed("sparsify", "--json", "--dry-run", mirror.path / "vm.img")
    assert set(found) == DOCUMENTED["mirrorfs sparsify --json"]


def test_history(mirror: Mirror) -> None:
    names = DOCUMENTED["mirrorfs history --json"]
    assert set(printed("history", "--json", "--ranges", mirror.path)) == names
    without = printed("history", "--json", mirror.path)
    assert set(without) == names - {"ranges"}
    # The last sessions in the mount are the same objects.
    inside = json.loads((mirror.path / ".mirrorfs/history.json").read_text())
    place = ("schema", "mount_point", "backing")
    assert inside["sessions"][0] == {k: v for k, v in without.items() if k not in place}


def test_top(mirror: Mirror) -> None:
    with subprocess.Popen(
        [*MIRRORFS, "top", "--json", "--interval", "0.2", mirror.path], stdout=subprocess.PIPE
    ) as top:
        assert top.stdout is not None
        for count, line in enumerate(top.stdout):
            mirror.write("vm.img", 0, os.urandom(4096 * (count + 1)))
            found = json.loads(line)
            assert set(found) == DOCUMENTED["mirrorfs top --json"]
            if found["files"]:
                break
        top.kill()
    assert set(found["files"][0]) == DOCUMENTED["A file of top"]


def test_verify(mirror: Mirror) -> None:
    found = printed("verify", "--json", mirror.backing, mirror.path)
    assert set(found) == DOCUMENTED["mirrorfs verify --json"]


def test_scrub(mirror: Mirror) -> None:
    done = mirrorfs("scrub", "--json", mirror.path)
    *files, end = map(json.loads, done.stdout.splitlines())
    assert [set(one) for one in files] == [DOCUMENTED["mirrorfs scrub --json"]]
    assert set(end) == DOCUMENTED["The last line of scrub"]


def test_digest(mirror: Mirror) -> None:
    assert set(printed("digest", "--json", mirror.path)) == DOCUMENTED["mirrorfs digest --json"]


def test_config(mirror: Mirror) -> None:
    found = printed("config", "--json", mirror.path)
    assert set(found) == DOCUMENTED["mirrorfs config --json"]
    for one in found["options"].values():
        assert set(one) == DOCUMENTED["An object in `options`"]


def test_demo() -> None:
    assert {one.name for one in fields(Row)} == DOCUMENTED["An object in `copies`"]


def test_every_command_with_json_is_on_the_page() -> None:
    from mirrorfs.cli.commands import COMMANDS

    with_json = {name for name in COMMANDS if "--json" in mirrorfs(name, "--help").stdout}
    documented = {heading.split()[1] for heading in DOCUMENTED if heading.startswith("mirrorfs ")}
    assert documented == with_json
