"""Builds the C extension; all else is declared in pyproject.toml."""

from __future__ import annotations

import subprocess

from setuptools import Extension, setup

FOLDER = "mirrorfs/fuse/native"
_SOURCES = ("module", "hooks", "receive", "crew", "killpriv", "statx")
_DIGESTS = ("chunk_digests", "chunk_loop_plain", "chunk_loop_avx2")
_HEADERS = ("native", "crew", "killpriv", "chunk_loop", "chunk_loops")
_USUAL = ["-I/usr/include/fuse3", "-I/usr/local/include/fuse3"]


def fuse_flags() -> list[str]:
    """Where libfuse's headers are. Nothing is linked with."""
    try:
        found = subprocess.run(
            ["pkg-config", "--cflags", "fuse3"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return _USUAL
    return found.stdout.split() or _USUAL


setup(
    ext_modules=[
        Extension(
            "mirrorfs._native",
            [f"{FOLDER}/{name}.c" for name in (*_SOURCES, *_DIGESTS)],
            depends=[f"{FOLDER}/{name}.h" for name in _HEADERS],
            define_macros=[("_FILE_OFFSET_BITS", "64")],
            extra_compile_args=[
                *("-std=c11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"),
                *fuse_flags(),
            ],
        ),
    ]
)
