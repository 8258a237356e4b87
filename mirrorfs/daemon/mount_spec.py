"""The mount specification: what a daemon is to serve, checked by the command that starts it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirrorfs.backing.probe import Abilities
    from mirrorfs.backing.recovery_list import Entry
    from mirrorfs.daemon.session_hook import Hook
    from mirrorfs.options import MountOptions


@dataclass(frozen=True, slots=True)
class StateFolder:
    """Where the recovery list is kept; `path` is None, and `no_seeds` the reason, if files get no
    seeds. `catalog_folder` is the folder, too, where anything can be kept there.

    `lock_fd` is the descriptor that keeps other mounts out of a folder that the user has named, -1
    for the default. `left` are the entries that a crash has left on the list and that are not
    finalised yet. `notes` and `warnings` are lines for the user, which the log is to have, too.
    """

    path: bytes | None
    no_seeds: str = ""
    catalog_folder: bytes | None = None
    lock_fd: int = -1
    left: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MountSpec:
    """A checked and locked backing folder, by path and real descriptor, and a checked mount point.

    Paths are absolute, without symbolic links. `metrics_folder` is where the file of metrics is to
    be kept, if anywhere. `notes` are lines about what was done on the way, for the log.
    """

    backing: bytes
    backing_fd: int
    mount_point: bytes
    options: MountOptions
    abilities: Abilities
    state_folder: StateFolder
    hook: Hook | None = None
    metrics_folder: bytes | None = None
    notes: tuple[str, ...] = ()
