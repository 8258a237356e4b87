"""The texts of the control files. The formats are contracts: see the page on control files."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

from mirrorfs import __version__
from mirrorfs.backing.paths import path_text
from mirrorfs.fs.entry import refuse

if TYPE_CHECKING:
    from mirrorfs.catalog.session import Session
    from mirrorfs.mirror.counters import Account, Snapshot

SCHEMA = 1


def stats_text(snapshot: Snapshot) -> bytes:
    """`name value`, one a line: since mount, then since reset with a prefix; last the errors by
    name.
    """
    lines = [f"{name} {value}" for name, value in snapshot.since_mount.items()]
    lines += [f"errors.{name} {count}" for name, count in sorted(snapshot.errors.items())]
    lines += [f"since_reset.{name} {value}" for name, value in snapshot.since_reset.items()]
    lines += [
        f"since_reset.errors.{name} {count}"
        for name, count in sorted(snapshot.errors_since_reset.items())
    ]
    return ("\n".join(lines) + "\n").encode()


def stats_json(
    snapshot: Snapshot,
    backing: bytes,
    state_folder: bytes | None,
    mounted_at: float,
    file_system: dict[str, object],
    life: dict[str, int] | None,
    digests: dict[str, int] | None,
    control: bytes,
) -> bytes:
    """The counters as one JSON object, with the mount's description. `state_folder`, `life`, the
    counters of all mounts up to now, and `digests`, of how many chunks of watched files the digest
    is known, are None where nothing is remembered. `control` is the name of the control folder.
    """
    return _json(
        {
            "schema": SCHEMA,
            "pid": os.getpid(),
            "version": __version__,
            "backing": path_text(backing),
            "state_folder": None if state_folder is None else path_text(state_folder),
            "mounted_at": mounted_at,
            "file_system": file_system,
            "counters": {**snapshot.since_mount, "errors": snapshot.errors},
            "since_reset": {**snapshot.since_reset, "errors": snapshot.errors_since_reset},
            "life": life,
            "digests": digests,
            "control": path_text(control),
        }
    )


def files_json(files: dict[str, dict[str, int]]) -> bytes:
    # On one line: with 10,000 files an indented text takes the daemon three times as long.
    return (json.dumps({"schema": SCHEMA, "files": files}) + "\n").encode()


def config_json(
    options: dict[str, dict[str, object]], file_system: dict[str, object], extras: dict[str, object]
) -> bytes:
    return _json(
        {"schema": SCHEMA, "options": options, "file_system": file_system, "extras": extras}
    )


def history_json(recent: list[Session]) -> bytes:
    """The last sessions, the last one first."""
    return _json({"schema": SCHEMA, "sessions": [one.as_dict() for one in recent]})


def file_json(counters: dict[str, int]) -> bytes:
    """The value of the attribute `user.mirrorfs.stats`."""
    return json.dumps(counters, separators=(",", ":")).encode()


def _json(content: dict[str, object]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def parse_reset(account: Account, data: bytes) -> None:
    """`1` starts `since_reset` anew; anything else is EINVAL."""
    if data.strip() != b"1":
        raise refuse(errno.EINVAL)
    account.reset()
