"""A power cut while a file has a stale tail, played by the recovery attribute that it leaves: what
is kept is what was surely on the disk.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import progress_table, recovery_attribute
from mirrorfs.backing.statx import statx
from tests.commands import run
from tests.crash.test_stale_tail_after_a_kill import ATTRIBUTE, kill, make, remount_and_check
from tests.disks import MKFS, image_mounted, loop_mounted
from tests.model.test_seed_model import BLOCK, MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.mounted import Mirror


def owner(mirror: Mirror) -> str:
    return progress_table.owner_of(os.fsencode(mirror.backing / ".mirrorfs"))


def attribute_of(path: Path) -> recovery_attribute.RecoveryAttribute:
    with path.open("rb") as file:
        found = recovery_attribute.read(file.fileno())
    assert found is not None
    return found


def cut_power(path: Path, durable: int | None = None) -> recovery_attribute.RecoveryAttribute:
    """Let the recovery attribute of a file say that the machine was restarted since, and perhaps
    that so many bytes were on the disk by then.
    """
    fd = os.open(path, os.O_RDWR)
    try:
        found = recovery_attribute.read(fd)
        assert found is not None
        kept = found.durable if durable is None else durable
        made = replace(found, instance=b"rest", durable=kept)
        recovery_attribute.write(fd, made)
        return made
    finally:
        os.close(fd)


@pytest.mark.parametrize("durable", [None, 2 * BLOCK, 3 * BLOCK + 17])
@pytest.mark.parametrize("grown", [False, True])
def test_power_cut_keeps_only_what_is_durable(
    mirror: Mirror, durable: int | None, grown: bool
) -> None:
    made = make(mirror, "file")
    made.reopen(empty=True)
    if grown:
        made.truncate(2 * MIB)
    made.write(0, 8 * BLOCK, "old", 1)
    made.next(0, 50_000, "new", 7)
    kill(mirror, [made])
    found = cut_power(made.backing, durable)
    made.file.content[found.durable :] = bytes(2 * MIB - found.durable if grown else 0)
    remount_and_check(mirror, [made])


def test_power_cut_keeps_what_a_truncation_has_left(mirror: Mirror) -> None:
    made = make(mirror, "file")
    made.truncate(100_001)
    made.write(100_001, 50_000, "new", 7)
    kill(mirror, [made])
    cut_power(made.backing)
    del made.file.content[100_001:]
    remount_and_check(mirror, [made])


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_power_cut_keeps_what_was_synced_by_any_descriptor(mirror: Mirror, flags: int) -> None:
    """sync(1) opens a file for reading only."""
    made = make(mirror, "file")
    made.reopen(empty=True)
    made.next(0, 50_000, "new", 7)
    fd = os.open(made.path, flags)
    os.fsync(fd)
    os.close(fd)
    made.check_backing()
    kill(mirror, [made])
    remount_and_check(mirror, [made])


def test_lost_progress_table_keeps_only_what_is_durable(mirror: Mirror) -> None:
    made = make(mirror, "file")
    made.reopen(empty=True)
    made.write(0, 8 * BLOCK, "old", 1)
    kill(mirror, [made])
    found = attribute_of(made.backing)
    progress_table.remove_all(owner(mirror))
    del made.file.content[found.durable :]
    remount_and_check(mirror, [made])


def old_instance(fd: int) -> bytes:
    """What older versions write into a recovery attribute to name this boot and this mount."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    status = statx(fd)
    text = f"{boot} {status.dev} {status.mount_id}"
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def test_recovery_attribute_of_an_older_version_needs_no_progress_table(mirror: Mirror) -> None:
    """As an older version leaves it, or a machine without a file system in memory."""
    made = make(mirror, "file")
    made.reopen(empty=True)
    made.next(0, 50_000, "new", 7)
    kill(mirror, [made])
    with made.backing.open("r+b") as file:
        progress_table.remove_all(owner(mirror))
        first = struct.pack("<B8sQQQ", 1, old_instance(file.fileno()), 0, 50_000, 50_000)
        os.setxattr(file.fileno(), recovery_attribute.NAME, first)
    remount_and_check(mirror, [made])


def test_power_cut_shows_no_stale_tail_in_a_temporary_file(mirror: Mirror) -> None:
    made = make(mirror, "file")
    made.make_temporary()
    made.next(0, 8 * BLOCK, "old", 1)
    made.next(0, 50_000, "new", 7)
    kill(mirror, [made])
    if ATTRIBUTE in os.listxattr(made.backing):  # not where files cannot share blocks
        cut_power(made.backing)
        made.file.content.clear()
    remount_and_check(mirror, [made])


@pytest.mark.parametrize("kind", MKFS)
def test_power_cut_after_a_file_was_finalised_and_another_begun_shows_no_stale_tail(
    tmp_path: Path, mount_mirror: Callable[..., Mirror], kind: str
) -> None:
    """The list, synced for the second file, must not forget the first before it is cut."""
    image = tmp_path / "after the cut"
    with loop_mounted(kind, tmp_path, 400) as disk:
        backing = disk / "backing"
        backing.mkdir()
        mirror = mount_mirror(backing)
        first, second = make(mirror, "first", 3 * MIB), make(mirror, "second", 3 * MIB)
        run("sync", "-f", backing)
        for made in (first, second):
            made.reopen(empty=True)
            made.next(0, MIB, "new", 7)
            if made is first:
                made.close_all()
        run("cp", "--sparse=always", tmp_path / f"{kind}.img", image)
        second.close_all()
        mirror.umount()
    with image_mounted(image, tmp_path / "found") as found:
        mirror = mount_mirror(found / "backing")
        assert mirror.read("first") in {b"", bytes(first.file.content)}
        assert ATTRIBUTE not in os.listxattr(mirror.backing / "first")
        mirror.umount()
