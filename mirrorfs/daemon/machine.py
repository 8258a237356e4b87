"""The facts of the machine that doctor asks for. Nothing here sends a request to a mirrorfs, but
for a limited time to what fstab names.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mirrorfs import options
from mirrorfs.backing.mounts import MIRRORFS_TYPE
from mirrorfs.daemon import copies, timed_calls
from mirrorfs.daemon.facts import Entry, Machine
from mirrorfs.errors import NoAnswerError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

_TYPES = {"mirrorfs", MIRRORFS_TYPE}
# What mount(8) and systemd have.
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ESCAPE = re.compile(rb"\\([0-7]{3})")


def examine(points: Iterable[bytes], fstab: Path = Path("/etc/fstab")) -> Machine:
    """The machine; `points` are where mirrorfs is mounted, and `fstab` the table of what is to be
    mounted.
    """
    return Machine(
        kernel=os.uname().release,
        is_root=os.geteuid() == 0,
        is_virtual=" hypervisor" in _text("/proc/cpuinfo"),
        cpuidle_governor=_text("/sys/devices/system/cpu/cpuidle/current_governor").strip(),
        halt_poll_ns=_number("/sys/module/haltpoll/parameters/guest_halt_poll_ns"),
        has_fuse_device=os.path.exists("/dev/fuse"),
        has_fusermount=shutil.which("fusermount3") is not None,
        user_allow_other="user_allow_other" in map(str.strip, _text("/etc/fuse.conf").splitlines()),
        entries=tuple(entries(_bytes(fstab))),
        copies=copies.running(list(points)),
    )


def entries(table: bytes) -> list[Entry]:
    """The lines about a mirrorfs in the text of an fstab (fstab(5)), and whether what they name is
    there.
    """
    found = []
    for number, line in enumerate(table.splitlines(), 1):
        words = line.split()
        if len(words) < 3 or words[0].startswith(b"#") or os.fsdecode(words[2]) not in _TYPES:
            continue
        source, point = _unescaped(words[0]), _unescaped(words[1])
        given = os.fsdecode(words[3]) if len(words) > 3 else "defaults"
        fs_type = os.fsdecode(words[2])
        found.append(
            Entry(
                number,
                source,
                point,
                fs_type,
                given,
                _is_folder(source),
                _is_folder(point),
                _has_helper(fs_type),
                _refusal(given),
            )
        )
    return found


def _has_helper(fs_type: str) -> bool:
    """mount(8) runs mount.TYPE; of fuse.NAME that is mount.fuse, which runs NAME."""
    if shutil.which(f"mount.{fs_type}", path="/sbin:/usr/sbin") is not None:
        return True
    if not fs_type.startswith("fuse."):
        return False
    return all(
        shutil.which(name, path=_SYSTEM_PATH) is not None
        for name in ("mount.fuse", fs_type.partition(".")[2])
    )


def _refusal(given: str) -> str:
    try:
        options.parse(given)
    except UsageError as exc:
        return str(exc)
    return ""


def _is_folder(path: bytes) -> bool:
    """Whether there is such a folder; one that does not answer is there."""
    try:
        return timed_calls.call(os.path.isdir, path, seconds=2)
    except NoAnswerError:
        return True


def _unescaped(word: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), word)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _text(path: str) -> str:
    return _bytes(Path(path)).decode(errors="replace")


def _number(path: str) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None
