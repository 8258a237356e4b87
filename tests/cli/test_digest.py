"""`mirrorfs digest`: one digest over all of a file, and the stream."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
import xxhash

from mirrorfs.errors import ExitCode
from mirrorfs.mirror import digest_stream
from mirrorfs.mirror.digest_stream import Begin, Digests, Done, End, Header, Zeros
from tests.commands import MIRRORFS, mirrorfs
from tests.gates import CHUNK, scattered
from tests.terminal import mirrorfs_on_a_terminal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirrorfs.mirror.digest_stream import Record
    from tests.mounted import Mirror


def reference(data: bytes, seed: int = 0) -> str:
    """As docs/verify.md tells it."""
    while True:
        pieces = range(0, len(data), CHUNK)
        data = b"".join(xxhash.xxh3_128_digest(data[at : at + CHUNK], seed) for at in pieces)
        if len(data) <= 16:
            return (data or bytes(16)).hex()


def stream(*words: object) -> list[Record]:
    command = [*MIRRORFS, "digest", "--stream", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        found = list(digest_stream.decode(process.stdout))  # type: ignore[arg-type]
    assert process.returncode == 0
    return found


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 70 * CHUNK + 4321])
def test_the_digest_is_that_of_the_page(ext4_folder: Path, size: int) -> None:
    path, data = ext4_folder / "vm.img", os.urandom(size)
    path.write_bytes(data)
    assert mirrorfs("digest", path).stdout == f"{reference(data)}  {path}\n"
    printed = mirrorfs("digest", "--seed", "DEADbeef", path).stdout
    assert printed.split()[0] == reference(data, 0xDEADBEEF)


def test_zeros_and_holes_are_alike(ext4_folder: Path) -> None:
    size = 40 * CHUNK + 99
    for name in ("hole", "zeros"):
        with (ext4_folder / name).open("wb") as file:
            if name == "zeros":
                file.write(bytes(size))
            file.seek(7 * CHUNK)
            file.write(b"data")
            file.truncate(size)
    lines = mirrorfs("digest", ext4_folder).stdout.splitlines()
    digests = {line.split()[0] for line in lines}
    assert digests == {reference((ext4_folder / "zeros").read_bytes())}
    assert len(lines) == 2


def test_a_terabyte_of_holes_takes_no_time(ext4_folder: Path) -> None:
    path = ext4_folder / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"x")
    half = (1 << 39) // CHUNK
    assert stream(path)[2:5] == [
        Zeros(half),
        Digests(xxhash.xxh3_128_digest(b"x" + bytes(CHUNK - 1))),
        Zeros(half - 1),
    ]
    assert mirrorfs("digest", path).stdout.split()[1] == str(path)


def test_the_stream_of_a_folder_and_of_chosen_files(ext4_folder: Path) -> None:
    (ext4_folder / "below").mkdir()
    (ext4_folder / ".mirrorfs").mkdir()
    for name in ("a", "below/b", ".mirrorfs/c", "below/\nd"):
        (ext4_folder / name).write_bytes(b"x")
    (ext4_folder / "link").symlink_to("a")
    os.mkfifo(ext4_folder / "fifo")
    kinds = [type(record) for record in stream(ext4_folder)]
    file = [Begin, Digests, End]
    assert kinds[0] is Header
    assert kinds[4:] == [Done, *file * 3, Done]
    command = [*MIRRORFS, "digest", "--stream", "--choose", str(ext4_folder)]
    done = subprocess.run(command, input=b"below/\nd\0", capture_output=True, check=True)
    assert done.stdout.count(b"\nF ") == 1
    done = subprocess.run(command, input=b"../x\0", capture_output=True, check=False)
    assert done.returncode == ExitCode.USAGE
    assert b"was not in the list" in done.stderr


def test_a_file_that_changes_meanwhile_is_told(ext4_folder: Path) -> None:
    path = scattered(ext4_folder / "vm.img")
    command = [*MIRRORFS, "digest", "--stream", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        records = digest_stream.decode(process.stdout)  # type: ignore[arg-type]
        next(records)
        begun = next(records)
        with path.open("r+b") as file:  # it waits for the reader
            file.truncate(5)
        *_, end, _ = records
    assert isinstance(begun, Begin)
    assert isinstance(end, End)
    assert (begun.size, end.size) == (2 * 8192 * CHUNK, 5)


def test_json(ext4_folder: Path) -> None:
    path = ext4_folder / "vm.img"
    path.write_bytes(b"x" * 100)
    found = json.loads(mirrorfs("digest", "--json", "--seed", "1", path).stdout)
    assert found == {
        "schema": 1,
        "file": str(path),
        "size": 100,
        "seed": "0000000000000001",
        "digest": reference(b"x" * 100, 1),
        "changed": False,
    }


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["/nowhere/x"], 1, "mirrorfs: /nowhere/x: No such file or directory"),
        (["/dev/null"], 1, "mirrorfs: /dev/null: neither a file, a folder nor a block device"),
        (["--seed", "xyz", "/etc/passwd"], 2, "--seed: 'xyz' is no seed"),
        (["--seed", "1" * 17, "/etc/passwd"], 2, "is no seed"),
        (["--sample", "5%", "/etc/passwd"], 2, "--sample: goes with --stream alone"),
        (["--choose", "/etc/passwd"], 2, "--choose: goes with --stream alone"),
        (["--stream", "--sample", "0%", "/etc/passwd"], 2, "is nothing"),
        ([""], 2, "a path is empty"),
    ],
)
def test_what_cannot_be_read_is_one_line(words: list[str], code: int, text: str) -> None:
    done = mirrorfs("digest", *words, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_stream_is_not_written_on_a_terminal() -> None:
    with mirrorfs_on_a_terminal("digest", "--stream", "/etc/passwd") as terminal:
        assert terminal.end() == ExitCode.USAGE
        assert "no text for a terminal" in terminal.text


def test_a_dead_mount_is_told(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> None:
    mirror = mount_mirror(ext4_folder)
    mirror.write("vm.img", 0, b"x")
    mirror.kill()
    done = mirrorfs("digest", mirror.path / "vm.img", check=False)
    assert done.returncode == ExitCode.NO_ANSWER
    assert "the daemon of this mirrorfs is dead" in done.stderr
