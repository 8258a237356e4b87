"""`mirrorfs verify`: what differs is found and named, and nothing else is."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs.cli.verify import Place, place_of
from mirrorfs.errors import ExitCode, UsageError
from tests.commands import MIRRORFS, is_in_a_call, mirrorfs, run, wait_for, wait_until_it_listens
from tests.gates import CHUNK, MANY, Gate, gate_in, scattered
from tests.terminal import Terminal, mirrorfs_on_a_terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.mounted import Mirror

HERE = " ".join(MIRRORFS)
PLACES = (0, 1, 5 * CHUNK, 6 * CHUNK - 1, 33 * CHUNK)


def change(path: Path, place: int) -> None:
    """Another byte there; the time stays, as rot has it."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def found_of(*words: object) -> list[dict[str, Any]]:
    done = mirrorfs("verify", "--json", *words, check=False)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def folders(loop_fs: Path) -> tuple[Path, Path]:
    """A source, and a copy of it that is equal."""
    source, target = loop_fs / "source", loop_fs / "target"
    (source / "below").mkdir(parents=True)
    (source / "vm.img").write_bytes(os.urandom(33 * CHUNK + 4321))
    (source / "empty").touch()
    (source / "below/small").write_bytes(b"x")
    run("cp", "-a", source, target)
    return source, target


def test_an_equal_copy(folders: tuple[Path, Path]) -> None:
    source, target = folders
    done = mirrorfs("verify", source, target)
    assert (done.stdout, done.stderr) == ("3 files compared: 3 equal\n", "")
    done = mirrorfs("verify", source / "vm.img", target)  # the file of that name
    assert done.stdout == "1 file compared: 1 equal\n"


@pytest.mark.parametrize("place", PLACES)
def test_one_bit_is_found(folders: tuple[Path, Path], place: int) -> None:
    source, target = folders
    change(target / "vm.img", place)
    done = mirrorfs("verify", source, target, check=False)
    assert done.returncode == ExitCode.DIFFERENCE
    start = place // CHUNK * CHUNK
    length = "4.22 KiB" if place == 33 * CHUNK else "64.0 KiB"
    first = "0 B" if not start else "320 KiB" if start == 5 * CHUNK else "2.06 MiB"
    assert done.stdout.splitlines()[0] == f"vm.img: differs at {first}, {length}"
    assert done.stdout.endswith("3 files compared: 2 equal, 1 different\n")
    found = {one["file"]: one for one in found_of(source, target)}
    end = min(start + CHUNK, 33 * CHUNK + 4321)
    assert found["vm.img"]["ranges"] == [[start, end]]
    assert found["empty"]["state"] == found["below/small"]["state"] == "equal"


def test_sizes_that_differ_are_named(folders: tuple[Path, Path]) -> None:
    source, target = folders
    os.truncate(target / "vm.img", 20 * CHUNK + 1)
    change(target / "vm.img", 3 * CHUNK)
    done = mirrorfs("verify", source / "vm.img", target / "vm.img", check=False)
    assert done.returncode == ExitCode.DIFFERENCE
    name = target / "vm.img"
    assert done.stdout.splitlines()[:2] == [
        f"{name}: sizes differ: 2,167,009 bytes in the source, 1,310,721 here",
        f"{name}: differs at 192 KiB, 64.0 KiB",
    ]


def test_missing_and_superfluous_files_are_named(folders: tuple[Path, Path]) -> None:
    source, target = folders
    (source / "odd\n\xff name").touch()
    (source / os.fsdecode(b"\xfe%")).touch()
    (target / "-more").touch()
    (target / "empty").unlink()
    done = mirrorfs("verify", source, target, check=False)
    assert done.returncode == ExitCode.DIFFERENCE
    assert done.stdout.splitlines() == [
        "empty: is missing in the target",
        "odd\\n\xff name: is missing in the target",
        "\\xfe%: is missing in the target",
        "-more: is in the target alone",
        "6 files compared: 2 equal, 3 missing, 1 superfluous",
    ]
    states = {one["file"]: one["state"] for one in found_of(source, target)}
    assert states["%FE%25"] == "missing"
    run("cp", "-a", f"{source}/.", target)
    assert mirrorfs("verify", "--allow-superfluous", source, target).stdout.endswith("5 equal\n")
    assert mirrorfs("verify", source, target, check=False).returncode == ExitCode.DIFFERENCE


