"""The metrics of a mount in the Prometheus text format. Pure. Names, types and HELP texts are a
contract: two files of a text-file collector that differ in the HELP of a metric are an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mirrorfs.backing.paths import path_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.core import Metric

    from mirrorfs.catalog.standing import Standing
    from mirrorfs.mirror.counters import Snapshot

# What a backup's alert is about. A counter that only appears with its first error has no increase.
_ALWAYS_SHOWN = ("EDQUOT", "EIO", "ENOSPC", "EROFS")
_COUNTERS = {
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
    "trusted_bytes": "Bytes known to be equal by their digests, and not read below",
    "freed_bytes": "Bytes freed below by punching and truncating",
}
_GAUGES = {
    "known_inodes": "Known inodes",
    "open_files": "Open files",
    "uptime_seconds": "Seconds since mount",
    "up": "1 while the mount is served; an unmount leaves 0 in the file that metrics=FOLDER names",
    "metrics_timestamp_seconds": "When these metrics were made",
    "free_bytes": "Free space of the file system below, as df shows it, at the last look",
    "size_bytes": "Size of the file system below, at the last look",
    "apparent_bytes": "Sum of the sizes of the watched files: those of 1 MiB and more whose "
    "sessions are known",
    "incomplete_files": "Watched files whose last session left them incomplete",
    "last_session_timestamp_seconds": "When the last session of any file ended; 0 if none is known",
    "last_scrub_timestamp_seconds": "When the last complete scrub of all files ended; 0 if "
    "none did",
    "chunks": "Chunks of 64 KiB of the files of which digests are kept",
    "known_chunks": "Chunks of 64 KiB whose digest is known",
    "files_left_out": "Watched files that keep_pattern selects, but for which there was no room "
    "in these metrics",
}
_FILE_GAUGES: dict[str, tuple[str, Callable[[Standing], float]]] = {
    "file_last_success_timestamp_seconds": (
        "When the last good session of the file ended; 0 if there was none",
        lambda one: (one.good_ns or 0) / 10**9,
    ),
    "file_size_bytes": ("Size of the file after its last session", lambda one: one.size),
    "file_allocated_bytes": (
        "Space that the file took below after its last session",
        lambda one: one.allocated,
    ),
    "file_changed_ratio": (
        "Share of the data of the file that its last session changed, from 0 to 1",
        lambda one: one.changed_share,
    ),
    "file_incomplete": (
        "1 if the last session of the file left it incomplete",
        lambda one: one.is_incomplete,
    ),
    "file_unusual": (
        "1 if the last session of the file was unusual",
        lambda one: bool(one.unusual),
    ),
    "file_damaged_chunks": (
        "Chunks of 64 KiB of the file that the last scrub found damaged, and that were not written "
        "anew since",
        lambda one: one.damaged_chunks,
    ),
}


class Labels(NamedTuple):
    """What each series names, so that those of several mounts can be read together."""

    mount_point: bytes
    backing: bytes


def text(
    labels: Labels, snapshot: Snapshot, gauges: dict[str, float], files: Iterable[Standing]
) -> bytes:
    """All metrics: the counters of `snapshot`, those of `gauges` that are known (by name without
    the prefix), and how each of `files` stands. May take 0.1 s for 1,000 files.
    """
    # Imported here: 90 ms that a mount without a scraper does not pay.
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    names = list(Labels._fields)
    values = [path_text(labels.mount_point), path_text(labels.backing)]

    def counter(name: str, help_: str, value: float) -> Metric:
        family = CounterMetricFamily(f"mirrorfs_{name}", help_, labels=names)
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

    def gauge(name: str, help_: str) -> Metric:
        family = GaugeMetricFamily(f"mirrorfs_{name}", help_, labels=names)
        if name in gauges:
            family.add_metric(values, gauges[name])
        return family

    named = [([*values, path_text(one.path)], one) for one in files]

    def file_gauge(name: str, help_: str, value_of: Callable[[Standing], float]) -> Metric:
        family = GaugeMetricFamily(f"mirrorfs_{name}", help_, labels=[*names, "file"])
        for own, one in named:
            family.add_metric(own, value_of(one))
        return family

    class Collector:
        def collect(self) -> list[Metric]:
            return [
                *(counter(name, _COUNTERS[name], n) for name, n in snapshot.since_mount.items()),
                errors(),
                failed_requests(),
                *(gauge(name, help_) for name, help_ in _GAUGES.items()),
                *(file_gauge(name, *rest) for name, rest in _FILE_GAUGES.items()),
            ]

    registry = CollectorRegistry()
    registry.register(Collector())
    return generate_latest(registry)
