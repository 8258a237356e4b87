"""The size of an open file below: what is new becomes a hole, what is zero at a new end becomes one
too, and blocks that the file system allocated ahead of need are freed.

Guarantees: a failure leaves the size and the content as they were (`size_kept_on_error`), or as far
as the file system below came. A crash leaves the old size or the new one. Every function is called
under the lock of the file.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from mirrorfs.backing import holes
from mirrorfs.mirror.plan import is_zero

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirrorfs.mirror.open_file import OpenFile

NO_END = 1 << 63


def resize(file: OpenFile, old_size: int, size: int) -> None:
    """Truncate or grow the file from `old_size` to `size` bytes; what is new is a hole. Raises
    OSError (ftruncate(2)).
    """
    rules = file.rules
    grows = rules.punch and file.leaves_blocks and size > old_size
    hole = hole_at_end(file, old_size) if grows else 0
    os.ftruncate(file.fd, size)
    file.note_size(size)
    file.run.cut(size, NO_END)
    if size == 0:
        file.writeback.failed = False
    if rules.punch and size < old_size:
        _punch_zeros_at_end(file, size, rules.block_bytes)
    elif grows:
        free_blocks(file, hole, size, rules.block_bytes)


@contextlib.contextmanager
def size_kept_on_error(file: OpenFile, size: int) -> Iterator[None]:
    """If the block raises OSError, a file that it has made larger than `size` bytes gets that size
    back.
    """
    try:
        yield
    except OSError:
        if os.fstat(file.fd).st_size > size:
            with contextlib.suppress(PermissionError):  # append-only: as it is in a plain folder
                os.ftruncate(file.fd, size)
                file.note_size(size)
            file.run.cut(size, NO_END)
        raise


def hole_at_end(file: OpenFile, size: int) -> int:
    """Where the hole begins in which a file of `size` bytes ends; `size` if its last block is data,
    or may be. Raises OSError.

    No further back than the beginning of the last block.
    """
    start = size - size % file.rules.block_bytes
    is_hole = start < size and file.is_seek_trusted and holes.next_data(file.fd, start) is None
    return start if is_hole else size


def free_blocks(file: OpenFile, start: int, end: int, block_bytes: int) -> None:
    """Free what is allocated in the hole `[start, end)`, from the first whole block to its end;
    where that is refused, it stays allocated.

    The block in which the hole ends is freed only where the file ends in it, too.
    """
    first = start + -start % block_bytes
    if end < os.fstat(file.fd).st_size:
        last = end - end % block_bytes
    else:
        last = end + -end % block_bytes
    if first < last:
        with contextlib.suppress(OSError):
            file.punch(first, last)


def _punch_zeros_at_end(file: OpenFile, size: int, block_bytes: int) -> None:
    """Make the last block a hole, if a truncation to `size` has left only zeros of it."""
    ragged = size % block_bytes
    if not (ragged and file.readable and file.abilities.punch):
        return
    start = size - ragged
    if file.data_bytes(start, size) and is_zero(os.pread(file.fd, ragged, start)):
        file.punch(start, start + block_bytes)
