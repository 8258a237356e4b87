"""A state folder in which another user has put things: nothing hangs, no file of others is written,
and the log and config.json say why there are no seeds.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs.backing import recovery_list, state_folder
from mirrorfs.backing.recovery_list import RecoveryList, read_list
from tests.commands import mirrorfs, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

MIB = 1 << 20
MARKER = json.dumps({"program": "mirrorfs", "format": 1, "id": "00112233"})


def fifo_as_list(folder: Path, _other: Path) -> None:
    os.mkfifo(folder / "unsettled")


def fifo_as_marker(folder: Path, _other: Path) -> None:
    (folder / "format.json").unlink()
    os.mkfifo(folder / "format.json")


def linked_list(folder: Path, other: Path) -> None:
    os.link(other, folder / "unsettled")


def symbolic_list(folder: Path, other: Path) -> None:
    os.symlink(other, folder / "unsettled")


def list_of_another_user(folder: Path, _other: Path) -> None:
    (folder / "unsettled").write_text("")
    os.chown(folder / "unsettled", 1234, 1234)


def folder_of_another_user(folder: Path, _other: Path) -> None:
    os.chown(folder, 1234, 1234)


def open_folder(folder: Path, _other: Path) -> None:
    folder.chmod(0o777)


WAYS = [
    fifo_as_list,
    fifo_as_marker,
    linked_list,
    symbolic_list,
    list_of_another_user,
    folder_of_another_user,
    open_folder,
]


def seeds(mirror: Mirror) -> dict[str, Any]:
    config = json.loads((mirror.path / ".mirrorfs/config.json").read_bytes())
    found: dict[str, Any] = config["extras"]["seeds"]
    return found


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_forged_state_folder_is_not_used(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], way: Callable[[Path, Path], None]
) -> None:
    folder, other = ext4_folder / ".mirrorfs", ext4_folder / "precious"
    folder.mkdir(0o700)
    (folder / "format.json").write_text(MARKER)
    other.write_text("precious")
    way(folder, other)
    mirror = mount_mirror(ext4_folder, noisy=True)
    content = os.urandom(2 * MIB)
    for _ in range(2):
        (mirror.path / "image").write_bytes(content)
    assert mirror.read("image") == content
    assert other.read_text() == "precious"
    assert seeds(mirror)["on"] is False
    assert "cannot be used" in seeds(mirror)["reason"]
    assert any("cannot be used" in line for line in mirror.troubles())
    # The daemon warns once of a folder, not at each file.
    assert len(mirror.troubles()) == 1


def test_copied_tree_with_names_like_the_state_folders_is_ordinary(
    mirror: Mirror, tmp_path: Path
) -> None:
    """What rsync brings along is ordinary by any name."""
    (tmp_path / ".mirrorfs.new").mkdir()
    (tmp_path / "precious").write_text("precious")
    os.link(tmp_path / "precious", tmp_path / ".mirrorfs.new/format.json.new")
    os.mkfifo(tmp_path / ".mirrorfs.new/format.json")
    run("rsync", "-aH", f"{tmp_path}/.mirrorfs.new", f"{tmp_path}/precious", f"{mirror.path}/")
    for _ in range(2):
        (mirror.path / "image").write_bytes(os.urandom(2 * MIB))
    assert (mirror.path / "precious").read_text() == "precious"
    assert sorted(os.listdir(mirror.path)) == [".mirrorfs.new", "image", "precious"]
    assert seeds(mirror) == {"on": True}
    mirror.umount()
    mirror.mount()


def test_state_folder_by_option_is_refused_when_others_may_write_there(
    ext4_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    (tmp_path / "mnt").mkdir()
    options = f"state={tmp_path}/state"
    done = mirrorfs("mount", ext4_folder, tmp_path / "mnt", "-o", options, check=False)
    assert done.returncode == 2
    assert "state: others may write there (chmod go-w)" in done.stderr


def test_forged_recovery_list_changes_no_file(
    ext4_folder: Path, tmp_path: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    folder = ext4_folder / ".mirrorfs"
    folder.mkdir(0o700)
    (folder / "format.json").write_text(MARKER)
    outside = tmp_path / "outside"
    outside.write_bytes(b"x" * 5000)
    (ext4_folder / "image").write_bytes(b"y" * 5000)
    os.setxattr(ext4_folder / "image", "user.mirrorfs.unsettled", b"\xff" * 51)
    os.mkfifo(ext4_folder / "fifo")
    inos = [os.stat(path).st_ino for path in (outside, ext4_folder / "image", ext4_folder / "fifo")]
    lines = [
        f"+ 1 {inos[0]} - ../outside 0",
        f"+ 2 {inos[0]} - {outside} 0",
        f"+ 3 {inos[1]} ff00 image 7",
        f"+ 4 {inos[2]} - fifo 0",
        f"+ 99999999999999999999 {inos[1]} - image 0",
        f"+ -5 {inos[1]} - image 0",
        "+ 5 " + "9" * 5000 + " zz \0 x",
        "\xff\xfe",
    ]
    (folder / "unsettled").write_text("\n".join(lines) + "\n")
    mirror = mount_mirror(ext4_folder)
    assert mirror.read("image") == b"y" * 5000
    assert outside.read_bytes() == b"x" * 5000


def test_recovery_list_stays_short_while_files_come_and_go(tmp_path: Path) -> None:
    listed = RecoveryList(os.fsencode(tmp_path / "state"))
    with (tmp_path / "image").open("wb") as file:
        kept = listed.add(file.fileno(), b"kept")
        for number in range(1000):
            listed.remove(listed.add(file.fileno(), b"image-%d" % number))
            assert len((tmp_path / "state/unsettled").read_bytes().splitlines()) < 300
        last = listed.add(file.fileno(), b"last")
    listed.make_durable()
    assert sorted(os.listdir(tmp_path / "state")) == ["format.json", "unsettled"]
    folder_fd = state_folder.open_folder(os.open(tmp_path, os.O_RDONLY), b"state")
    found = {entry.number: entry.path for entry in read_list(folder_fd)}
    assert found == {kept: b"kept", last: b"last"}
    assert not any(entry.is_copied for entry in read_list(folder_fd))


def test_recovery_list_written_anew_keeps_what_a_crash_has_left(tmp_path: Path) -> None:
    left = [
        recovery_list.Entry(5, 77, b"", b"left"),
        recovery_list.Entry(6, 78, b"", b"copied", True),
    ]
    listed = RecoveryList(os.fsencode(tmp_path / "state"), left)
    with (tmp_path / "image").open("wb") as file:
        for number in range(500):
            listed.remove(listed.add(file.fileno(), b"image-%d" % number))
    folder_fd = state_folder.open_folder(os.open(tmp_path, os.O_RDONLY), b"state")
    assert read_list(folder_fd) == left
