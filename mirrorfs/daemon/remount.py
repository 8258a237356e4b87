"""`mount -o remount`: read-only and back, and what else the kernel alone decides.

The kernel refuses what writes; the daemon goes on as before, and is not told. So a mount whose
daemon was started read-only cannot become writable, and no other option can change.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from mirrorfs.backing import syscalls
from mirrorfs.backing.paths import show
from mirrorfs.daemon import mounted, processes, timed_calls
from mirrorfs.errors import BusyError, MirrorfsError, UsageError
from mirrorfs.options import describe, parse_words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirrorfs.backing.mounts import Mount

# Flags of mount(2); those of the file system are taken anew with each remount, as the others are.
_FLAGS = {
    "ro": 0x1,
    "nosuid": 0x2,
    "nodev": 0x4,
    "noexec": 0x8,
    "sync": 0x10,
    "dirsync": 0x80,
    "noatime": 0x400,
    "nodiratime": 0x800,
    "relatime": 0x200000,
}
_TURNED_OFF = {"rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec", "async": "sync"}
# The others are on by default, or belong to the daemon.
_NAMED_IF_ON = {"ro", "noexec", "sync", "dirsync"}
# What mount(8) finds in the mount table of a mount that is not in fstab, and passes on.
_OF_THE_KERNEL = ("user_id=", "group_id=", "max_read=", "blksize=", "rootmode=", "fd=", "subtype=")
WORD = "remount"


def remount(path: str, words: Iterable[str], is_whole: bool) -> None:
    """Change the mirrorfs mount at `path` as `words` say, `remount` among them. If that `is_whole`,
    as from mount(8), a flag that is not named is off; else it stays as it is.

    Raises NotAMountError, UsageError for what cannot be changed, BusyError if files are open for
    writing, NoAnswerError if the mount does not answer, and else MirrorfsError.
    """
    mount = mounted.at(path)
    wanted = [word for word in words if word != WORD and not word.startswith(_OF_THE_KERNEL)]
    if os.geteuid() != 0:
        raise MirrorfsError(f"{show(mount.path)}: only root may remount; run this as root")
    options = parse_words(wanted)
    running = mounted.running_options(mount)
    _refuse_changes(mount, describe(options, {}), running)
    flags = {name for name in _FLAGS if name in mount.options}
    if is_whole:
        flags -= _NAMED_IF_ON
    for word in wanted:
        if word in _FLAGS:
            flags.add(word)
        flags.discard(_TURNED_OFF.get(word, ""))
    if running["ro"]["value"] and "ro" not in flags:
        raise UsageError(
            f"{show(mount.path)}: was mounted read-only, so its daemon is not prepared to write; "
            "unmount it, and mount it with rw"
        )
    try:
        bits = sum(_FLAGS[name] for name in flags)
        timed_calls.call(syscalls.remount, mount.path, bits)
    except OSError as exc:
        if exc.errno != errno.EBUSY:
            raise MirrorfsError(
                f"{show(mount.path)}: cannot be remounted: {exc.strerror}"
            ) from None
        holders = ", ".join(processes.holders(mount)[:5]) or "a process that cannot be seen"
        raise BusyError(
            f"{show(mount.path)}: files are open for writing; it is in use by {holders}"
        ) from None


def _refuse_changes(
    mount: Mount, wanted: dict[str, dict[str, object]], running: dict[str, Any]
) -> None:
    """Refuse another value for an option of the daemon. UsageError."""
    for name, one in wanted.items():
        if name == "ro" or one["from"] == "default" or one["value"] is None:
            continue
        if name not in running or one["value"] != running[name]["value"]:
            raise UsageError(
                f"{show(mount.path)}: option {name} cannot be changed by remount; "
                "unmount it, and mount it again"
            )
