"""The configuration file: what it says of all mounts (`[defaults]`) and of one
(`[mount."/mnt/mirror"]`).

Since a command of the user's choice can stand in it, it is believed only if nobody but root and the
user could have written it, as sudo and ssh do with theirs. What is wrong in the table of one mount
keeps no other from being mounted.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mirrorfs.backing.paths import show
from mirrorfs.daemon import timed_calls
from mirrorfs.daemon.config_values import BACKING, words_of
from mirrorfs.errors import ConfigFileError, MirrorfsError, UsageError
from mirrorfs.options import MountOptions, parse_words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirrorfs.daemon.config_text import KeyPath

DEFAULT_PATH = b"/etc/mirrorfs.toml"
_MAX_BYTES = 1 << 20
_DEFAULTS, _MOUNT = "defaults", "mount"


@dataclass(frozen=True, slots=True)
class Setting:
    """One key: the words for `-o` that say the same, and its line."""

    words: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Table:
    """What is said of one mount, or of all (then both paths are empty). `settings` are by option
    name; `problems` are lines for the user, for each key that cannot be.
    """

    mount_point: str
    backing: str
    settings: dict[str, Setting]
    problems: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file that was read. `problems` are those of no single table."""

    name: str
    defaults: Table
    mounts: tuple[Table, ...]
    problems: tuple[str, ...]

    def all_problems(self) -> list[str]:
        """Everything that is wrong, one line each."""
        tables = (self.defaults, *self.mounts)
        return [*self.problems, *(problem for table in tables for problem in table.problems)]

    def at(self, mount_point: bytes) -> Table | None:
        """The table of the mount at a path without symbolic links; None if there is none."""
        for table in self.mounts:
            if os.path.normpath(os.fsencode(table.mount_point)) == mount_point:
                return table
        for table in self.mounts:
            # A mount point of another that cannot be reached now is not this one.
            with contextlib.suppress(MirrorfsError, OSError):
                if timed_calls.resolve(os.fsencode(table.mount_point)) == mount_point:
                    return table
        return None

    def named(self, name: str) -> Table:
        """The table that a user means: by its mount point, or the last name in that where it is the
        only one. Raises UsageError.
        """
        if "/" in name:
            table = self.at(timed_calls.resolve(os.fsencode(name)))
            found = [] if table is None else [table]
        else:
            found = [one for one in self.mounts if os.path.basename(one.mount_point) == name]
        if len(found) == 1:
            return found[0]
        points = ", ".join(one.mount_point for one in found or self.mounts)
        if found:
            raise UsageError(f"'{name}' may be {points} ({self.name}); write the whole path")
        hint = f"it has {points}" if points else "it has no mount"
        raise UsageError(
            f"'{name}' is no mount in {self.name}; {hint}. Without the file, two places are "
            "needed: mirrorfs mount BACKING MOUNTPOINT"
        )

    def options(self, table: Table | None, given: Iterable[str]) -> MountOptions:
        """The options of the mount of `table` with the words `given` on the command line, which win
        over its table, and that over the defaults.

        Raises ConfigFileError for the first thing that is wrong, but not in tables of other mounts,
        and UsageError for wrong words.
        """
        tables = [self.defaults] if table is None else [self.defaults, table]
        problems = [*self.problems, *(problem for one in tables for problem in one.problems)]
        if problems:
            raise ConfigFileError(problems[0])
        decided = dict.fromkeys(self.defaults.settings, _DEFAULTS)
        settings = dict(self.defaults.settings)
        for name, setting in ({} if table is None else table.settings).items():
            decided[name] = _MOUNT
            settings.pop(name, None)  # the words of a mount come after all defaults
            settings[name] = setting
        words = [word for setting in settings.values() for word in setting.words]
        own = parse_words(given)
        options = parse_words([*words, *own.words])
        on_command_line = {*own.given, *(("ro",) if "rw" in own.words else ())}
        origins = tuple((n, o) for n, o in decided.items() if n not in on_command_line)
        return replace(options, origins=origins)

    def line_of(self, table: Table | None, option: str) -> int | None:
        """The line that decides an option, as far as the file does."""
        for one in (table, self.defaults):
            if one is not None and option in one.settings:
                return one.settings[option].line
        return None


