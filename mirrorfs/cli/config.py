"""`mirrorfs config`: what the configuration file says, and where the value of each option of a
mount comes from.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirrorfs.backing import mounts
from mirrorfs.backing.paths import path_text, printable, show
from mirrorfs.cli.mount import add_config, read_config
from mirrorfs.cli.output import note
from mirrorfs.daemon import mounted, session_hook, timed_calls
from mirrorfs.errors import ConfigFileError, ExitCode, MirrorfsError, UsageError
from mirrorfs.options import OPTIONS, MountOptions, describe

if TYPE_CHECKING:
    import argparse

    from mirrorfs.backing.mounts import Mount
    from mirrorfs.daemon.config_file import ConfigFile, Table

_SCHEMA = 1
_FROM = {"default": "default", "given": "command line", "defaults": "[defaults]", "mount": "mount"}
_FILE = {"defaults", "mount"}


@dataclass(frozen=True, slots=True)
class _Place:
    """A mount that the file has, or that runs, or both."""

    point: bytes
    table: Table | None
    mount: Mount | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words that follow `mirrorfs config`."""
    parser.add_argument(
        "mount",
        metavar="MOUNT",
        nargs="?",
        help="a mount point, or the last name in one; default: all that are mounted or in the file",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.add_argument(
        "--check", action="store_true", help="say what is wrong in the file; exit code 10 if any is"
    )
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the options; exit code 10 where the file is wrong, 12 if a mount does not answer."""
    config = read_config(arguments)
    if arguments.check:
        if arguments.mount is not None or arguments.json or arguments.no_config:
            raise UsageError("--check is about the whole file: it goes with --config alone")
        return _check(config)
    code = int(ExitCode.DONE)
    for number, place in enumerate(_meant(arguments.mount, config)):
        try:
            if number and not arguments.json:
                print()
            _print(place, config, arguments.json)
        except MirrorfsError as exc:
            note(str(exc))
            code = max(code, exc.exit_code)
    return code


def _check(config: ConfigFile | None) -> int:
    if config is None:
        print("there is no configuration file (/etc/mirrorfs.toml)")
        return ExitCode.DONE
    problems = config.all_problems()
    for table in config.mounts:
        try:
            session_hook.prepare(config.options(table, []))
        except ConfigFileError:  # among the problems already
            continue
        except UsageError as exc:
            line = config.line_of(
                table, "on_session_user" if "_user:" in str(exc) else "on_session"
            )
            problems.append(f"{config.name}: line {line or table.line}: {exc}")
    for problem in dict.fromkeys(problems):
        note(problem)
    if problems:
        return ExitCode.CONFIG_FILE
    count = len(config.mounts)
    print(f"{config.name}: {count} {'mount' if count == 1 else 'mounts'}, nothing is wrong")
    return ExitCode.DONE


def _meant(wanted: str | None, config: ConfigFile | None) -> list[_Place]:
    """The mounts that a user means. Raises UsageError and NotAMountError for none."""
    if wanted is not None:
        point = timed_calls.resolve(os.fsencode(wanted))
        mount = mounts.mounted_at(point)
        if mount is not None and mount.fs_type == mounts.MIRRORFS_TYPE:
            return [_Place(point, config.at(point) if config else None, mount)]
        if config is None:
            mounted.at(wanted)  # says that it is none
            return []
        return [_place(config.named(wanted))]
    found = [] if config is None else [_place(table) for table in config.mounts]
    known = {place.point for place in found}
    found += [_Place(one.path, None, one) for one in mounted.every() if one.path not in known]
    if not found:
        if config is not None and config.all_problems():
            raise ConfigFileError(config.all_problems()[0])
        note("no mirrorfs is mounted, and no configuration file names one")
    return found


def _place(table: Table) -> _Place:
    point = timed_calls.resolve(os.fsencode(table.mount_point))
    mount = mounts.mounted_at(point)
    is_ours = mount is not None and mount.fs_type == mounts.MIRRORFS_TYPE
    return _Place(point, table, mount if is_ours else None)


def _print(place: _Place, config: ConfigFile | None, as_json: bool) -> None:
    in_file = MountOptions() if config is None else config.options(place.table, [])
    if place.mount is None:
        options = describe(in_file, {})
        backing = os.fsencode(place.table.backing) if place.table else b""
    else:
        options = mounted.running_options(place.mount)
        backing = place.mount.source
    shown = {name: _entry(name, one, place, config, in_file) for name, one in options.items()}
    if as_json:
        line = {
            "schema": _SCHEMA,
            "mount_point": path_text(place.point),
            "backing": path_text(backing),
            "mounted": place.mount is not None,
            "file": None if config is None else config.name,
            "line": None if place.table is None else place.table.line,
            "options": shown,
        }
        print(json.dumps(line))
        return
    state = "mounted" if place.mount else "not mounted"
    print(f"{show(place.point)}: {show(backing)}, {state}")
    texts = {name: _text(name, one["value"]) for name, one in shown.items()}
    width = min(40, max(map(len, texts.values())))
    for name, one in shown.items():
        line_said = (
            "" if one["line"] is None or config is None else f", {config.name}:{one['line']}"
        )
        print(f"  {name:16}  {texts[name]:{width}}  {_FROM[one['from']]}{line_said}")
        if one["pending"] is not None:
            pending = _text(name, one["pending"])
            print(f"  {'':16}  {pending:{width}}  as the file has it now, at the next mount")


def _entry(
    name: str,
    running: dict[str, Any],
    place: _Place,
    config: ConfigFile | None,
    in_file: MountOptions,
) -> dict[str, Any]:
    """What is shown of an option: its value, where that comes from, and what will come."""
    origin = running["from"]
    line = None
    if config is not None and origin in _FILE:
        line = config.line_of(place.table, name)
    pending = None
    if place.mount is not None and origin != "given" and config is not None:
        said = describe(in_file, {})[name]
        # What the mount finds itself is None in the file; nothing is "" in the mount.
        if (said["from"] in _FILE or origin in _FILE) and said["value"] is not None:
            pending = said["value"] if said["value"] != running["value"] else None
    return {"value": running["value"], "from": origin, "line": line, "pending": pending}


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value == "":
        default = next(option.default for option in OPTIONS if option.name == name)
        return default if value is None else "none"
    return printable(f"{value:g}" if isinstance(value, float) else str(value))
