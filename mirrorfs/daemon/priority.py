"""Letting all other work go first: the processor's (nice(2)) and the disk's (ioprio_set(2))."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform

# The C library has no wrapper (asm/unistd.h).
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
_WHO_PROCESS = 1
_CLASS_IDLE = 3 << 13
_NICEST = 19


def be_idle() -> None:
    """Let this thread, and those that it starts, have the disk when nobody else wants it, as far as
    its scheduler knows that, and the processor last.
    """
    with contextlib.suppress(OSError):
        os.nice(_NICEST)
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, _WHO_PROCESS, 0, _CLASS_IDLE)
