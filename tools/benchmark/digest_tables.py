"""What the rounds of `digest_rounds` become: tables, and ratios of figures of the same round."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tools.benchmark import figures
from tools.benchmark.contenders import MIRROR, PLAIN
from tools.benchmark.copies import NIGHTS, Images
from tools.benchmark.digest_rounds import (
    BY_BYTES,
    CAT,
    FLOOR,
    NEW,
    OFF,
    SCRUB,
    Piece,
    Read,
    Round,
)
from tools.benchmark.figures import LESS, MORE, Figure, Ratio

Rounds = dict[str, list[Round]]  # by way, in the order of the runs
Value = Callable[[Piece], float]
_PLACE = ("disk", "way")
_DEVICE = ("read, bytes", "written, bytes", "written once the mount has ended")


@dataclass(frozen=True, slots=True)
class Found:
    """By place: nights and reads of a disk that is held, new data of one that is not."""

    held: dict[str, Rounds]
    free: dict[str, Rounds]

    @property
    def is_good(self) -> bool:
        places = (*self.held.values(), *self.free.values())
        return all(one.pieces for rounds in places for taken in rounds.values() for one in taken)


def lines(found: Found, made: Images) -> list[str]:
    """Three tables: nights, new data, reads. Medians (smallest-largest), ratios of one round."""
    over = [f"/ {name}" for name in (FLOOR, PLAIN, OFF)]
    return [
        f"`rsync --inplace --whole-file` of an image of {made.image_bytes:,} bytes, "
        f"{made.allocated_bytes:,} of them allocated; {made.changed_bytes:,} bytes change in the "
        "second night. Ratios are of the seconds with sync.",
        "",
        *figures.table(
            [*_PLACE, "night", "seconds", "with sync", *over, *_DEVICE],
            _rows(found.held, NIGHTS, _night_cells),
        ),
        "",
        "New data to a disk that is not held, MB/s. Ratios are of those without sync.",
        "",
        *figures.table(
            [*_PLACE, "requests", "MB/s", "with sync", *over[1:], *_DEVICE],
            _rows(found.free, list(NEW), _new_cells),
        ),
        "",
        f"The cold image, by `{CAT}` from below and by `{SCRUB}` of the mount: MB/s of its data.",
        "",
        *figures.table(
            [*_PLACE, "program", "MB/s", f"/ {CAT}", "read, bytes", "VmHWM, MiB", "daemon, MiB"],
            _read_rows(found.held),
        ),
    ]


def ratios(found: Found) -> dict[str, Ratio]:
    """Of mirrorfs: nights with sync, new data without, a scrub's MB/s; for --against."""
    taken: dict[str, tuple[Figure | None, Figure | None, str]] = {}

    def add(place: str, what: str, name: str, rounds: Rounds, value: Value, better: str) -> None:
        for base in _bases(name, (FLOOR, PLAIN, OFF)):
            own, other = (_figure(rounds, at, what, value) for at in (name, base))
            label = f"digests: {place}: {what}, {name} (/ {base})"
            taken[label] = own, other, better

    for place, rounds in found.held.items():
        for name in filter(_is_ours, rounds):
            for night in NIGHTS:
                add(place, night, name, rounds, _synced, LESS)
        scrub, cat = (_speed(rounds, f"{MIRROR}, {BY_BYTES}", at) for at in (SCRUB, CAT))
        taken[f"digests: {place}: {SCRUB} (/ {CAT})"] = scrub, cat, MORE
    for place, rounds in found.free.items():
        for name in filter(_is_ours, rounds):
            for requests in NEW:
                add(f"{place}, new data", requests, name, rounds, _mb_s, MORE)
    return {
        label: Ratio.of(own, other, better)
        for label, (own, other, better) in taken.items()
        if own and other
    }


def _is_ours(name: str) -> bool:
    return name.startswith(f"{MIRROR}, ")


