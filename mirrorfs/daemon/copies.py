"""Programs that copy into a mount now, and what their flags cost there (the page on tools)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mirrorfs.daemon.facts import Copy

if TYPE_CHECKING:
    from collections.abc import Sequence

# Letters of rsync's that take what follows as their argument (rsync(1)).
_WITH_ARGUMENT = "TefBM@"
_SHORT = {"S": "--sparse", "T": "--temp-dir", "W": "--whole-file"}


def running(points: Sequence[bytes]) -> tuple[Copy, ...]:
    """The programs whose target lies in one of the mounts at `points`. Of those that are not shown
    to this user, and that work by a connection, nothing is known. Sends no request to a mount.
    """
    found: dict[tuple[bytes, ...], Copy] = {}
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")[:-1]
            folder = os.readlink(os.fsencode(process / "cwd"))
        except OSError:
            continue
        copy = parse(int(process.name), words, folder, points)
        if copy is not None:
            # rsync is several processes, with the same words.
            found.setdefault((*copy.words, copy.target), copy)
    return tuple(found.values())


def parse(pid: int, words: Sequence[bytes], folder: bytes, points: Sequence[bytes]) -> Copy | None:
    """The copy that a process with this command line, in `folder`, makes into one of the mounts at
    `points`; None if it makes none.
    """
    program = os.fsdecode(os.path.basename(words[0])) if words else ""
    target = b""
    if program == "rsync" and b"--sender" not in words:
        places = [word for word in words[1:] if not word.startswith(b"-")]
        target = places[-1] if len(places) > 1 and b":" not in places[-1].split(b"/")[0] else b""
    elif program == "dd":
        target = next((word[3:] for word in words if word.startswith(b"of=")), b"")
    if not target:
        return None
    target = os.path.normpath(os.path.join(folder, target))
    inside = [one for one in points if (target + b"/").startswith(one.rstrip(b"/") + b"/")]
    if not inside:
        return None
    return Copy(pid, program, tuple(words[1:]), target, max(inside, key=len))


def rsync_flags(words: Sequence[bytes]) -> set[str]:
    """The long names of the flags of an rsync that matter here, however they were given."""
    found = set()
    is_value = False
    for word in map(os.fsdecode, words):
        if is_value:
            is_value = False
        elif word.startswith("--"):
            found.add(word.partition("=")[0])
            is_value = word == "--temp-dir"
        elif word.startswith("-"):
            for place, letter in enumerate(word[1:], 2):
                if letter in _SHORT:
                    found.add(_SHORT[letter])
                if letter in _WITH_ARGUMENT:
                    is_value = place == len(word)
                    break
    return found
