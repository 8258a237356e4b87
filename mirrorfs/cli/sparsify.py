"""`mirrorfs sparsify`: dig holes where files hold zeros, in place."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from mirrorfs.backing.paths import path_text, show
from mirrorfs.backing.sizes import size
from mirrorfs.cli.output import note
from mirrorfs.daemon import sparse_files, timed_calls
from mirrorfs.errors import ExitCode, MirrorfsError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from mirrorfs.daemon.sparse_files import Result

SCHEMA = 1
_EPILOG = """\
What a file holds, its size and its time of change stay as they are. It may be
mounted, and written through the mount, meanwhile. Ctrl-C ends it between two
blocks; run again, it passes over the holes that are there.

--force: for a file in no mount that another program has open
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words that follow `mirrorfs sparsify`."""
    parser.epilog = _EPILOG
    parser.add_argument("paths", metavar="PATH", nargs="+", help="a file, or a folder of files")
    parser.add_argument(
        "--dry-run", action="store_true", help="change nothing, say how much could be freed"
    )
    parser.add_argument(
        "--force", action="store_true", help="go on though other programs may write the file"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, one line for each file")


def run(arguments: argparse.Namespace) -> int:
    """Dig, and print what each file takes less. Files that cannot be are named on stderr, and the
    highest of their exit codes is returned.
    """
    code = ExitCode.DONE
    done: list[Result] = []
    try:
        for path in _files(arguments.paths):
            if isinstance(path, MirrorfsError):
                note(str(path))
                code = max(code, path.exit_code)
                continue
            progress = _Progress(path)
            try:
                one = sparse_files.sparsify(path, arguments.dry_run, arguments.force, progress.tell)
            except MirrorfsError as exc:
                progress.end()
                note(str(exc))
                code = max(code, exc.exit_code)
                continue
            finally:
                progress.end()
            done.append(one)
            _print(one, arguments)
    finally:
        if not arguments.json and len(done) > 1:
            freed = sum(_freed(one, arguments.dry_run) for one in done)
            print(f"{len(done):,} files: {size(freed)} {_verb(arguments.dry_run)}")
    return code


def _files(paths: list[str]) -> Iterator[bytes | MirrorfsError]:
    for path in paths:
        try:
            place = sparse_files.place_of(timed_calls.resolve(os.fsencode(path)))
            yield from sparse_files.files(place)
        except MirrorfsError as exc:
            yield exc
        except OSError as exc:
            yield MirrorfsError(f"{show(os.fsencode(exc.filename or path))}: {exc.strerror}")


def _freed(one: Result, is_dry: bool) -> int:
    return min(one.zeros, one.before) if is_dry else one.before - one.after


def _verb(is_dry: bool) -> str:
    return "could be freed" if is_dry else "freed"


def _print(one: Result, arguments: argparse.Namespace) -> None:
    freed = _freed(one, arguments.dry_run)
    if arguments.json:
        print(json.dumps(_as_dict(one, arguments.dry_run)), flush=True)
    else:
        rest = one.before - freed
        print(
            f"{show(one.path)}: {size(freed)} {_verb(arguments.dry_run)}, "
            f"{size(rest)} of {size(one.size)} allocated"
        )


def _as_dict(one: Result, is_dry: bool) -> dict[str, Any]:
    """For JSON; see the page on JSON."""
    freed = _freed(one, is_dry)
    return {
        "schema": SCHEMA,
        "file": path_text(one.path),
        "dry_run": is_dry,
        "size": one.size,
        "allocated_before": one.before,
        "allocated_after": one.before - freed,
        "freed_bytes": freed,
    }


class _Progress:
    """One line on a terminal, that is wiped out at the end."""

    def __init__(self, path: bytes) -> None:
        self._name = show(os.path.basename(path))
        self._bytes = 0
        self._next = time.monotonic() + 1
        self._is_shown = False
        self._is_wanted = sys.stderr is not None and sys.stderr.isatty()

    def tell(self, count: int) -> None:
        self._bytes += count
        if self._is_wanted and time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.2
            self._is_shown = True
            text = f"\r\x1b[K{self._name}: {size(self._bytes)}"
            print(text, end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._is_shown:
            self._is_shown = False
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
