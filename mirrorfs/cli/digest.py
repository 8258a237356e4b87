"""`mirrorfs digest`: one digest over all of a file, or the stream that `verify` asks for."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING

from mirrorfs.backing.paths import path_text, show
from mirrorfs.backing.sizes import size
from mirrorfs.cli import when
from mirrorfs.cli.output import note
from mirrorfs.daemon import digest_process, timed_calls
from mirrorfs.errors import ExitCode, MirrorfsError, UsageError
from mirrorfs.mirror import chunk_digests, digest_stream, digesting
from mirrorfs.mirror.changed_chunks import CHUNK_BYTES
from mirrorfs.mirror.digest_stream import Begin, Digests, Done, End, Refused, Zeros
from mirrorfs.mirror.sample import WHOLE, Sample

if TYPE_CHECKING:
    import argparse

    from mirrorfs.daemon.digest_process import DigestProcess

SCHEMA = 1
_EPILOG = """\
The digest is of the content alone: holes and zeros are alike. With the same
seed (0, if none is given) equal files have equal digests. It finds accidents;
against attackers use sha256sum. Exit code 13 if the file changed meanwhile.

examples:
  mirrorfs digest /srv/backup/vm.img
  mirrorfs digest --json /dev/vg/vm-snapshot
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words that follow `mirrorfs digest`."""
    parser.epilog = _EPILOG
    parser.add_argument("path", metavar="FILE", help="a file, a folder or a block device")
    parser.add_argument("--seed", metavar="HEX", help="up to 16 hexadecimal digits (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="write the digest of each chunk, as verify reads it (docs/verify.md)",
    )
    parser.add_argument(
        "--choose",
        action="store_true",
        help="with --stream, of a folder: only the files whose names, each ended by a NUL, come on "
        "standard input after the list was written",
    )
    add_sample(parser, "with --stream: ")


def add_sample(parser: argparse.ArgumentParser, when_used: str = "") -> None:
    """Declare the words for a random sample."""
    parser.add_argument(
        "--sample", metavar="SHARE", help=f"{when_used}only a random share of the chunks, as 5%%"
    )
    parser.add_argument(
        "--sample-seed", metavar="HEX", help="take the same sample as the run that named this seed"
    )


def sample(arguments: argparse.Namespace, default_seed: int) -> Sample | None:
    """The sample that is meant, None for all. Raises UsageError."""
    if arguments.sample is None:
        if arguments.sample_seed is not None:
            raise UsageError("--sample-seed: there is no --sample")
        return None
    millionths = round(when.share(arguments.sample, "--sample") * WHOLE)
    if not millionths:
        raise UsageError(f"--sample: '{arguments.sample}' is nothing; write a share as 5%")
    seed = hexadecimal(arguments.sample_seed, "--sample-seed", default_seed)
    return Sample(millionths, seed)


def hexadecimal(text: str | None, name: str, default: int) -> int:
    """A number below 2^64. Raises UsageError."""
    if text is None:
        return default
    if re.fullmatch("[0-9a-fA-F]{1,16}", text) is None:
        raise UsageError(f"{name}: '{text}' is no seed; write up to 16 hexadecimal digits")
    return int(text, 16)


def run(arguments: argparse.Namespace) -> int:
    """Print the digest; exit code 13 if the file has changed meanwhile."""
    seed = hexadecimal(arguments.seed, "--seed", 0)
    sampled = sample(arguments, 0)
    if not arguments.stream:
        for name in ("choose", "sample"):
            if getattr(arguments, name):
                raise UsageError(f"--{name}: goes with --stream alone")
    path = timed_calls.resolve(os.fsencode(arguments.path))
    if arguments.stream:
        return _send(path, seed, sampled, arguments.choose)
    digest_process.is_folder(path)
    with digest_process.here(path, ["--seed", f"{seed:x}"]) as process:
        if process.header().kind == digest_stream.FOLDER:
            return _print_folder(path, process, seed, arguments.json)
        record = process.next()
        if not isinstance(record, Begin):
            raise MirrorfsError(f"{show(path)}: its digests come in no known order")
        return _print_file(path, record, process, seed, arguments.json)


def _send(path: bytes, seed: int, sampled: Sample | None, is_chosen: bool) -> int:
    if sys.stdout is not None and sys.stdout.isatty():
        raise UsageError("--stream: digests are no text for a terminal; write them into a file")
    chosen = _chosen if is_chosen else None
    with open(1, "wb", closefd=False) as out:
        for record in digesting.records(path, seed, sampled, chosen):
            out.write(digest_stream.encode(record))
            if not isinstance(record, digest_stream.Listed):
                out.flush()  # whoever reads it sees that something goes on
    return ExitCode.DONE


def _chosen() -> list[bytes]:
    """The names on standard input; none leads out of the folder."""
    with open(0, "rb", closefd=False) as names:
        found = [name for name in names.read().split(b"\0") if name]
    for name in found:
        if name.startswith(b"/") or b".." in name.split(b"/"):
            raise UsageError(f"{show(name)}: was not in the list")
    return found


def _print_folder(path: bytes, process: DigestProcess, seed: int, as_json: bool) -> int:
    code = ExitCode.DONE
    files: list[bytes] = []
    for record in process.listed():
        if isinstance(record, Refused):
            note(f"{show(os.path.join(path, record.path))}: {record.error}")
            code = ExitCode.FAILED
        elif isinstance(record, digest_stream.Listed):
            files.append(record.path)
    process.choose([])
    while not isinstance(record := process.next(), Done):
        if isinstance(record, Refused):
            note(f"{show(os.path.join(path, record.path))}: {record.error}")
            code = ExitCode.FAILED
        elif isinstance(record, Begin):
            name = os.path.join(path, record.path)
            found = _print_file(name, record, process, seed, as_json)
            code = code or found
    return code


def _print_file(
    path: bytes, begun: Begin, process: DigestProcess, seed: int, as_json: bool
) -> ExitCode:
    """Print the digest of the file that has begun."""
    total = chunk_digests.Total(seed)
    left = chunk_digests.count(begun.size)
    while not isinstance(record := process.next(), End):
        if isinstance(record, Refused):
            note(f"{show(path)}: {record.error}")
            return ExitCode.FAILED
        if isinstance(record, Digests):
            total.add(record.data)
            left -= record.chunks
        elif isinstance(record, Zeros):
            left -= record.chunks
            is_last = not left and begun.size % CHUNK_BYTES
            total.add_zeros(record.chunks - bool(is_last))
            if is_last:
                total.add(chunk_digests.of_zeros(begun.size % CHUNK_BYTES, seed))
    has_changed = (record.size, record.mtime_ns) != (begun.size, begun.mtime_ns)
    digest = total.digest().hex()
    if as_json:
        print(
            json.dumps(
                {
                    "schema": SCHEMA,
                    "file": path_text(path),
                    "size": begun.size,
                    "seed": f"{seed:016x}",
                    "digest": digest,
                    "changed": has_changed,
                }
            )
        )
    else:
        print(f"{digest}  {show(path)}")
    if has_changed:
        was, now = size(begun.size), size(record.size)
        how = f"its size from {was} to {now}" if was != now else "its time"
        note(f"{show(path)}: has changed while it was read ({how}); the digest is of no use")
    return ExitCode.CHANGED if has_changed else ExitCode.DONE
