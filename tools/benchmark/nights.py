"""Three nights of one image, by many tools and contenders, each on a new disk: rounds and a table.

A night's copy is the first one, that of the image a night later, or that again unchanged. On a disk
that is held to a speed the caches of the target are cold, and the last copy is read at the end.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.benchmark import copies, figures, machine
from tools.benchmark.contenders import MIRROR, PEER, Contender
from tools.benchmark.copies import CHANGED, NIGHTS, CopyError, Cost, Images
from tools.benchmark.figures import Figure

READ = "read back, cold"
_COUNTERS = ("written_bytes", "unchanged_bytes", "shared_bytes")

# By "contender, tool": of each round the cost of each night. A round that failed is empty.
Rounds = dict[str, list[dict[str, Cost]]]


@dataclass(frozen=True, slots=True)
class Plan:
    """Pairs of a contender and a tool, and how they copy; `mb_s` holds the disk to a speed."""

    pairs: Sequence[tuple[str, str]]
    contenders: dict[str, Contender]
    made: Images
    runs: int = 1
    mb_s: float | None = None
    ssh: str = ""


def measure(work: Path, kind: str, plan: Plan) -> Rounds:
    """On file systems of one kind."""
    pairs = {f"{at}, {tool}": (at, tool) for at, tool in plan.pairs if at in plan.contenders}

    def once(name: str) -> dict[str, Cost]:
        where, tool = pairs[name]
        machine.say(f"{kind}{f', {plan.mb_s:g} MB/s' if plan.mb_s else ''}: {name}")
        try:
            return _nights(work, kind, plan, plan.contenders[where], tool)
        except (CopyError, OSError) as exc:  # a mount that has died answers ENOTCONN
            machine.say(f"failed: {exc}")
            return {}

    return figures.in_turns(list(pairs), plan.runs, once)


def _nights(work: Path, kind: str, plan: Plan, contender: Contender, tool: str) -> dict[str, Cost]:
    found: dict[str, Cost] = {}
    is_cold = plan.mb_s is not None
    with machine.new_disk(work, kind) as disk:
        copy = disk.backing / plan.made.second.name
        mount = contender.mounted(disk.backing, disk.own / "mount")
        with disk.held(plan.mb_s), mount as mounted:
            for night in NIGHTS:
                source = plan.made.of(night)
                found[night] = copies.measured(disk, mounted, tool, source, plan.ssh, is_cold)
            if is_cold:
                path = mounted.path / copy.name
                machine.make_cold(path, copy)
                machine.require_cold(path, copy)
                found[READ] = copies.cost(disk, mounted, lambda: machine.read_through(path))
        if not copies.is_equal(plan.made.second, copy):
            raise CopyError("the copy is not equal once it is unmounted")
    return found


def is_good(found: dict[str, Rounds]) -> bool:
    return all(all(taken) for rounds in found.values() for taken in rounds.values())


def seconds(rounds: Rounds, name: str, night: str) -> Figure | None:
    """With sync, of every round; None if there is no such copy, or one has failed."""
    taken = rounds.get(name, [])
    values = [nights[night].synced_seconds for nights in taken if night in nights]
    return Figure(tuple(values)) if taken and len(values) == len(taken) else None


def lines(found: dict[str, Rounds], made: Images, references: Sequence[str] = ()) -> list[str]:
    """A table; `found` by disk. Medians (smallest-largest); ratios are of the same round."""
    titles = ["disk", "copy", "night", "allocated / image", "written", "unchanged", "shared"]
    titles += ["device, bytes", "device / least", "seconds", "with sync"]
    has_peer = any(name.startswith(PEER) for rounds in found.values() for name in rounds)
    references = [*references, PEER] if has_peer else references
    rows = (
        [place, f"`{name}`", *cells]
        for place, rounds in found.items()
        for name in rounds
        for cells in _rows(rounds, name, made, references)
    )
    return [
        f"An image of {made.image_bytes:,} bytes, {made.allocated_bytes:,} of them allocated; least"
        f" is in the second night what has changed and is not zero, {made.changed_bytes:,}.",
        "",
        *figures.table([*titles, *(f"/ {name}" for name in references)], rows),
    ]


def _rows(
    rounds: Rounds, name: str, made: Images, references: Sequence[str]
) -> Iterator[list[str]]:
    if not all(rounds[name]):
        yield ["**FAILED**"]
        return
    for night, cost in rounds[name][0].items():
        costs = [nights[night] for nights in rounds[name]]
        device = Figure(tuple(one.device_bytes for one in costs)).median
        least = made.changed_bytes if night == CHANGED else made.allocated_bytes
        synced = Figure(tuple(one.synced_seconds for one in costs))
        peer = name.replace(MIRROR, PEER)
        others = [peer if reference == PEER else reference for reference in references]
        bases = [seconds(rounds, other, night) if other != name else None for other in others]
        yield [
            night,
            f"{cost.allocated_bytes / made.allocated_bytes:.3f}",
            *(f"{cost.counted.get(counter, 0):,}" for counter in _COUNTERS),
            f"{device:,.0f}",
            f"{device / least:.3f}",
            Figure(tuple(one.seconds for one in costs)).spelled(1),
            synced.spelled(1),
            *(synced.over(base).spelled(2) if base else "" for base in bases),
        ]
