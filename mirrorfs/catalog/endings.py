"""How a session ended, by what was seen of its writers; and whether it was unusual. Pure.

A doubt means: incomplete. A copy that is whole and is called incomplete costs a look; one that is
torn and is called good costs the backup.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirrorfs.backing.sizes import share
from mirrorfs.catalog.session import Ending
from mirrorfs.mirror import seed_rules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirrorfs.catalog.session import Session

# The mode that rsync gives a new file until it has finished it.
_RSYNC_UNFINISHED_MODE = 0o600
# Where it keeps files until they are whole: --delay-updates, and the usual --partial-dir.
_FOLDERS_OF_RSYNC = frozenset({b".~tmp~", b".rsync-partial"})
# Less is noise.
_LEAST_ZEROED_BYTES = 64 << 10
_LEAST_LOST_BYTES = 1 << 20
_MEDIAN_FACTOR = 10
_LEAST_SHARE = 0.2
_LEAST_SESSIONS = 3  # fewer do not tell what is usual
MEDIAN_OF = 10


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen of the writers of a session, up to its end."""

    path: bytes  # below the backing folder, as it is now
    is_removed: bool = False  # the last name is gone
    is_open: bool = False  # a writer still has it open
    is_failed: bool = False  # a write or fsync was refused, and not made good
    closed: Ending = Ending.CLOSED  # how the last writer ended: CLOSED, EXITED or KILLED
    is_stamped: bool = False  # its mtime was set after the last write
    is_epoch: bool = False  # the mtime that was set lies in the second 0 of the epoch


def meant_for(path: bytes) -> tuple[bytes, bytes | None]:
    """The path that the content at `path` is meant for; and `path` itself, if that is a temporary
    name of a copy tool, else None.
    """
    folder, name = os.path.split(path)
    above, last = os.path.split(folder)
    if last in _FOLDERS_OF_RSYNC:
        return os.path.join(above, name), path
    replaced = seed_rules.replaced_names(name)
    return (os.path.join(folder, replaced[0]), path) if replaced else (path, None)


def ending(seen: Observed, program: str, was_stamped: bool | None, mode: int) -> Ending:
    """How a session ended; `was_stamped` says whether good sessions of the file by the same
    `program` set its mtime, None if there is none. `mode` is the file's now, 0 if not known.
    """
    if seen.is_failed:
        return Ending.FAILED
    if seen.closed is Ending.KILLED and not seen.is_open:
        return Ending.KILLED
    if seen.is_removed:
        return Ending.ABANDONED
    if seen.is_open:
        return Ending.UNMOUNTED
    if meant_for(seen.path)[1] is not None:
        return Ending.ABANDONED
    # What rsync --partial keeps gets its name and mode, but this time, so that it looks old.
    if program == "rsync" and seen.is_epoch:
        return Ending.UNSTAMPED
    # No copy of it was good yet, the first one or a later: nothing is known of what the program
    # does else.
    is_unknown_of_rsync = was_stamped is None and program == "rsync"
    is_left = is_unknown_of_rsync and mode & 0o777 == _RSYNC_UNFINISHED_MODE
    if not seen.is_stamped and (was_stamped or is_left):
        return Ending.UNSTAMPED
    return seen.closed


def unusual(session: Session, shares: Sequence[float], zeroed: int) -> str:
    """Why a session that ended well is out of the ordinary; empty if it is not. `shares` are the
    changed shares of the last good sessions of its file (`MEDIAN_OF`), `zeroed` how many bytes of
    data it turned to zeros.

    Of a file without any nothing is said: it may have been stored with its zeros before, and they
    are no data that is lost.
    """
    if not shares or not session.is_good:
        return ""
    had, left = session.allocated_before or 0, session.allocated_after or 0
    if had and zeroed >= _LEAST_ZEROED_BYTES and zeroed > had / 2:
        return f"{share(min(1.0, zeroed / had))} of its data turned to zeros"
    if had - left >= _LEAST_LOST_BYTES and left < had / 2 and session.is_shrunk:
        return f"{share((had - left) / had)} of its data is gone"
    if len(shares) < _LEAST_SESSIONS:
        return ""
    import statistics  # here, as commands want endings alone, and it takes its time

    usual = statistics.median(shares)
    changed = session.changed_share
    if changed > _LEAST_SHARE and changed > usual * _MEDIAN_FACTOR:
        return f"{share(changed)} of its data changed, where {share(usual)} is usual"
    return ""
