"""Every mount option, declared once: the command line, `-o`, `--help`, config.json and the docs
read this list.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, fields
from typing import Literal, TypeVar

from mirrorfs.errors import UsageError

MIN_BLOCK_BYTES = 4096
MAX_BLOCK_BYTES = 1 << 24
MAX_READAHEAD_BYTES = 64 << 20
MIN_DESCRIPTORS = 16
MAX_DESCRIPTORS = 1 << 20
_MAX_DIGITS = 15

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Option:
    """One option as the user spells it.

    `values` is what may follow the `=` (empty for a flag); `help` is one sentence for `--help` and
    the docs.
    """

    name: str
    values: str
    default: str
    help: str

    @property
    def spelled(self) -> str:
        """`name=values`, or the name alone for a flag."""
        return f"{self.name}={self.values}" if self.values else self.name


OPTIONS = (
    Option(
        "zeros",
        "punch|keep",
        "punch",
        "what to do with zero blocks: make them holes, or store them",
    ),
    Option("unchanged", "skip|write", "skip", "what to do with a block the disk already holds"),
    Option(
        "block",
        "auto|SIZE",
        "auto",
        "unit of decision: a power of two, not below the allocation unit (4k, 64k)",
    ),
    Option(
        "basis",
        "auto|self|off",
        "auto",
        "what a replaced file is compared with: its own old blocks and clones of the old file, "
        "only the former, or nothing",
    ),
    Option(
        "preallocate",
        "honour|ignore",
        "honour",
        "when a tool asks for space ahead (fallocate): reserve it, or only set the size",
    ),
    Option("ro", "", "off", "mount read-only"),
    Option(
        "allow_other",
        "",
        "root: on",
        "let other users in (on for root; noallow_other turns it off)",
    ),
    Option("noatime", "", "off", "reading through the mount moves no time of access below"),
    Option("nodiratime", "", "off", "listing folders through the mount moves none"),
    Option("allow_dense", "", "off", "mount even where the file system below cannot hold holes"),
    Option("nonempty", "", "off", "mount over a folder that is not empty"),
    Option("control", "NAME", ".mirrorfs", "name of the folder of control files in the mount"),
    Option(
        "state",
        "DIR",
        "BACKING/.mirrorfs",
        "folder for what is remembered between mounts",
    ),
    Option("log", "FILE", "syslog", "append log lines to FILE (stderr with -f)"),
    Option("debug", "", "off", "also log each request that was answered with an error"),
    Option("attr_timeout", "SECONDS", "1", "how long the kernel may keep names and attributes"),
    Option(
        "descriptors",
        "auto|N",
        "auto",
        "descriptors kept for known files (auto: a quarter of the limit)",
    ),
    Option(
        "readahead",
        "SIZE",
        "1M",
        "how far the kernel reads ahead through the mount (root only; 0 leaves it alone)",
    ),
    Option(
        "sparse_operations",
        "on|off",
        "on",
        "offer fallocate, SEEK_HOLE and copy_file_range (needs the C extension)",
    ),
    Option(
        "direct_writes",
        "auto|on|off",
        "auto",
        "write-only files bypass the mount's page cache (auto: Linux 6.12.64, 6.18.3, 6.19)",
    ),
)

# Words that mount(8), fstab and systemd add; they have no meaning for us, or are libfuse's own.
ACCEPTED_WORDS = frozenset(
    "rw defaults nofail _netdev auto noauto user nouser users owner group relatime norelatime "
    "nostrictatime iversion noiversion lazytime nolazytime silent loud async "
    "mand nomand exec suid dev _rnetdev default_permissions".split()
)
FUSE_WORDS = frozenset("nosuid nodev noexec sync dirsync dev suid".split())
# Each sets an option; of two that are about the same, the last one holds.
_TIME_WORDS = {
    "noatime": ("noatime", True),
    "atime": ("noatime", False),
    "strictatime": ("noatime", False),
    "nodiratime": ("nodiratime", True),
    "diratime": ("nodiratime", False),
}


@dataclass(frozen=True, slots=True)
class MountOptions:
    """The options of one mount, checked. Sizes in bytes, times in seconds; None stands for
    `auto`. `words` are they as they were given, all of them, `given` the names of ours among them.
    """

    zeros: Literal["punch", "keep"] = "punch"
    unchanged: Literal["skip", "write"] = "skip"
    block_bytes: int | None = None
    ro: bool = False
    allow_other: bool | None = None
    noatime: bool = False
    nodiratime: bool = False
    allow_dense: bool = False
    nonempty: bool = False
    control: bytes = b".mirrorfs"
    log: str | None = None
    debug: bool = False
    attr_timeout: float = 1.0
    descriptors: int | None = None
    basis: Literal["auto", "self", "off"] = "auto"
    state: str | None = None
    preallocate: Literal["honour", "ignore"] = "honour"
    readahead_bytes: int = 1 << 20
    sparse_operations: Literal["on", "off"] = "on"
    direct_writes: Literal["auto", "on", "off"] = "auto"
    fuse_words: tuple[str, ...] = ()
    given: frozenset[str] = frozenset()
    words: tuple[str, ...] = ()

    def keeps_atime(self, flags: int) -> bool:
        """Whether reading a file that is opened with `flags` of open(2) moves no time of access
        below. A read-only mount moves none.
        """
        return self.noatime or self.ro or bool(flags & os.O_NOATIME)

    def keeps_folder_atime(self, flags: int) -> bool:
        """The same for listing a folder."""
        return self.nodiratime or self.keeps_atime(flags)

    def lets_others_in(self, is_root: bool) -> bool:
        """Whether other users are let in, given or not."""
        return is_root if self.allow_other is None else self.allow_other


def parse(text: str) -> MountOptions:
    """Read a comma-separated `-o` string.

    Raises UsageError naming the option, what is wrong with it and, for an unknown one, the nearest
    known name.
    """
    values: dict[str, object] = {}
    fuse_words: list[str] = []
    given: set[str] = set()
    words = tuple(filter(None, (part.strip() for part in text.split(","))))
    for word in words:
        name, equals, value = word.partition("=")
        if name in FUSE_WORDS and not equals:
            fuse_words.append(name)
        elif name in _TIME_WORDS and not equals:
            option, values[option] = _TIME_WORDS[name]
            given.add(option)
        elif name in ACCEPTED_WORDS or name.startswith(("x-", "X-", "comment")):
            if name == "rw":
                values["ro"] = False
        else:
            given.add(name.removeprefix("no") if name == "noallow_other" else name)
            _take(values, name, value if equals else None)
    return MountOptions(
        fuse_words=tuple(fuse_words),
        given=frozenset(given),
        words=words,
        **values,  # type: ignore[arg-type]
    )


def parse_size(name: str, text: str) -> int:
    """A size in bytes from `4096`, `64k`, `1M` or `1G`; raises UsageError."""
    factor = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(text[-1:].lower(), 1)
    digits = text if factor == 1 else text[:-1]
    if not _is_number(digits):
        raise UsageError(f"option {name}: '{text}' is not a size; write it as 4096, 64k or 1M")
    return int(digits) * factor


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS


def _take(values: dict[str, object], name: str, value: str | None) -> None:
    """Check one option and put it into `values` under its field's name."""
    flags = {"ro", "allow_dense", "nonempty", "debug"}
    if name in flags:
        _refuse_value(name, value)
        values[name] = True
    elif name in {"allow_other", "noallow_other"}:
        _refuse_value(name, value)
        values["allow_other"] = name == "allow_other"
    elif name == "zeros":
        values[name] = _choice(name, value, ("punch", "keep"))
    elif name == "unchanged":
        values[name] = _choice(name, value, ("skip", "write"))
    elif name == "basis":
        values[name] = _choice(name, value, ("auto", "self", "off"))
    elif name == "preallocate":
        values[name] = _choice(name, value, ("honour", "ignore"))
    elif name == "sparse_operations":
        values[name] = _choice(name, value, ("on", "off"))
    elif name == "direct_writes":
        values[name] = _choice(name, value, ("auto", "on", "off"))
    elif name == "readahead":
        values["readahead_bytes"] = _readahead(_need(name, value))
    elif name == "block":
        values["block_bytes"] = _block(_need(name, value))
    elif name == "control":
        values[name] = _control(_need(name, value))
    elif name in {"log", "state"}:
        values[name] = _need(name, value)
    elif name == "attr_timeout":
        values[name] = _seconds(name, _need(name, value))
    elif name == "descriptors":
        values[name] = _descriptors(_need(name, value))
    elif name == "remount":
        raise UsageError(
            "a mirrorfs cannot be remounted; unmount it, and mount it again with the options wanted"
        )
    else:
        raise UsageError(
            f"unknown option '{name}'{_nearest(name)}; 'mirrorfs mount --help' lists them all"
        )


