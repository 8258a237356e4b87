"""Whether the folder for the file of metrics can be used."""

from __future__ import annotations

import os

from mirrorfs.backing.paths import show
from mirrorfs.daemon import timed_calls
from mirrorfs.errors import UsageError


def check(option: str | None, mount_point: bytes, backing: bytes) -> bytes | None:
    """The path, without symbolic links, of the folder that the option `metrics` names; None without
    one. Raises UsageError for one that is not there, cannot be written, or lies where the mount
    hides it or tools delete what they do not know; NoAnswerError if its disk does not answer.
    """
    if option is None:
        return None
    folder = timed_calls.resolve(os.fsencode(option))
    for place in (mount_point, backing):
        if (folder + b"/").startswith(place + b"/"):
            raise UsageError(
                f"option metrics: {show(folder)} lies in {show(place)}, where it would be part of "
                "the backup; name a folder elsewhere"
            )
    reason = timed_calls.call(_refusal, folder)
    if reason:
        raise UsageError(f"option metrics: {show(folder)} {reason}")
    return folder


def _refusal(folder: bytes) -> str:
    if not os.path.isdir(folder):
        return "is no folder; make it first"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "cannot be written; name another folder, or run as its owner"
    return ""
