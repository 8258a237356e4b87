"""The state folder: made, opened and read without trusting what is found there.

Whatever has its name may have come along with a copied tree, or be put there by another user. So no
link is followed, nothing is opened that could block, and a folder is used only if it belongs to the
daemon's user and no other may write to it, a file only if it is a regular one of that user with a
single name.

Guarantees: the folder comes into being with its marker file, or not at all. A crash while it is
made leaves a folder with a random name behind, which may be removed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
import threading
from typing import Any

from mirrorfs.backing import syscalls
from mirrorfs.backing.paths import show
from mirrorfs.errors import StateError

FOLDER = b".mirrorfs"
FORMAT_FILE = b"format.json"
ID_BYTES = 4
_FORMAT = 1
_MAX_MARKER_BYTES = 1 << 16
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_being_made: set[bytes] = set()
_making = threading.Lock()


def open_folder(parent_fd: int, name: bytes) -> int:
    """A descriptor of the state folder `name` in the folder `parent_fd`.

    Raises FileNotFoundError if there is none, and an OSError whose text says why it cannot be used.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=parent_fd)
    try:
        status = os.fstat(fd)
        _check_owner(status)
        if status.st_mode & _OTHERS_MAY_WRITE:
            raise OSError(errno.EPERM, "others may write there (chmod go-w)")
    except OSError:
        os.close(fd)
        raise
    return fd


def open_file(folder_fd: int, name: bytes, flags: int) -> int:
    """A descriptor of the file `name` in the state folder, opened with `flags` (open(2)).

    Raises FileNotFoundError if there is none, and an OSError whose text says why it cannot be used.
    """
    safe = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = os.open(name, flags | safe, 0o600, dir_fd=folder_fd)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EPERM, f"{show(name)} is no regular file")
        _check_owner(status)
        if status.st_nlink > 1:  # 0: another process has just replaced or removed it
            raise OSError(errno.EPERM, f"{show(name)} has another name, too")
    except OSError:
        os.close(fd)
        raise
    return fd


def _check_owner(status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise OSError(errno.EPERM, f"belongs to user {status.st_uid}")


def open_or_make(parent_fd: int, name: bytes) -> tuple[int, bytes]:
    """A descriptor of the state folder `name`, made if there is none, and its id (`ID_BYTES`).

    Raises an OSError whose text says why it cannot be used. Threads that come at once get the same.
    """
    with _making:
        return _open_or_make(parent_fd, name)


def _open_or_make(parent_fd: int, name: bytes) -> tuple[int, bytes]:
    try:
        folder_fd = open_folder(parent_fd, name)
    except FileNotFoundError:
        try:
            folder_fd = _make(parent_fd, name)
        except FileExistsError:  # another thread was faster
            folder_fd = open_folder(parent_fd, name)
    try:
        marker = _read_marker(folder_fd)
        if marker is None or not _id_of(marker):
            # An empty folder that the user has named, or one of an older version.
            _write_marker(folder_fd)
            marker = _read_marker(folder_fd)
        return folder_fd, _id_of(marker)
    except ValueError as exc:
        os.close(folder_fd)
        raise OSError(errno.EINVAL, f"{show(FORMAT_FILE)} cannot be read ({exc})") from None
    except OSError:
        os.close(folder_fd)
        raise


def id_of(parent_fd: int, name: bytes) -> bytes:
    """The id of the state folder `name`, which a copy of it keeps: `ID_BYTES` bytes, none if there
    is no such folder, or none that can be used.
    """
    try:
        folder_fd = open_folder(parent_fd, name)
        try:
            return _id_of(_read_marker(folder_fd))
        finally:
            os.close(folder_fd)
    except (OSError, ValueError):
        return b""


def has_marker(folder_fd: int) -> bool:
    """Whether the folder `folder_fd` has anything by the name of the marker file."""
    try:
        os.stat(FORMAT_FILE, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def check_format(folder_fd: int, folder: bytes) -> None:
    """Refuse a state folder that a newer mirrorfs has made, or one whose marker is damaged.

    `folder` is its path, for the user. Raises StateError, or OSError as `open_file` does.
    """
    try:
        marker = _read_marker(folder_fd)
        found = _FORMAT if marker is None else marker["format"]
    except (ValueError, KeyError, TypeError) as exc:
        raise StateError(
            f"{show(os.path.join(folder, FORMAT_FILE))}: cannot be read ({exc}); the state folder "
            "is damaged. It may be removed: what is remembered there is lost, the files in the "
            "backing folder are not"
        ) from None
    if not isinstance(found, int) or found > _FORMAT:
        raise StateError(
            f"{show(folder)}: was made by a newer mirrorfs (format {found}, this one knows "
            f"{_FORMAT}); use that one, or pass -o state=DIR with another folder"
        )


def is_being_made(name: bytes) -> bool:
    """Whether this process is making a state folder under this name, which nobody should see."""
    return name in _being_made


def _make(parent_fd: int, name: bytes) -> int:
    """Make the state folder under a random name, with its marker, and then rename it."""
    temporary = name + b"." + secrets.token_hex(8).encode()
    _being_made.add(temporary)
    try:
        return _make_as(parent_fd, temporary, name)
    finally:
        _being_made.discard(temporary)


def _make_as(parent_fd: int, temporary: bytes, name: bytes) -> int:
    os.mkdir(temporary, 0o700, dir_fd=parent_fd)
    folder_fd = -1
    try:
        folder_fd = open_folder(parent_fd, temporary)
        _write_marker(folder_fd)
        os.fsync(folder_fd)
        _rename(parent_fd, temporary, name)
    except OSError:
        if folder_fd >= 0:
            with contextlib.suppress(OSError):
                os.unlink(FORMAT_FILE, dir_fd=folder_fd)
            os.close(folder_fd)
        with contextlib.suppress(OSError):
            os.rmdir(temporary, dir_fd=parent_fd)
        raise
    return folder_fd


def _rename(parent_fd: int, temporary: bytes, name: bytes) -> None:
    try:
        syscalls.rename(parent_fd, temporary, parent_fd, name, syscalls.RENAME_NOREPLACE)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # some file systems know no flags (renameat2(2))
            raise
        os.rename(temporary, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)


def _read_marker(folder_fd: int) -> dict[str, Any] | None:
    """The content of the marker file; None where there is none. Raises OSError, or ValueError for
    one that makes no sense.
    """
    try:
        fd = open_file(folder_fd, FORMAT_FILE, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        marker: dict[str, Any] = json.loads(os.pread(fd, _MAX_MARKER_BYTES, 0))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    finally:
        os.close(fd)
    return marker


def _id_of(marker: dict[str, Any] | None) -> bytes:
    """The id in a marker file; empty if it has none, as those of older versions."""
    text = marker.get("id") if isinstance(marker, dict) else None
    try:
        found = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        return b""
    return found if len(found) == ID_BYTES else b""


def _write_marker(folder_fd: int) -> None:
    """Write the marker file atomically: by another name first."""
    marker = {"program": "mirrorfs", "format": _FORMAT, "id": secrets.token_hex(ID_BYTES)}
    temporary = FORMAT_FILE + b"." + secrets.token_hex(8).encode()
    fd = open_file(folder_fd, temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        os.write(fd, json.dumps(marker).encode() + b"\n")
        os.fsync(fd)
        os.rename(temporary, FORMAT_FILE, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder_fd)
        raise
    finally:
        os.close(fd)
