"""Every mount option, declared once, as a field of `MountOptions`: name, values, default, help and
how its value is read. The command line, `-o`, `--help`, config.json and the tests of the docs go by
these declarations.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from mirrorfs.errors import UnknownOptionError, UsageError
from mirrorfs.mount_words import (
    ACCEPTED_BEGINNINGS,
    ACCEPTED_WORDS,
    FUSE_WORDS,
    OPPOSITES,
    SWITCHES,
)

_MIN_BLOCK_BYTES = 4096
_MAX_BLOCK_BYTES = 1 << 24
_MAX_DIGITS = 15
_MAX_SECONDS = 86400
_MAX_DAYS = 36500
_MAX_NAME_BYTES = 255

# Reads what the user gave for the option NAME; None stands for a word without `=`. Returns the
# value of the field, or raises UsageError.
_Reader = Callable[[str, str | None], object]


@dataclass(frozen=True, slots=True)
class Option:
    """One option as the user spells it.

    `values` is what may follow the `=` (empty for a flag), `default` what holds without it, and
    `help` one sentence, for `--help` and the docs. `read` checks a value and returns it as the
    field of `MountOptions` has it.
    """

    name: str
    values: str
    default: str
    help: str
    read: _Reader

    @property
    def spelled(self) -> str:
        """`name=values`, or the name alone for a flag."""
        return f"{self.name}={self.values}" if self.values else self.name


@dataclass(frozen=True, slots=True)
class _Kind:
    """What values an option takes, for people, and how one is read."""

    values: str
    read: _Reader


_AS_READ = object()


def _option(name: str, kind: _Kind, default: str, text: str, value: object = _AS_READ) -> Any:  # noqa: ANN401 - a field of any type
    """The field of an option; its default is `default` as `kind` reads it, or `value` where the
    words of `default` cannot be given.
    """
    option = Option(name, kind.values, default, text, kind.read)
    value = kind.read(name, default) if value is _AS_READ else value
    return field(default=value, metadata={"option": option})


def _flag(name: str, text: str, default: str = "off", value: bool | None = False) -> Any:  # noqa: ANN401 - a field of any type
    return _option(name, _Kind("", _read_flag), default, text, value)


def _read_flag(name: str, value: str | None) -> bool:
    if value is not None:
        raise UsageError(f"option {name} takes no value; write just '{name}'")
    return True


def _one_of(*choices: str) -> _Kind:
    def read(name: str, value: str | None) -> str:
        if value not in choices:
            wanted = " or ".join(f"{name}={choice}" for choice in choices)
            raise UsageError(f"option {name}: '{value or ''}' is not possible; use {wanted}")
        return value

    return _Kind("|".join(choices), read)


def _value(values: str, convert: Callable[[str, str], object]) -> _Kind:
    """A kind of option that cannot do without a value; `convert` takes the option's name and it."""

    def read(name: str, value: str | None) -> object:
        if not value:
            raise UsageError(f"option {name} needs a value: {name}={values}")
        return convert(name, value)

    return _Kind(values, read)


def _block(name: str, text: str) -> int | None:
    if text == "auto":
        return None
    size = _size(name, text)
    if size & (size - 1) or not _MIN_BLOCK_BYTES <= size <= _MAX_BLOCK_BYTES:
        raise UsageError(f"option {name}: {text} is not a power of two between 4k and 16M")
    return size


def _size(name: str, text: str) -> int:
    """A size in bytes from `4096`, `64k`, `1M` or `1G`."""
    factor = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(text[-1:].lower(), 1)
    digits = text if factor == 1 else text[:-1]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS):
        raise UsageError(f"option {name}: '{text}' is not a size; write it as 4096, 64k or 1M")
    return int(digits) * factor


def _folder_name(name: str, text: str) -> bytes:
    folder = os.fsencode(text)
    if b"/" in folder or folder in {b".", b".."} or len(folder) > _MAX_NAME_BYTES:
        raise UsageError(f"option {name}: '{text}' cannot be the name of a folder")
    return folder


def _path(_name: str, text: str) -> str:
    return text


def _globs(name: str, text: str) -> tuple[bytes, ...]:
    globs = tuple(map(os.fsencode, text.split(":")))
    if not all(globs):
        raise UsageError(
            f"option {name}: a pattern in '{text}' is empty; write it as *.img:*.qcow2"
        )
    return globs


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _MAX_SECONDS:
        raise UsageError(
            f"option {name}: '{text}' is not a number of seconds between 0 and {_MAX_SECONDS}"
        )
    return seconds


