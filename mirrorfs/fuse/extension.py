"""Loads the native module where it can do its work: in the global scope, before pyfuse3.

The dynamic linker gives pyfuse3 the module's `fuse_session_new` only in this order, so the
package's `__init__` calls `load` before any module here can import pyfuse3. That costs less than a
millisecond, and neither pyfuse3 nor trio is imported.

Where the module cannot be put before libfuse a mount works all the same, slower, and without what
pyfuse3 has no handler for. Nothing here raises because of that; `reason` says why it is so. Call
from one thread, before serving.
"""

from __future__ import annotations

import ctypes
import os
import sys

from mirrorfs import _native

reason = "it was not loaded"  # why the module is not before libfuse; "" when it can be


def load() -> None:
    """Put the symbols of the native module into the global scope; must be called before pyfuse3 is
    imported. A module that is loaded already is promoted (dlopen(3), RTLD_NOLOAD).
    """
    global reason
    if "pyfuse3" in sys.modules:
        reason = "pyfuse3 was imported before it"
        return
    try:
        ctypes.CDLL(_native.__file__, mode=os.RTLD_NOW | os.RTLD_GLOBAL | os.RTLD_NOLOAD)
    except OSError as exc:
        reason = f"its symbols cannot be made global: {exc}"
    else:
        reason = ""


def bind() -> bool:
    """Import pyfuse3, and connect the module with the libfuse that it uses. False, and a `reason`,
    if that fails.
    """
    global reason
    if reason:
        return False
    import pyfuse3

    try:
        _native.bind(pyfuse3.__file__)
    except OSError as exc:
        reason = str(exc)
    return not reason
