"""What the daemon keeps of memory after many clients have been at work at once."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tests.commands import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.mounted import Mirror

CLIENTS = 32
REQUESTS = 120
FILE_BYTES = 4 << 20
LARGEST = 1 << 20  # of a request, in bytes
LIMIT_MIB = 60  # what stays free between what is in use is more, at times, until it is given back


def anonymous_mib(pid: int) -> float:
    """RssAnon of proc_pid_status(5): what is neither code nor a file."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def work(path: Path, seed: int) -> None:
    """Requests of all sizes at all places: most are compared with other data, and not aligned."""
    chance = random.Random(seed)
    data = chance.randbytes(2 * LARGEST)
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(fd, data * (FILE_BYTES // len(data)), 0)
        for _ in range(REQUESTS):
            size = chance.choice([LARGEST, LARGEST // 4, chance.randrange(1, LARGEST)])
            offset = chance.randrange(FILE_BYTES - size + 1)
            if chance.random() < 0.7:
                first = chance.randrange(LARGEST)
                os.pwrite(fd, data[first : first + size], offset)
            elif chance.random() < 0.8:
                os.pread(fd, size, offset)
            else:
                source = chance.randrange(FILE_BYTES - size + 1)
                if abs(source - offset) >= size:
                    os.copy_file_range(fd, fd, size, source, offset)
    finally:
        os.close(fd)


def test_many_clients_leave_little_memory_behind(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder)
    pid = mirror.pid
    clients = [
        threading.Thread(target=work, args=(mirror.path / f"file-{number}", number))
        for number in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert mirror.account("file-0").compared_bytes > LARGEST
    wait_for(lambda: anonymous_mib(pid) < LIMIT_MIB)
