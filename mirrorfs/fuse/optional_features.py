"""What a mount offers only where the machine allows it: sparse operations, direct writes, the
caller's umask, a longer readahead. Each is on, or there is a reason why not, which config.json
tells.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mirrorfs.backing.readahead import set_readahead
from mirrorfs.fs import direct_writes
from mirrorfs.fuse import extension

if TYPE_CHECKING:
    from mirrorfs.fuse.at_once import AtOnce
    from mirrorfs.fuse.dispatch import Dispatcher
    from mirrorfs.options import MountOptions

log = logging.getLogger(__name__)

# The kernel asks for nearly all reads in the background, and by itself for no more than 12 at once,
# whatever file systems they are for: as many readers of one that has stalled would stop all others.
BACKGROUND = 256
# How far the kernel reads ahead through the mount (docs/decisions.md).
READAHEAD_BYTES = 1 << 20
_CANNOT = "this kernel or libfuse cannot"


class OptionalFeatures:
    """Made before pyfuse3's `init`, because the extension has its say there."""

    def __init__(self, dispatcher: Dispatcher, at_once: AtOnce, options: MountOptions) -> None:
        self._options = options
        self._extension = extension.bind()
        self._readahead_refused = "not tried yet"
        if self._extension is None:
            return
        self._extension.install(
            fallocate=dispatcher.fallocate,
            lseek=dispatcher.lseek,
            copy_file_range=dispatcher.copy_file_range,
            want=extension.CAP_DONT_MASK | extension.CAP_HANDLE_KILLPRIV_V2,
            dont_want=extension.CAP_ASYNC_DIO,
            max_background=BACKGROUND,
            at_once=at_once.handlers,
            is_idle=at_once.is_idle,
        )

    def log(self) -> None:
        """One line where sparse operations are missing."""
        reason = self._missing()
        if reason:
            log.info(
                "without sparse operations (fallocate, SEEK_HOLE, copy_file_range): %s", reason
            )

    def raise_readahead(self, mount_point: bytes) -> None:
        """Set the readahead of the mount, once it answers; where that is refused, go on without."""
        self._readahead_refused = ""
        try:
            set_readahead(mount_point, READAHEAD_BYTES)
        except OSError as exc:
            self._readahead_refused = f"the kernel's own is kept: {exc.strerror or exc}"

    @property
    def writes_directly(self) -> bool:
        """Whether writes may bypass the kernel's cache; known once the mount answers."""
        return not self._why_not_direct()

    def describe(self) -> dict[str, object]:
        """Name of each extra, whether it is on, and why not."""
        state = self._extension.state() if self._extension else None
        refused = extension.reason or _CANNOT
        reasons = {
            "sparse_operations": self._missing(),
            "umask_by_default_acl": self._why_not(extension.CAP_DONT_MASK),
            "writes_without_asking": self._why_not(extension.CAP_HANDLE_KILLPRIV_V2),
            "append_where_the_end_is": "" if state and state["tagged"] else refused,
            "direct_writes": self._why_not_direct(),
            "readahead": self._readahead_refused,
        }
        return {name: _entry(reason) for name, reason in reasons.items()}

    def _why_not(self, capability: int) -> str:
        """Why the kernel was not given one of the capabilities that we want; empty if it was."""
        want = self._extension.state()["want"] if self._extension else 0
        return "" if want & capability else extension.reason or _CANNOT

    def _why_not_direct(self) -> str:
        # The kernel does not clear setuid before such a write.
        refusal = direct_writes.refusal(self._options.direct_writes)
        return refusal or self._why_not(extension.CAP_HANDLE_KILLPRIV_V2)

    def _missing(self) -> str:
        """Why there are no sparse operations; empty if there are."""
        if self._extension is None:
            return extension.reason
        return self._extension.state()["reason"]


def _entry(reason: str) -> dict[str, object]:
    return {"on": False, "reason": reason} if reason else {"on": True}
