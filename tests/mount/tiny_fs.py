"""A file system of ten files, by callables of the native module, or by pyfuse3 as its words say.

    python -m tests.mount.tiny_fs MOUNTPOINT REPORT [words]

Some offsets of lseek and write have a meaning of their own. REPORT gets a line of JSON for each
event. SIGTERM ends it, as does unmounting; SIGUSR1 lets go on what waits.
"""

from __future__ import annotations

import argparse
import errno
import gc
import importlib
import json
import signal
import sys
import threading
import weakref
from functools import partial
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mount_point")
    parser.add_argument("report", type=Path)
    parser.add_argument("--native", help="the folder of another build of the native module")
    parser.add_argument("--pyfuse3-first", action="store_true")
    parser.add_argument("--no-bind", action="store_true")
    parser.add_argument("--no-install", action="store_true")
    parser.add_argument("--without", type=int, nargs="*", default=[], help="opcodes")
    parser.add_argument("--dont-mask", action="store_true")
    words = parser.parse_args()
    if words.native:
        import mirrorfs

        mirrorfs.__path__.insert(0, words.native)
    if words.pyfuse3_first:
        importlib.import_module("pyfuse3")
    from mirrorfs import _native
    from mirrorfs.fuse import extension

    pyfuse3 = importlib.import_module("pyfuse3")
    from tests.mount import tiny_by_pyfuse3
    from tests.mount.tiny_callables import Callables  # now, since it loads the native module

    with words.report.open("a", buffering=1) as file:

        def report(*value: object) -> None:
            file.write(json.dumps(value) + "\n")

        def report_unraisable(raised: Any) -> None:
            if not isinstance(raised.exc_value, KeyError):
                report("unraisable", repr(raised.exc_value))

        sys.unraisablehook = report_unraisable
        receivers = Receivers()
        callables = Callables(report, receivers.count)
        is_bound = not words.no_bind and extension.bind()
        report("bound", is_bound, extension.reason)
        watches = []
        is_installed = is_bound and not words.no_install
        if is_installed:
            by_opcode = callables.by_opcode.items()
            given: Any = {
                code: partial(one) for code, one in by_opcode if code not in words.without
            }
            watches = [weakref.ref(callable) for callable in given.values()]
            _native.install(requests=given, want=_native.CAP_DONT_MASK if words.dont_mask else 0)
            del given
        pyfuse3.init(tiny_by_pyfuse3.Operations(), words.mount_point, {"fsname=tiny"})
        if is_installed:
            receivers.serve(report, callables.may_go)
        else:
            tiny_by_pyfuse3.serve()
        if is_bound:
            report("state", _native.state())
        pyfuse3.close()
        for number in callables.kept:
            _native.answer(number, errno.EINTR)  # is not sent, and does not raise
        report("end", len(callables.kept))
        if watches:
            before = sum(watch() is None for watch in watches)
            _native.install()
            gc.collect()
            report("released", before, len(watches) - sum(watch() is None for watch in watches))


class Receivers:
    """The threads that receive requests."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._started = 0

    def count(self) -> int:
        """How many there are."""
        return sum(thread.is_alive() for thread in self._threads)

    def serve(self, report: Any, may_go: threading.Event) -> None:
        """Receive until a signal comes, or the mount ends."""
        from mirrorfs import _native

        # Waited for, not handled: between the end of a check and the beginning of a wait a handler
        # would be passed over.
        signals = {signal.SIGTERM, signal.SIGUSR1}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        self._start()
        while not _native.is_ended() or self.count():
            came = signal.sigtimedwait(signals, 0.01)
            if came is not None and came.si_signo == signal.SIGUSR1:
                may_go.set()
            elif came is not None:
                _native.stop()
                report("stopped")
        report("served", self._started)

    def _start(self) -> None:
        from mirrorfs import _native

        thread = threading.Thread(target=_native.serve, args=(self._start,), daemon=True)
        thread.start()
        self._threads = [*self._threads, thread]
        self._started += 1


if __name__ == "__main__":
    main()
