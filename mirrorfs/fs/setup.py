"""What a file system is made of, when it is mounted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirrorfs.backing.probe import Abilities
    from mirrorfs.backing.recovery_list import Entry
    from mirrorfs.options import MountOptions


@dataclass(frozen=True, slots=True)
class Setup:
    """Paths are absolute, without symbolic links."""

    backing: bytes
    backing_fd: int
    mount_point: bytes
    options: MountOptions
    abilities: Abilities  # of the file system of the backing folder
    state_folder: bytes | None  # where the recovery list is kept; None if files get no seeds
    no_seeds: str  # and why
    catalog_folder: bytes | None  # where the catalog is kept; None if it is not
    left: tuple[Entry, ...]  # on the recovery list, and not finalised yet
    descriptors: int  # how many are kept for files that are merely known
    log: str  # where log lines go, for config.json
    metrics_folder: bytes | None = None  # where the file of metrics is kept; None for nowhere
