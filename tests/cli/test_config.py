"""The configuration file as an administrator has it: what is mounted, what wins, and mistakes."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs.daemon import config_file
from mirrorfs.errors import ExitCode
from mirrorfs.options import OPTIONS
from tests.commands import as_nobody, mirrorfs, run

if TYPE_CHECKING:
    from collections.abc import Iterator

MIRRORFS_PYTHON = sys.executable
EXAMPLE = Path(__file__).parents[2] / "docs/mirrorfs.toml"


class Place:
    """A backing folder, a mount point and a configuration file."""

    def __init__(self, folder: Path) -> None:
        self.backing, self.point = folder / "backing", folder / "mirror"
        self.backing.mkdir()
        self.point.mkdir()
        self.log = folder / "a, b.log"
        self.file = folder / "mirrorfs.toml"

    def write(self, table: str, defaults: str = "") -> None:
        self.file.write_text(
            f'[defaults]\n{defaults}\n[mount."{self.point}"]\nbacking = "{self.backing}"\n'
            f'log = "{self.log}"\n{table}\n'
        )
        self.file.chmod(0o600)

    def mount(self, *words: object, check: bool = True) -> str:
        return mirrorfs("mount", *words, "--config", self.file, check=check).stderr

    def refused(self, *words: object) -> str:
        """What `mount` says when it refuses the file."""
        done = mirrorfs("mount", *(words or [self.point]), "--config", self.file, check=False)
        assert done.returncode == ExitCode.CONFIG_FILE
        assert not self.point.is_mount()
        assert len(done.stderr.splitlines()) == 1
        return done.stderr

    def options(self) -> dict[str, dict[str, Any]]:
        done = mirrorfs("config", "--json", self.point, "--config", self.file)
        found: dict[str, dict[str, Any]] = json.loads(done.stdout)["options"]
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    run("umount", "--lazy", place.point, check=False)


def test_a_mount_of_the_file_by_its_path_or_its_last_name(place: Place) -> None:
    place.write("")
    for name in (place.point, f"{place.point}/", "mirror"):
        place.mount(name)
        (place.point / "file").write_text("text")
        assert (place.backing / "file").read_text() == "text"
        mirrorfs("umount", place.point)
    assert "mounted" in place.log.read_text()  # a comma in a name is no end of it


def test_what_wins_and_where_each_value_came_from(place: Place) -> None:
    place.write(
        "history = 30\ndebug = false\nkeep_pattern = ['*.img',\n  'vm,a/*']\nblock = '64k'\n"
        "noatime = false",
        "history = 20\ndebug = true\nsession_quiet = 0.5\nnoatime = true\nzeros = 'keep'",
    )
    place.mount("mirror", "-o", "block=128k,zeros=punch")
    seen = place.options()
    values = {name: (seen[name]["value"], seen[name]["from"], seen[name]["line"]) for name in seen}
    assert values["history"] == (30, "mount", 10)
    assert values["debug"] == (False, "mount", 11)
    assert values["keep_pattern"] == ("*.img:vm,a/*", "mount", 12)
    assert values["noatime"] == (False, "mount", 15)
    assert values["session_quiet"] == (0.5, "defaults", 4)
    assert values["block"] == (128 << 10, "given", None)
    assert values["zeros"] == ("punch", "given", None)
    assert values["basis"] == ("auto", "default", None)
    # The mount itself says the same.
    inside = json.loads((place.point / ".mirrorfs/config.json").read_text())["options"]
    assert inside == {name: {"value": v, "from": f} for name, (v, f, _) in values.items()}


def test_a_value_that_the_file_has_now_is_told(place: Place) -> None:
    place.write("history = 30")
    place.mount("mirror")
    assert all(one["pending"] is None for one in place.options().values())
    place.write("history = 31")
    assert place.options()["history"] == {
        "value": 30, "from": "mount", "line": 6, "pending": 31,
    }  # fmt: skip
    shown = mirrorfs("config", "mirror", "--config", place.file).stdout
    assert re.search(rf"history +30 +mount, {place.file}:6\n +31 +as the file has it now", shown)


def test_what_a_mount_that_is_not_mounted_would_have(place: Place) -> None:
    place.write("ro = true", "history = 7")
    done = mirrorfs("config", "mirror", "--config", place.file)
    assert f"{place.point}: {place.backing}, not mounted" in done.stdout
    assert re.search(rf"^  history +7 +\[defaults\], {place.file}:2$", done.stdout, re.MULTILINE)
    assert re.search(rf"^  ro +on +mount, {place.file}:6$", done.stdout, re.MULTILINE)


def test_two_places_on_the_command_line_use_their_table(place: Place, tmp_path: Path) -> None:
    place.write("history = 30")
    place.mount(place.backing, place.point)
    assert place.options()["history"]["from"] == "mount"
    mirrorfs("umount", place.point)
    other = tmp_path / "other"
    other.mkdir()
    said = place.mount(other, place.point)
    assert f"line 3: is for the backing folder {place.backing}, not {other}" in said
    assert place.options()["history"]["from"] == "default"


def test_rw_of_mount8_says_nothing_and_that_of_a_user_does(place: Place) -> None:
    place.write("ro = true")
    done = mirrorfs(place.backing, place.point, "-o", "rw,nosuid", "--config", place.file)
    assert not done.stderr
    assert place.options()["ro"]["value"] is True
    mirrorfs("umount", place.point)
    place.mount("mirror", "-o", "rw")
    assert place.options()["ro"] == {"value": False, "from": "given", "line": None, "pending": None}


def test_a_word_for_fuse_is_taken_back_by_the_table_of_a_mount(place: Place) -> None:
    place.write("noexec = false\nnosuid = true", "noexec = true\nsuid = true")
    place.mount("mirror")
    words = run("findmnt", "-no", "OPTIONS", place.point).stdout.strip().split(",")
    assert "noexec" not in words
    assert "nosuid" in words


@pytest.mark.parametrize(
    ("table", "line", "said"),
    [
        ("zeroes = 'punch'", 6, "unknown key 'zeroes'; did you mean 'zeros'?"),
        ("\n# why\nbakcing = '/x'", 8, "unknown key 'bakcing'; did you mean 'backing'?"),
        ("history = [\n 1]", 6, "option history takes one value, not a list"),
        ("history = 1\nblock = 5000", 7, "option block: 5000 is not a power of two between 4k"),
        ("zeros = true", 6, 'option zeros takes a value, not true or false: zeros = "punch"'),
        ("debug = 'yes'", 6, "option debug: write debug = true or debug = false"),
        ("log2 = 'x'\nmetrics = '''\nm'''", 6, "unknown key 'log2'; did you mean 'log'?"),
        ("metrics = '''\nm'''", 6, "option metrics: 'm' must begin with / in this file"),
        ("rw = true", 6, "unknown key 'rw'; write ro = false"),
        ("nofail = true", 6, "'nofail' is a word for fstab and says nothing here; leave it out"),
        ("session_quiet = nan", 6, "option session_quiet: 'nan' is not a number of seconds"),
        ("session_quiet = 1979-05-27", 6, "option session_quiet: takes text, a number or true"),
        ("keep_pattern = ['a:b']", 6, "option keep_pattern: 'a:b' must not contain ':'"),
        ("keep_pattern = [1]", 6, "option keep_pattern: a list of texts is wanted"),
        ('control = "a\\u0000"', 6, "option control: contains a NUL character"),
        ("zeros", 6, "no TOML: expected '=' after a key in a key/value pair"),
        ("zeros = 'keep'\nzeros = 'keep'", 7, "no TOML: cannot overwrite a value"),
        ("[default]", 6, "unknown key 'default'; did you mean 'defaults'?"),
        ("[mount.'m']\nbacking='/x'", 6, "mount point 'm' must begin with /"),
    ],
)
def test_a_mistake_is_told_with_its_line(place: Place, table: str, line: int, said: str) -> None:
    place.write(table)
    assert f"mirrorfs: {place.file}: line {line}: {said}" in place.refused()
    done = mirrorfs("config", "--check", "--config", place.file, check=False)
    assert done.returncode == ExitCode.CONFIG_FILE
    assert f"mirrorfs: {place.file}: line {line}: {said}" in done.stderr


def test_a_mistake_in_the_table_of_another_mount_keeps_none_from_its_work(place: Place) -> None:
    place.write('[mount."/mnt/other"]\nhistory = "x"')
    place.mount("mirror")
    done = mirrorfs("config", "--check", "--config", place.file, check=False)
    assert done.stderr.splitlines() == [
        f"mirrorfs: {place.file}: line 7: option history: 'x' is not a number of days; 0 turns it "
        "off",
        f"mirrorfs: {place.file}: line 6: /mnt/other has no backing folder; "
        'write backing = "/FOLDER"',
    ]
    assert done.returncode == ExitCode.CONFIG_FILE


def test_a_mount_point_that_is_a_link(place: Place, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(place.point)
    place.write("history = 30")
    place.file.write_text(place.file.read_text().replace(f'"{place.point}"', f'"{tmp_path}/link"'))
    place.mount(place.backing, place.point)
    assert place.options()["history"]["from"] == "mount"


def test_backing_cannot_stand_in_the_defaults(place: Place) -> None:
    place.write("", "backing = '/x'")
    assert "line 2: 'backing' belongs to one mount" in place.refused()


def test_check_tries_the_command_of_on_session(place: Place) -> None:
    place.write("on_session = '/no/such'")
    done = mirrorfs("config", "--check", "--config", place.file, check=False)
    assert f"{place.file}: line 6: option on_session: /no/such is no program" in done.stderr
    place.write("on_session = '/bin/true a,b'")
    done = mirrorfs("config", "--check", "--config", place.file)
    assert done.stdout == f"{place.file}: 1 mount, nothing is wrong\n"


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_refused(place: Place, mode: int) -> None:
    place.write("")
    place.file.chmod(mode)
    assert f"{place.file}: others may write it, and could have a command run" in place.refused()


def test_a_file_of_another_user_is_refused(place: Place) -> None:
    place.write("")
    os.chown(place.file, 65534, 0)
    assert f"{place.file}: belongs to user 65534, who could have a command" in place.refused()


def test_what_is_no_file_or_not_there_is_refused(place: Place) -> None:
    os.mkfifo(place.file, 0o600)
    assert f"{place.file}: not a file" in place.refused()
    place.file.unlink()
    assert f"{place.file}: no such file; correct the path, or make it" in place.refused()
    place.file.write_bytes(b"\n\xff")
    assert f"{place.file}: line 2: not UTF-8" in place.refused()


def test_a_name_that_is_none_or_not_the_only_one(place: Place) -> None:
    place.write(f'[mount."/mnt/mirror"]\nbacking = "{place.backing}"')
    said = mirrorfs("mount", "mirror", "--config", place.file, check=False)
    assert said.returncode == ExitCode.USAGE
    assert f"'mirror' may be {place.point}, /mnt/mirror ({place.file}); write the" in said.stderr
    said = mirrorfs("mount", "miror", "--config", place.file, check=False)
    assert said.returncode == ExitCode.USAGE
    assert f"'miror' is no mount in {place.file}; it has {place.point}, /mnt/" in said.stderr


def test_without_a_file_two_places_are_needed(place: Place) -> None:
    done = mirrorfs("mount", place.backing, "--no-config", check=False)
    assert done.returncode == ExitCode.USAGE
    assert "two places are needed: mirrorfs mount BACKING MOUNTPOINT" in done.stderr


def test_an_ordinary_user_has_a_file_of_his_own(fuse_for_all: None, tmp_path: Path) -> None:
    for folder in (tmp_path, *list(tmp_path.parents)[:-1]):
        folder.chmod(folder.stat().st_mode | 0o055)
    place = Place(tmp_path)
    place.write("history = 3")
    for one in (place.backing, place.point, place.file):
        os.chown(one, 65534, 65534)
    place.file.write_text(place.file.read_text().replace(str(tmp_path / "a, b.log"), "/dev/null"))
    as_nobody("mount", "mirror", "--config", place.file)
    done = as_nobody("config", "mirror", "--json", "--config", place.file)
    assert json.loads(done.stdout)["options"]["history"]["from"] == "mount"
    as_nobody("umount", place.point)


def test_the_default_file_is_used_where_it_is(place: Place) -> None:
    """In a mount namespace in which there is one: this machine's /etc stays as it is."""
    place.write("history = 30")
    script = (
        "set -e; mkdir up work; "
        "mount -t overlay -o lowerdir=/etc,upperdir=$PWD/up,workdir=$PWD/work overlay /etc; "
        "cp mirrorfs.toml /etc/; "
        '"$0" -m mirrorfs mount mirror; "$0" -m mirrorfs config mirror --json; '
        '"$0" -m mirrorfs umount "$1"'
    )
    folder = place.file.parent
    overlay = folder / "tmpfs"
    overlay.mkdir()
    words = ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs t {overlay}; cp {place.file} "
             f"{overlay}; cd {overlay}; {script}", MIRRORFS_PYTHON, str(place.point)]  # fmt: skip
    done = run(*words)
    found = json.loads(done.stdout)
    assert found["file"] == "/etc/mirrorfs.toml"
    assert found["options"]["history"]["line"] == 6


def test_nothing_is_read_where_there_is_no_default_file() -> None:
    """Neither the file nor the module for TOML costs a mount anything."""
    code = (
        "import sys; from mirrorfs.daemon import config_file; "
        "config_file.DEFAULT_PATH = b'/no/such'; "
        "assert config_file.read(None) is None; assert 'tomllib' not in sys.modules"
    )
    run(MIRRORFS_PYTHON, "-c", code)


def test_the_example_is_right_and_has_every_option(tmp_path: Path) -> None:
    done = mirrorfs("config", "--check", "--config", copied(tmp_path, EXAMPLE.read_text()))
    assert "1 mount, nothing is wrong" in done.stdout
    # The same with all that is commented out.
    text = re.sub(r"^#(?=\[|\w+ = )", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    found = config_file.read(os.fsencode(copied(tmp_path, text)))
    assert found is not None
    assert not found.all_problems()
    used = {*found.defaults.settings, *(name for one in found.mounts for name in one.settings)}
    assert {option.name for option in OPTIONS} <= used


def copied(folder: Path, text: str) -> Path:
    """The text as a file that is believed: a checkout may be writable by a group."""
    path = folder / "example.toml"
    path.write_text(text)
    path.chmod(0o644)
    return path
