"""Bytes that reach the block device, from the sector counts of a loop device after sync."""

import os
from pathlib import Path

from tools.benchmark import copies, figures, nights
from tools.benchmark.contenders import MIRROR, PLAIN, Contender, Setting
from tools.benchmark.copies import Cost, Images
from tools.benchmark.figures import LESS, Figure, Ratio, Report
from tools.benchmark.machine import KINDS, new_disk, run, say, scratch

_INPLACE = "rsync --inplace"
_BIG_BYTES = 8 << 30


def measure(setting: Setting) -> Report:
    """For each file system a night of the demo image, the same unchanged, ten bytes of 8 GiB."""
    pairs = [(PLAIN, tool) for tool in list(copies.TOOLS_IN_PLACE)[:2]]
    pairs += [(at, tool) for tool in copies.TOOLS_IN_PLACE for at in setting.mirrors]
    found: dict[str, nights.Rounds] = {}
    small: list[tuple[str, str, Cost]] = []
    with scratch(setting.disk) as work:
        made = copies.make(work)
        for kind in setting.disks(KINDS):
            found[kind] = nights.measure(work, kind, nights.Plan(pairs, setting.contenders, made))
            small += [
                (kind, name, _ten_bytes(work, kind, setting.contenders[name], made))
                for name in setting.mirrors
            ]
    rows = (
        [kind, name, f"{cost.counted['written_bytes']:,}", f"{cost.device_bytes:,}"]
        for kind, name, cost in small
    )
    titles = ["disk", f"ten bytes of 8 GiB, {_INPLACE}", "written", "device, bytes"]
    lines = [*nights.lines(found, made), "", *figures.table(titles, rows)]
    # Metadata is in it.
    ratios = {
        f"device: {kind}, night, {tool}": Ratio.of(
            Figure((taken[0][copies.CHANGED].device_bytes,)), Figure((made.changed_bytes,)), LESS
        )
        for kind, rounds in found.items()
        for tool in copies.TOOLS_IN_PLACE
        if all(taken := rounds[f"{MIRROR}, {tool}"])
    }
    data = {**made.data, "copies": found, "ten_bytes": small}
    return Report(data, lines, ratios, nights.is_good(found))


def _ten_bytes(work: Path, kind: str, contender: Contender, made: Images) -> Cost:
    """Of the second copy of an image of 8 GiB, of which ten bytes have changed since the first."""
    say(f"{kind}: {contender.name}, ten bytes of 8 GiB")
    big = made.first.with_name("big.img")
    run("cp", "--sparse=always", made.first, big)
    os.truncate(big, _BIG_BYTES)
    with (
        new_disk(work, kind) as disk,
        contender.mounted(disk.backing, disk.own / "mount") as mounted,
    ):
        copies.measured(disk, mounted, _INPLACE, big)
        with big.open("r+b") as file:
            file.seek(100 << 20)
            file.write(os.urandom(10))
        copies.set_later(big)
        return copies.measured(disk, mounted, _INPLACE, big)
