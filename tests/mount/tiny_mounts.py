"""Mounts of tiny_fs.py, as a client sees them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.commands import wait_for
from tests.mount import tiny_callables as tiny_fs

TOP = Path(__file__).parents[2]
libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Tiny:
    """The mount, and what its callables reported."""

    path: Path
    report: Path
    server: subprocess.Popen[bytes]
    fd: int = -1
    waiting: list[threading.Thread] = field(default_factory=list)
    results: list[int | str] = field(default_factory=list)  # of those that have waited

    def seek(self, offset: int, whence: int = os.SEEK_DATA, fd: int = -1) -> int | str:
        """The position, or the name of the error."""
        try:
            return os.lseek(self.fd if fd < 0 else fd, offset, whence)
        except OSError as exc:
            return errno.errorcode[exc.errno or 0]

    def write(self, offset: int, fd: int = -1) -> int | str:
        """How many of three bytes were written, or the name of the error."""
        try:
            return os.pwrite(self.fd if fd < 0 else fd, b"abc", offset)
        except OSError as exc:
            return errno.errorcode[exc.errno or 0]

    def fallocate(self, mode: int, offset: int, length: int) -> str:
        failed = libc.fallocate(self.fd, mode, ctypes.c_long(offset), ctypes.c_long(length))
        return errno.errorcode[ctypes.get_errno()] if failed else "done"

    def begin(self, number: int, call: str, offset: int) -> None:
        """Let a thread call `seek` or `write` for another file; see `finish`."""
        fd = os.open(self.path / f"file{number}", os.O_RDWR)

        def run() -> None:
            try:
                self.results.append(getattr(self, call)(offset, fd=fd))
            finally:
                with contextlib.suppress(OSError):  # the server may have ended
                    os.close(fd)

        self.waiting.append(threading.Thread(target=run, daemon=True))
        self.waiting[-1].start()

    def finish(self) -> list[int | str]:
        """The results of all that was begun."""
        for thread in self.waiting:
            thread.join(tiny_fs.LONG)
            assert not thread.is_alive()
        self.waiting.clear()
        results, self.results = self.results, []
        return results

    def wait_in_background(self, number: int) -> subprocess.Popen[bytes]:
        """Another process that makes an lseek which is not answered."""
        name, offset = self.path / f"file{number}", tiny_fs.KEEP
        code = f"import os; os.lseek(os.open('{name}', os.O_RDONLY), {offset}, os.SEEK_DATA)"
        return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)

    def reported(self, name: str, count: int = 1) -> list[Any]:
        """Waits until there are so many; an answer may come before the report."""
        found: list[Any] = []

        def is_there() -> bool:
            lines = self.report.read_text().splitlines(keepends=True)
            values = [json.loads(line) for line in lines if line.endswith("\n")]
            found[:] = [value[1:] for value in values if value[0] == name]
            return len(found) >= count

        wait_for(is_there)
        return found

    def rss_kib(self) -> int:
        status = Path(f"/proc/{self.server.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0])

    def end(self) -> None:
        """The server leaves nothing behind, and has complained about nothing."""
        self.close()
        if self.server.returncode is None:
            self.server.terminate()
        self.expect_end()

    def close(self) -> None:
        """Close the file."""
        if self.fd >= 0:
            with contextlib.suppress(OSError):  # the server may be dead: see what it said
                os.close(self.fd)
            self.fd = -1

    def expect_end(self) -> None:
        """Wait until the server has ended well."""
        _, complaints = self.server.communicate(timeout=60)
        assert (self.server.returncode, complaints) == (0, b"")
        assert not self.path.is_mount()

    def state(self) -> Any:
        self.end()
        return self.reported("state")[0][0]


def mount(path: Path, *words: str, **environment: str) -> Tiny:
    """Start the server. It has to be ended; see the fixtures."""
    path.mkdir()
    report = path.with_suffix(".report")
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.mount.tiny_fs", path, report, *words],
        cwd=TOP,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
    )
    return Tiny(path, report, server)


def is_mounted(tiny: Tiny) -> bool:
    """Whether it is there; fails if the server has ended."""
    assert tiny.server.poll() is None, tiny.server.communicate()
    return tiny.path.is_mount()