def _bases(name: str, references: Sequence[str]) -> list[str]:
    """The ways that one is held against; OFF stands for the same checkout without digests."""
    own = f"{name.partition(', ')[0]}, {OFF}"
    return [own if at == OFF else at for at in references]


def _figure(rounds: Rounds, name: str, what: str, value: Value) -> Figure | None:
    """Of every round; None if it was not measured, or a round has failed."""
    taken = rounds.get(name, [])
    values = [value(one.pieces[what]) for one in taken if what in one.pieces]
    return Figure(tuple(values)) if values and len(values) == len(taken) else None


def _speed(rounds: Rounds, name: str, program: str) -> Figure | None:
    """MB/s of a program that reads, of every round, or None as above."""
    taken = rounds.get(name, [])
    values = [one.reads[program].mb_s for one in taken if program in one.reads]
    return Figure(tuple(values)) if values and len(values) == len(taken) else None


def _seconds(piece: Piece) -> float:
    return piece.cost.seconds


def _synced(piece: Piece) -> float:
    return piece.cost.synced_seconds


def _mb_s(piece: Piece) -> float:
    return piece.mb_s


def _synced_mb_s(piece: Piece) -> float:
    return piece.synced_mb_s


def _rows(
    places: dict[str, Rounds],
    pieces: Sequence[str],
    cells: Callable[[Rounds, str, str], list[str]],
) -> Iterator[list[str]]:
    for place, rounds in places.items():
        for name, taken in rounds.items():
            if not all(one.pieces for one in taken):
                yield [place, name, "**FAILED**"]
                continue
            for what in pieces:
                found = [one.pieces[what] for one in taken]
                yield [place, name, what, *cells(rounds, name, what), *_device(found)]


def _night_cells(rounds: Rounds, name: str, night: str) -> list[str]:
    times = [_figure(rounds, name, night, value) for value in (_seconds, _synced)]
    spelled = [time.spelled(1) for time in times if time]
    return spelled + _over(rounds, name, night, _synced, (FLOOR, PLAIN, OFF))


def _new_cells(rounds: Rounds, name: str, requests: str) -> list[str]:
    speeds = [_figure(rounds, name, requests, value) for value in (_mb_s, _synced_mb_s)]
    spelled = [speed.spelled(0) for speed in speeds if speed]
    return spelled + _over(rounds, name, requests, _mb_s, (PLAIN, OFF))


def _over(
    rounds: Rounds, name: str, what: str, value: Value, references: Sequence[str]
) -> list[str]:
    """Ratios to those references that were measured; nothing is held against itself."""
    own = _figure(rounds, name, what, value)
    bases = [
        None if base == name else _figure(rounds, base, what, value)
        for base in _bases(name, references)
    ]
    return [own.over(base).spelled(2) if own and base else "" for base in bases]


def _device(pieces: list[Piece]) -> list[str]:
    """Medians of the bytes of the device."""
    values = [
        [piece.cost.read_bytes for piece in pieces],
        [piece.cost.device_bytes for piece in pieces],
        [piece.ended_bytes for piece in pieces],
    ]
    return [f"{Figure(tuple(one)).median:,.0f}" for one in values]


def _read_rows(places: dict[str, Rounds]) -> Iterator[list[str]]:
    for place, rounds in places.items():
        for name, taken in rounds.items():
            for program in (CAT, SCRUB):
                speed, cat = (_speed(rounds, name, at) for at in (program, CAT))
                if speed is None:
                    continue
                reads = [one.reads[program] for one in taken]
                ratio = speed.over(cat).spelled(2) if cat and program != CAT else ""
                yield [place, name, program, speed.spelled(0), ratio, *_read_cells(reads)]


def _read_cells(reads: list[Read]) -> list[str]:
    """The median of bytes, the most of memory."""
    return [
        f"{Figure(tuple(read.read_bytes for read in reads)).median:,.0f}",
        f"{max(read.peak_mib for read in reads):.1f}",
        f"{max(read.daemon_mib for read in reads):.1f}",
    ]
