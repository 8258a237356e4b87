"""A process that reads one side of a comparison and sends its digests: `mirrorfs digest --stream`,
here or on another host by ssh(1).

The side that is read may hang (a mount whose daemon is stopped, a disk, a network), and a process
that waits for it cannot always be ended; it is left behind then, and the command goes on.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import shlex
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

from mirrorfs.backing import mounts
from mirrorfs.backing.paths import printable, show
from mirrorfs.daemon import health, mounted, timed_calls
from mirrorfs.errors import ExitCode, MirrorfsError, NoAnswerError, from_process
from mirrorfs.mirror import digest_stream
from mirrorfs.mirror.digest_stream import Done, Header, NotAStreamError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from _typeshed import WriteableBuffer

    from mirrorfs.mirror.digest_stream import Record

STALL_SECONDS = 60.0
_REAP_SECONDS = 0.5
_END_SECONDS = 10.0
_SAID_BYTES = 4096
_SSH_FAILED = 255
_NOT_FOUND = frozenset({126, 127})


def local_command() -> list[str]:
    """How this very mirrorfs is started."""
    return [sys.executable, "-m", "mirrorfs"]


def is_folder(path: bytes) -> bool:
    """Whether `path`, without symbolic links, is a folder. Raises OSError where nothing is there,
    and NoAnswerError for a mount that is dead or hangs.
    """
    mount = mounted.covering(path)
    is_ours = mount is not None and mount.fs_type == mounts.MIRRORFS_TYPE
    try:
        return timed_calls.call(_is_folder, path)
    except NoAnswerError:
        if mount is None or not is_ours:
            raise
        raise health.hanging(mount) from None
    except OSError as exc:
        if mount is None or not is_ours or exc.errno not in health.DEAD:
            raise
        raise health.dead(mount) from None


def _is_folder(path: bytes) -> bool:
    return stat.S_ISDIR(os.stat(path).st_mode)


class DigestProcess:
    """One side. `name` is what messages call it; `host` is empty for this machine."""

    def __init__(self, command: list[str], name: str, host: str = "") -> None:
        self._name, self._host = name, host
        self._said = os.memfd_create("stderr", os.MFD_CLOEXEC)
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, bufsize=0
            )
        except OSError as exc:
            os.close(self._said)
            raise MirrorfsError(f"{command[0]}: {exc.strerror}; it is to reach {name}") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._names = self._process.stdin
        self._pipe = _Patient(self._process.stdout.fileno())
        # A password may have to be typed before anything comes from another host.
        self._pipe.is_patient = bool(host)
        self._records = digest_stream.decode(io.BufferedReader(self._pipe, 1 << 17))

    def __enter__(self) -> DigestProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._names.close()
        if kind is not None or self._ended_with(_END_SECONDS) is None:
            self._process.kill()
            self._ended_with(_REAP_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()
        os.close(self._said)

    def header(self) -> Header:
        """The header, which comes first."""
        found = self.next()
        if not isinstance(found, Header):
            raise self._not_understood(f"it begins with {type(found).__name__}")
        self._pipe.is_patient = False
        return found

    def listed(self) -> Iterator[Record]:
        """The list of a folder."""
        while not isinstance(found := self.next(), Done):
            yield found

    def choose(self, names: Iterable[bytes]) -> None:
        """Say which files of the list are wanted."""
        try:
            for name in names:
                self._names.write(name + b"\0")
            self._names.close()
        except BrokenPipeError:
            raise self._failed() from None

    def next(self) -> Record:
        """The next record. Raises MirrorfsError for what the process has said before it failed, and
        NoAnswerError if nothing comes.
        """
        try:
            return next(self._records)
        except StopIteration:
            raise self._failed() from None
        except NotAStreamError as exc:
            raise self._not_understood(str(exc)) from None
        except TimeoutError:
            raise NoAnswerError(
                f"{self._name}: nothing was read for {STALL_SECONDS:.0f} seconds; "
                "a disk, a mount or the network on the way to it hangs"
            ) from None

    def _not_understood(self, what: str) -> MirrorfsError:
        if self._host and self._ended_with() in {ExitCode.USAGE, *_NOT_FOUND, _SSH_FAILED}:
            return self._failed()
        return MirrorfsError(
            f"{self._name}: what came is no stream of digests that this version knows "
            f"('{printable(what)}'); is the same mirrorfs on both sides, and does no login script "
            "print anything?"
        )

    def _ended_with(self, seconds: float = _REAP_SECONDS) -> int | None:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def _failed(self) -> MirrorfsError:
        """The error of a process that has ended too early."""
        code = self._ended_with()
        size = os.fstat(self._said).st_size
        text = os.pread(self._said, _SAID_BYTES, max(0, size - _SAID_BYTES)).strip()
        said = show(text.splitlines()[-1].strip()) if text else ""
        if not self._host:
            said = said.removeprefix("mirrorfs: ") or f"{self._name}: it could not be read"
            known = code in set(ExitCode) and code
            return from_process(said, code or 1) if known else MirrorfsError(said)
        if code in _NOT_FOUND or (code == ExitCode.USAGE and "digest" in said):
            return MirrorfsError(
                f"{self._host}: there is no mirrorfs with the command 'digest' ({said}); install "
                "it there, or say with --remote-command how it is called"
            )
        if code == _SSH_FAILED:
            return MirrorfsError(f"{self._host}: cannot be reached: {said or 'ssh failed'}")
        return MirrorfsError(f"{self._host}: {said or f'ended with {code} too early'}")


def here(path: bytes, words: list[str]) -> DigestProcess:
    """Reads `path` on this machine; `words` are options of `mirrorfs digest`."""
    command = [*local_command(), "digest", "--stream", *words, "--", os.fsdecode(path)]
    return DigestProcess(command, show(path))


def there(host: str, path: str, words: list[str], shell: list[str], command: str) -> DigestProcess:
    """Reads `path` on `host`, which `shell` leads to, as ssh(1) does: it is given the host and one
    line for the shell there. `command` is how mirrorfs is called there, for that shell.
    """
    line = f"{command} {shlex.join(['digest', '--stream', *words, '--', path])}"
    name = printable(f"{host}:{show(os.fsencode(path))}")
    return DigestProcess([*shell, host, line], name, host)


class _Patient(io.RawIOBase):
    """The end of a pipe whose other end may hang. Raises TimeoutError unless `is_patient`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self.is_patient = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        if not self._poll.poll(None if self.is_patient else STALL_SECONDS * 1000):
            raise TimeoutError
        return os.readv(self._fd, [buffer])
