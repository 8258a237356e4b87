"""The command line: which command is meant, and its words."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import os
import sys
from typing import NoReturn

from mirrorfs import __version__
from mirrorfs.errors import ExitCode, UsageError

COMMANDS = {
    "mount": "mount a backing folder",
    "config": "the configuration file: what it says, and where each value comes from",
    "umount": "unmount, and wait until the daemon has ended",
    "status": "how the copies stand: last good session, what is incomplete, space",
    "history": "the sessions that were noted, the last one first",
    "check": "a monitoring plugin: one line, exit code 0, 1, 2 or 3",
    "doctor": "what is wrong or slow, and the command that mends it",
    "stats": "show what was received, and what became of it",
    "top": "show what the mounts do now",
    "verify": "compare a copy with its source, here or over ssh",
    "scrub": "read what is stored, and find what is damaged, by the digests that are kept",
    "digest": "one digest over all of a file; what verify asks the other side for",
    "sparsify": "dig holes where files hold zeros, in place",
    "demo": "the whole story on real files, in about a minute",
}
# Their exit codes are those of monitoring plugins, where 2 is the worst and not a mistyped word.
PLUGINS = {"check"}
_ALONE = {"help", "-h", "--help", "-V", "--version"}
_WIDTH = 80

_DESCRIPTION = """\
Mount a folder over a folder. Whatever tool writes into the mount, the disk
below receives only the blocks that changed, zeros become holes, and every byte
is accounted for.
"""

_EPILOG = """\
'mirrorfs help COMMAND' tells more about one.

examples:
  mirrorfs mount /srv/backup /mnt/mirror
  rsync -a --inplace /var/lib/libvirt/images/ /mnt/mirror/
  mirrorfs stats /mnt/mirror
  mirrorfs status
  mirrorfs umount /mnt/mirror
  mirrorfs /srv/backup /mnt/mirror -o OPT,...    the form of mount(8) and fstab

exit codes:
  0 done, 1 failed, 2 usage, 3 mount point unusable, 4 backing folder unusable,
  5 FUSE not available, 6 in use, 7 not a mirrorfs mount, 8 difference found,
  9 state folder unusable, 10 configuration file, 11 busy, 12 no answer (the
  daemon hangs or is dead), 13 changed while it was read, 32 any failure in
  mount(8)'s form; 'mirrorfs help check' has those of a plugin
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are UsageError, so that one place prints all errors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see '{self.prog} --help'")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_WIDTH)


def is_mount8(words: list[str]) -> bool:
    """`mirrorfs BACKING MOUNTPOINT -o …`: two places instead of a command.

    An unknown word is a place only if nothing else can be meant: it is a path by its looks, there
    is a `-o`, as there always is from mount(8) and systemd, or the program is called
    mount.SOMETHING.
    """
    if len(words) < 2 or words[0] in _ALONE:
        return False
    if os.path.basename(sys.argv[0]).startswith("mount."):
        return True
    if words[0] in COMMANDS:
        return False
    if words[0].startswith("-"):
        return words[0].startswith("-o")
    if "/" in words[0] or words[0] in {".", ".."}:
        return True
    return any(word.startswith("-o") for word in words) and not _is_mistyped(words[0])


def run(words: list[str]) -> int:
    """Run the command that `words` say; returns its exit code. Raises UsageError if they say none,
    and what the command raises.
    """
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    mount8 = is_mount8(words)
    if mount8:
        words = ["mount", *words]
    if words and words[0] not in COMMANDS and words[0] not in _ALONE:
        raise _unknown(words[0])
    parser = _parser(words[0] if words else "")
    if not words:
        parser.print_help(sys.stderr)
        return ExitCode.USAGE
    try:
        arguments, rest = parser.parse_known_args(words)
    except SystemExit as exc:  # --help and --version end this way
        return int(exc.code or 0)
    if rest:
        raise UsageError(
            f"not understood: {' '.join(rest)}; see 'mirrorfs {arguments.command} --help'"
        )
    arguments.is_mount8 = mount8
    code: int = importlib.import_module(f"mirrorfs.cli.{arguments.command}").run(arguments)
    return code


def _parser(wanted: str) -> Parser:
    """The parser of all commands; only the wanted one's words are known to it."""
    parser = Parser(
        prog="mirrorfs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action="version", version=f"mirrorfs {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", parser_class=Parser, required=True
    )
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        if wanted == name:
            importlib.import_module(f"mirrorfs.cli.{name}").add_arguments(command)
    return parser


def _nearest(word: str) -> str:
    return next(iter(difflib.get_close_matches(word, [*COMMANDS, "help"], n=1)), "")


def _is_mistyped(word: str) -> bool:
    """Whether `word` is rather a command, mistyped, than a backing folder."""
    if not _nearest(word):
        return False
    with contextlib.suppress(OSError):
        # The name alone decides: what has it may be a mount that does not answer.
        return word not in os.listdir()
    return True


def _unknown(word: str) -> UsageError:
    if word.startswith("-"):
        return UsageError(f"unknown option '{word}'; see 'mirrorfs --help'")
    near = _nearest(word)
    hint = f"; did you mean '{near}'?" if near else ""
    return UsageError(f"unknown command '{word}'{hint}; see 'mirrorfs --help'")
