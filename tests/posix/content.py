"""Reading, writing, truncating, mapping and locking."""

from __future__ import annotations

import fcntl
import mmap
import os
import resource
import signal
import struct
from typing import TYPE_CHECKING, Any

from tests.posix.checks import as_user, check, opened, put, said

if TYPE_CHECKING:
    from pathlib import Path


@check
def writes_at_odd_offsets_are_read_back(folder: Path) -> Any:
    with opened(folder / "file", os.O_CREAT | os.O_RDWR) as fd:
        done = [
            os.pwrite(fd, b"a" * 5000, 3),
            os.pwrite(fd, bytes(9000), 4000),
            os.pwrite(fd, b"b", 100_000),
            os.pwrite(fd, b"", 500_000),
            os.pwritev(fd, [b"x" * 10, bytes(5000), b"y"], 50_001),
        ]
        os.ftruncate(fd, 60_000)
        os.ftruncate(fd, 70_000)
        return done, os.pread(fd, 200_000, 0), os.pread(fd, 10, 69_995), os.pread(fd, 10, 80_000)


@check
def handles_only_do_what_they_were_opened_for(folder: Path) -> Any:
    put(folder / "file")
    with (
        opened(folder / "file", os.O_RDONLY) as reading,
        opened(folder / "file", os.O_WRONLY) as writing,
    ):
        return [
            said(os.write, reading, b"x"),
            said(os.read, writing, 1),
            said(os.ftruncate, reading, 0),
            said(os.ftruncate, writing, 3),
            said(os.ftruncate, writing, -1),
            said(os.pread, reading, 10, 0),
        ]


@check
def appending_goes_to_the_end_whatever_the_offset(folder: Path) -> Any:
    with opened(folder / "file", os.O_CREAT | os.O_RDWR | os.O_APPEND) as fd:
        os.write(fd, b"one")
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"two")
        os.truncate(folder / "file", 2)
        os.write(fd, b"three")
        return (folder / "file").read_bytes()


@check
def two_appenders_write_in_turn(folder: Path) -> Any:
    flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
    with opened(folder / "file", flags) as one, opened(folder / "file", flags) as two:
        for number in range(100):
            os.write((one, two)[number % 2], b"%03d" % number)
    return (folder / "file").read_bytes()


@check
def truncation_by_name_and_by_open_cuts_and_fills_with_zeros(folder: Path) -> Any:
    put(folder / "file", b"0123456789")
    found = []
    for size in (4, 9000, 4097, 0, 1):
        os.truncate(folder / "file", size)
        found.append((folder / "file").read_bytes())
    put(folder / "file", b"again")
    os.close(os.open(folder / "file", os.O_WRONLY | os.O_TRUNC))
    return found, (folder / "file").read_bytes(), said(os.truncate, folder / "none", 0)


@check
def a_sparse_file_shows_few_blocks(folder: Path) -> Any:
    with opened(folder / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 1 << 30)
        os.pwrite(fd, b"x" * 4096, 1 << 20)
        os.fsync(fd)
    status = (folder / "file").stat()
    return status.st_size, status.st_blocks * 512 < 1 << 20, status.st_blocks > 0


@check
def shared_mappings_reach_the_file(folder: Path) -> Any:
    put(folder / "file", bytes(10_000))
    with (folder / "file").open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[5000:5005] = b"hello"
        view.flush()
        first = (folder / "file").read_bytes()
        file.seek(0)
        file.write(b"start")
        file.flush()
        return first, bytes(view[:5])


@check
def a_direct_open_reads_and_writes(folder: Path) -> Any:
    buffer = mmap.mmap(-1, 8192)
    buffer[:] = b"d" * 8192
    with opened(folder / "file", os.O_CREAT | os.O_RDWR | os.O_DIRECT) as fd:
        written = os.pwritev(fd, [buffer], 4096)
    return written, (folder / "file").read_bytes()


@check
def a_file_size_limit_is_kept(folder: Path) -> Any:
    def limited() -> Any:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        with opened(folder / "file", os.O_CREAT | os.O_RDWR) as fd:
            first = os.pwrite(fd, b"x" * 20_000, 0)
            return first, said(os.pwrite, fd, b"x", 10_000), said(os.ftruncate, fd, 20_000)

    return as_user(limited, uid=os.getuid()), (folder / "file").stat().st_size


@check
def a_lock_excludes_another(folder: Path) -> Any:
    put(folder / "file")
    with opened(folder / "file", os.O_RDWR) as one, opened(folder / "file", os.O_RDWR) as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        first = said(fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        open_file_lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 10, 0)
        fcntl.fcntl(one, 37, open_file_lock)
        return first, said(fcntl.fcntl, two, 37, open_file_lock) in {"EAGAIN", "EACCES"}


@check
def files_and_folders_can_be_synced(folder: Path) -> Any:
    put(folder / "file")
    with opened(folder / "file", os.O_RDWR) as fd, opened(folder, os.O_RDONLY) as folder_fd:
        return [said(call, f) for f in (fd, folder_fd) for call in (os.fsync, os.fdatasync)]
