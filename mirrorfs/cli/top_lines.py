"""What `mirrorfs top` prints where there is no terminal: a line for each mount and interval."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mirrorfs.backing.paths import path_text, printable, show
from mirrorfs.backing.sizes import share, size
from mirrorfs.daemon import rates, watched

if TYPE_CHECKING:
    from mirrorfs.daemon.rates import Rates
    from mirrorfs.daemon.watched import Watch, Watched

_MAX_FILES = 20


def print_lines(
    watch: Watch, interval: float, count: int | None, json_wanted: bool
) -> list[Watched]:
    """Print a line for each mount and interval, as soon as it has answered or is late; returns the
    mounts when each has had `count` lines.
    """
    printed: dict[Watched, int] = {}
    owed: set[Watched] = set()
    due = time.monotonic()
    while True:
        if time.monotonic() >= due:
            due = max(due + interval, time.monotonic())
            there = watch.ask_all()
            owed = {one for one in there if count is None or printed.get(one, 0) < count}
        watch.wait(min(watched.LOOK_SECONDS, due - time.monotonic()))
        for one in [one for one in there if one in owed and one.has_news()]:
            print(as_json(one) if json_wanted else as_text(one), flush=True)
            owed.remove(one)
            printed[one] = printed.get(one, 0) + 1
        if count is not None and all(printed.get(one, 0) >= count for one in there):
            return there


def as_text(one: Watched) -> str:
    """One mount, for people."""
    when = datetime.now().astimezone().isoformat(timespec="seconds")
    found = one.rates()
    if one.problem is not None:
        return f"{when} {printable(str(one.problem))}"
    if found is None:
        return f"{when} {show(one.mount.path)}: was mounted anew"
    count, new = rates.errors(*one.account)
    kept = "" if found.not_written is None else f" ({share(found.not_written)} not written)"
    return (
        f"{when} {show(one.mount.path)}: received {size(found.received)}/s, "
        f"written {size(found.written)}/s{kept}, read {size(found.read)}/s, "
        f"errors {count:,}{f' ({new:,} new)' if new else ''}, free {free_text(one)}"
    )


def free_text(one: Watched) -> str:
    """The space that is free for users."""
    return "unknown" if one.free_bytes is None else size(one.free_bytes)


def as_json(one: Watched) -> str:
    """One mount, for programs; the page on control files documents it."""
    before, last = one.account
    found = one.rates()
    files = None if one.busy_files is None or one.problem else one.busy_files[:_MAX_FILES]
    return json.dumps(
        {
            "schema": 1,
            "time": datetime.now().astimezone().isoformat(timespec="milliseconds"),
            "mount_point": path_text(one.mount.path),
            "problem": None if one.problem is None else str(one.problem),
            "seconds": (
                None
                if found is None or before is None or last is None
                else round(last.seconds - before.seconds, 3)
            ),
            **_rates_json(found),
            "errors": None if last is None or one.problem else last.errors,
            "new_errors": None if found is None else rates.errors(before, last)[1],
            "free_bytes": None if one.problem else one.free_bytes,
            "files": (
                None
                if files is None
                else [{"file": name, **_rates_json(each)} for name, each in files]
            ),
            "files_problem": one.files_problem or None,
        }
    )


def _rates_json(found: Rates | None) -> dict[str, Any]:
    return {
        "received_bytes_per_second": None if found is None else round(found.received),
        "written_bytes_per_second": None if found is None else round(found.written),
        "read_bytes_per_second": None if found is None else round(found.read),
        "not_written": (
            None if found is None or found.not_written is None else round(found.not_written, 4)
        ),
    }
