"""What a mount offers only where the machine allows it: sparse operations, direct writes, the
client's umask. Each is on, or there is a reason why not, which config.json shows.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mirrorfs import _native
from mirrorfs.fs import direct_writes
from mirrorfs.fuse import extension

if TYPE_CHECKING:
    from mirrorfs.fuse.requests import Requests
    from mirrorfs.options import MountOptions

log = logging.getLogger(__name__)

# The kernel sends nearly all reads in the background, and by itself no more than 12 at once,
# whatever file systems they are for: as many readers of one that has stalled would stop all others.
BACKGROUND = 256
_CANNOT = "this kernel or libfuse cannot"
# The umask is left to us; so is clearing setuid and setgid, in return for which the kernel stops
# asking for security.capability before every write.
_WANTED = _native.CAP_DONT_MASK | _native.CAP_HANDLE_KILLPRIV_V2
# Several pieces of one direct write at a time would be appended in any order.
_NOT_WANTED = _native.CAP_ASYNC_DIO


class OptionalFeatures:
    """Made before pyfuse3's `init`, because the native module has its say there."""

    def __init__(self, options: MountOptions) -> None:
        self._direct_writes = options.direct_writes
        self._is_bound = extension.bind()
        self._writes_directly: bool | None = None

    @property
    def are_requests_ours(self) -> bool:
        """Whether requests are received without pyfuse3; known once it has made a session."""
        return self._is_bound and not _native.state()["reason"]

    def install(self, requests: Requests) -> None:
        """Have `requests` take what comes in the next session that pyfuse3 makes."""
        if self._is_bound:
            _native.install(
                requests=requests.receivers,
                want=_WANTED,
                dont_want=_NOT_WANTED,
                max_background=BACKGROUND,
            )

    def log_missing(self) -> None:
        """One line where sparse operations are missing."""
        reason = self._missing()
        if reason:
            log.info(
                "without sparse operations (fallocate, SEEK_HOLE, copy_file_range): %s", reason
            )

    def writes_directly(self) -> bool:
        """Whether writes may bypass the kernel's cache; known once the mount answers."""
        if self._writes_directly is None:
            if self._is_bound and not _native.state()["sees_requests"]:
                return False  # FUSE_INIT is yet to come
            self._writes_directly = not self._why_not_direct()
        return self._writes_directly

    def describe(self) -> dict[str, object]:
        """Name of each feature, whether it is on, and why not."""
        reasons = {
            "sparse_operations": self._missing(),
            "umask_by_default_acl": self._why_not(_native.CAP_DONT_MASK),
            "writes_without_asking": self._why_not(_native.CAP_HANDLE_KILLPRIV_V2),
            "append_where_the_end_is": self._missing(),
            "direct_writes": self._why_not_direct(),
        }
        return {name: describe_feature(reason) for name, reason in reasons.items()}

    def _why_not(self, capability: int) -> str:
        """Why the kernel was not given one of the capabilities that we want; empty if it was."""
        want = _native.state()["want"] if self._is_bound else 0
        return "" if want & capability else extension.reason or _CANNOT

    def _why_not_direct(self) -> str:
        # The kernel does not clear setuid before such a write.
        refusal = direct_writes.refusal(self._direct_writes)
        return refusal or self._why_not(_native.CAP_HANDLE_KILLPRIV_V2)

    def _missing(self) -> str:
        """Why requests do not come through the native module; empty if they do."""
        if not self._is_bound:
            return extension.reason
        state = _native.state()
        return state["reason"] or ("" if state["sees_requests"] else _CANNOT)


def describe_feature(reason: str) -> dict[str, object]:
    """For config.json: on, or why not."""
    return {"on": False, "reason": reason} if reason else {"on": True}
