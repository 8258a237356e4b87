"""What one session does to its file, counted while it goes on: the classes of its bytes, which
chunks have changed, and what is known of all of them. Nothing here survives the mount.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirrorfs.mirror.changed_chunks import ChangedChunks
from mirrorfs.mirror.counters import Counters

if TYPE_CHECKING:
    from mirrorfs.mirror.known_digests import KnownDigests


@dataclass(slots=True)
class Tally:
    """Of one session, which has begun if `is_begun`. The counters are guarded by the account's
    lock.
    """

    counters: Counters = field(default_factory=Counters)
    changed: ChangedChunks = field(default_factory=ChangedChunks)
    is_begun: bool = False
    digests: KnownDigests | None = None  # None where none are taken
