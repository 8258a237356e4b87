"""The values of a configuration file: each key as the words that say the same in `-o`."""

from __future__ import annotations

import difflib

from mirrorfs.errors import UsageError
from mirrorfs.mount_words import (
    ACCEPTED_BEGINNINGS,
    ACCEPTED_WORDS,
    FUSE_WORDS,
    OPPOSITES,
    SWITCHES,
)
from mirrorfs.options import OPTIONS, Option, parse_words

_OPTIONS = {option.name: option for option in OPTIONS}
_OFF = {option: word for word, (option, _) in SWITCHES.items() if word != "strictatime"} | {
    "ro": "rw",
    "noatime": "atime",
    "nodiratime": "diratime",
}
_PLACES = {"DIR", "FILE", "FOLDER"}  # a name in the file does not depend on the current folder
BACKING = "backing"


def words_of(name: str, value: object) -> tuple[str, ...]:
    """The words for `-o` that say what the key `name` says; none for a flag that is off and has no
    word for that. Raises UsageError for an unknown key, and for a value that cannot be.
    """
    words = _spelled(name, value)
    if any("\0" in word for word in words):
        raise UsageError(f"option {name}: contains a NUL character")
    parse_words(words)
    return words


def _spelled(name: str, value: object) -> tuple[str, ...]:
    if name in FUSE_WORDS:
        return _flag(name, value, OPPOSITES.get(name))
    option = _OPTIONS.get(name)
    if option is None:
        raise _unknown(name)
    if not option.values:
        return _flag(name, value, _OFF.get(name))
    if isinstance(value, bool):
        raise UsageError(
            f"option {name} takes a value, not true or false: {name} = {_example(option)}"
        )
    if isinstance(value, int | float):
        return (f"{name}={value}",)
    if isinstance(value, list):
        return (_list(option, value),)
    if not isinstance(value, str):
        raise UsageError(f"option {name}: takes text, a number or true or false")
    if option.values in _PLACES and value and not value.startswith("/"):
        raise UsageError(f"option {name}: '{value}' must begin with / in this file")
    return (f"{name}={value}",)


def _flag(name: str, value: object, off: str | None) -> tuple[str, ...]:
    if not isinstance(value, bool):
        raise UsageError(f"option {name}: write {name} = true or {name} = false")
    if value:
        return (name,)
    return () if off is None else (off,)


def _list(option: Option, value: list[object]) -> str:
    if not option.values.endswith(":..."):
        raise UsageError(f"option {option.name} takes one value, not a list")
    for one in value:
        if not isinstance(one, str):
            raise UsageError(f"option {option.name}: a list of texts is wanted")
        if ":" in one:
            raise UsageError(f"option {option.name}: '{one}' must not contain ':'; '?' matches it")
    return f"{option.name}={':'.join(map(str, value))}"


def _example(option: Option) -> str:
    first = option.values.partition("|")[0]
    return first if first.isupper() and first != "DIR" else f'"{first}"'


def _unknown(name: str) -> UsageError:
    if name in SWITCHES:
        option, is_on = SWITCHES[name]
        return UsageError(f"unknown key '{name}'; write {option} = {str(is_on).lower()}")
    if name in ACCEPTED_WORDS or name.startswith(ACCEPTED_BEGINNINGS):
        return UsageError(f"'{name}' is a word for fstab and says nothing here; leave it out")
    near = difflib.get_close_matches(name, [*_OPTIONS, *sorted(FUSE_WORDS), BACKING], n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "; 'mirrorfs mount --help' lists the options"
    return UsageError(f"unknown key '{name}'{hint}")