def _nearest(name: str) -> str:
    known = [option.name for option in OPTIONS] + [
        "noallow_other",
        *sorted(ACCEPTED_WORDS | FUSE_WORDS | _TIME_WORDS.keys()),
    ]
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _need(name: str, value: str | None) -> str:
    if not value:
        values = next(option.values for option in OPTIONS if option.name == name)
        raise UsageError(f"option {name} needs a value: {name}={values}")
    return value


def _refuse_value(name: str, value: str | None) -> None:
    if value is not None:
        raise UsageError(f"option {name} takes no value; write just '{name}'")


def _choice(name: str, value: str | None, choices: tuple[_T, ...]) -> _T:
    if value not in choices:
        wanted = " or ".join(f"{name}={choice}" for choice in choices)
        raise UsageError(f"option {name}: '{value or ''}' is not possible; use {wanted}")
    return value


def _block(text: str) -> int | None:
    if text == "auto":
        return None
    size = parse_size("block", text)
    if size & (size - 1) or not MIN_BLOCK_BYTES <= size <= MAX_BLOCK_BYTES:
        raise UsageError(f"option block: {text} is not a power of two between 4k and 16M")
    return size


def _readahead(text: str) -> int:
    size = parse_size("readahead", text)
    if size > MAX_READAHEAD_BYTES:
        raise UsageError(f"option readahead: {text} is more than 64M")
    return size


