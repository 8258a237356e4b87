"""Builds the C extensions; all else is declared in pyproject.toml.

They are optional: where the compiler, Python's headers or libfuse's headers are missing, the build
warns, and mirrorfs works without them (docs/decisions.md).
"""

from __future__ import annotations

import subprocess

from setuptools import Extension, setup

FOLDER = "mirrorfs/fuse/native"
_USUAL = ["-I/usr/include/fuse3", "-I/usr/local/include/fuse3"]


def fuse_flags() -> list[str]:
    """Where libfuse's headers are. Nothing is linked with."""
    try:
        told = subprocess.run(
            ["pkg-config", "--cflags", "fuse3"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return _USUAL
    return told.stdout.split() or _USUAL


setup(
    ext_modules=[
        Extension(
            "mirrorfs._fuseext",
            [f"{FOLDER}/{name}.c" for name in ("hooks", "request", "messages", "at_once")],
            depends=[f"{FOLDER}/{name}.h" for name in ("fuseext", "messages")],
            define_macros=[("_FILE_OFFSET_BITS", "64")],
            extra_compile_args=["-std=c11", "-O2", "-fvisibility=hidden", *fuse_flags()],
            optional=True,
        ),
        Extension(
            "mirrorfs._baton",
            ["mirrorfs/fuse/native/handoff.c"],
            extra_compile_args=["-std=c11", "-O2", "-fvisibility=hidden"],
            optional=True,
        ),
        Extension(
            "mirrorfs._statx",
            ["mirrorfs/fuse/native/statx.c"],
            extra_compile_args=["-std=c11", "-O2", "-fvisibility=hidden"],
            optional=True,
        ),
    ]
)