def _days(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _MAX_DAYS):
        raise UsageError(f"option {name}: '{text}' is not a number of days; 0 turns it off")
    return int(text)


@dataclass(frozen=True, slots=True)
class MountOptions:
    """The options of one mount, checked. Sizes in bytes, times in seconds; None stands for a
    default that the mount finds itself.

    `words` are all that were given, as they were given; `given` are the names of the options among
    them, and `fuse_words` those that are handed to FUSE. `origins` are the options that a table of
    the configuration file decides: name and `defaults` or `mount`.
    """

    zeros: Literal["punch", "keep"] = _option(
        "zeros",
        _one_of("punch", "keep"),
        "punch",
        "what to do with zero blocks: make them holes, or store them",
    )
    unchanged: Literal["skip", "write"] = _option(
        "unchanged",
        _one_of("skip", "write"),
        "skip",
        "what to do with a block the disk already holds",
    )
    block_bytes: int | None = _option(
        "block",
        _value("auto|SIZE", _block),
        "auto",
        "unit of decision: a power of two, not below the allocation unit (4k, 64k)",
    )
    basis: Literal["auto", "self", "off"] = _option(
        "basis",
        _one_of("auto", "self", "off"),
        "auto",
        "what a replaced file is compared with: its own old blocks and clones of the old file, "
        "only the former, or nothing",
    )
    preallocate: Literal["honour", "ignore"] = _option(
        "preallocate",
        _one_of("honour", "ignore"),
        "honour",
        "when a tool asks for space ahead (fallocate): reserve it, or only set the size",
    )
    ro: bool = _flag("ro", "mount read-only")
    allow_other: bool | None = _flag(
        "allow_other",
        "let other users in (on for root; noallow_other turns it off)",
        default="root: on",
        value=None,
    )
    noatime: bool = _flag("noatime", "reading through the mount moves no time of access below")
    nodiratime: bool = _flag("nodiratime", "listing folders through the mount moves none")
    allow_dense: bool = _flag(
        "allow_dense", "mount even where the file system below cannot hold holes"
    )
    nonempty: bool = _flag("nonempty", "mount over a folder that is not empty")
    control: bytes = _option(
        "control",
        _value("NAME", _folder_name),
        ".mirrorfs",
        "name of the folder of control files in the mount",
    )
    state: str | None = _option(
        "state",
        _value("DIR", _path),
        "BACKING/.mirrorfs",
        "folder for what is remembered between mounts",
        value=None,
    )
    history_days: int = _option(
        "history",
        _value("DAYS", _days),
        "400",
        "how long sessions, the writes of one run to one file, stay known (0: not at all)",
    )
    session_quiet: float = _option(
        "session_quiet",
        _value("SECONDS", _seconds),
        "5",
        "how long after its last writer has closed a file a session ends",
    )
    digests: Literal["on", "off"] = _option(
        "digests",
        _one_of("on", "off"),
        "on",
        "keep digests of what files of 1 MiB and more hold, by which scrub finds what is damaged",
    )
    compare: Literal["bytes", "digest"] = _option(
        "compare",
        _one_of("bytes", "digest"),
        "bytes",
        "what new data is compared with: the old data, read, or its digest where that is known",
    )
    on_session: str | None = _option(
        "on_session",
        _value("COMMAND", _path),
        "none",
        "run COMMAND after each session, with the session as JSON on its standard input",
        value=None,
    )
    on_session_user: str = _option(
        "on_session_user",
        _value("USER", _path),
        "nobody",
        "the user that on_session=COMMAND runs as",
    )
    keep_pattern: tuple[bytes, ...] = _option(
        "keep_pattern",
        _value("GLOB:...", _globs),
        "*",
        "the files that metrics watch one by one: those whose name, or path below BACKING, matches",
    )
    metrics: str | None = _option(
        "metrics",
        _value("FOLDER", _path),
        "none",
        "keep a file of metrics in FOLDER, for Prometheus' text-file collector",
        value=None,
    )
    log: str | None = _option(
        "log",
        _value("FILE", _path),
        "syslog",
        "append log lines to FILE (stderr with -f)",
        value=None,
    )
    debug: bool = _flag(
        "debug",
        "also log each request that was answered with an error: which operation, and why",
    )
    attr_timeout: float = _option(
        "attr_timeout",
        _value("SECONDS", _seconds),
        "1",
        "how long the kernel may keep names and attributes",
    )
    direct_writes: Literal["auto", "on", "off"] = _option(
        "direct_writes",
        _one_of("auto", "on", "off"),
        "auto",
        "write-only files bypass the mount's page cache (auto: Linux 6.12.64, 6.18.3, 6.19)",
    )
    fuse_words: tuple[str, ...] = ()
    given: frozenset[str] = frozenset()
    words: tuple[str, ...] = ()
    origins: tuple[tuple[str, str], ...] = ()

    def keeps_atime(self, flags: int) -> bool:
        """Whether reading a file that a client opens with `flags` of open(2) moves no time of
        access below. A read-only mount moves none.
        """
        return self.noatime or self.ro or bool(flags & os.O_NOATIME)

    def keeps_folder_atime(self, flags: int) -> bool:
        """Whether listing a folder that a client opens with `flags` of open(2) moves no time of
        access below.
        """
        return self.nodiratime or self.keeps_atime(flags)

    def lets_others_in(self, is_root: bool) -> bool:
        """Whether users other than the mounting one, who `is_root` or not, may use the mount."""
        return is_root if self.allow_other is None else self.allow_other