@pytest.mark.parametrize("seed", range(2))
def test_what_differs_is_exact(loop_fs: Path, seed: int) -> None:
    """Files with data, zeros and holes that begin and end anywhere, against a plain comparison."""
    chance = random.Random(seed)
    expected = {}
    for side in ("source", "target"):
        (loop_fs / side).mkdir()
    for number in range(30):
        name, size = f"file-{number}", chance.choice([0, 5, CHUNK, chance.randrange(80 * CHUNK)])
        content = bytearray(size)
        for _ in range(chance.randrange(5) if size else 0):
            start = chance.randrange(size)
            end = min(size, start + chance.randrange(9 * CHUNK))
            content[start:end] = chance.randbytes(end - start)
        other = bytearray(content)
        for _ in range(chance.randrange(4) if size else 0):
            start = chance.randrange(size)
            end = min(size, start + chance.choice([1, 5000, 3 * CHUNK]))
            other[start:end] = chance.choice([bytes(end - start), chance.randbytes(end - start)])
        for side, data in (("source", content), ("target", other)):
            path = loop_fs / side / name
            path.write_bytes(data)
            if chance.random() < 0.7:
                run("fallocate", "--dig-holes", path)
        expected[name] = [
            start
            for start in range(0, size, CHUNK)
            if content[start : start + CHUNK] != other[start : start + CHUNK]
        ]
    found = found_of(loop_fs / "source", loop_fs / "target")
    for one in found:
        chunks = [start for first, end in one["ranges"] for start in range(first, end, CHUNK)]
        assert chunks == expected[one["file"]]
        assert one["differing_chunks"] == len(chunks)
        assert one["compared_chunks"] == -(-one["source_bytes"] // CHUNK)
        assert one["state"] == ("different" if chunks else "equal")
    assert len(found) == 30


def test_many_ranges_are_bounded_and_their_number_is_exact(ext4_folder: Path) -> None:
    source = scattered(ext4_folder / "source")
    target = ext4_folder / "target"
    with target.open("wb") as file:
        file.truncate(source.stat().st_size)
    (found,) = found_of(source, target)
    assert found["differing_chunks"] == MANY
    assert len(found["ranges"]) == 4096
    assert found["ranges"][0][0] == 0
    assert found["ranges"][-1][1] == (2 * MANY - 1) * CHUNK
    done = mirrorfs("verify", source, target, check=False)
    assert len(done.stdout.splitlines()) == 12
    assert "and in 4,086 more ranges, 8,192 chunks of 64 KiB in all" in done.stdout


def test_a_terabyte_with_little_in_it(ext4_folder: Path) -> None:
    for name, last in (("source", b"x"), ("target", b"y")):
        with (ext4_folder / name).open("wb") as file:
            file.truncate((1 << 40) + 5)
            file.seek(1 << 39)
            file.write(b"same")
            file.seek(1 << 40)
            file.write(last)
    began = time.process_time()
    (found,) = found_of(ext4_folder / "source", ext4_folder / "target")
    assert time.process_time() - began < 5
    assert found["ranges"] == [[1 << 40, (1 << 40) + 5]]


def test_a_block_device_is_a_source(ext4_folder: Path) -> None:
    image, copy = ext4_folder / "image", ext4_folder / "copy"
    image.write_bytes(os.urandom(40 * CHUNK + 4096))
    run("cp", image, copy)
    device = run("losetup", "--find", "--show", "--read-only", image).stdout.strip()
    try:
        assert mirrorfs("verify", device, copy).stdout == "1 file compared: 1 equal\n"
        change(copy, 40 * CHUNK + 1)
        (found,) = found_of(device, copy)
        assert found["ranges"] == [[40 * CHUNK, 40 * CHUNK + 4096]]
        run("truncate", "-s", "+1", copy)
        assert "sizes differ" in mirrorfs("verify", device, copy, check=False).stdout
    finally:
        run("losetup", "--detach", device)


def test_a_disk_that_fails_is_told(ext4_folder: Path) -> None:
    """A device whose second half is gone."""
    image, copy = ext4_folder / "image", ext4_folder / "copy"
    image.write_bytes(os.urandom(80 * CHUNK))
    run("cp", image, copy)
    device = run("losetup", "--find", "--show", image).stdout.strip()
    try:
        os.truncate(image, 40 * CHUNK)
        done = mirrorfs("verify", device, copy, check=False)
        assert done.returncode == ExitCode.FAILED
        assert done.stdout == (
            f"{copy}: cannot be read: source: Input/output error\n1 file compared: 1 unreadable\n"
        )
        done = mirrorfs("digest", device, check=False)
        assert (done.returncode, done.stdout) == (ExitCode.FAILED, "")
        assert done.stderr == f"mirrorfs: {device}: Input/output error\n"
    finally:
        run("losetup", "--detach", device)


def test_a_copy_in_a_mount(folders: tuple[Path, Path], mount_mirror: Callable[..., Mirror]) -> None:
    source, target = folders
    mirror = mount_mirror(target)
    run("rsync", "-a", "--inplace", f"{source}/", mirror.path)
    for place in (mirror.path, target):  # what the mount keeps there is no copy of anything
        assert mirrorfs("verify", source, place).stdout == "3 files compared: 3 equal\n"
    change(mirror.path / "vm.img", 5)
    assert mirrorfs("verify", source, mirror.path, check=False).returncode == ExitCode.DIFFERENCE


def test_a_sample_finds_much_damage_and_can_be_taken_again(ext4_folder: Path) -> None:
    source, target = ext4_folder / "source", ext4_folder / "target"
    source.write_bytes(os.urandom(400 * CHUNK))
    target.write_bytes(os.urandom(400 * CHUNK))
    (first,) = found_of("--sample", "5%", source, target)
    assert (first["compared_chunks"], first["differing_chunks"]) == (20, 20)
    assert first["sample"] == 0.05
    again = found_of("--sample", "5%", "--sample-seed", first["sample_seed"], source, target)
    assert again == [first]
    done = mirrorfs("verify", "--sample", "5%", source, source)
    assert "Only a sample was read, 5 % of the chunks with data; --sample-seed " in done.stdout


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return gate_in(tmp_path / "gate")


@pytest.fixture
def images(ext4_folder: Path) -> list[Path]:
    return [scattered(ext4_folder / name) for name in ("source", "target")]


def words_through(gate: Gate, images: list[Path]) -> list[str]:
    source, target = images
    words = ["verify", "-e", gate.shell, "--remote-command", HERE, f"host:{source}", target]
    return [str(word) for word in words]


def start(*words: object) -> subprocess.Popen[str]:
    command = [*MIRRORFS, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in run("pgrep", "-P", pid, check=False).stdout.split()]


def wait_until_both_are_read(process: subprocess.Popen[str], gate: Gate) -> None:
    """The one side waits at the gate, the other for a reader of what it has sent."""
    gate.wait()
    wait_for(lambda: any(is_in_a_call(child, 1) for child in children_of(process.pid)))


@pytest.mark.parametrize("who", ["source", "target"])
def test_what_changed_meanwhile_is_not_called_different(
    gate: Gate, images: list[Path], who: str
) -> None:
    process = start(*words_through(gate, images))
    wait_until_both_are_read(process, gate)
    for place in range(0, 2 * MANY * CHUNK, 100 * CHUNK):
        with next(path for path in images if path.name == who).open("r+b") as file:
            file.seek(place)
            file.write(b"other")
    gate.open()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (ExitCode.CHANGED, "")
    assert out == (
        f"{images[1]}: the {who} changed meanwhile; compare again, or with a snapshot\n"
        "1 file compared: 1 changed\n"
    )


def test_a_file_that_goes_away_meanwhile_has_changed(tmp_path: Path) -> None:
    gate = gate_in(tmp_path / "gate", lines=5)
    sides = [tmp_path / "source", tmp_path / "target"]
    for side in sides:
        side.mkdir()
        scattered(side / "a")
        (side / "b").touch()
    process = start(*words_through(gate, sides))
    wait_until_both_are_read(process, gate)
    (sides[1] / "b").unlink()
    gate.open()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == ExitCode.CHANGED
    assert out.splitlines()[0].startswith("b: the target changed meanwhile")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_leaves_no_process(
    gate: Gate, images: list[Path], number: signal.Signals
) -> None:
    process = start(*words_through(gate, images))
    wait_until_it_listens(process)
    gate.wait()
    wait_for(lambda: len(children_of(process.pid)) == 2)
    children = children_of(process.pid)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    gate.open()  # the shell is another program, and waits for that
    assert (process.returncode, out, err) == (128 + number, "", "")
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def test_ctrl_c_on_a_terminal(gate: Gate, images: list[Path]) -> None:
    with mirrorfs_on_a_terminal(*words_through(gate, images)) as terminal:
        gate.wait()
        terminal.type(b"\x03")
        assert terminal.end() == 128 + signal.SIGINT
        gate.open()
        assert terminal.text.replace("^C", "").strip() == ""


def test_progress_is_shown_on_a_terminal_after_two_seconds(gate: Gate, images: list[Path]) -> None:
    with mirrorfs_on_a_terminal(*words_through(gate, images)) as terminal:
        gate.wait()
        time.sleep(2.1)
        gate.open()
        assert terminal.end() == 0
        assert shows_progress(terminal)
        assert terminal.text.endswith("1 file compared: 1 equal\r\n")


def shows_progress(terminal: Terminal) -> bool:
    return "GiB" in terminal.text and "━" in terminal.text


@pytest.mark.parametrize(
    ("source", "target", "code", "text"),
    [
        ("{0}/nowhere", "{0}/file", 1, "nowhere: No such file or directory"),
        ("{0}/file", "{0}/nowhere", 1, "nowhere: No such file or directory"),
        ("{0}", "{0}/file", 2, "file: not a folder, which the source is"),
        ("{0}/fifo", "{0}/file", 1, "neither a file, a folder nor a block device"),
        ("host::module/x", "{0}/file", 2, "an rsync daemon cannot be asked"),
        ("host:", "{0}/file", 2, "write HOST:PATH"),
        (":x", "{0}/file", 2, "write HOST:PATH"),
        ("", "{0}/file", 2, "a path is empty"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    ext4_folder: Path, source: str, target: str, code: int, text: str
) -> None:
    (ext4_folder / "file").touch()
    os.mkfifo(ext4_folder / "fifo")
    words = [source.format(ext4_folder), target.format(ext4_folder)]
    done = mirrorfs("verify", *words, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


def test_which_source_is_on_another_host() -> None:
    assert place_of("kvm1:/srv/a:b") == Place("/srv/a:b", "kvm1")
    assert place_of("root@kvm1:images") == Place("images", "root@kvm1")
    assert place_of("root@[fe80::1]:/srv") == Place("/srv", "root@fe80::1")
    assert place_of("[::1]:/srv") == Place("/srv", "::1")
    for local in ("/srv/a:b", "./a:b", "plain", "dir/a:b"):
        assert place_of(local) == Place(local)
    for wrong in ("-oProxyCommand=x:/y", "host:", ":x"):
        with pytest.raises(UsageError):
            place_of(wrong)


def test_a_link_is_no_copy(folders: tuple[Path, Path]) -> None:
    source, target = folders
    (target / "vm.img").unlink()
    (target / "vm.img").symlink_to(source / "vm.img")
    done = mirrorfs("verify", source, target, check=False)
    assert done.stdout.splitlines()[0] == "vm.img: is missing in the target"


def test_a_hung_mount_does_not_hang_it(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    source, target = ext4_folder / "source", ext4_folder / "target"
    for folder in (source, target):
        folder.mkdir()
        (folder / "vm.img").touch()
    mirror = mount_mirror(target)
    pid = mirror.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(1.2)  # attributes that the kernel knows are used up
        of_a_file = mirrorfs("verify", source / "vm.img", mirror.path / "vm.img", check=False)
        of_all = mirrorfs("verify", source, mirror.path, check=False)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert of_a_file.returncode == of_all.returncode == ExitCode.NO_ANSWER
    assert "no answer within 10 seconds" in of_a_file.stderr
    assert f"process {pid} is stopped" in of_all.stderr
