"""What is wrong, or slow, with the machine and with the programs that copy. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirrorfs.daemon.copies import rsync_flags
from mirrorfs.daemon.finding import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mirrorfs.daemon.facts import Copy, Entry, Examined, Machine

_HALT_POLL_NS = 200_000  # the kernel's default


def of_machine(machine: Machine) -> Iterator[Finding]:
    """FUSE, the processor's sleep, and what fstab says."""
    if not machine.has_fuse_device:
        text = "/dev/fuse is missing, so nothing can be mounted; give a container the device"
        yield Finding(Level.PROBLEM, "fuse-device", text, "modprobe fuse")
    if not machine.has_fusermount and not machine.is_root:
        text = "fusermount3 is not installed, without which only root can mount"
        yield Finding(Level.PROBLEM, "fusermount", text, "apt install fuse3")
    yield from _processor(machine)
    for entry in machine.entries:
        yield from of_entry(entry, machine)


def _processor(machine: Machine) -> Iterator[Finding]:
    if not machine.is_virtual:
        return
    governor, poll_ns = machine.cpuidle_governor, machine.halt_poll_ns
    if poll_ns is None or governor != "haltpoll":
        text = (
            "this virtual machine's processors sleep at once when idle; if copies need many small "
            "requests (rsync -S, tar -x), haltpoll halves their time, where the host allows it"
        )
        yield Finding(Level.NOTE, "haltpoll", text, "modprobe cpuidle-haltpoll force=1")
    elif poll_ns < _HALT_POLL_NS:
        text = (
            f"the processors wait awake for {poll_ns} ns only before they sleep, and each small "
            "request has to wake one"
        )
        place = "/sys/module/haltpoll/parameters/guest_halt_poll_ns"
        yield Finding(Level.SLOW, "haltpoll", text, f"echo {_HALT_POLL_NS} > {place}")


def of_entry(entry: Entry, machine: Machine) -> Iterator[Finding]:
    """A line of fstab that cannot work."""
    names: Mapping[str, bytes | str] = {
        "source": entry.source,
        "point": entry.point,
        "refusal": entry.refusal,
    }
    where = f"line {entry.line} of /etc/fstab"
    if not entry.has_source:
        text = f"{where} mounts {{source}}, which is no folder now"
        yield Finding(Level.PROBLEM, "fstab-backing", text, "mkdir -p {source}", names)
    if not entry.has_point:
        text = f"{where} mounts on {{point}}, which is no folder now"
        yield Finding(Level.PROBLEM, "fstab-mount-point", text, "mkdir -p {point}", names)
    if not entry.has_helper:
        is_plain = entry.fs_type == "mirrorfs"
        text = f"{where} has the type {entry.fs_type}, for which mount(8) finds no program" + (
            "; write fuse.mirrorfs" if is_plain else "; it wants fuse3, and mirrorfs in root's path"
        )
        command = "" if is_plain else 'ln -s "$(command -v mirrorfs)" /usr/local/bin/'
        yield Finding(Level.PROBLEM, "fstab-helper", text, command, names)
    if entry.refusal:
        text = f"{where} cannot be mounted: {{refusal}}"
        yield Finding(Level.PROBLEM, "fstab-options", text, "", names)
    words = set(entry.options.split(","))
    if "allow_other" in words and words & {"user", "users", "owner", "group"}:
        yield from _allow_other(machine, f"{where} lets users mount with allow_other")


def _allow_other(machine: Machine, what: str) -> Iterator[Finding]:
    if not machine.user_allow_other:
        text = f"{what}, which is refused to all but root, as /etc/fuse.conf does not permit it"
        command = "echo user_allow_other >> /etc/fuse.conf"
        yield Finding(Level.PROBLEM, "user_allow_other", text, command)


def of_user(one: Examined, machine: Machine) -> Iterator[Finding]:
    """A mount of an ordinary user's that no other user, root included, can look into."""
    if one.user_id and one.options and not one.options["allow_other"]["value"]:
        yield Finding(
            Level.NOTE,
            "allow_other",
            "{name}: no other user, nor root, can look in; that takes -o allow_other"
            + ("" if machine.user_allow_other else ", which /etc/fuse.conf does not permit yet"),
            "" if machine.user_allow_other else "echo user_allow_other >> /etc/fuse.conf",
            {"name": one.name},
        )


def of_copy(copy: Copy, can_clone: bool | None) -> Iterator[Finding]:
    """Flags of a running program that cost something in a mount; `can_clone`: two files can share
    blocks below; None where that is not known.
    """
    names = {"target": copy.target}

    def finding(level: Level, check: str, text: str) -> Finding:
        return Finding(
            level, check, f"{copy.program} ({copy.pid}) into {{target}}: {text}", "", names
        )

    if copy.program == "dd":
        flags = {one for word in copy.words if word[:5] == b"conv=" for one in word[5:].split(b",")}
        if flags >= {b"sparse", b"notrunc"}:
            text = "conv=sparse,notrunc leaves old data where zeros should be; leave sparse away"
            yield finding(Level.PROBLEM, "dd-sparse", text)
        return
    flags_given = rsync_flags(copy.words)
    if "--sparse" in flags_given:
        text = (
            "--sparse (-S) sends a kilobyte at a time, three to four times as slow; leave it away"
        )
        if flags_given >= {"--inplace", "--no-whole-file"}:
            text += ": with --inplace and an rsync before 3.3 it can leave old bytes, too"
        yield finding(Level.SLOW, "rsync-sparse", text)
    if "--temp-dir" in flags_given and "--inplace" not in flags_given:
        text = (
            "--temp-dir (-T) hides which file is replaced, so all of it is written; leave it away"
        )
        yield finding(Level.SLOW, "rsync-temp-dir", text)
    elif "--inplace" not in flags_given and can_clone is False:
        text = "without --inplace all data is written, as blocks cannot be shared below; add it"
        yield finding(Level.SLOW, "rsync-inplace", text)
    if "--preallocate" in flags_given:
        text = "--preallocate reserves the holes, too; leave it away, or mount with "
        yield finding(Level.SLOW, "rsync-preallocate", text + "preallocate=ignore")