# Name of the field, and the option, in the order of `--help`.
_DECLARED: list[tuple[str, Option]] = [
    (one.name, one.metadata["option"]) for one in fields(MountOptions) if one.metadata
]
OPTIONS = tuple(option for _, option in _DECLARED)
_BY_NAME = {option.name: (target, option) for target, option in _DECLARED}


def parse(text: str) -> MountOptions:
    """Read a comma-separated `-o` string; see `parse_words`."""
    return parse_words(filter(None, (part.strip() for part in text.split(","))))


def parse_words(all_words: Iterable[str]) -> MountOptions:
    """Read options word by word; of two about the same thing, the last one holds.

    Raises UsageError that names the option, what is wrong with it and, for an unknown one, the
    nearest known name.
    """
    words = tuple(all_words)
    values: dict[str, Any] = {}
    fuse_words: list[str] = []
    given: set[str] = set()
    for word in words:
        name, equals, rest = word.partition("=")
        value = rest if equals else None
        if name in OPPOSITES:
            fuse_words = [one for one in fuse_words if one not in {name, OPPOSITES[name]}]
        if name in FUSE_WORDS:
            _read_flag(name, value)
            fuse_words.append(name)
        elif name in ACCEPTED_WORDS or name.startswith(ACCEPTED_BEGINNINGS):
            continue
        elif name in SWITCHES:
            _read_flag(name, value)
            option, values[option] = SWITCHES[name]
            if name != "rw":  # mount(8) always passes it
                given.add(option)
        elif name in _BY_NAME:
            target, declared = _BY_NAME[name]
            values[target] = declared.read(name, value)
            given.add(name)
        else:
            raise _unknown(name)
    return MountOptions(fuse_words=tuple(fuse_words), given=frozenset(given), words=words, **values)


def _unknown(name: str) -> UsageError:
    if name == "remount":
        return UsageError("remount: only a mount that is there can be remounted, with ro or rw")
    known = sorted(_BY_NAME.keys() | SWITCHES.keys() | FUSE_WORDS | ACCEPTED_WORDS)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return UnknownOptionError(
        f"unknown option '{name}'{hint}; 'mirrorfs mount --help' lists them all"
    )


def describe(options: MountOptions, effective: dict[str, object]) -> dict[str, dict[str, object]]:
    """Each option's value and where it came from (`given`, `default`, or a table of the file:
    `defaults`, `mount`), for config.json; of those in `effective`, by name, the value that the
    mount has found for them.
    """
    origins = {**dict.fromkeys(options.given, "given"), **dict(options.origins)}
    table: dict[str, dict[str, object]] = {}
    for name, (target, _) in _BY_NAME.items():
        value = effective.get(name, getattr(options, target))
        if isinstance(value, tuple):
            value = b":".join(value)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "backslashreplace")
        table[name] = {"value": value, "from": origins.get(name, "default")}
    return table
