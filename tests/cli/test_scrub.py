"""`mirrorfs scrub`: what is damaged on the disk is found, and nothing else is called so."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing.digest_file import Chunk
from mirrorfs.errors import ExitCode
from tests.commands import MIRRORFS, mirrorfs, run, spelled, wait_for, wait_until_it_listens
from tests.remembered import is_under_way, open_session, wait_for_sessions
from tests.rot import drop_caches, image_of, rot, rot_data
from tests.scrubbed import CHUNK, MIB, copied, data, has_open, scrubbed, states, wait_for_digests

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror


@pytest.fixture
def mirror(loop_fs: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    return mount_mirror(loop_fs, "session_quiet=0")


@pytest.fixture
def ext4_mirror(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    return mount_mirror(ext4_folder, "session_quiet=0")


def test_what_was_copied_is_good(mirror: Mirror, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "vm.img").write_bytes(data(3 * MIB) + bytes(5 * MIB) + data(MIB + 4321, 2))
    (source / "small").write_bytes(b"x")
    run("cp", "-a", source / "vm.img", mirror.path / "copied.img")
    run("rsync", "-a", "--inplace", f"{source}/", f"{mirror.path}/")
    wait_for_digests(mirror, "copied.img")
    wait_for_digests(mirror, "vm.img")
    files, end = scrubbed(mirror.path)
    assert {name: one["state"] for name, one in files.items()} == {
        "copied.img": "good",
        "vm.img": "good",
    }
    for name in files:
        assert set(states(mirror.backing, name) or b"") == {Chunk.KNOWN, Chunk.ZEROS}
    assert (end["complete"], end["small_files"]) == (True, 1)
    # Holes are not read.
    assert all(one["read_bytes"] < 5 * MIB for one in files.values())
    mirror.umount()
    files, end = scrubbed(mirror.backing)
    assert end["learned_chunks"] == 0
    done = mirrorfs("scrub", mirror.backing / "vm.img")
    assert done.stdout.startswith(f"{mirror.backing}: 1 file scrubbed, 4.0")
    assert "nothing is damaged" in done.stdout


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@pytest.mark.parametrize("is_mounted", [True, False])
def test_one_bit_that_rots_is_found(
    file_systems: Callable[[str], Path],
    tmp_path: Path,
    mount_mirror: Callable[..., Mirror],
    kind: str,
    is_mounted: bool,
) -> None:
    (file_systems(kind) / tmp_path.name).mkdir()
    mirror = mount_mirror(file_systems(kind) / tmp_path.name, "session_quiet=0")
    path = copied(mirror, "vm.img", data(5 * MIB + 4321))
    if not is_mounted:
        mirror.umount()
    image = image_of(mirror.backing)
    rot(image, path, 3 * CHUNK + 77)
    rot(image, path, 5 * MIB + 4320)
    files, _ = scrubbed(mirror.backing, code=ExitCode.DIFFERENCE)
    assert files["vm.img"]["state"] == "damaged"
    assert files["vm.img"]["damaged"] == [
        [3 * CHUNK, 4 * CHUNK],
        [5 * MIB, 5 * MIB + 4321],
    ]
    found = states(mirror.backing, "vm.img")
    assert found is not None
    assert [chunk for chunk, state in enumerate(found) if state == Chunk.DAMAGED] == [3, 80]
    # It stays so, and is said in words.
    done = mirrorfs("scrub", mirror.backing, check=False)
    assert done.returncode == ExitCode.DIFFERENCE
    assert done.stdout.splitlines()[:2] == [
        "vm.img: damaged at 192 KiB, 64.0 KiB",
        "vm.img: damaged at 5.00 MiB, 4.22 KiB",
    ]
    # The bits come back.
    rot(image, path, 3 * CHUNK + 77)
    rot(image, path, 5 * MIB + 4320)
    done = mirrorfs("scrub", mirror.backing)
    assert done.stdout.startswith("vm.img: 2 chunks that were damaged read well again\n")
    assert set(states(mirror.backing, "vm.img") or b"") == {Chunk.KNOWN}


def test_what_cannot_be_read_is_told_and_passed_over(
    file_systems: Callable[[str], Path], tmp_path: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    """btrfs gives EIO where its checksum is wrong."""
    backing = file_systems("btrfs") / tmp_path.name
    backing.mkdir()
    mirror = mount_mirror(backing, "session_quiet=0")
    content = data(4 * MIB)
    copied(mirror, "vm.img", content)
    place = 20 * CHUNK + 8192
    rot_data(image_of(backing), content[place : place + 4096])
    files, end = scrubbed(mirror.path, code=ExitCode.DIFFERENCE)
    assert files["vm.img"]["unreadable"] == [[place, place + 4096]]
    assert files["vm.img"]["read_bytes"] == 4 * MIB - CHUNK
    assert end["unreadable_chunks"] == 1
    assert (states(backing, "vm.img") or b"")[20] == Chunk.DAMAGED
    (tmp_path / "source").write_bytes(content)
    done = mirrorfs("scrub", mirror.path / "vm.img", "--repair-from", tmp_path / "source")
    assert "vm.img: 1 chunk repaired" in done.stdout
    scrubbed(mirror.path)
    assert mirror.read("vm.img") == content


def test_a_repair_writes_what_the_digest_says_and_nothing_else(
    ext4_mirror: Mirror, tmp_path: Path
) -> None:
    mirror, content = ext4_mirror, data(4 * MIB)
    source = tmp_path / "source"
    source.mkdir()
    path = copied(mirror, "vm.img", content)
    before = path.stat()
    for place in (2, 7):
        rot(image_of(mirror.backing), path, place * CHUNK + 5)
    assert mirror.read("vm.img") != content  # so that the mount has it in its page cache
    # The source is another one by now, in one of the two.
    changed = bytearray(content)
    changed[7 * CHUNK] ^= 1
    changed[9 * CHUNK] ^= 1
    (source / "vm.img").write_bytes(changed)
    done = mirrorfs("scrub", mirror.path, "--repair-from", source, check=False)
    assert done.returncode == ExitCode.DIFFERENCE
    assert done.stdout.splitlines()[2:4] == [
        "vm.img: 1 chunk repaired",
        "vm.img: not repaired at 448 KiB: the source has something else there",
    ]
    found = states(mirror.backing, "vm.img") or b""
    assert (found[2], found[7], found[9]) == (Chunk.KNOWN, Chunk.DAMAGED, Chunk.KNOWN)
    after = path.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    read = path.read_bytes()
    assert read[: 7 * CHUNK] == content[: 7 * CHUNK]
    assert read[8 * CHUNK :] == content[8 * CHUNK :]
    (source / "vm.img").write_bytes(content)
    done = mirrorfs("scrub", mirror.path / "vm.img", "--repair-from", source / "vm.img")
    assert "vm.img: 1 chunk repaired" in done.stdout
    assert mirror.read("vm.img") == content
    files, _ = scrubbed(mirror.path)
    assert not files["vm.img"]["changed_beside"]


def test_what_is_unknown_is_learned(ext4_folder: Path) -> None:
    (ext4_folder / "vm.img").write_bytes(data(3 * MIB))
    os.truncate(ext4_folder / "vm.img", 6 * MIB)
    (ext4_folder / ".mirrorfs").mkdir(0o700)
    words = (ext4_folder, "--state", ext4_folder / ".mirrorfs")
    files, _ = scrubbed(*words)
    assert files["vm.img"]["learned_chunks"] == 96
    assert states(ext4_folder, "vm.img") == bytes([Chunk.KNOWN] * 48 + [Chunk.ZEROS] * 48)
    rot(image_of(ext4_folder), ext4_folder / "vm.img", MIB)
    files, _ = scrubbed(*words, code=ExitCode.DIFFERENCE)
    assert files["vm.img"]["damaged"] == [[MIB, MIB + CHUNK]]


def test_what_was_changed_beside_the_mount_is_learned_anew(ext4_mirror: Mirror) -> None:
    path = copied(ext4_mirror, "vm.img", data(2 * MIB))
    ext4_mirror.umount()
    with path.open("r+b") as file:
        file.write(b"changed")
    done = mirrorfs("scrub", ext4_mirror.backing)
    line, *_ = done.stdout.splitlines()
    assert line == "vm.img: was changed beside the mount; its digests are learned anew"
    files, end = scrubbed(ext4_mirror.backing)
    assert (files["vm.img"]["changed_beside"], end["learned_chunks"]) == (False, 0)
    ext4_mirror.mount()
    ext4_mirror.write("vm.img", MIB, b"by the mount")
    wait_for_sessions(ext4_mirror, "vm.img", 2)
    wait_for_digests(ext4_mirror, "vm.img")
    files, _ = scrubbed(ext4_mirror.path)
    assert not files["vm.img"]["changed_beside"]
    assert "changed beside" not in ext4_mirror.log.read_text()


def test_what_a_client_did_besides_the_content_is_no_change(ext4_mirror: Mirror) -> None:
    copied(ext4_mirror, "vm.img", data(2 * MIB))
    os.chmod(ext4_mirror.path / "vm.img", 0o600)
    os.rename(ext4_mirror.path / "vm.img", ext4_mirror.path / "other.img")
    files, _ = scrubbed(ext4_mirror.path)
    assert files["other.img"]["state"] == "good"
    assert not files["other.img"]["changed_beside"]


@pytest.mark.parametrize("has_digests", [True, False])
def test_a_file_in_use_is_left_out(ext4_mirror: Mirror, has_digests: bool) -> None:
    if has_digests:
        copied(ext4_mirror, "vm.img", data(2 * MIB))
    with open_session(ext4_mirror, "vm.img", data(2 * MIB, 2)):
        files, end = scrubbed(ext4_mirror.path)
        assert files["vm.img"]["state"] == "in-use"
        assert (end["in_use_files"], end["learned_chunks"]) == (1, 0)
        assert states(ext4_mirror.backing, "vm.img") is None
    wait_for_digests(ext4_mirror, "vm.img")
    files, _ = scrubbed(ext4_mirror.path)
    assert files["vm.img"]["state"] == "good"


def test_a_copy_that_begins_meanwhile_goes_on(ext4_mirror: Mirror) -> None:
    """It is read slowly; the copy takes no longer than without."""
    copied(ext4_mirror, "vm.img", data(32 * MIB))
    words = spelled((*MIRRORFS, "scrub", "--json", "--rate", "8M", ext4_mirror.path))
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as scrub:
        wait_for(lambda: has_open(scrub.pid, ext4_mirror.backing / "vm.img"))
        began = time.monotonic()
        ext4_mirror.write("vm.img", MIB, data(MIB, 3))
        assert time.monotonic() - began < 5
        out, _ = scrub.communicate(timeout=60)
    found = json.loads(out.splitlines()[0])
    assert scrub.returncode == 0
    # Nothing was to be noted, or it came too late.
    assert found["state"] in {"good", "in-use"}
    wait_for_digests(ext4_mirror, "vm.img")
    scrubbed(ext4_mirror.path)


def test_it_goes_on_where_it_was_stopped(ext4_mirror: Mirror) -> None:
    for number in range(4):
        copied(ext4_mirror, f"vm{number}.img", data(2 * MIB, number))
    seen: list[str] = []
    for _ in range(20):
        files, end = scrubbed(ext4_mirror.path, "--for", "1s", "--rate", "3M")
        seen += files
        if end["complete"]:
            break
        assert end["next_file"]
    assert end["complete"]
    assert end["files"] == 4
    assert end["read_bytes"] >= 8 * MIB
    assert set(seen) == {f"vm{number}.img" for number in range(4)}
    _, end = scrubbed(ext4_mirror.path)
    assert (end["files"], end["read_bytes"]) == (4, 8 * MIB)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_in_order(ext4_mirror: Mirror, number: signal.Signals) -> None:
    copied(ext4_mirror, "a.img", data(2 * MIB))
    ext4_mirror.umount()
    (ext4_mirror.backing / "b.img").write_bytes(data(64 * MIB))
    words = spelled((*MIRRORFS, "scrub", "--rate", "4M", ext4_mirror.backing))
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as scrub:
        wait_until_it_listens(scrub)
        wait_for(lambda: has_open(scrub.pid, ext4_mirror.backing / "b.img"))
        scrub.send_signal(number)
        out, err = scrub.communicate(timeout=60)
    assert (scrub.returncode, err) == (128 + number, "")
    assert "stopped; the next scrub goes on there" in out
    # What was read of it is learned, and the rest comes now.
    files, end = scrubbed(ext4_mirror.backing)
    assert set(files) == {"b.img"}
    assert end["complete"]
    assert set(states(ext4_mirror.backing, "b.img") or b"") == {Chunk.KNOWN}


def test_digest_files_of_no_file_are_removed(ext4_mirror: Mirror) -> None:
    copied(ext4_mirror, "vm.img", data(2 * MIB))
    copied(ext4_mirror, "gone.img", data(2 * MIB))
    ext4_mirror.umount()
    folder = ext4_mirror.backing / ".mirrorfs/digests"
    (ext4_mirror.backing / "gone.img").unlink()
    assert len(list(folder.iterdir())) == 3  # with the secret
    scrubbed(ext4_mirror.backing / "vm.img")
    assert len(list(folder.iterdir())) == 3
    scrubbed(ext4_mirror.backing)
    assert len(list(folder.iterdir())) == 2
    assert states(ext4_mirror.backing, "vm.img") is not None


def test_the_page_cache_is_left_as_it_was(mirror: Mirror) -> None:
    path = copied(mirror, "vm.img", data(16 * MIB))
    mirror.umount()
    drop_caches()
    scrubbed(mirror.backing)
    done = run("fincore", "--bytes", "--noheadings", "--output", "RES", path)
    assert int(done.stdout) <= MIB


def test_without_a_catalog_it_prints_all_the_same(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=0,history=0")
    path = copied(mirror, "vm.img", data(2 * MIB))
    rot(image_of(ext4_folder), path, MIB)
    files, _ = scrubbed(mirror.path, code=ExitCode.DIFFERENCE)
    assert files["vm.img"]["state"] == "damaged"
    assert not (ext4_folder / ".mirrorfs/catalog.sqlite3").exists()


def test_a_mount_without_digests_is_refused(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "digests=off")
    mirror.write("vm.img", 0, data(2 * MIB))
    done = mirrorfs("scrub", mirror.path, check=False)
    assert done.returncode == ExitCode.BACKING
    assert "is mounted with digests=off" in done.stderr


def test_one_scrub_at_a_time(ext4_mirror: Mirror) -> None:
    copied(ext4_mirror, "vm.img", data(32 * MIB))
    words = spelled((*MIRRORFS, "scrub", "--rate", "1M", ext4_mirror.path))
    with subprocess.Popen(words, stdout=subprocess.PIPE) as scrub:
        wait_for(lambda: has_open(scrub.pid, ext4_mirror.backing / "vm.img"))
        done = mirrorfs("scrub", ext4_mirror.path, check=False)
        assert done.returncode == ExitCode.IN_USE
        assert "another scrub is under way" in done.stderr
        scrub.terminate()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rate", "fast"), "--rate: 'fast' is no size; write 64k, 50M or 1G"),
        (("--for", "ever"), "--for: 'ever' is no span of time"),
        (("--repair-from", "/no/such"), "/no/such: No such file or directory"),
    ],
)
def test_a_wrong_word_is_told(ext4_mirror: Mirror, words: tuple[str, str], said: str) -> None:
    done = mirrorfs("scrub", ext4_mirror.path, *words, check=False)
    assert done.returncode in {ExitCode.USAGE, ExitCode.FAILED}
    assert said in done.stderr


def test_memory_and_time_do_not_grow_with_a_sparse_file(ext4_mirror: Mirror) -> None:
    """An image of 1 TiB with 2 MiB in it."""
    copied(ext4_mirror, "vm.img", data(2 * MIB))
    os.truncate(ext4_mirror.path / "vm.img", 1 << 40)
    ext4_mirror.write("vm.img", (1 << 40) - MIB, data(MIB, 2))
    wait_for_sessions(ext4_mirror, "vm.img", 2)
    wait_for_digests(ext4_mirror, "vm.img")
    code = (
        "import sys; from mirrorfs.cli.main import main; code = main(sys.argv[1:]);"
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0]); sys.exit(code)"
    )
    done = run(sys.executable, "-c", code, "scrub", ext4_mirror.path, timeout=60)
    assert int(done.stdout.splitlines()[-1]) < 100 << 10  # KiB
    assert "1 file scrubbed, 3.00 MiB read; " in done.stdout
    assert "nothing is damaged" in done.stdout


def test_a_killed_daemon_leaves_nothing_known_and_it_is_learned(ext4_mirror: Mirror) -> None:
    ext4_mirror.noisy = True
    copied(ext4_mirror, "vm.img", data(2 * MIB))
    fd = os.open(ext4_mirror.path / "vm.img", os.O_WRONLY)
    os.pwrite(fd, b"changed", 0)
    wait_for(lambda: is_under_way(ext4_mirror))
    ext4_mirror.kill()
    with pytest.raises(OSError, match="not connected"):
        os.close(fd)
    assert states(ext4_mirror.backing, "vm.img") is None
    files, _ = scrubbed(ext4_mirror.path)  # the mount is dead
    assert files["vm.img"]["learned_chunks"] == 32
    assert not files["vm.img"]["changed_beside"]
    shutil.rmtree(ext4_mirror.backing / ".mirrorfs/digests")
    files, _ = scrubbed(ext4_mirror.backing)
    assert files["vm.img"]["learned_chunks"] == 32
