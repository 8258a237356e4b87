"""`mirrorfs demo`: the whole story on real files, side by side.

Guarantees: mount and work folder are removed at the end, also after a signal; a second signal while
that is done may leave them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirrorfs.cli import demo_image
from mirrorfs.cli.output import note
from mirrorfs.daemon import mounted
from mirrorfs.errors import DifferenceError, ExitCode, MirrorfsError, from_process

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

# The image, its copies, and what a copy writes beside the old file while it replaces it.
_NEEDED_BYTES = 6 * demo_image.CONTENT_BYTES + demo_image.APPARENT_BYTES
_PERCENT = 1.0
_REMOVE_SECONDS = 10
_TABLE_WIDTH = 80


@dataclass(frozen=True, slots=True)
class Row:
    """One copy by rsync: bytes that it sent, bytes that the disk was given, bytes that the copy
    occupies, and how long it took.
    """

    night: str
    way: str
    received_bytes: int
    written_bytes: int
    allocated_bytes: int
    seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words that follow `mirrorfs demo`."""
    parser.add_argument("--folder", metavar="DIR", help="where to work (default: the temp folder)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 8 if a copy is not equal, 1 if something could not be removed."""
    demo_image.require_tools("rsync", *demo_image.TOOLS)
    work = _work_folder(arguments.folder)
    try:
        with _progress(arguments.json) as say:
            rows = _story(work, say)
    finally:
        left = _clean_up(work)
        if left:
            note(left)
    if arguments.json:
        print(json.dumps({"schema": 1, "copies": [asdict(row) for row in rows]}))
    else:
        _print_table(rows)
    return ExitCode.FAILED if left else ExitCode.DONE


def _work_folder(wanted: str | None) -> Path:
    parent = Path(wanted or tempfile.gettempdir()).absolute()
    if not parent.is_dir():
        what = "not a folder" if parent.exists() else "no such folder"
        raise MirrorfsError(f"{parent}: {what}; pass --folder DIR with room for the demo")
    free = shutil.disk_usage(parent).free
    if free < _NEEDED_BYTES:
        raise MirrorfsError(
            f"{parent}: {free >> 20:,} MiB free, {_NEEDED_BYTES >> 20:,} needed; pass --folder DIR"
        )
    try:
        return Path(tempfile.mkdtemp(prefix="mirrorfs-demo-", dir=parent))
    except OSError as exc:
        raise MirrorfsError(
            f"{parent}: cannot be written: {exc.strerror}; pass --folder DIR with a folder of yours"
        ) from None


def _clean_up(work: Path) -> str:
    """Remove mount and folder; returns what is left and why, empty if nothing is."""
    point = work / "mirror"
    try:
        if point.exists() and os.path.ismount(point):
            _mirrorfs("umount", "--lazy", str(point))
        _remove(work)
    except (MirrorfsError, OSError) as exc:
        why = exc.strerror or exc if isinstance(exc, OSError) else exc
        return f"{work}: could not be removed: {why}; unmount what is mounted there and remove it"
    return ""


def _remove(work: Path) -> None:
    """Remove the folder; an rsync that was killed may still have a child that writes into it."""
    end = time.monotonic() + _REMOVE_SECONDS
    while True:
        try:
            shutil.rmtree(work)
        except FileNotFoundError:
            if not work.exists():
                return
        except OSError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.1)
        else:
            return


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yields a function that says on stderr what is being done now; `quiet` says nothing."""
    if quiet or not sys.stderr.isatty():
        yield lambda text: print(f"mirrorfs: {text} …", file=sys.stderr) if not quiet else None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield lambda text: status.update(f"{text} …")


def _story(work: Path, say: Callable[[str], None]) -> list[Row]:
    image = work / "source" / "vm.img"
    image.parent.mkdir()
    say("making an image of 2 GiB with files of this machine in it")
    names = demo_image.build(image, work)
    folders = {name: work / name for name in ("inplace", "sparse", "backing", "mirror")}
    for folder in folders.values():
        folder.mkdir()
    _mirrorfs("mount", str(folders["backing"]), str(folders["mirror"]), "-o", f"log={work}/log")
    rows: list[Row] = []
    for night in ("first copy", "after a night"):
        if rows:
            say(f"changing {_PERCENT:.0f} % of it, deleting and discarding files inside")
            demo_image.change(image, names, _PERCENT)
            later = time.time_ns() + 2_000_000_000  # rsync compares whole seconds
            os.utime(image, ns=(later, later))
        say(f"{night}: rsync --inplace into a plain folder")
        rows.append(_plain(night, "rsync --inplace", image, folders["inplace"], "--inplace"))
        say(f"{night}: rsync -S into a plain folder")
        rows.append(_plain(night, "rsync -S", image, folders["sparse"], "-S"))
        say(f"{night}: rsync --inplace through the mount")
        rows.append(_mirrored(night, image, folders["backing"], folders["mirror"]))
        say(f"{night}: comparing all copies")
        for folder in folders.values():
            if subprocess.run(["cmp", "-s", image, folder / image.name], check=False).returncode:
                raise DifferenceError(f"{folder.name}: the copy is not equal to the image")
    return rows


def _plain(night: str, way: str, image: Path, folder: Path, flag: str) -> Row:
    before = _written_by_children()
    seconds = _rsync(image, folder, flag)
    written = _written_by_children() - before
    copy = folder / image.name
    return Row(night, way, image.stat().st_size, written, copy.stat().st_blocks * 512, seconds)


def _written_by_children() -> int:
    """Bytes that child processes, which have ended, gave the disk to store (getrusage(2),
    ru_oublock).
    """
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock * 512


def _mirrored(night: str, image: Path, backing: Path, mirror: Path) -> Row:
    mount = mounted.at(str(mirror))
    before = mounted.Statistics(mount).read()["counters"]
    seconds = _rsync(image, mirror, "--inplace")
    after = mounted.Statistics(mount).read()["counters"]
    received, written = (after[name] - before[name] for name in ("received_bytes", "written_bytes"))
    allocated = (backing / image.name).stat().st_blocks * 512
    return Row(night, "with mirrorfs", received, written, allocated, seconds)


def _rsync(image: Path, folder: Path, flag: str) -> float:
    begun = time.perf_counter()
    command = ["rsync", "-a", flag, str(image), f"{folder}/"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MirrorfsError(f"rsync failed: {(done.stderr.strip().splitlines() or [''])[-1]}")
    with (folder / image.name).open("rb") as file:
        os.fsync(file.fileno())
    return time.perf_counter() - begun


def _mirrorfs(*words: str) -> None:
    """The command itself, in a process of its own, out of reach of the terminal's Ctrl-C.

    A signal that ends the demonstration waits for it (Popen.__exit__), where subprocess.run would
    kill it: then there is a mount to be removed, or none.
    """
    # -P: what is called mirrorfs in the current folder is not meant.
    command = [sys.executable, "-P", "-m", "mirrorfs", *words]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        _, errors = process.communicate()
    if process.returncode:
        reason = (errors.strip().splitlines() or ["mirrorfs failed"])[-1]
        raise from_process(reason.removeprefix("mirrorfs: "), process.returncode)


def _print_table(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="one image of 2 GiB, copied by rsync; MB", title_justify="left")
    table.add_column("")
    table.add_column("way")
    for name in ("received", "written", "allocated", "seconds"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.night,
            row.way,
            f"{row.received_bytes / 1e6:,.1f}",
            f"{row.written_bytes / 1e6:,.1f}",
            f"{row.allocated_bytes / 1e6:,.1f}",
            f"{row.seconds:.1f}",
            end_section=row.way == "with mirrorfs",
        )
    console = Console()
    console.width = max(console.width, _TABLE_WIDTH)  # numbers are not to be cut off
    console.print(table)
    console.print("All copies are equal to the image, byte for byte.")