def read(path: bytes | None) -> ConfigFile | None:
    """The file at `path`, or the default one if `path` is None; None if that is not there, or
    not for this user to read.

    Raises ConfigFileError if it cannot be read, may not be believed, or is no TOML. What is wrong
    with single keys is in its `problems`.
    """
    if path is None and not os.path.lexists(DEFAULT_PATH):
        return None
    name = show(path or DEFAULT_PATH)
    try:
        content = timed_calls.call(_content, path or DEFAULT_PATH)
    except PermissionError as exc:
        if path is None:
            return None
        raise ConfigFileError(f"{name}: cannot be read: {exc.strerror}") from None
    except FileNotFoundError:
        raise ConfigFileError(f"{name}: no such file; correct the path, or make it") from None
    except OSError as exc:
        raise ConfigFileError(f"{name}: cannot be read: {exc.strerror}") from None
    from mirrorfs.daemon import config_text

    tables, lines = config_text.read(name, content)
    return _checked(name, tables, lines)


def _content(path: bytes) -> bytes:
    """The file's bytes, if it may be believed. Raises OSError and ConfigFileError."""
    # A FIFO would else wait for its writer.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        name = show(path)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigFileError(f"{name}: not a file")
        if status.st_uid not in {0, os.geteuid()}:
            raise ConfigFileError(
                f"{name}: belongs to user {status.st_uid}, who could have a command run by it; "
                f"give it to root: chown root {name}"
            )
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigFileError(
                f"{name}: others may write it, and could have a command run by it; "
                f"chmod go-w {name}"
            )
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ConfigFileError(f"{name}: larger than 1 MiB")
    return content


def _checked(name: str, tables: dict[str, Any], lines: dict[KeyPath, int]) -> ConfigFile:
    problems: list[str] = []

    def wrong(path: KeyPath, text: str) -> str:
        return f"{name}: line {lines.get(path, 1)}: {text}"

    for key in tables:
        if key in {_DEFAULTS, _MOUNT}:
            continue
        near = difflib.get_close_matches(key, [_DEFAULTS, _MOUNT], n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        if not isinstance(tables[key], dict):
            hint = '; options stand below [defaults] or [mount."/MOUNTPOINT"]'
        problems.append(wrong((key,), f"unknown key '{key}'{hint}"))
    found: dict[str, Table] = {}
    for key in (_DEFAULTS, _MOUNT):
        if not isinstance(tables.get(key, {}), dict):
            problems.append(wrong((key,), f"'{key}' must be a table: {_form(key)}"))
            tables[key] = {}
    for point, content in tables.get(_MOUNT, {}).items():
        path = (_MOUNT, point)
        if not isinstance(content, dict):
            problems.append(wrong(path, f"'{point}' must be a table: {_form(_MOUNT)}"))
        elif not point.startswith("/") or "\0" in point:
            problems.append(wrong(path, f"mount point '{point}' must begin with /"))
        elif os.path.normpath(point) in found:
            problems.append(wrong(path, f"mount point {point}: is there twice"))
        else:
            found[os.path.normpath(point)] = _table(name, path, content, lines)
    defaults = _table(name, (_DEFAULTS,), tables.get(_DEFAULTS, {}), lines)
    return ConfigFile(name, defaults, tuple(found.values()), tuple(problems))


def _form(key: str) -> str:
    return "[defaults]" if key == _DEFAULTS else '[mount."/MOUNTPOINT"]'


def _table(name: str, path: KeyPath, content: dict[str, Any], lines: dict[KeyPath, int]) -> Table:
    point = path[1] if len(path) > 1 else ""
    backing = content.get(BACKING, "")
    table_line = lines.get(path, 1)
    problems: list[str] = []
    settings: dict[str, Setting] = {}
    for key, value in content.items():
        line = lines.get((*path, key), table_line)
        try:
            if key == BACKING:
                _check_backing(point, value)
            else:
                settings[key] = Setting(words_of(key, value), line)
        except UsageError as exc:
            problems.append(f"{name}: line {line}: {exc}")
    if point and BACKING not in content:
        problems.append(
            f'{name}: line {table_line}: {point} has no backing folder; write backing = "/FOLDER"'
        )
    is_usable = isinstance(backing, str)
    return Table(point, backing if is_usable else "", settings, tuple(problems), table_line)


def _check_backing(mount_point: str, value: object) -> None:
    if not mount_point:
        raise UsageError("'backing' belongs to one mount; it cannot stand in [defaults]")
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise UsageError(f"backing: {value!r} must be a path that begins with /")
