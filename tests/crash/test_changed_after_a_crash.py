"""What becomes of a stale tail when its file is changed before the next mount: restored, moved, or
made immutable; and when that mount has no recovery list.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import recovery_attribute
from mirrorfs.backing.progress_table import Noted
from mirrorfs.backing.recovery_attribute import FRESH_SECONDS, RecoveryAttribute
from mirrorfs.mirror.recovery import is_as_left
from tests.commands import mirrorfs, run
from tests.crash.test_stale_tail_after_a_kill import ATTRIBUTE, LIST, kill, make, remount_and_check
from tests.crash.test_stale_tail_after_a_power_cut import cut_power
from tests.model.test_seed_model import BLOCK, MIB, is_list_empty

if TYPE_CHECKING:
    from pathlib import Path

    from tests.model.test_seed_model import Folder
    from tests.mounted import Mirror

RESTORE = {
    "cp": ["cp", "{good}", "{file}"],
    "cp -p": ["cp", "-p", "{good}", "{file}"],
    "rsync --inplace": ["rsync", "-t", "--inplace", "{good}", "{file}"],
    "dd": ["dd", "if={good}", "of={file}", "conv=notrunc", "bs=64k", "status=none"],
    "reflink": ["cp", "--reflink=auto", "{good}", "{file}"],
}


def leave(mirror: Mirror, name: str = "file") -> Folder:
    """A file that was emptied, and of which a part was written when the daemon was killed."""
    made = make(mirror, name)
    made.reopen(empty=True)
    made.next(0, 8 * BLOCK, "old", 1)
    made.next(0, 50_000, "new", 7)
    return made


def leave_on_another_list(mirror: Mirror, folder: Path, *names: str) -> list[Folder]:
    """The daemon that has left these files had a state folder that the next one does not."""
    mirror.umount()
    mirror.options = f"state={folder}/state"
    mirror.mount()
    made = [leave(mirror, name) for name in names]
    kill(mirror, made)
    mirror.options = ""
    return made


@pytest.mark.parametrize("is_power_cut", [False, True], ids=["killed", "power cut"])
@pytest.mark.parametrize("way", RESTORE)
def test_file_restored_after_a_crash_is_left_as_it_is(
    ext4_mirror: Mirror, tmp_path: Path, way: str, is_power_cut: bool
) -> None:
    made, good = leave(ext4_mirror), os.urandom(MIB + 5000)
    (tmp_path / "good").write_bytes(good)
    os.utime(tmp_path / "good", (1_000_000_000, 1_000_000_000))
    kill(ext4_mirror, [made])
    if is_power_cut:
        cut_power(made.backing)
        age_attribute(made.backing, FRESH_SECONDS + 10)
    run(*(word.format(good=tmp_path / "good", file=made.backing) for word in RESTORE[way]))
    done = mirrorfs("mount", ext4_mirror.backing, ext4_mirror.path, "-o", f"log={ext4_mirror.log}")
    assert "file: was changed after a crash" in done.stderr
    assert ext4_mirror.read("file") == made.backing.read_bytes() == good
    assert ATTRIBUTE not in os.listxattr(made.backing)
    (line,) = ext4_mirror.troubles()
    assert "file: was changed after a crash" in line
    assert is_list_empty(ext4_mirror)


def age_attribute(path: Path, seconds: int) -> None:
    """Let a recovery attribute, and the time of its file, be so much older."""
    with path.open("r+b") as file:
        found = recovery_attribute.read(file.fileno())
        assert found is not None
        assert found.mtime is not None
        recovery_attribute.write(file.fileno(), replace(found, mtime=found.mtime - seconds))
        os.utime(file.fileno(), (found.mtime - seconds, found.mtime - seconds))


@pytest.mark.parametrize("what", ["chmod", "rename", "link"])
def test_change_of_a_name_or_mode_does_not_end_recovery(ext4_mirror: Mirror, what: str) -> None:
    made = leave(ext4_mirror)
    kill(ext4_mirror, [made])
    if what == "chmod":
        made.backing.chmod(0o640)
    elif what == "rename":
        made.backing.rename(made.backing.with_name("aside"))
        made.name = "aside"
    else:
        os.link(made.backing, made.backing.with_name("another"))
    remount_and_check(ext4_mirror, [made])
    assert not ext4_mirror.troubles()


def test_file_that_cannot_be_finalised_stays_on_the_list_and_is_named(
    ext4_mirror: Mirror,
) -> None:
    fixed, other = leave(ext4_mirror, "fixed"), leave(ext4_mirror, "other")
    kill(ext4_mirror, [fixed, other])
    run("chattr", "+i", fixed.backing)
    try:
        done = mirrorfs(
            "mount", ext4_mirror.backing, ext4_mirror.path, "-o", f"log={ext4_mirror.log}"
        )
        assert "fixed: what a crash has left of it cannot be finalised" in done.stderr
        assert ext4_mirror.read("other") == other.file.content
        with pytest.raises(OSError, match="Input/output") as caught:
            ext4_mirror.read("fixed")
        assert caught.value.errno == errno.EIO
        assert b"fixed" in (ext4_mirror.backing / LIST).read_bytes()
    finally:
        run("chattr", "-i", fixed.backing)
    assert ext4_mirror.read("fixed") == fixed.file.content
    assert all("fixed: what a crash" in line for line in ext4_mirror.troubles())
    ext4_mirror.umount()
    remount_and_check(ext4_mirror, [fixed, other])


def test_mount_without_the_recovery_list_shows_no_stale_tail(
    ext4_mirror: Mirror, tmp_path: Path
) -> None:
    """The state folder was elsewhere, and is not named the next time."""
    read, written = leave_on_another_list(ext4_mirror, tmp_path, "read", "written")
    ext4_mirror.mount()
    assert ext4_mirror.read("read") == read.file.content
    assert os.stat(ext4_mirror.path / "read").st_size == len(read.file.content)
    ext4_mirror.write("written", 0, b"x" * 100)
    written.file.content[:100] = b"x" * 100
    assert ext4_mirror.read("written") == written.file.content
    for made in (read, written):
        assert made.backing.read_bytes() == made.file.content
        assert ATTRIBUTE not in os.listxattr(made.backing)
    # What the other list says of them is not true any more.
    ext4_mirror.umount()
    ext4_mirror.options = f"state={tmp_path}/state"
    remount_and_check(ext4_mirror, [])
    assert ext4_mirror.read("written") == written.file.content


def test_read_only_mount_without_the_recovery_list_shows_no_stale_tail(
    ext4_mirror: Mirror, tmp_path: Path
) -> None:
    (made,) = leave_on_another_list(ext4_mirror, tmp_path, "file")
    ext4_mirror.options = "ro"
    ext4_mirror.mount()
    with pytest.raises(OSError, match="Input/output"):
        ext4_mirror.read("file")
    assert ATTRIBUTE in os.listxattr(made.backing)
    ext4_mirror.umount()
    ext4_mirror.options = f"state={tmp_path}/state"
    remount_and_check(ext4_mirror, [made])


def test_long_recovery_list_does_not_hold_up_the_mount(ext4_mirror: Mirror) -> None:
    """What is left when the mount answers has its true size and content at its first use."""
    count, old, new = 150, os.urandom(MIB), os.urandom(5000)
    fds = []
    for number in range(count):
        (ext4_mirror.backing / f"file-{number}").write_bytes(old)
        fds.append(os.open(ext4_mirror.path / f"file-{number}", os.O_WRONLY | os.O_TRUNC))
        os.write(fds[-1], new)
    ext4_mirror.kill()
    for fd in fds:
        with pytest.raises(OSError):
            os.close(fd)
    begun = time.monotonic()
    ext4_mirror.mount()
    took = time.monotonic() - begun
    names = [f"file-{number}" for number in reversed(range(count))]
    assert [os.stat(ext4_mirror.path / name).st_size for name in names] == [5000] * count
    assert all(ext4_mirror.read(name) == new for name in names)
    assert is_list_empty(ext4_mirror)
    assert not ext4_mirror.troubles()
    assert took < 60  # it is not waited for, however slow the disk is


SECOND = 1_000_000_000
NOW = 2_000_000_000
SEEN = RecoveryAttribute(b"inst", 0, 0, 0, mtime=NOW)


@pytest.mark.parametrize(
    ("noted", "size", "mtime_ns", "is_left"),
    [
        (Noted(1, 1, NOW * SECOND + 5, 100, 0), 100, NOW * SECOND + 5, True),
        (Noted(1, 1, NOW * SECOND + 5, 100, 0), 101, NOW * SECOND + 5, False),
        (Noted(1, 1, NOW * SECOND + 5, 100, 0), 100, NOW * SECOND + 6, False),
        (Noted(1, 1, NOW * SECOND + 5, 100, 0), 100, NOW * SECOND + 4, False),
        # A change was under way: begun, or not.
        (Noted(1, 1, NOW * SECOND, 100, NOW * SECOND + 50), 200, NOW * SECOND + 60, True),
        (Noted(1, 1, NOW * SECOND, 100, NOW * SECOND + 50), 200, NOW * SECOND, True),
        (Noted(1, 1, NOW * SECOND, 100, NOW * SECOND), 200, (NOW + 1) * SECOND, False),
        (Noted(1, 1, NOW * SECOND, 100, NOW * SECOND), 200, (NOW - 1) * SECOND, False),
        # Of an older version.
        (Noted(1, 1), 100, 5, True),
        # The table is lost: the attribute has the time, in seconds, and is renewed before long.
        (None, 100, NOW * SECOND + 7, True),
        (None, 100, (NOW + FRESH_SECONDS) * SECOND, True),
        (None, 100, (NOW + FRESH_SECONDS + 10) * SECOND, False),
        (None, 100, (NOW - 1) * SECOND, False),
    ],
)
def test_change_after_a_crash_is_known_by_size_and_time(
    noted: Noted | None, size: int, mtime_ns: int, is_left: bool
) -> None:
    assert is_as_left(SEEN, noted, size, mtime_ns, booted=0.0) is is_left


def test_change_after_the_next_boot_is_not_what_a_crash_has_left() -> None:
    changed = (NOW + 4) * SECOND
    assert is_as_left(SEEN, None, 100, changed, booted=NOW - 100)
    assert not is_as_left(SEEN, None, 100, changed, booted=NOW + 3)


def test_recovery_attribute_of_an_older_version_fits_any_time() -> None:
    assert is_as_left(replace(SEEN, mtime=None), None, 100, 5, booted=NOW)
