"""What is wrong, or slow, with a mount and its backing folder. Each check is a pure function of
facts.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from mirrorfs.backing.paths import printable
from mirrorfs.backing.sizes import duration, share, size
from mirrorfs.daemon import machine_checks
from mirrorfs.daemon.finding import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mirrorfs.catalog.judgement import Found
    from mirrorfs.daemon.facts import Examined, Machine

_FEW_OPEN_FILES = 4096
_LEAST_STATE_BYTES = 64 << 20
_LITTLE_FREE = 0.05
_PINNED_SHARE, _PINNED_BYTES = 0.1, 256 << 20
_UNKNOWN_SHARE = 0.1
_SCRUB_NS = 35 * 86_400 * 10**9
_FILES_SHOWN = 10
_AS_WANTED = ("turned off by ", "mounted read-only")
_FEATURES = {
    "sparse_operations": (Level.SLOW, "programs cannot punch or skip holes"),
    "direct_writes": (Level.SLOW, "what is written is cached twice"),
    "readahead": (Level.SLOW, "reading through it is slow"),
    "seeds": (Level.SLOW, "what is emptied or replaced is written anew in full"),
    "writes_without_asking": (Level.SLOW, "each write costs two requests"),
    "umask_by_default_acl": (Level.NOTE, "a default ACL is cut by the umask"),
    "append_where_the_end_is": (Level.NOTE, "appended data goes where the kernel last saw the end"),
}
_BY_KERNEL = "this kernel or libfuse cannot"


def findings(machine: Machine, places: Iterable[Examined]) -> list[Finding]:
    """All that is found, the worst first."""
    places = list(places)
    found = list(machine_checks.of_machine(machine))
    clones = {one.name: one.abilities.get("can_share_blocks") for one in places}
    for copy in machine.copies:
        if copy.mount_point in clones:
            found += machine_checks.of_copy(copy, clones[copy.mount_point])
    for one in places:
        found += itertools.chain.from_iterable(check(one) for check in CHECKS)
        found += machine_checks.of_user(one, machine)
    order = list(Level)
    return sorted(found, key=lambda one: order.index(one.level))


def answer(one: Examined) -> Iterator[Finding]:
    """A mount that is dead or does not answer."""
    names = {"name": one.name}
    if one.state == "dead":
        text = "{name}: the daemon of this mirrorfs is dead; then mount it again"
        yield Finding(Level.PROBLEM, "dead", text, "mirrorfs umount {name}", names)
    elif one.state == "stopped":
        text = f"{{name}}: does not answer, as its process {one.pid} is stopped"
        yield Finding(Level.PROBLEM, "stopped", text, f"kill -CONT {one.pid}", names)
    elif one.state == "hangs":
        text = f"{{name}}: does not answer, as its process {one.pid} hangs; dmesg may tell why"
        yield Finding(Level.PROBLEM, "hangs", text, "mirrorfs umount --lazy {name}", names)
    elif one.state == "private":
        text = "{name}: you may not look in; run this as the user who mounted it"
        yield Finding(Level.NOTE, "private", text, "", names)
    if one.unseen and one.state not in {"dead", "stopped", "hangs"}:
        text = "{name}: its files could not be looked at: {reason}"
        yield Finding(Level.PROBLEM, "unseen", text, "", {**names, "reason": one.unseen})
    if one.overview is not None and one.overview.unread:
        text = f"{{name}}: {one.overview.unread} folders could not be looked into; run this as root"
        yield Finding(Level.NOTE, "unread", text, "", names)


def below(one: Examined) -> Iterator[Finding]:
    """What the file system below cannot do."""
    names = {"name": one.name}
    can, kind = one.abilities, one.abilities.get("type", "")
    if not can:
        return
    if not can["can_punch"]:
        text = f"{{name}}: {kind} below cannot hold holes, so images take their full size; move it "
        yield Finding(Level.PROBLEM, "no-holes", f"{text}to ext4, xfs or btrfs", "", names)
    elif not can["seek_data_trusted"]:
        text = (
            f"{{name}}: what {kind} below says of holes is not believed, so holes are read; move "
        )
        yield Finding(Level.SLOW, "seek-data", f"{text}it to ext4, xfs or btrfs", "", names)
    wants_seeds = one.features.get("seeds", {}).get("on", False)
    if not can["can_share_blocks"] and wants_seeds and one.options["basis"]["value"] == "auto":
        text = (
            f"{{name}}: {kind} below cannot share blocks, so a tool that writes a new file and "
            "renames it writes all of it; use rsync --inplace, or xfs or btrfs below"
        )
        yield Finding(Level.NOTE, "no-clones", text, "", names)


def features(one: Examined) -> Iterator[Finding]:
    """Optional features that are off, and not because the user wants it so."""
    for name, feature in one.features.items():
        reason = str(feature.get("reason", ""))
        if feature.get("on") or reason.startswith(_AS_WANTED):
            continue
        level, cost = _FEATURES.get(name, (Level.NOTE, ""))
        text = f"{{name}}: {name} is off ({{reason}})" + (f": {cost}" if cost else "")
        if reason == _BY_KERNEL:
            text += "; a newer kernel or libfuse has it"
        yield Finding(level, f"feature-{name}", text, "", {"name": one.name, "reason": reason})


def log(one: Examined) -> Iterator[Finding]:
    """Messages that nobody will read."""
    if one.options and one.options["log"]["value"] == "nowhere":
        text = "{name}: its messages are lost, as there is no syslog; mount it with log=FILE"
        command = (
            "mirrorfs umount {name} && mirrorfs mount {backing} {name} -o log=/var/log/mirrorfs.log"
        )
        names = {"name": one.name, "backing": one.backing}
        yield Finding(Level.PROBLEM, "log", text, command, names)


def descriptors(one: Examined) -> Iterator[Finding]:
    """A limit that makes the daemon open files again and again."""
    limit = one.open_files
    if limit is not None and limit < _FEW_OPEN_FILES:
        text = (
            f"{{name}}: the daemon may have {limit:,} descriptors only; raise the hard limit of "
            "whoever mounts it (limits.conf, LimitNOFILE= of systemd) and mount it again"
        )
        command = f"prlimit --pid {one.pid} --nofile=65536"
        yield Finding(Level.SLOW, "descriptors", text, command, {"name": one.name})


def space(one: Examined) -> Iterator[Finding]:
    """Whether all will fit."""
    names = {"name": one.name, "backing": one.backing}
    found = None if one.overview is None else one.overview.space
    if found is None:
        return
    if found.total and found.free < found.total * _LITTLE_FREE:
        text = f"{{name}}: {size(found.free)} of {size(found.total)} are free"
        yield Finding(Level.PROBLEM, "little-free", text, "mirrorfs status {name}", names)
    if found.short:
        text = (
            f"{{name}}: if all images fill up, {size(found.missing)} more are needed, which is "
            f"{size(found.short)} more than is free"
        )
        yield Finding(Level.NOTE, "will-not-fit", text, "mirrorfs status {name}", names)
    pinned = found.pinned or 0
    if pinned > max(_PINNED_BYTES, found.used * _PINNED_SHARE):
        text = f"{{name}}: btrfs keeps {size(pinned)} that no file uses; a defragmentation frees it"
        text += ", and ends the sharing of blocks with snapshots"
        if "compress-force" not in one.backing_options:
            text += "; mounted with compress-force=zstd:1 it keeps less"
        command = "btrfs filesystem defragment -r -t 128M {backing}"
        yield Finding(Level.SLOW, "pinned", text, command, names)


def state_folder(one: Examined) -> Iterator[Finding]:
    """A state folder on a disk of its own that is full."""
    if one.state_free is not None and one.state_free < _LEAST_STATE_BYTES:
        text = f"{{name}}: {size(one.state_free)} are free for its state folder {{folder}}"
        names = {"name": one.name, "folder": one.state_folder}
        yield Finding(Level.PROBLEM, "state-full", text, "df -h {folder}", names)


def files(one: Examined) -> Iterator[Finding]:
    """Copies that are not whole, or never were."""
    if one.overview is None:
        return
    now_ns = one.overview.now_ns
    bad = [found for found in one.overview.files if found.is_listed and found.is_in_trouble]
    if not one.overview.is_remembered:
        bad = []
    for found in bad[:_FILES_SHOWN]:
        check, text = _of_file(found, now_ns)
        level = Level.NOTE if check == "never-copied" else Level.PROBLEM
        path = found.standing.path
        names = {"file": path, "place": one.name.rstrip(b"/") + b"/" + path}
        yield Finding(level, check, f"{{file}}: {text}", "mirrorfs history {place}", names)
    if len(bad) > _FILES_SHOWN:
        text = f"{{name}}: {len(bad) - _FILES_SHOWN} more files are not as they should be"
        names = {"name": one.name}
        yield Finding(Level.PROBLEM, "more-files", text, "mirrorfs status --all {name}", names)


def _of_file(found: Found, now_ns: int) -> tuple[str, str]:
    standing = found.standing
    if standing.is_incomplete:
        since = duration(now_ns - standing.last_ns)
        return (
            "incomplete",
            f"its last copy is incomplete ({standing.ending} {since} ago); run it again",
        )
    if found.is_gone:
        return "gone", "it is there no more, and was not removed by way of the mount"
    if standing.unusual:
        return "unusual", f"its last session was unusual: {_plain(standing.unusual)}"
    return "never-copied", "no copy of it through the mount was good yet"


def _plain(text: str) -> str:
    """Text that stands in a template as it is."""
    return printable(text).replace("{", "{{").replace("}", "}}")


def digests(one: Examined) -> Iterator[Finding]:
    """Files whose damage would not be noticed, and those that are damaged."""
    names = {"name": one.name}
    for path in one.damaged[:_FILES_SHOWN]:
        text = "{file}: is damaged; copy it again, or repair it from what it is a copy of"
        place = one.name.rstrip(b"/") + b"/" + path
        command = "mirrorfs scrub {place} --repair-from SOURCE"
        yield Finding(Level.PROBLEM, "damaged", text, command, {"file": path, "place": place})
    if len(one.damaged) > _FILES_SHOWN:
        text = f"{{name}}: {len(one.damaged) - _FILES_SHOWN} more files are damaged"
        yield Finding(Level.PROBLEM, "damaged", text, "mirrorfs status {name}", names)
    unknown = one.chunks - one.known_chunks
    if unknown > one.chunks * _UNKNOWN_SHARE:
        text = f"{{name}}: of {share(unknown / one.chunks)} of its chunks no digest is known, so "
        text += "damage to them would not be noticed"
        command = "mirrorfs scrub {name}" if one.knows_scrubs else ""
        yield Finding(Level.NOTE, "digests-unknown", text, command, names)
    if one.knows_scrubs and one.overview is not None and one.chunks:
        now_ns, last_ns = one.overview.now_ns, one.scrubbed_ns
        if last_ns is None or now_ns - last_ns > _SCRUB_NS:
            text = "never" if last_ns is None else f"{duration(now_ns - last_ns)} ago"
            text = f"{{name}}: last scrubbed as a whole: {text}"
            yield Finding(Level.NOTE, "scrub", text, "mirrorfs scrub {name}", names)


CHECKS: tuple[Callable[[Examined], Iterator[Finding]], ...] = (
    answer,
    below,
    features,
    log,
    descriptors,
    space,
    state_folder,
    files,
    digests,
)
