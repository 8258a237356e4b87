"""What a daemon is asked to serve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirrorfs.backing.probe import Abilities
    from mirrorfs.backing.recovery_list import Entry
    from mirrorfs.options import MountOptions


@dataclass(frozen=True, slots=True)
class StateFolder:
    """Where the list of files with seeds is kept; None, and the reason, if there will be no seeds.
    `lock_fd` keeps others out of a folder that the user has named, -1 otherwise. `left` is what a
    crash has left on the list and was not finalised yet; the user was given what was `told`, and
    `warnings`.
    """

    path: bytes | None
    no_seeds: str = ""
    lock_fd: int = -1
    left: tuple[Entry, ...] = ()
    told: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MountSpec:
    """A checked and locked backing folder, and a checked mount point. Paths are absolute, without
    symbolic links. `notes` is what was done on the way, for the log.
    """

    backing: bytes
    backing_fd: int
    mount_point: bytes
    options: MountOptions
    abilities: Abilities
    state_folder: StateFolder
    notes: tuple[str, ...] = ()
