"""The structures and numbers of the kernel's messages are those of linux/fuse.h."""

from __future__ import annotations

import ctypes
import json
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs.fuse import protocol
from tests.commands import run
from tests.fuse import kernel_messages

if TYPE_CHECKING:
    import struct

FLAGS = (
    "FATTR_MODE FATTR_UID FATTR_GID FATTR_SIZE FATTR_ATIME FATTR_MTIME FATTR_FH "
    "FUSE_WRITE_KILL_SUIDGID FUSE_FSYNC_FDATASYNC FOPEN_DIRECT_IO FOPEN_KEEP_CACHE"
).split()
# Of these the kernel sends the beginning, up to this field.
SHORT = {"fuse_setxattr_in": "flags"}
HEADER = ctypes.sizeof(kernel_messages.IN_HEADER)
IN_SIZES: dict[str, struct.Struct] = {
    name.lower(): value
    for name, value in vars(protocol).items()
    if name.endswith("_IN") and name not in {"FH_IN", "FORGET_IN"}
}
OUT_SIZES: dict[str, struct.Struct] = {
    name.lower(): value for name, value in vars(protocol).items() if name.endswith("_OUT")
}


def fields_of(kind: Any) -> list[str]:
    return [name for name, _ in kind._fields_ if not name.startswith("_")]


def size_of(name: str) -> str:
    """How C calculates the size of a structure, as the kernel sends it."""
    if name not in SHORT:
        return f"sizeof(struct {name})"
    last = SHORT[name]
    return f"offsetof(struct {name}, {last}) + sizeof(((struct {name} *)0)->{last})"


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What the C compiler says of linux/fuse.h: sizes, offsets and constants by name."""
    folder = tmp_path_factory.mktemp("header")
    wanted = {name: name for name in FLAGS}
    wanted |= {f"FUSE_{code.name}": f"FUSE_{code.name}" for code in protocol.Opcode}
    for kind in kernel_messages.STRUCTS:
        wanted[kind.__name__] = size_of(kind.__name__)
        for name in fields_of(kind):
            wanted[f"{kind.__name__}.{name}"] = f"offsetof(struct {kind.__name__}, {name})"
    lines = [
        f'printf("%s\\"{name}\\": %lld", "{comma}", (long long)({value}));'
        for comma, (name, value) in zip(["", *[", "] * len(wanted)], wanted.items(), strict=False)
    ]
    text = "#include <stddef.h>\n#include <stdio.h>\n#include <linux/fuse.h>\nint main(void) {\n"
    text += 'puts("{");\n' + "\n".join(lines) + '\nputs("}");\nreturn 0;\n}\n'
    (folder / "header.c").write_text(text)
    run("gcc", "-o", folder / "header", folder / "header.c")
    found: dict[str, int] = json.loads(run(folder / "header").stdout)
    return found


@pytest.mark.parametrize("kind", kernel_messages.STRUCTS, ids=lambda kind: str(kind.__name__))
def test_a_structure_of_the_tests_is_that_of_the_header(header: dict[str, int], kind: Any) -> None:
    assert ctypes.sizeof(kind) == header[kind.__name__]
    for name in fields_of(kind):
        assert getattr(kind, name).offset == header[f"{kind.__name__}.{name}"], name


@pytest.mark.parametrize("name", IN_SIZES)
def test_a_request_is_as_long_as_in_the_header(header: dict[str, int], name: str) -> None:
    assert IN_SIZES[name].size == HEADER + header[f"fuse_{name}"]


@pytest.mark.parametrize("name", OUT_SIZES)
def test_an_answer_is_as_long_as_in_the_header(header: dict[str, int], name: str) -> None:
    assert OUT_SIZES[name].size == header[f"fuse_{name}"]


def test_what_comes_many_times_is_as_long_as_in_the_header(header: dict[str, int]) -> None:
    assert protocol.FORGET_ONE.size == header["fuse_forget_one"]
    assert protocol.DIRENT.size == header["fuse_dirent"]


def test_opcodes_and_flags_are_those_of_the_header(header: dict[str, int]) -> None:
    for code in protocol.Opcode:
        assert code == header[f"FUSE_{code.name}"], code
    for name in FLAGS:
        assert getattr(protocol, name) == header[name], name
    assert header["fuse_in_header"] == protocol.HEADER_BYTES
