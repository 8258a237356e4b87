"""`mount.mirrorfs`: what mount(8) calls for the type mirrorfs, with its words and exit codes.

    mount.mirrorfs SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE.SUBTYPE]

`-f` is "fake" there: everything is looked at, and nothing mounted.
"""

from __future__ import annotations

import importlib
import os
import stat
import sys
import traceback
from enum import IntEnum
from typing import TYPE_CHECKING

from mirrorfs import __version__
from mirrorfs.backing.paths import show
from mirrorfs.cli import mount
from mirrorfs.cli.commands import Parser
from mirrorfs.cli.main import guarded, with_signals
from mirrorfs.cli.output import note
from mirrorfs.errors import (
    BackingError,
    ExitCode,
    FuseError,
    MountPointError,
    UnknownOptionError,
    UsageError,
)
from mirrorfs.options import MountOptions, parse, parse_words

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

# What is needed once the root is another one, in which this package need not be.
_NEEDED_THERE = (
    "mirrorfs.daemon.launch",
    "mirrorfs.daemon.main_loop",
    "mirrorfs.daemon.config_file",
    "mirrorfs.daemon.config_text",
    "mirrorfs.daemon.state_folder",
    "mirrorfs.daemon.metrics_folder",
    "mirrorfs.daemon.places",
    "mirrorfs.daemon.remount",
    "mirrorfs.mirror.recovery",
)


class MountCode(IntEnum):
    """The exit codes of mount(8)."""

    DONE = 0
    USAGE = 1  # wrong words or options, or a user who may not
    SYSTEM = 2  # what is needed is not there: FUSE, memory
    BUG = 4
    INTERRUPTED = 8
    FAILED = 32


_CODES = {
    ExitCode.DONE: MountCode.DONE,
    ExitCode.USAGE: MountCode.USAGE,
    ExitCode.CONFIG_FILE: MountCode.USAGE,
    ExitCode.FUSE: MountCode.SYSTEM,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Mount as mount(8) wants it; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = with_signals(lambda: guarded(lambda: _run(words), _say))
    except Exception:
        traceback.print_exc()
        return MountCode.BUG
    return MountCode.INTERRUPTED if code > 128 else code


def _say(text: str, code: int) -> int:
    note(text)
    return _CODES.get(ExitCode(code), MountCode.FAILED)


def _parser() -> Parser:
    parser = Parser(prog="mount.mirrorfs", description="what mount(8) calls", allow_abbrev=False)
    parser.add_argument("spec", metavar="SPEC", help="the backing folder")
    parser.add_argument("dir", metavar="DIR", help="the mount point")
    parser.add_argument("-s", dest="sloppy", action="store_true", help="pass over unknown options")
    parser.add_argument("-f", dest="fake", action="store_true", help="do all but mounting")
    parser.add_argument("-n", dest="no_mtab", action="store_true", help="changes nothing")
    parser.add_argument("-v", dest="verbose", action="store_true", help="say what is done")
    parser.add_argument(
        "-N", dest="namespace", metavar="NS", help="a mount namespace, or a process"
    )
    parser.add_argument("-o", dest="options", metavar="OPTIONS", action="append", default=[])
    parser.add_argument("-t", dest="type", metavar="TYPE", help="changes nothing")
    parser.add_argument("-V", "--version", action="version", version=f"mirrorfs {__version__}")
    return parser


def _run(words: list[str]) -> int:
    try:
        arguments = _parser().parse_args(words)
    except SystemExit as exc:  # --help and --version end this way
        return int(exc.code or 0)
    if arguments.namespace is not None:
        _enter(arguments.namespace)
    given = [word.strip() for word in ",".join(arguments.options).split(",")]
    options = [word for word in given if word]
    from mirrorfs.daemon import remount

    if remount.WORD in options:
        if not arguments.fake:
            words = _known(options, arguments.sloppy)
            remount.remount(arguments.dir, words, is_whole=True)
        return MountCode.DONE
    _mount(arguments, _known(options, arguments.sloppy))
    return MountCode.DONE


def _known(words: list[str], is_sloppy: bool) -> list[str]:
    """The words, without those that are unknown if that `is_sloppy`."""
    if not is_sloppy:
        return words
    known = []
    for word in words:
        try:
            parse(word)
        except UnknownOptionError as exc:
            note(str(exc))
            continue
        except UsageError:
            pass  # said when all are read
        known.append(word)
    return known


def _mount(arguments: argparse.Namespace, words: list[str]) -> None:
    from mirrorfs.daemon import config_file, timed_calls

    parse_words(words)
    backing = timed_calls.resolve(os.fsencode(arguments.spec))
    mount_point = timed_calls.resolve(os.fsencode(arguments.dir))
    # mount(8) always passes `rw`, which then says nothing.
    own = [word for word in words if word != "rw"]
    options = mount.with_config(config_file.read(None), backing, mount_point, own)
    if arguments.verbose:
        note(f"{show(backing)} on {show(mount_point)}: {','.join(options.words) or 'no options'}")
    if arguments.fake:
        _look(backing, mount_point)
    elif not _is_hidden_from_mount8(backing, mount_point):
        _start(backing, mount_point, options)


def _start(backing: bytes, mount_point: bytes, options: MountOptions) -> None:
    from mirrorfs.daemon import launch

    spec = mount.prepare(backing, mount_point, options)
    hint = launch.run_background(spec)
    if hint:
        note(hint)


def _look(backing: bytes, mount_point: bytes) -> None:
    """Refuse what are no folders."""
    from mirrorfs.daemon import timed_calls

    for path, error in (backing, BackingError), (mount_point, MountPointError):
        try:
            mode = timed_calls.call(_mode, path)
        except OSError as exc:
            raise error(f"{show(path)}: {exc.strerror}") from None
        if not stat.S_ISDIR(mode):
            raise error(f"{show(path)}: not a folder")


def _mode(path: bytes) -> int:
    return os.stat(path).st_mode


def _is_hidden_from_mount8(backing: bytes, mount_point: bytes) -> bool:
    """Whether it is mounted already, and `mount -a` cannot see that: the mount table spells such a
    backing folder in another way than fstab.
    """
    if backing.isascii() and b"," not in backing and b"\\" not in backing:
        return False
    from mirrorfs.backing import mounts
    from mirrorfs.daemon import health

    found = mounts.mounted_at(mount_point)
    if found is None or (found.fs_type, found.source) != (mounts.MIRRORFS_TYPE, backing):
        return False
    return not health.is_dead(found)


def _enter(namespace: str) -> None:
    """Change to a mount namespace, by its file or by the number of a process in it."""
    from mirrorfs.backing import syscalls

    for name in _NEEDED_THERE:
        try:
            importlib.import_module(name)
        except ImportError as exc:
            raise FuseError(f"the Python package {exc.name} is not installed") from None
    path = f"/proc/{namespace}/ns/mnt" if namespace.isdigit() else namespace
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        syscalls.enter_mount_namespace(fd)
        os.close(fd)
    except OSError as exc:
        raise UsageError(f"-N {namespace}: {exc.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
