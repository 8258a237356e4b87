"""USR1 logs one line, USR2 all stacks, even while the main thread is stuck."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).parent.parent.parent
DAEMON = """
import logging, sys
from mirrorfs.daemon import log_signals

logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(message)s")
lines = iter(["first", "", "third"])

def status_line():
    line = next(lines)
    if not line:
        raise RuntimeError("dictionary changed size during iteration")
    return line

def stuck():
    print("ready", flush=True)
    sys.stdin.read()

log_signals.block()
log_signals.start(status_line)
stuck()
"""


class Daemon:
    """A process whose main thread is stuck in C."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def logged_until(self, last: str) -> list[str]:
        """All lines up to one that contains `last`."""
        found = [self.line()]
        while last not in found[-1]:
            assert self.process.poll() is None, found
            found.append(self.line())
        return found


@contextlib.contextmanager
def daemon() -> Iterator[Daemon]:
    command = [sys.executable, "-c", DAEMON]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=TOP) as process:
        made = Daemon(process)
        assert made.line() == "ready"
        yield made
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0


def test_usr1_logs_one_line_each_time_even_after_it_could_not_be_made() -> None:
    with daemon() as running:
        running.process.send_signal(signal.SIGUSR1)
        assert running.line() == "INFO first"
        running.process.send_signal(signal.SIGUSR1)
        assert running.line() == "ERROR the status could not be read; send the signal again"
        running.logged_until("RuntimeError: dictionary changed size during iteration")
        running.process.send_signal(signal.SIGUSR1)
        assert running.line() == "INFO third"


def test_usr2_logs_the_stacks_of_all_threads_by_name() -> None:
    with daemon() as running:
        running.process.send_signal(signal.SIGUSR2)
        lines = running.logged_until("in stuck")
        running.process.send_signal(signal.SIGUSR1)
        lines += running.logged_until("INFO first")
        heads = {line for line in lines if line.startswith("INFO stack of")}
        assert heads == {"INFO stack of MainThread:", "INFO stack of signals:"}
