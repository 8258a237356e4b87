"""The state folder, as threads of one daemon make it."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mirrorfs.backing import state_folder

if TYPE_CHECKING:
    from pathlib import Path

THREADS = 4


def test_threads_that_make_it_at_once_agree(tmp_path: Path) -> None:
    """The recovery list, the catalog and the digests open it when there is need."""
    parent = os.open(tmp_path, os.O_RDONLY)
    start = threading.Barrier(THREADS)

    def made(name: bytes) -> bytes:
        start.wait()
        fd, found = state_folder.open_or_make(parent, name)
        os.close(fd)
        return found

    with ThreadPoolExecutor(THREADS) as pool:
        for number in range(200):
            (tmp_path / str(number)).mkdir(mode=0o700)  # as a user has made it: empty
            name = b"%d" % number
            ids = {one.result() for one in [pool.submit(made, name) for _ in range(THREADS)]}
            assert ids == {state_folder.id_of(parent, name)}
    os.close(parent)
