"""The file of metrics that the text-file collector of Prometheus' node exporter reads.

Guarantees: a reader sees a whole text, or the one before; nothing but the file `name_of` and its
temporary one is touched in the folder, and no link there is followed. What cannot be written costs
one line in the log, and is tried again with the next text. A crash leaves the last text, and at
most one temporary file, which the next text replaces.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import string

from mirrorfs.backing.paths import show

log = logging.getLogger(__name__)

_PLAIN = frozenset((string.ascii_letters + string.digits + "._").encode())
_MAX_NAME_BYTES = 200
_MODE = 0o644  # the collector is another user


def name_of(mount_point: bytes) -> bytes:
    """The name of the file of the mount at `mount_point`, which no other mount point has:
    `mirrorfs-mnt-mirror.prom` for /mnt/mirror. In the middle `-` stands for `/`, and what is
    neither a letter of ASCII, a digit, `.` nor `_` is percent-encoded; a long one ends with its
    digest.
    """
    parts = mount_point.strip(b"/").split(b"/")
    name = b"-".join(
        b"".join(bytes([one]) if one in _PLAIN else b"%%%02X" % one for one in part)
        for part in parts
    )
    if len(name) > _MAX_NAME_BYTES:
        digest = hashlib.sha256(mount_point).hexdigest()[:16].encode()
        name = name[: _MAX_NAME_BYTES - 17] + b"~" + digest
    return b"mirrorfs-" + name + b".prom"


class MetricsFile:
    """The file in `folder`, a path, of the mount at `mount_point`. Used by one thread."""

    def __init__(self, folder: bytes, mount_point: bytes) -> None:
        self._folder = folder
        self._name = name_of(mount_point)
        self._temporary = self._name.removesuffix(b".prom") + b".new"
        self._trouble = ""

    def write(self, text: bytes) -> None:
        """Put `text` in the place of what the file holds."""
        try:
            folder_fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._replace(folder_fd, text)
            finally:
                os.close(folder_fd)
        except OSError as exc:
            reason = exc.strerror or str(exc)
            if reason != self._trouble:
                log.warning("metrics are not written to %s: %s", show(self._folder), reason)
            self._trouble = reason
        else:
            self._trouble = ""

    def _replace(self, folder_fd: int, text: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary, dir_fd=folder_fd)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._temporary, flags, _MODE, dir_fd=folder_fd)
        try:
            with open(fd, "wb") as file:
                file.write(text)
                os.fchmod(fd, _MODE)  # a default ACL may have changed it
            os.rename(self._temporary, self._name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary, dir_fd=folder_fd)
            raise
