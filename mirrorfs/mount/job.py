"""What a daemon is asked to serve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirrorfs.backing.probe import Abilities
    from mirrorfs.options import MountOptions


@dataclass(frozen=True, slots=True)
class Job:
    """A checked and locked backing folder, and a checked mount point. Paths are absolute, without
    symbolic links. `state_folder` is where the list of files with seeds is kept; None if there are
    to be no seeds, because of `no_seeds`.
    """

    backing: bytes
    backing_fd: int
    mount_point: bytes
    options: MountOptions
    abilities: Abilities
    state_folder: bytes | None = None
    no_seeds: str = ""
