"""The nightly copy of one big image onto a disk of known speed: what a user waits for.

Sync is part of the time. The sources lie on a tmpfs, so that they are always warm; so does the file
behind the loop device, so that its limit is the only one: 10 GiB of memory, or 4 if quick.
"""

from tools.benchmark import copies, machine, nights
from tools.benchmark.contenders import LL, MIRROR, PEER, PLAIN, Setting
from tools.benchmark.figures import LESS, Ratio, Report

_RUNS = 3
_REFERENCES = (f"{PLAIN}, rsync -a --inplace", f"{PLAIN}, rsync -aS")
_PAIRS = [
    (PLAIN, "rsync -a --inplace"),
    (PLAIN, "rsync -aS"),
    (PLAIN, "cp --sparse=always"),
    (LL, "rsync -a --inplace"),
    *((at, "rsync -a --inplace") for at in (MIRROR, PEER)),
    *((at, "rsync -a") for at in (MIRROR, PEER)),
    *((at, "cp") for at in (MIRROR, PEER)),
    *((at, "qemu-img convert") for at in (MIRROR, PEER)),
]
_APPARENT_BYTES, _CONTENT_BYTES = 4 << 30, 1400 << 20
_CHANGED_PERCENT = 1.5
_DISK_MB_S = (150.0, 500.0)  # a hard disk, an SSD


def measure(setting: Setting) -> Report:
    scale, runs = (4, setting.runs or 1) if setting.quick else (1, setting.runs or _RUNS)
    found: dict[str, nights.Rounds] = {}
    with machine.scratch(setting.memory) as work:
        sizes = (_CONTENT_BYTES // scale, _APPARENT_BYTES // scale)
        made = copies.make(work, *sizes, _CHANGED_PERCENT)
        for kind in setting.disks(["xfs"]):
            for mb_s in setting.disk_mb_s or _DISK_MB_S:
                plan = nights.Plan(_PAIRS, setting.contenders, made, runs, mb_s)
                found[f"{kind}, {mb_s:g} MB/s"] = nights.measure(work, kind, plan)
    lines = nights.lines(found, made, _REFERENCES)
    return Report({**made.data, "copies": found}, lines, _ratios(found), nights.is_good(found))


def _ratios(found: dict[str, nights.Rounds]) -> dict[str, Ratio]:
    """Each tool through mirrorfs over both references."""
    ratios: dict[str, Ratio] = {}
    for place, rounds in found.items():
        for name in (f"{at}, {tool}" for at, tool in _PAIRS if at == MIRROR):
            for night in (*copies.NIGHTS, nights.READ):
                for reference in _REFERENCES:
                    own, base = (nights.seconds(rounds, at, night) for at in (name, reference))
                    if own and base:
                        label = f"nightly: {place}, {night}, {name} (/ {reference})"
                        ratios[label] = Ratio.of(own, base, LESS)
    return ratios