def _control(text: str) -> bytes:
    name = text.encode("utf-8", "surrogateescape")
    if b"/" in name or name in {b".", b".."} or len(name) > 255:
        raise UsageError(f"option control: '{text}' cannot be the name of a folder")
    return name


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:
        raise UsageError(f"option {name}: '{text}' is not a number of seconds between 0 and 86400")
    return seconds


def _descriptors(text: str) -> int | None:
    if text == "auto":
        return None
    if not _is_number(text) or not MIN_DESCRIPTORS <= int(text) <= MAX_DESCRIPTORS:
        raise UsageError(
            f"option descriptors: '{text}' is not a whole number between {MIN_DESCRIPTORS} and "
            f"{MAX_DESCRIPTORS}, or auto"
        )
    return int(text)


def describe(options: MountOptions, effective: dict[str, object]) -> dict[str, dict[str, object]]:
    """Each option's value and where it came from (`given` or `default`), for config.json; of those
    in `effective`, the value that the mount has found for them.
    """
    table: dict[str, dict[str, object]] = {}
    for field in fields(options):
        if field.name in {"given", "words", "fuse_words"}:
            continue
        name = field.name.removesuffix("_bytes")
        value = effective.get(name, getattr(options, field.name))
        if isinstance(value, bytes):
            value = value.decode("utf-8", "backslashreplace")
        table[name] = {"value": value, "from": "given" if name in options.given else "default"}
    return table
