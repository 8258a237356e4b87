"""Which tests need root or a mount. This is seen from the code that they run: what they and their
fixtures call in tests/, and the commands and system calls that are for root alone.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

_F = TypeVar("_F", bound=Callable[..., object])

# Words of commands, and names of functions, that an ordinary user cannot use, or not everywhere.
_COMMANDS = frozenset(
    "chattr demo fsfreeze fstrim losetup mount nsenter setfacl setpriv umount unshare".split()
)
_CALLS = frozenset(
    "chown fchown lchown makedev mknod seteuid setgid setgroups setresuid setuid unshare".split()
)
_FILES = ("/dev/fuse", "/proc/sys/vm/drop_caches")
_MAKES_A_FILE_SYSTEM = "mkfs."
_NEEDS_ROOT: set[types.CodeType] = set()


def needs_root(function: _F) -> _F:
    """Decorator of a function whose callers need root, which is not seen from its code."""
    assert isinstance(function, types.FunctionType)
    _NEEDS_ROOT.add(function.__code__)
    return function


def is_for_root(item: pytest.Item) -> bool:
    """Whether a test needs root or a mount. The marker `root` says so of what cannot be seen."""
    if item.get_closest_marker("root"):
        return True
    assert isinstance(item, pytest.Function)
    definitions = item._fixtureinfo.name2fixturedefs.values()
    values: list[Any] = [item.function, *(found.func for each in definitions for found in each)]
    if hasattr(item, "callspec"):
        values += item.callspec.params.values()
    return any(map(reaches_root, values))


def reaches_root(value: object) -> bool:
    """Whether this is a function that does what is for root, or that can come to one of tests/ that
    does.
    """
    function = _inner(value)
    return function is not None and any(map(_is_privileged, _reached(function)))


def _inner(value: Any) -> types.FunctionType | None:
    while hasattr(value, "__wrapped__"):
        value = value.__wrapped__
    value = getattr(value, "__func__", value)
    return value if isinstance(value, types.FunctionType) else None


@functools.cache
def _reached(function: types.FunctionType) -> frozenset[types.CodeType]:
    """The code of a function, and of all functions in tests/ that it can come to."""
    found: set[types.CodeType] = set()
    waiting = [(function.__code__, function.__globals__)]
    while waiting:
        code, names = waiting.pop()
        if code in found:
            continue
        found.add(code)
        waiting += [(const, names) for const in code.co_consts if isinstance(const, types.CodeType)]
        for name in code.co_names:
            waiting += [(one.__code__, one.__globals__) for one in _functions(names.get(name))]
    return frozenset(found)


def _functions(value: Any) -> list[types.FunctionType]:
    """What is called where this is named: a function, the methods of a class, or functions in a
    container; all only of tests/.
    """
    if isinstance(value, type) and value.__module__.startswith("tests."):
        values = list(vars(value).values())
    elif isinstance(value, dict):
        values = list(value.values())
    elif isinstance(value, (list, tuple, set)):
        values = list(value)
    else:
        values = [value]
    inner = [_inner(getattr(one, "fget", None) or one) for one in values]
    return [one for one in inner if one and one.__module__.startswith("tests.")]


@functools.cache
def _is_privileged(code: types.CodeType) -> bool:
    if code in _NEEDS_ROOT or _CALLS & {*code.co_names}:
        return True
    return any(_is_word(word) for const in code.co_consts for word in _strings(const))


def _strings(const: Any) -> list[str]:
    if isinstance(const, str):
        return [const]
    if isinstance(const, (tuple, frozenset)):
        return [word for one in const for word in _strings(one)]
    return []


def _is_word(word: str) -> bool:
    return (
        word in _COMMANDS
        or word.startswith(_MAKES_A_FILE_SYSTEM)
        or any(name in word for name in _FILES)
    )
