"""Bytes that reach the block device, from the sector counts of a loop device after sync."""

import os

from tools.benchmark import copies, figures, nights
from tools.benchmark.contenders import MIRROR, PLAIN, Contender, Mounted, Setting
from tools.benchmark.copies import Cost, Images
from tools.benchmark.figures import LESS, Figure, Ratio, Report
from tools.benchmark.machine import KINDS, Disk, new_disk, run, say, scratch

_INPLACE = "rsync --inplace"
_COPIED_BYTES = 512 << 20
_BIG_BYTES = 8 << 30


def measure(setting: Setting) -> Report:
    """For each file system a night of the demo image, the same unchanged, ten bytes of 8 GiB."""
    pairs = [(PLAIN, tool) for tool in list(copies.TOOLS_IN_PLACE)[:2]]
    pairs += [(at, tool) for tool in copies.TOOLS_IN_PLACE for at in setting.mirrors]
    found: dict[str, nights.Rounds] = {}
    others: list[tuple[str, str, str, Cost]] = []
    with scratch(setting.disk) as work:
        made = copies.make(work)
        for kind in setting.kinds or KINDS:
            found[kind] = nights.measure(work, kind, nights.Plan(pairs, setting.contenders, made))
            for name in setting.mirrors:
                say(f"{kind}: {name}, copied inside, touched, ten bytes of 8 GiB")
                with new_disk(work, kind) as disk:
                    costs = _others(disk, setting.contenders[name], made)
                others += [(kind, name, label, cost) for label, cost in costs.items()]
    rows = (
        [*words, f"{cost.counted['written_bytes']:,}", f"{cost.device_bytes:,}"]
        for *words, cost in others
    )
    titles = ["disk", "where", "what", "written", "device, bytes"]
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
    data = {**made.data, "copies": found, "others": others}
    return Report(data, lines, ratios, nights.is_good(found))


def _others(disk: Disk, contender: Contender, made: Images) -> dict[str, Cost]:
    big, touched = made.first.with_name("big.img"), disk.point / "touched"
    run("cp", "--sparse=always", made.first, big)
    os.truncate(big, _BIG_BYTES)
    touched.touch()
    with contender.mounted(disk.backing, disk.own / "mount") as mounted:
        inside = _copied_inside(disk, mounted)
        copies.measured(disk, mounted, _INPLACE, big)
        with big.open("r+b") as file:
            file.seek(100 << 20)
            file.write(os.urandom(10))
        copies.set_later(big)
        return {
            "512 MiB copied inside the mount": inside,
            "one file touched, for comparison": copies.cost(disk, mounted, touched.touch),
            "ten bytes of 8 GiB, rsync --inplace": copies.measured(disk, mounted, _INPLACE, big),
        }


def _copied_inside(disk: Disk, mounted: Mounted) -> Cost:
    """One file of the mount to another by cp, which calls copy_file_range (coreutils 9)."""
    source, target = mounted.path / "source", mounted.path / "target"
    with source.open("wb") as file:
        for _ in range(_COPIED_BYTES >> 20):
            file.write(os.urandom(1 << 20))
    cost = copies.cost(disk, mounted, lambda: run("cp", source, target))
    run("cmp", source, target)
    run("rm", source, target)
    return cost
