"""`mirrorfs mount`: check both places, then serve, in the background unless told otherwise."""

from __future__ import annotations

import os
import resource
import textwrap
from typing import TYPE_CHECKING

from mirrorfs.backing.paths import show
from mirrorfs.cli.output import note
from mirrorfs.errors import BackingError, ExitCode, FuseError, MirrorfsError, UsageError
from mirrorfs.options import OPTIONS, MountOptions, Option, parse, parse_words

if TYPE_CHECKING:
    import argparse

    from mirrorfs.backing.probe import Abilities
    from mirrorfs.daemon.config_file import ConfigFile, Table
    from mirrorfs.daemon.mount_spec import MountSpec

_MIN_OPEN_FILES = 64
_WIDTH = 80
_COLUMN = 27  # the longest option, and a gap


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words that follow `mirrorfs mount`."""
    lines = "\n".join(_option_help(option) for option in OPTIONS)
    parser.epilog = (
        f"options for -o:\n{lines}\n"
        "Words that mount(8) and fstab use (rw, defaults, nosuid, nodev, noexec, nofail,\n"
        "_netdev, relatime, x-*) are accepted.\n\nexamples:\n"
        "  mirrorfs mount /srv/backup /mnt/mirror\n"
        "  mirrorfs mount /srv/backup /mnt/mirror -o block=64k,log=/var/log/mirrorfs.log\n"
        "  mirrorfs mount /srv/backup /mnt/mirror -f -o ro\n"
        "  mirrorfs mount mirror        the mount of that name in /etc/mirrorfs.toml"
    )
    parser.add_argument(
        "backing",
        metavar="BACKING",
        help="the folder that holds the files; or, alone, a mount point of the configuration file",
    )
    parser.add_argument(
        "mount_point",
        metavar="MOUNTPOINT",
        nargs="?",  # so that an option is judged first: mount -o remount MOUNTPOINT
        help="the empty folder through which they are written",
    )
    parser.usage = (
        "mirrorfs mount BACKING MOUNTPOINT [-o OPT,...] [-f]\n"
        "       mirrorfs mount NAME [-o OPT,...] [-f]"
    )
    parser.add_argument(
        "-o", dest="options", metavar="OPT,...", action="append", default=[], help="see below"
    )
    parser.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground")
    add_config(parser)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Declare the words about the configuration file."""
    words = parser.add_mutually_exclusive_group()
    words.add_argument(
        "--config", metavar="FILE", help="the configuration file [/etc/mirrorfs.toml, if there]"
    )
    words.add_argument("--no-config", action="store_true", help="read no configuration file")


def read_config(arguments: argparse.Namespace) -> ConfigFile | None:
    """The configuration file that is meant, if there is one."""
    if arguments.no_config:
        return None
    from mirrorfs.daemon import config_file, timed_calls

    if arguments.config is None:
        return config_file.read(None)
    return config_file.read(timed_calls.resolve(os.fsencode(arguments.config)))


def _option_help(option: Option) -> str:
    return textwrap.fill(
        f"{option.help} [{option.default}]",
        width=_WIDTH,
        initial_indent=f"  {option.spelled:{_COLUMN}}",
        subsequent_indent=" " * (_COLUMN + 2),
        break_on_hyphens=False,
    )


def run(arguments: argparse.Namespace) -> int:
    """Mount; returns when the mount answers, or with -f when it has ended."""
    words = [word.strip() for word in ",".join(arguments.options).split(",")]
    if "remount" in words:
        return _remount(arguments, [word for word in words if word])
    own = parse(",".join(words))
    # mount(8) always passes `rw`, which then says nothing.
    words = [word for word in own.words if not (arguments.is_mount8 and word == "rw")]
    config = read_config(arguments)
    if arguments.mount_point is None:
        backing, mount_point, options = _by_name(config, arguments.backing, words)
    else:
        from mirrorfs.daemon import timed_calls

        backing = timed_calls.resolve(os.fsencode(arguments.backing))
        mount_point = timed_calls.resolve(os.fsencode(arguments.mount_point))
        options = with_config(config, backing, mount_point, words)
    spec = prepare(backing, mount_point, options)
    from mirrorfs.daemon import launch

    if arguments.foreground:
        launch.run_foreground(spec)
        return ExitCode.DONE
    hint = launch.run_background(spec)
    if hint:
        note(hint)
    return ExitCode.DONE


