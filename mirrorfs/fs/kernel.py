"""What the file system wants of the kernel beside answering its requests. Made by `fuse`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Kernel:
    """Each may be called in any thread."""

    # The kernel drops the attributes that it keeps of the inode with this node id.
    drop_attributes: Callable[[int], None]
    # The kernel drops the pages that it keeps of it, too; may wait for a write that is under way.
    drop_content: Callable[[int], None]
    # Whether the client got a signal that waits for the request with this number.
    is_interrupted: Callable[[int], bool]
    # Whether writes may bypass the page cache of the mount; known once the mount answers.
    writes_directly: Callable[[], bool]
    # What depends on the machine: name, whether it is on, and why not (config.json).
    features: Callable[[], dict[str, object]]
