"""Loads the C extension where it can do its work: in the global scope, before pyfuse3.

The dynamic linker gives pyfuse3 the extension's `fuse_session_new` only in this order, so the
package's `__init__` calls `load` before any module here can import pyfuse3. That costs less than a
millisecond, and neither pyfuse3 nor trio is imported.

Without the extension a mount works, and refuses what pyfuse3 has no handler for. Nothing here
raises because of that; `reason` says why it is so. Call from one thread, before serving.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs._fuseext import AtOnce, CopyFileRange, Fallocate, Lseek, State

# From libfuse's fuse_common.h: the umask is left to us; so is clearing setuid and setgid, in return
# for which the kernel stops asking for security.capability before every write.
CAP_DONT_MASK = 1 << 6
CAP_HANDLE_KILLPRIV_V2 = 1 << 21
# Several pieces of one direct write at a time, which would be appended in any order.
CAP_ASYNC_DIO = 1 << 15

# What the extension adds to the file handle of a write (WRITE_TAGS): its writer may not keep setuid
# and setgid; its file is O_APPEND at this moment. Handles are numbers below these.
KILLS_SETID = 1 << 63
APPENDS = 1 << 62
TAGS = KILLS_SETID | APPENDS

reason = "it was not loaded"  # why there is no extension; "" when there is one
_loaded = False


@dataclass(frozen=True, slots=True)
class Extension:
    """The extension, bound to the libfuse that pyfuse3 uses."""

    libfuse: str

    def install(
        self,
        *,
        fallocate: Fallocate | None = None,
        lseek: Lseek | None = None,
        copy_file_range: CopyFileRange | None = None,
        want: int = 0,
        dont_want: int = 0,
        max_background: int = 0,
        at_once: dict[int, AtOnce] | None = None,
        is_idle: Callable[[], bool] | None = None,
    ) -> None:
        """Have these called in the next session that pyfuse3 makes, with a Request to answer.

        They run inside pyfuse3's loop and must not wait. `want` and `dont_want` are capabilities;
        `max_background` is how many reads ahead the kernel may have under way (0: its own 12).
        `at_once`, by opcode, see requests before pyfuse3 does (`at_once`); `is_idle` says that
        nothing else is going on, so that the next request may be waited for a moment there.
        """
        from mirrorfs import _fuseext

        _fuseext.install(
            fallocate=fallocate,
            lseek=lseek,
            copy_file_range=copy_file_range,
            want=want,
            dont_want=dont_want,
            max_background=max_background,
            at_once=at_once,
            is_idle=is_idle,
        )

    def state(self) -> State:
        """What became of it: `hooked` is 0 and `reason` says why if it had no effect."""
        from mirrorfs import _fuseext

        return _fuseext.state()


def load() -> None:
    """Load the extension; has an effect once. Must be called before pyfuse3 is imported."""
    global _loaded, reason
    if _loaded:
        return
    _loaded = True
    if "pyfuse3" in sys.modules:
        reason = "pyfuse3 was imported before it"
        return
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
    try:
        from mirrorfs import _fuseext  # noqa: F401 - for the linker
    except ImportError as exc:
        reason = f"it cannot be loaded: {exc}"
    else:
        reason = ""
    finally:
        sys.setdlopenflags(flags)


def bind() -> Extension | None:
    """Import pyfuse3 and connect the extension with it; None, and a `reason`, if that fails."""
    global reason
    if reason:
        return None
    import pyfuse3

    from mirrorfs import _fuseext

    try:
        return Extension(_fuseext.bind(pyfuse3.__file__))
    except OSError as exc:
        reason = str(exc)
        return None
