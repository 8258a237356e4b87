"""One guard around every handler: whatever goes wrong in one request, the mount lives and the
client gets an errno.

pyfuse3 ends the mount at any exception that is not FUSEError, a plain OSError included.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirrorfs.mirror.counters import Account

log = logging.getLogger(__name__)

# Everyday answers, not errors: there is no such thing, or it has to be done another way, as tools
# that try it first then do.
_EVERYDAY = {
    "lookup": {errno.ENOENT},
    "getxattr": {errno.ENODATA, errno.EOPNOTSUPP, errno.ERANGE},
    "listxattr": {errno.EOPNOTSUPP},
    "removexattr": {errno.ENODATA, errno.EOPNOTSUPP},
    "lseek": {errno.ENXIO},
    "link": {errno.EXDEV},
    "rename": {errno.EXDEV},
    "fallocate": {errno.EOPNOTSUPP},
    "copy_file_range": {errno.EOPNOTSUPP, errno.EXDEV, errno.EINTR},
}
# Their errors reach no client, so the log has them.
_UNANSWERED = frozenset({"forget", "release", "releasedir"})


class Guard:
    """Turns what handlers raise into the errno of an answer; each error is counted once."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def errno_of(self, name: str, error: Exception) -> int:
        """The errno for a request whose handler `name` raised `error`, logged and counted as it
        deserves. `name` is the operation's, as pyfuse3 calls it.
        """
        if isinstance(error, OSError):
            code = error.errno or errno.EIO
            if code in _EVERYDAY.get(name, ()):
                return code
            if name in _UNANSWERED:
                log.warning("%s: %s", name, error)
            else:
                log.debug("%s: %s", name, error)
        elif isinstance(error, MemoryError):
            code = errno.ENOMEM
        else:
            log.error("%s failed unexpectedly; answered with EIO", name, exc_info=error)
            code = errno.EIO
        self._account.add_error(code)
        return code
