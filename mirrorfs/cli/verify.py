"""`mirrorfs verify`: a copy is compared with its source, here or on another host, by digests."""

from __future__ import annotations

import os
import re
import secrets
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirrorfs.backing.paths import show
from mirrorfs.cli import verify_text
from mirrorfs.cli.digest import add_sample, sample
from mirrorfs.daemon import comparison, digest_process, timed_calls
from mirrorfs.daemon.comparison import Compared
from mirrorfs.errors import MirrorfsError, UsageError
from mirrorfs.mirror import digest_stream
from mirrorfs.mirror.chunk_digests import SEED_BITS
from mirrorfs.mirror.digest_stream import Done, Header, Listed, Refused

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from mirrorfs.cli.progress import Progress
    from mirrorfs.daemon.digest_process import DigestProcess

_EPILOG = """\
Both sides are read, and the digests of their chunks of 64 KiB compared; from
another host nothing else travels. Of folders the regular files are compared by
their names. What changes meanwhile is told apart from what differs: compare
with a snapshot, or while nothing writes.

exit codes:
  0 all is equal, 8 something differs, is missing or superfluous,
  1 something could not be read, 13 something changed meanwhile,
  12 a mount or a disk does not answer

examples:
  mirrorfs verify /var/lib/libvirt/images /srv/backup
  mirrorfs verify /dev/vg/vm-snapshot /srv/backup/vm.img
  mirrorfs verify kvm1:/var/lib/libvirt/images /mnt/mirror --sample 5%
"""
# As rsync(1) has it: a colon before any slash. An IPv6 address stands in brackets.
_REMOTE = re.compile(r"((?:[^/:@\[\]]*@)?\[[^]/]*\]|[^/:]*):(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """A path, here or on a host."""

    path: str
    host: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words that follow `mirrorfs verify`."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "source", metavar="SOURCE", help="a file, a folder, a block device, or HOST:PATH"
    )
    parser.add_argument(
        "target", metavar="TARGET", help="the copy, in a mount or in the backing folder"
    )
    add_sample(parser)
    parser.add_argument(
        "--allow-superfluous",
        action="store_true",
        help="what the target folder holds beyond the source is no difference",
    )
    parser.add_argument(
        "-e",
        "--rsh",
        metavar="COMMAND",
        default="ssh",
        help="how to reach HOST, as 'ssh -p 2222' (default: ssh)",
    )
    parser.add_argument(
        "--remote-command",
        metavar="COMMAND",
        default="mirrorfs",
        help="how mirrorfs is called there (default: mirrorfs)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, one line for each file")


def place_of(text: str) -> Place:
    """What SOURCE means. Raises UsageError."""
    match = _REMOTE.fullmatch(text)
    if match is None:
        return Place(text)
    host, path = match[1], match[2]
    if path.startswith(":"):
        raise UsageError(f"{text}: an rsync daemon cannot be asked; write HOST:PATH, for ssh")
    if not host or not path or host.startswith("-"):
        raise UsageError(f"{text}: write HOST:PATH, or ./{text} for a file of that name")
    return Place(path, host.replace("[", "").replace("]", ""))


def run(arguments: argparse.Namespace) -> int:
    """Compare, and print what differs; exit code 8 if something does."""
    source = place_of(arguments.source)
    sampled = sample(arguments, secrets.randbits(SEED_BITS))
    seed = secrets.randbits(SEED_BITS)
    words = ["--seed", f"{seed:016x}", "--choose"]
    if sampled is not None:
        words += [f"--sample={arguments.sample}", f"--sample-seed={sampled.seed:016x}"]
    shell = _shell(arguments.rsh)
    target_path = timed_calls.resolve(os.fsencode(arguments.target))
    is_folder = digest_process.is_folder(target_path)
    report = verify_text.Report(arguments.json, arguments.source, arguments.target, sampled)
    with report.progress() as progress, _opened(source, words, shell, arguments) as ours:
        kind = ours.header().kind
        if kind == digest_stream.FOLDER and not is_folder:
            raise UsageError(f"{show(target_path)}: not a folder, which the source is")
        if kind == digest_stream.FILE and is_folder:
            target_path = os.path.join(target_path, os.path.basename(os.fsencode(source.path)))
        with digest_process.here(target_path, words) as theirs:
            there = theirs.header()
            if there.kind != kind:
                raise UsageError(f"{show(target_path)}: is a {there.kind}, the source a {kind}")
            for found in _compared(ours, theirs, there, progress, arguments.allow_superfluous):
                report.add(found)
    return report.end()


def _shell(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as exc:
        raise UsageError(f"--rsh: '{text}': {exc}") from None
    if not words:
        raise UsageError("--rsh: is empty")
    return words


def _opened(
    source: Place, words: list[str], shell: list[str], arguments: argparse.Namespace
) -> DigestProcess:
    if source.host:
        command = arguments.remote_command
        return digest_process.there(source.host, source.path, words, shell, command)
    path = timed_calls.resolve(os.fsencode(source.path))
    digest_process.is_folder(path)
    return digest_process.here(path, words)


def _compared(
    source: DigestProcess,
    target: DigestProcess,
    header: Header,
    progress: Progress,
    allows_superfluous: bool,
) -> Iterator[Compared]:
    """All that was found, file by file."""
    if header.kind == digest_stream.FILE:
        for side in (source, target):
            side.choose([])
        yield comparison.compare(b"", source, target, header.seed, progress.tell)
    else:
        refused: list[Compared] = []
        ours = _listed(source, "source", refused)
        theirs = _listed(target, "target", refused)
        yield from refused
        # Below a folder that cannot be read nothing is known.
        unknown = tuple(one.path + b"/" if one.path else b"" for one in refused)
        both = [path for path in ours if path in theirs]
        for side in (source, target):
            side.choose(both)
        for path in ours:
            if path not in theirs and not path.startswith(unknown):
                yield Compared(path, ours[path], None, only=comparison.MISSING)
        for path in theirs:
            if not (path in ours or path.startswith(unknown) or allows_superfluous):
                yield Compared(path, None, theirs[path], only=comparison.SUPERFLUOUS)
        progress.expect(sum(min(ours[path], theirs[path]) for path in both))
        for path in both:
            yield comparison.compare(path, source, target, header.seed, progress.tell)
    for side in (source, target):
        if not isinstance(side.next(), Done):
            raise MirrorfsError("the digests do not end where they should")


def _listed(side: DigestProcess, name: str, refused: list[Compared]) -> dict[bytes, int]:
    """The files of one side with their sizes; what could not be read is added to `refused`."""
    found: dict[bytes, int] = {}
    for record in side.listed():
        if isinstance(record, Listed):
            found[record.path] = record.size
        elif isinstance(record, Refused) and not record.gone:
            refused.append(Compared(record.path, error=f"{name}: {record.error}"))
    return found