def _remount(arguments: argparse.Namespace, words: list[str]) -> int:
    from mirrorfs.daemon import remount

    # mount -o remount,ro MOUNTPOINT, or with the backing folder before it, as mount(8) has it
    path = arguments.mount_point or arguments.backing
    remount.remount(path, words, is_whole=arguments.is_mount8)
    return ExitCode.DONE


def _by_name(
    config: ConfigFile | None, name: str, words: list[str]
) -> tuple[bytes, bytes, MountOptions]:
    """Backing folder, mount point and options of a mount that the configuration file has."""
    if config is None:
        raise UsageError(
            "two places are needed: mirrorfs mount BACKING MOUNTPOINT; see 'mirrorfs mount --help'"
        )
    from mirrorfs.daemon import timed_calls

    table = config.named(name)
    options = config.options(table, words)
    backing, mount_point = map(os.fsencode, (table.backing, table.mount_point))
    return timed_calls.resolve(backing), timed_calls.resolve(mount_point), options


def with_config(
    config: ConfigFile | None, backing: bytes, mount_point: bytes, words: list[str]
) -> MountOptions:
    """The options of a mount whose places are given, and those that the file has for it."""
    if config is None:
        return parse_words(words)
    return config.options(table_of(config, backing, mount_point), words)


def table_of(config: ConfigFile, backing: bytes, mount_point: bytes) -> Table | None:
    """The table of a mount, if it has one for this backing folder; else says why it is not used."""
    from mirrorfs.daemon import timed_calls

    table = config.at(mount_point)
    if table is None or not table.backing:  # what is wrong with the latter is said later
        return table
    if timed_calls.resolve(os.fsencode(table.backing)) == backing:
        return table
    note(
        f"{config.name}: line {table.line}: is for the backing folder {table.backing}, "
        f"not {show(backing)}; only [defaults] are used"
    )
    return None


def prepare(backing: bytes, mount_point: bytes, options: MountOptions) -> MountSpec:
    """Check both places, finalise what a crash has left, and say on stderr what was done."""
    from mirrorfs.backing.probe import probe
    from mirrorfs.daemon import metrics_folder, places, session_hook, state_folder
    from mirrorfs.daemon.mount_spec import MountSpec

    _check_limits()
    places.check_fuse(bool(options.allow_other))
    notes: list[str] = []
    hook = session_hook.prepare(options)
    # First, since a dead mount may lie on the backing folder itself.
    if places.clear_mount_point(mount_point):
        notes.append("the daemon before this one was dead; removed what it left")
        note(f"{show(mount_point)}: {notes[-1]}")
    backing_fd = places.open_backing(backing, options.ro)
    places.check_overlap(backing)
    places.check_mount_point(mount_point, backing_fd, options.nonempty)
    places.check_control_name(backing_fd, backing, options.control)
    metrics = metrics_folder.check(options.metrics, mount_point, backing)
    try:
        abilities = probe(backing_fd, writable=not options.ro)
    except OSError as exc:
        raise BackingError(f"{show(backing)}: cannot be written: {exc.strerror}") from None
    _check_abilities(show(backing), options, abilities)
    state = state_folder.prepare(backing, backing_fd, options)
    for line in (*state.notes, *state.warnings):
        note(line)
    notes += state.notes
    _check_libraries()
    return MountSpec(
        backing, backing_fd, mount_point, options, abilities, state, hook, metrics, tuple(notes)
    )


def _check_limits() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < _MIN_OPEN_FILES:
        raise MirrorfsError(
            f"only {hard} files may be open at once here; allow {_MIN_OPEN_FILES} (ulimit -Hn)"
        )


def _check_abilities(backing: str, options: MountOptions, abilities: Abilities) -> None:
    if options.block_bytes is not None and options.block_bytes < abilities.unit_bytes:
        raise UsageError(
            f"option block: {options.block_bytes} bytes is less than what {backing} "
            f"allocates at once ({abilities.unit_bytes}); use block={abilities.unit_bytes} "
            "or more, or block=auto"
        )
    if (
        options.zeros == "punch"
        and not abilities.punch
        and not options.allow_dense
        and not options.ro
    ):
        raise BackingError(
            f"{backing}: the file system below ({abilities.file_system}) cannot make holes "
            f"({abilities.reason}); images will grow to full size. Mount a folder on ext4, xfs or "
            "btrfs, or pass -o allow_dense to go on"
        )


def _check_libraries() -> None:
    from importlib.util import find_spec

    for name in ("pyfuse3", "trio"):
        if find_spec(name) is None:
            raise FuseError(f"the Python package {name} is not installed; run tools/bootstrap")
