"""Which tests need root or a mount. This is seen from the code that they run: what they and their
fixtures call in tests/, and the commands and system calls that are for root alone.
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pytest

_F = TypeVar("_F", bound=types.FunctionType)

# Words of commands, and names of functions, that an ordinary user cannot use, or not everywhere.
_COMMANDS = frozenset(
    "chattr fsfreeze fstrim losetup mount setfacl sysctl systemctl umount unshare nsenter".split()
)
_CALLS = frozenset(
    "chown fchown lchown makedev mknod seteuid setgid setgroups setresuid setuid unshare".split()
)
_FILES = ("/dev/fuse", "/proc/sys/vm/drop_caches")
_NEEDS_ROOT: set[types.CodeType] = set()


def needs_root(function: _F) -> _F:
    """Decorator of a function whose callers need root, which is not seen from its code."""
    _NEEDS_ROOT.add(function.__code__)
    return function


def is_for_root(item: pytest.Item) -> bool:
    """Whether a test needs root or a mount. The marker `root` says so of what cannot be seen."""
    if item.get_closest_marker("root"):
        return True
    functions = [getattr(item, "function", None)]
    definitions: dict[str, Any] = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009
    functions += [found.func for all_found in definitions.values() for found in all_found[-1:]]
    functions += _values(getattr(item, "callspec", None))
    return any(_reaches_root(function) for function in map(_inner, functions) if function)


def _values(callspec: Any) -> list[Any]:
    """The functions among a test's parameters."""
    return [] if callspec is None else [*callspec.params.values()]


def _inner(value: Any) -> types.FunctionType | None:
    while hasattr(value, "__wrapped__"):
        value = value.__wrapped__
    value = getattr(value, "__func__", value)
    return value if isinstance(value, types.FunctionType) else None


def _reaches_root(function: types.FunctionType) -> bool:
    return any(map(_is_privileged, _reached(function)))


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
    return word in _COMMANDS or word.startswith("mkfs.") or any(name in word for name in _FILES)
