"""The command line: which command is meant, and its words."""

from __future__ import annotations

import argparse
import difflib
import importlib
from typing import NoReturn

from mirrorfs import __version__
from mirrorfs.errors import ExitCode, UsageError

COMMANDS = {
    "mount": "mount a backing folder",
    "umount": "unmount, and wait until the daemon has ended",
    "stats": "show what was received, written, skipped and punched",
    "demo": "the whole story on real files in half a minute",
}

_DESCRIPTION = """\
Mount a folder over a folder. Whatever tool writes into the mount, the disk below receives only the
blocks that changed, zeros become holes, and every byte is accounted for.
"""

_EPILOG = """\
examples:
  mirrorfs mount /srv/backup /mnt/mirror
  rsync -a --inplace /var/lib/libvirt/images/ /mnt/mirror/
  mirrorfs stats /mnt/mirror
  mirrorfs umount /mnt/mirror
  mirrorfs /srv/backup /mnt/mirror -o OPT,...     the form of mount(8) and fstab

exit codes: 0 done, 1 failed, 2 usage, 3 mount point unusable, 4 backing folder unusable, 5 FUSE not
available, 6 in use, 7 not a mirrorfs mount, 8 difference found, 11 busy, 12 no answer (the daemon
hangs or is dead), 32 any failure in mount(8)'s form
"""


class Parser(argparse.ArgumentParser):
    """Errors as UsageError, so that there is one place that prints them."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see '{self.prog} --help'")


def is_mount8(words: list[str]) -> bool:
    """`mirrorfs BACKING MOUNTPOINT -o …`: two places instead of a command."""
    if not words or words[0] in COMMANDS or words[0] in {"-h", "--help", "--version"}:
        return False
    return len(words) >= 2 and (words[0] == "-o" or not words[0].startswith("-"))


def run(words: list[str]) -> int:
    """Run the command that `words` say; returns its exit code. UsageError if they say none."""
    if is_mount8(words):
        words = ["mount", *words]
    parser = Parser(
        prog="mirrorfs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mirrorfs {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"unknown command '{words[0]}'{hint}; see 'mirrorfs --help'")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if words and words[0] == name:
            importlib.import_module(f"mirrorfs.cli.{name}").add_arguments(command)
    if not words:
        parser.print_help()
        return ExitCode.USAGE
    try:
        arguments = parser.parse_args(words)
    except SystemExit as exc:  # --help and --version end this way
        return int(exc.code or 0)
    code: int = importlib.import_module(f"mirrorfs.cli.{arguments.command}").run(arguments)
    return code
