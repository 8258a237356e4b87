"""Which processes serve a mount, and which hold it, read from /proc (proc(5)). Nothing here sends a
request to the mount, so nothing hangs with it, but for `detached_users`.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mirrorfs.backing.statx import statx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirrorfs.backing.mounts import Mount

_FUSE_DEVICE = b"/dev/fuse"
_CONNECTION = re.compile(r"^fuse_connection:\s*(\d+)", re.MULTILINE)
_LOCK = re.compile(r"^lock:\s*(\d+): FLOCK", re.MULTILINE)
_MOUNT_ID = re.compile(r"^mnt_id:\s*(\d+)", re.MULTILINE)


def daemon_of(mount: Mount) -> int | None:
    """The number of the process that serves `mount`, or None if it cannot be seen from here.

    Since Linux 6.10 fdinfo says which connection a descriptor of /dev/fuse belongs to; before, a
    process that has such a descriptor and also the backing folder open is taken. Of several, one
    may be about to end whose connection had the same number: the one with the backing folder is
    meant.
    """
    connection, likely = int(mount.device.partition(":")[2]), None
    for process in _processes():
        links = dict(_descriptors(process))
        devices = [fd for fd, link in links.items() if link == _FUSE_DEVICE]
        connections = [_number(_CONNECTION, process, fd) for fd in devices]
        serves = mount.source in links.values()
        if serves and (connection in connections or (devices and set(connections) == {None})):
            return int(process.name)
        if connection in connections:
            likely = likely or int(process.name)
    return likely


def holders(mount: Mount) -> list[str]:
    """The processes, but for this one, with an open file, folder or mapping in `mount`, by name and
    number (`named`).
    """
    return [
        named(int(process.name))
        for process in _processes()
        if int(process.name) != os.getpid() and _holds(process, mount)
    ]


def other_namespaces(device: str) -> list[str]:
    """Processes, by name and number, in whose mount namespace `device` (MAJOR:MINOR) is mounted:
    one for each namespace but this process's own.
    """
    found: dict[bytes, str] = {_link(Path("/proc/self/ns/mnt")): ""}
    for process in sorted(_processes(), key=lambda path: int(path.name)):
        namespace = _link(process / "ns/mnt")
        if namespace not in found and device in {line[2] for line in _mounts(process)}:
            found[namespace] = named(int(process.name))
    return [name for name in found.values() if name]


def detached_users(device: bytes) -> list[str]:
    """Processes, by name and number, that use `device` (MAJOR:MINOR) by way of a mount that is in
    no tree any more.

    Opens what their descriptors lead to, which may hang on another mount: call it by `timed_calls`.
    """
    major, _, minor = device.partition(b":")
    dev = os.makedev(int(major), int(minor))
    return [
        named(int(process.name))
        for process in _processes()
        if int(process.name) != os.getpid() and _is_detached_on(process, dev)
    ]


def _is_detached_on(process: Path, dev: int) -> bool:
    attached = {line[0] for line in _mounts(process)}
    fds = [
        process / "fd" / fd
        for fd, link in _descriptors(process)
        if link.startswith(b"/") and str(_number(_MOUNT_ID, process, fd)) not in attached
    ]
    return any(_device(path) == dev for path in (*fds, process / "cwd", process / "root"))


def _mounts(process: Path) -> list[list[str]]:
    """The lines of a process's mount table, split into words (mount id, parent's, device, …)."""
    try:
        table = (process / "mountinfo").read_text(errors="replace")
    except OSError:
        return []
    return [line.split(" ") for line in table.splitlines()]


def _device(path: Path) -> int | None:
    """The device that a link in /proc leads to, as the kernel knows it; None if there is none."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return statx(fd, ask=False).dev
    except OSError:
        return None
    finally:
        os.close(fd)


def lock_holder(folder: bytes) -> int | None:
    """The number of the process that has `folder` open and locked (flock(2)), or None if it cannot
    be seen.
    """
    for process in _processes():
        for fd, link in _descriptors(process):
            if link == folder and _number(_LOCK, process, fd) is not None:
                return int(process.name)
    return None


def is_locked(folder: bytes, device: str) -> bool:
    """Whether a process of this pid namespace has the folder, by whatever path, locked (flock(2));
    `device` is that of its mount, MAJOR:MINOR. Of btrfs subvolumes the roots are not told apart.

    Raises OSError if the folder cannot be looked at.
    """
    major, _, minor = device.partition(":")
    wanted = (int(major), int(minor), os.stat(folder).st_ino)
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        # proc_locks(5): number, type, mode, access, process, MAJOR:MINOR:inode, start, end
        if len(words) >= 6 and words[1] == "FLOCK":
            found = words[5].split(":")
            if (int(found[0], 16), int(found[1], 16), int(found[2])) == wanted:
                return True
    return False


def named(pid: int) -> str:
    """A process for people: `name (number)`."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        name = "a process"
    return f"{name} ({pid})"


def is_stopped(pid: int) -> bool:
    """Whether the process was stopped by a signal or a debugger."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return status.rpartition(b")")[2].split()[0] in {b"T", b"t"}


def is_mirrorfs(pid: int) -> bool:
    """Whether the process was started as mirrorfs, by its command line."""
    try:
        return b"mirrorfs" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _processes() -> Iterator[Path]:
    return (process for process in Path("/proc").iterdir() if process.name.isdigit())


def _holds(process: Path, mount: Mount) -> bool:
    # Reading the text of a link sends no request to the mount, as stat(2) would; the mount's id
    # tells a file in the mount from one in the folder below it.
    if any(
        _is_below(link, mount.path) and _number(_MOUNT_ID, process, fd) == mount.mount_id
        for fd, link in _descriptors(process)
    ):
        return True
    links = [process / name for name in ("cwd", "root", "exe")]
    with contextlib.suppress(OSError):
        links += (process / "map_files").iterdir()
    return any(_is_below(_link(path), mount.path) for path in links)


def _descriptors(process: Path) -> Iterator[tuple[str, bytes]]:
    """Number and path of each descriptor of the process; none where they may not be seen."""
    try:
        for fd in (process / "fd").iterdir():
            yield fd.name, _link(fd)
    except OSError:
        return


def _link(path: Path) -> bytes:
    try:
        return os.readlink(os.fsencode(path))
    except OSError:
        return b""


def _number(pattern: re.Pattern[str], process: Path, fd: str) -> int | None:
    try:
        match = pattern.search((process / "fdinfo" / fd).read_text())
    except OSError:
        return None
    return int(match[1]) if match else None


def _is_below(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")
