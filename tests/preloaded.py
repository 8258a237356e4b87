"""The command `mirrorfs` in processes that have all modules loaded already: most of the time of a
mount is the start of interpreters.

A server without threads forks a process for each command. `mirrorfs` in commands.py is the true
command, started anew, as a user has it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

_TOP = Path(__file__).parent.parent
_MESSAGE_BYTES = 1 << 18
_SECONDS = 90  # more than a mount waits for its daemon
_PACKAGES = ("mirrorfs.cli", "mirrorfs.daemon")


class Server:
    """Runs commands one after the other. It is started with the first, and again after one that
    has not come to an end; it sees the mounts of this process.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """What the command has ended with, and all that it has written."""
        wanted = {"words": words, "environment": {**os.environ, **environment}, "cwd": os.getcwd()}
        if self._process is None:
            self._start()
        try:
            with tempfile.TemporaryFile() as output:
                socket.send_fds(self._socket, [json.dumps(wanted).encode()], [output.fileno()])
                code = int(self._socket.recv(100))
                output.seek(0)
                return subprocess.CompletedProcess(words, code, "", output.read().decode())
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_SECONDS)
        words = [sys.executable, "-m", "tests.preloaded", str(other.fileno())]
        with other:
            self._process = subprocess.Popen(words, pass_fds=[other.fileno()], cwd=_TOP)

    def stop(self) -> None:
        if self._process is not None:
            self._socket.close()
            self._process.kill()
            self._process.wait()
            self._process = None


def _serve(commands: socket.socket) -> None:
    while True:
        message, fds, _flags, _address = socket.recv_fds(commands, _MESSAGE_BYTES, 1)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            commands.close()
            _run(json.loads(message), fds[0])
        os.close(fds[0])
        commands.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _run(wanted: dict[str, Any], output_fd: int) -> NoReturn:
    from mirrorfs.cli.main import main

    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(wanted["environment"])
        os.chdir(wanted["cwd"])
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        for fd in (1, 2):
            os.dup2(output_fd, fd)
        os.close(output_fd)
        code = main(wanted["words"])
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for package in _PACKAGES:
        found = importlib.import_module(package)
        for module in pkgutil.iter_modules(found.__path__, f"{package}."):
            importlib.import_module(module.name)
    with socket.socket(fileno=int(sys.argv[1])) as commands:
        _serve(commands)
