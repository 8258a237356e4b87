"""The facts of one place that doctor asks for, found out without waiting for a mount that hangs."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirrorfs.backing.mounts import mount_of
from mirrorfs.catalog import scrubs
from mirrorfs.daemon import mounted, processes, remembered, timed_calls
from mirrorfs.daemon.facts import Examined
from mirrorfs.errors import MirrorfsError, NoAnswerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.backing.mounts import Mount
    from mirrorfs.daemon.facts import State
    from mirrorfs.daemon.overview import Overview
    from mirrorfs.daemon.remembered import Place

_LIMIT = re.compile(r"^Max open files\s+(\d+)", re.MULTILINE)


def examine(place: Place, look: Callable[[Place], Overview]) -> Examined:
    """Find out what can be found of a place; `look` looks at its files, and may raise
    MirrorfsError.
    """
    facts = dict[str, Any]()
    state: State = "unmounted"
    if place.mount is not None:
        pid = processes.daemon_of(place.mount)
        state, stats = _asked(place.mount, bool(place.trouble), pid)
        facts |= _of_daemon(place.mount, stats, pid)
    facts |= _of_disk(place)
    try:
        facts["overview"] = look(place)
        facts |= _of_scrubs(place)
    except MirrorfsError as exc:
        facts["unseen"] = str(exc)
    return Examined(name=place.name, backing=place.backing, state=state, **facts)


def _asked(mount: Mount, is_known_silent: bool, pid: int | None) -> tuple[State, dict[str, Any]]:
    """Whether the mount, which `pid` serves, answers, and what."""
    try:
        if not is_known_silent:
            return "answers", mounted.Statistics(mount).read()
    except NoAnswerError:
        pass
    except MirrorfsError:
        return "private", {}
    if pid is None:
        return "dead", {}
    return ("stopped" if processes.is_stopped(pid) else "hangs"), {}


def _of_daemon(mount: Mount, stats: dict[str, Any], pid: int | None) -> dict[str, Any]:
    digests = stats.get("digests") or {}
    facts = {
        "pid": pid,
        "user_id": mount.user_id,
        "version": stats.get("version", ""),
        "open_files": None if pid is None else _limit(pid),
        "chunks": digests.get("chunks", 0),
        "known_chunks": digests.get("known_chunks", 0),
    }
    control = stats.get("control")
    if control and mount.root == b"/":
        path = os.path.join(mount.path, os.fsencode(control), b"config.json")
        try:
            config = json.loads(timed_calls.call(_read, path))
        except (OSError, ValueError, MirrorfsError):
            return facts
        facts |= {
            "options": config["options"],
            "abilities": config["file_system"],
            "features": config["extras"],
        }
    return facts


def _of_disk(place: Place) -> dict[str, Any]:
    facts: dict[str, Any] = {"state_folder": place.state_folder}
    over = mounted.covering(place.backing)
    if over is not None and not place.is_hidden:
        facts["backing_type"] = over.fs_type
        facts["backing_options"] = _super_options(over)
    with contextlib.suppress(OSError, MirrorfsError):
        facts["state_free"] = timed_calls.call(_free_elsewhere, place.state_folder, place.root)
    return facts


def _free_elsewhere(folder: bytes, root: bytes) -> int | None:
    """How many bytes are free for the state folder; None if it is on the disk of `root`."""
    fd = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        own = mount_of(fd).device
        system = os.statvfs(fd)
    finally:
        os.close(fd)
    if root:
        fd = os.open(root, os.O_PATH | os.O_CLOEXEC)
        try:
            if mount_of(fd).device == own:
                return None
        finally:
            os.close(fd)
    return system.f_bavail * system.f_frsize


def _super_options(mount: Mount) -> str:
    """The options of the file system, as the mount table has them (proc(5))."""
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        if line.split(" ", 1)[0] == str(mount.mount_id):
            return line.rpartition(" ")[2]
    return ""


def _limit(pid: int) -> int | None:
    try:
        match = _LIMIT.search(Path(f"/proc/{pid}/limits").read_text())
    except OSError:
        return None
    return int(match[1]) if match else None


def _read(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _of_scrubs(place: Place) -> dict[str, Any]:
    """What the catalog knows of scrubs: nothing, where there is none."""
    with remembered.opened(place) as db:
        if db is None:
            return {}
        return {
            "knows_scrubs": True,
            "scrubbed_ns": scrubs.last_complete_ns(db),
            "damaged": tuple(one.path for one in scrubs.damage(db)),
        }
