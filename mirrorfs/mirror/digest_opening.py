"""The beginning of a session for a digest file: it is marked as open before anything else is done.

Guarantees: when `open_marked` or `disown` has returned, no later crash leaves a digest file that is
believed of content that changes from now on.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from mirrorfs.backing import syscalls
from mirrorfs.backing.digest_file import Mark

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.backing.digest_file import DigestFile, Folder, Identity, Stamp


def open_marked(
    folder: Folder, identity: Identity, is_of_content: Callable[[Stamp], bool]
) -> tuple[DigestFile | None, bool]:
    """The digest file of a file, locked and durably marked as open, if it is of the content that
    `is_of_content` knows by its stamp; else there is none any more. Also whether it was of another
    content. Raises OSError where it cannot be marked.
    """
    file = folder.open(identity)
    if file is None:
        return None, False
    try:
        header = file.header(identity, folder.seed)
        is_closed = header is not None and header.mark is Mark.CLOSED
        if header is not None and is_closed:
            file.set_header(replace(header, mark=Mark.OPEN))
            file.sync()
            if is_of_content(header.stamp):
                return file, False
    except OSError:
        file.close()
        raise
    file.close()
    folder.remove(identity)
    return None, is_closed


def disown(folder: Folder, identity: Identity, fd: int) -> None:
    """Let no digest file be believed of the file `fd`, where it could not be marked. Raises
    OSError.
    """
    try:
        folder.remove(identity, is_durable=True)
    except OSError:
        # Its stamp is that of another content then.
        syscalls.touch(fd)
        os.fsync(fd)
