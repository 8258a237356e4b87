"""`mirrorfs umount`: unmount, and return when the daemon has ended."""

from __future__ import annotations

import errno
import os
import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mirrorfs.cli import mounted
from mirrorfs.errors import BusyError, ExitCode, NoAnswerError

if TYPE_CHECKING:
    import argparse

_END_SECONDS = 30
_LAZY_SECONDS = 2
_MAX_NAMED = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mount_point", metavar="MOUNTPOINT")
    parser.add_argument(
        "--lazy", action="store_true", help="take it out of the tree now; it ends when unused"
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit code 7 if it is no mirrorfs mount, 11 if files are open, 12 if the daemon does
    not end.
    """
    from mirrorfs.backing import places

    path = os.path.realpath(os.fsencode(arguments.mount_point))
    if places.clear_dead_mount(path):
        print(
            f"mirrorfs: {places.show(path)}: the daemon was dead; removed what it left",
            file=sys.stderr,
        )
        return ExitCode.DONE
    mounted.require(path)
    pid = mounted.daemon_pid(path)
    watch = _open_pid(pid)
    try:
        places.detach(path, arguments.lazy)
    except OSError as exc:
        if exc.errno != errno.EBUSY:
            raise
        raise BusyError(
            f"{places.show(path)}: in use by {_holders(path)}; close them, or pass --lazy"
        ) from None
    if watch is not None and not _ended(watch, _LAZY_SECONDS if arguments.lazy else _END_SECONDS):
        if arguments.lazy:
            print(
                f"mirrorfs: files are still open; process {pid} ends when they are closed",
                file=sys.stderr,
            )
        else:
            raise NoAnswerError(
                f"{places.show(path)}: unmounted, but process {pid} has not ended; see its log"
            )
    return ExitCode.DONE


def _open_pid(pid: int | None) -> int | None:
    if pid is None:
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _ended(watch: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _holders(path: bytes) -> str:
    """Processes with an open file, folder or mapping below `path`, by name and number."""
    device = os.stat(path).st_dev
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _holds(process, device):
            name = (process / "comm").read_text(errors="replace").strip()
            found.append(f"{name} ({process.name})")
    more = f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
    return (
        ", ".join(found[:_MAX_NAMED]) + more if found else "a process that cannot be seen from here"
    )


def _holds(process: Path, device: int) -> bool:
    links = [process / "cwd", process / "root", process / "exe"]
    for folder in ("fd", "map_files"):
        try:
            links += (process / folder).iterdir()
        except OSError:
            continue
    for link in links:
        try:
            if link.stat().st_dev == device:
                return True
        except OSError:
            continue
    return False
