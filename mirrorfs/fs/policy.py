"""What is done with files on a file system, by the options of the mount and its abilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirrorfs.mirror.plan import Rules

if TYPE_CHECKING:
    from mirrorfs.backing.probe import Abilities
    from mirrorfs.options import MountOptions


class Policy:
    """`keeps_list` says that there is a recovery list, without which no file gets a seed."""

    def __init__(self, options: MountOptions, keeps_list: bool) -> None:
        self._options = options
        self._keeps_list = keeps_list

    def rules(self, abilities: Abilities) -> Rules:
        """What is done with zeros and unchanged blocks on such a file system."""
        options = self._options
        return Rules(
            options.zeros == "punch",
            options.unchanged == "skip",
            max(options.block_bytes or 0, abilities.unit_bytes),
            options.compare == "digest",
        )

    def clones_seeds(self, abilities: Abilities) -> bool:
        """Whether a new file may be given a clone of an old one on such a file system."""
        wanted = self._options.basis == "auto" and self._options.unchanged == "skip"
        return wanted and self._keeps_list and abilities.clone
