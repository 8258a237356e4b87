"""Whether a backing folder and a mount point can be used together. They are compared by (device,
inode), never by their names.

Every refusal is an error of `mirrorfs.errors` that names the place and what to do.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import subprocess
import time
from pathlib import Path

from mirrorfs.backing import mounts, syscalls
from mirrorfs.backing.paths import show
from mirrorfs.backing.state_folder import FORMAT_FILE
from mirrorfs.daemon import health, overlap, processes, timed_calls
from mirrorfs.errors import (
    BackingError,
    FuseError,
    InUseError,
    MirrorfsError,
    MountPointError,
    NoAnswerError,
    UsageError,
)

_ENDING_SECONDS = 3.0


def open_backing(path: bytes, read_only: bool) -> int:
    """Open the backing folder, a path without symbolic links, and lock it against a second daemon.

    Returns a real descriptor whose lock (flock(2)) lives as long as it or a copy in a child process
    is open. Raises BackingError for what cannot be used, InUseError if another process has the
    lock.
    """
    timed_calls.touch(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BackingError(
            f"{show(path)}: no such folder; make it first, or correct the path"
        ) from None
    except NotADirectoryError:
        raise BackingError(
            f"{show(path)}: not a folder; name the folder that shall hold the files"
        ) from None
    except PermissionError:
        raise BackingError(
            f"{show(path)}: you may not read it; run as its owner or as root, "
            "or choose a folder of yours"
        ) from None
    except OSError as exc:
        raise BackingError(f"{show(path)}: cannot be opened: {exc.strerror}") from None
    try:
        _check_backing(fd, path, read_only)
        _lock(fd, path)
    except BlockingIOError:
        os.close(fd)
        raise _in_use(path) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _lock(fd: int, path: bytes) -> None:
    """Lock the folder; a daemon whose mount is gone already gets `_ENDING_SECONDS` to end.

    BlockingIOError if another process keeps the lock.
    """
    end = time.monotonic() + (0 if _served_at(path) else _ENDING_SECONDS)
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)
        else:
            return


def _served_at(backing: bytes) -> bytes | None:
    """Where a mirrorfs shows the folder `backing`, as far as the mount table tells."""
    for mount in mounts.mirror_mounts():
        if mount.source == backing:
            return mount.path
    return None


def _in_use(path: bytes) -> InUseError:
    point = _served_at(path)
    if point is not None:
        return InUseError(
            f"{show(path)}: another mirrorfs serves this folder already, on {show(point)}; "
            f"'mirrorfs umount {show(point)}' ends that one"
        )
    pid = processes.lock_holder(path)
    if pid is None:
        who, remedy = "a process that cannot be seen from here", "end it"
    elif processes.is_stopped(pid):
        who, remedy = processes.named(pid), f"it is stopped; 'kill -CONT {pid}' lets it go on"
    else:
        who = processes.named(pid)
        remedy = (
            "if that is a mirrorfs which was unmounted with files open, it ends when they are "
            f"closed, or by 'kill {pid}'"
        )
    return InUseError(f"{show(path)}: locked by {who}; {remedy}")


def check_overlap(path: bytes) -> None:
    """Refuse the backing folder `path`, locked already, of which a part or more is served by
    another mirrorfs: two daemons would write the same files. Raises InUseError.
    """
    below = [mount for mount in mounts.mount_table() if mount.fs_type != mounts.MIRRORFS_TYPE]
    for mount in mounts.mirror_mounts():
        # Had another daemon this very folder, the lock would have been refused.
        if mount.source == path or not overlap.overlap(path, mount.source, below):
            continue
        with contextlib.suppress(NoAnswerError):  # one that hangs may go on
            if health.is_dead(mount):
                continue
        raise InUseError(
            f"{show(path)}: overlaps with {show(mount.source)}, which a mirrorfs serves on "
            f"{show(mount.path)}; two would write the same files. "
            f"'mirrorfs umount {show(mount.path)}' ends that one"
        )


def _check_backing(fd: int, path: bytes, read_only: bool) -> None:
    mount = mounts.mount_of(fd)
    if mount.fs_type == mounts.MIRRORFS_TYPE:
        raise BackingError(
            f"{show(path)}: is inside a mirrorfs mount itself; name the folder below it"
        )
    if not read_only and os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        raise BackingError(
            f"{show(path)}: the file system is read-only; mount it writable, or pass -o ro"
        )
    if not read_only and not os.access(path, os.W_OK | os.X_OK):
        remedy = (
            "is it immutable (chattr(1)), and the disk that belongs there not mounted?"
            if os.geteuid() == 0
            else "run as its owner or as root, or pass -o ro"
        )
        raise BackingError(f"{show(path)}: you may not write there; {remedy}")


def check_control_name(backing_fd: int, path: bytes, name: bytes) -> None:
    """Refuse a backing folder in which the name of the control folder belongs to something else.

    A state folder may have that name. Raises BackingError.
    """
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=backing_fd)
    except FileNotFoundError:
        return
    try:
        os.stat(FORMAT_FILE, dir_fd=fd, follow_symlinks=False)
    except OSError:
        raise BackingError(
            f"{show(path)}: holds an entry '{show(name)}', which the mount would hide; "
            "pass -o control=NAME with a name that is free"
        ) from None
    finally:
        os.close(fd)


def clear_mount_point(path: bytes) -> bool:
    """Unmount what a daemon that died has left at `path`; returns whether there was such a mount.

    Raises InUseError for a mirrorfs that works, NoAnswerError for one that hangs.
    """
    mount = mounts.mounted_at(path)
    if mount is None or mount.fs_type != mounts.MIRRORFS_TYPE:
        return False
    if clear_dead(mount):
        return True
    raise InUseError(
        f"{show(path)}: a mirrorfs is mounted here already; see 'mirrorfs stats {show(path)}'"
    )


def check_mount_point(path: bytes, backing_fd: int, nonempty: bool) -> None:
    """Refuse a mount point, a path without symbolic links, that cannot be used with the backing
    folder. Raises MountPointError.
    """
    timed_calls.touch(path)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise MountPointError(f"{show(path)}: no such folder; make the mount point first") from None
    except OSError as exc:
        raise MountPointError(
            f"{show(path)}: cannot be used as mount point: {exc.strerror}"
        ) from None
    if not stat.S_ISDIR(status.st_mode):
        raise MountPointError(f"{show(path)}: not a folder; name an empty folder as mount point")
    backing = os.fstat(backing_fd)
    if not os.path.samestat(status, backing):
        _refuse_inside(path, backing)
        if not nonempty and _has_entries(path):
            raise MountPointError(
                f"{show(path)}: the mount point is not empty; empty it, or pass -o nonempty"
            )
    if os.geteuid() != 0 and not os.access(path, os.W_OK):
        raise MountPointError(f"{show(path)}: you may only mount on a folder that you can write to")


def _refuse_inside(path: bytes, backing: os.stat_result) -> None:
    folder = path
    while folder != b"/":
        folder = os.path.dirname(folder)
        if os.path.samestat(os.stat(folder), backing):
            raise MountPointError(
                f"{show(path)}: the mount point lies inside the backing folder; "
                "choose one outside of it"
            )


def _has_entries(path: bytes) -> bool:
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is not None
    except OSError as exc:
        raise MountPointError(f"{show(path)}: cannot be listed: {exc.strerror}") from None


def clear_dead(mount: mounts.Mount) -> bool:
    """Unmount `mount` if its daemon died; returns whether it did. NoAnswerError if it hangs."""
    if not health.is_dead(mount):
        return False
    timed_calls.call(detach, mount.path, True)
    return True


def detach(path: bytes, lazy: bool) -> None:
    """Unmount `path`, as root by umount2(2), else by fusermount3(1); with `lazy`, take it out of
    the tree at once.

    Raises OSError, EBUSY if it is in use, and MirrorfsError if only another user may unmount it.
    """
    if os.geteuid() == 0:
        syscalls.unmount(path, lazy)
        return
    helper = shutil.which("fusermount3")
    if helper is None:
        raise FuseError("fusermount3 is not installed; install the package fuse3")
    command: list[str | bytes] = [helper, "-u", *(["-z"] if lazy else []), path]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()
        if "busy" in message.lower():
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        mount = mounts.mounted_at(path)
        if mount is not None and mount.user_id != os.geteuid():
            who = _user_name(mount.user_id)
            raise MirrorfsError(
                f"{show(path)}: mounted by {who}; only {'' if who == 'root' else 'root or '}{who} "
                "may unmount it"
            )
        raise MirrorfsError(f"{show(path)}: cannot be unmounted: {message}")


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def check_fuse(allow_other: bool) -> None:
    """Refuse to go on where FUSE cannot work: FuseError with the reason, or UsageError where the
    user may not give `allow_other` (fusermount3(1), fuse.conf).
    """
    if not Path("/dev/fuse").exists():
        raise FuseError(
            "/dev/fuse is missing; load the module (modprobe fuse), "
            "or let the container have the device"
        )
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise FuseError(
            "/dev/fuse may not be opened by you; become root, or let root give you access to it"
        )
    if os.geteuid() == 0:
        return
    if shutil.which("fusermount3") is None:
        raise FuseError("fusermount3 is not installed; install the package fuse3, or become root")
    if allow_other:
        config = ""
        with contextlib.suppress(OSError):
            config = Path("/etc/fuse.conf").read_text(encoding="utf-8", errors="replace")
        if "user_allow_other" not in (line.strip() for line in config.splitlines()):
            raise UsageError(
                "option allow_other: only root may use it, unless /etc/fuse.conf says "
                "user_allow_other; leave it away, or let root add that line"
            )
