"""The texts of the control files. The formats are contracts: see the page on control files."""

from __future__ import annotations

import errno
import json
import os
import time
from typing import TYPE_CHECKING

from mirrorfs import __version__
from mirrorfs.backing.paths import path_text
from mirrorfs.fs.entry import refuse

if TYPE_CHECKING:
    from mirrorfs.catalog.session import Session
    from mirrorfs.mirror.counters import Account, Snapshot

SCHEMA = 1
# What a backup's alert is about. A counter that only appears with its first error has no increase.
_ALWAYS_SHOWN = ("EDQUOT", "EIO", "ENOSPC", "EROFS")
_HELP = {
    "received_bytes": "Bytes received from clients",
    "written_bytes": "Received bytes handed to the file system below",
    "unchanged_bytes": "Received bytes that were there already",
    "punched_bytes": "Received zero bytes over data, made part of a hole",
    "hole_bytes": "Received zero bytes over a hole or beyond the end",
    "shared_bytes": "Received bytes that share a block with another file",
    "failed_bytes": "Bytes of requests that failed",
    "discarded_bytes": "Bytes that clients asked to be a hole",
    "write_requests": "Write requests",
    "read_bytes": "Bytes read by clients",
    "compared_bytes": "Bytes read below in order to compare",
    "freed_bytes": "Bytes freed below by punching and truncating",
}


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
    control: bytes,
) -> bytes:
    """The counters as one JSON object, with the mount's description. `state_folder` and `life`, the
    counters of all mounts up to now, are None where nothing is remembered. `control` is the name of
    the control folder.
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


def metrics(
    snapshot: Snapshot,
    gauges: dict[str, int],
    mounted_at: float,
    mount_point: bytes,
    backing: bytes,
) -> bytes:
    """The counters of the mount in the Prometheus text format. Each series names the mount, so that
    those of several can be read together.
    """
    # Imported here: 90 ms that a mount without a scraper does not pay.
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

    names = ["mount_point", "backing"]
    values = [path_text(mount_point), path_text(backing)]

    def counter(name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"mirrorfs_{name}", text, labels=names)
        family.add_metric(values, value)
        return family

    def gauge(name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"mirrorfs_{name}", text, labels=names)
        family.add_metric(values, value)
        return family

    def errors() -> Metric:
        family = CounterMetricFamily(
            "mirrorfs_errors", "Requests answered with an error", labels=[*names, "errno"]
        )
        counts = dict.fromkeys(_ALWAYS_SHOWN, 0) | snapshot.errors
        for code, count in sorted(counts.items()):
            family.add_metric([*values, code], count)
        return family

    def failed_requests() -> Metric:
        # A series of its own: as one more errno it would count twice in a sum over them.
        count = sum(snapshot.errors.values())
        return counter("failed_requests", "Requests answered with an error, whatever it was", count)

    class Collector:
        def collect(self) -> list[Metric]:
            return [
                *(counter(name, _HELP[name], n) for name, n in snapshot.since_mount.items()),
                errors(),
                failed_requests(),
                *(
                    gauge(name, name.replace("_", " ").capitalize(), n)
                    for name, n in gauges.items()
                ),
                gauge("uptime_seconds", "Seconds since mount", time.time() - mounted_at),
            ]

    registry = CollectorRegistry()
    registry.register(Collector())
    return generate_latest(registry)


def _json(content: dict[str, object]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def parse_reset(account: Account, data: bytes) -> None:
    """`1` starts `since_reset` anew; anything else is EINVAL."""
    if data.strip() != b"1":
        raise refuse(errno.EINVAL)
    account.reset()
