"""What digests cost and give: nights by `compare=digest` and by `compare=bytes`, new data, a scrub.

The image and the file behind the loop device lie on a tmpfs, so that the limit of the disk is the
only one: 10 GiB of memory, or 3 if quick. New data is written to a disk that is not held.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mirrorfs.errors import MirrorfsError
from tools.benchmark import copies, digest_rounds, digest_tables, figures, machine
from tools.benchmark.contenders import PLAIN, Contender, Setting
from tools.benchmark.copies import CopyError, Images
from tools.benchmark.digest_rounds import BY_BYTES, FLOOR, OPTIONS, Round, Way
from tools.benchmark.digest_tables import Found, Rounds
from tools.benchmark.figures import Report

KINDS = ("ext4", "xfs")
IMAGE_MIB, CONTENT_MIB = 4096, 1280  # with what ext4 needs for itself 1.5 GiB
_CHANGED_PERCENT = 1.0
_DISK_MB_S = (150.0,)
_RUNS, _NEW_RUNS = 3, 5
_NEW_BYTES = 512 << 20
_NEEDED = ("digests=on|off", "compare=bytes|digest")


def measure(setting: Setting) -> Report:
    """On each disk all ways in turns."""
    known = ways(setting)
    for way in known.values():
        require(way.contender)
    scale, runs = (4, setting.runs or 1) if setting.quick else (1, setting.runs or _RUNS)
    found = Found({}, {})
    with machine.scratch(setting.memory) as work:
        made = _image(work, setting, scale)
        for kind in setting.disks(KINDS):
            for mb_s in setting.disk_mb_s or _DISK_MB_S:
                place = f"{kind}, {mb_s:g} MB/s"
                found.held[place] = in_turns(
                    place, known, runs, partial(_nights, work, kind, made, mb_s)
                )
            writers = {name: way for name, way in known.items() if not way.is_floor}
            new = partial(_new_data, work, kind, _NEW_BYTES // scale)
            found.free[kind] = in_turns(
                f"{kind}, new data", writers, setting.runs or _NEW_RUNS, new
            )
    data = {**made.data, "nights": found.held, "new_data": found.free}
    lines = digest_tables.lines(found, made)
    return Report(data, lines, digest_tables.ratios(found), found.is_good)


def ways(setting: Setting) -> dict[str, Way]:
    """By name, in the order of their turns; the plain folder and the floor unless left out."""
    found: dict[str, Way] = {}
    if PLAIN in setting.contenders:
        found[PLAIN] = Way(setting.contenders[PLAIN])
        found[FLOOR] = Way(digest_rounds.floor_contender())
    for at in setting.mirrors:
        for name, options in OPTIONS.items():
            found[f"{at}, {name}"] = Way(setting.contenders[at], options, name == BY_BYTES)
    return found


def require(contender: Contender) -> None:
    """SystemExit with one line if this is a mirrorfs without digests or without a scrub."""
    program = contender.program
    if program is None:
        return
    known = machine.run(program, "mount", "--help")
    lacking = [f"option {option}" for option in _NEEDED if option not in known]
    if not machine.run(program, "scrub", "--help", is_vital=False):
        lacking.append("command scrub")
    if lacking:
        raise SystemExit(f"tools/bench: digests: {program} lacks {', '.join(lacking)}")


def in_turns(
    place: str, known: dict[str, Way], runs: int, measure_one: Callable[[Way], Round]
) -> Rounds:
    """Rounds of all ways; one that fails is empty, and said."""

    def once(name: str) -> Round:
        machine.say(f"{place}: {name}")
        try:
            return measure_one(known[name])
        except (CopyError, OSError) as exc:  # a mount that has died answers ENOTCONN
            machine.say(f"failed: {exc}")
            return Round()

    return figures.in_turns(list(known), runs, once)


def _image(work: Path, setting: Setting, scale: int) -> Images:
    content, image = setting.content_mib or CONTENT_MIB, setting.image_mib or IMAGE_MIB
    try:
        return copies.make(work, (content << 20) // scale, (image << 20) // scale, _CHANGED_PERCENT)
    except MirrorfsError as exc:
        raise SystemExit(f"tools/bench: the image cannot be made: {exc}") from None


def _nights(work: Path, kind: str, made: Images, mb_s: float, way: Way) -> Round:
    with machine.new_disk(work, kind) as disk:
        return digest_rounds.measure(disk, way, made, mb_s)


def _new_data(work: Path, kind: str, total: int, way: Way) -> Round:
    with machine.new_disk(work, kind) as disk:
        return digest_rounds.new_data(disk, way, total)
