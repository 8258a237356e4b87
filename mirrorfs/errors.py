"""What can go wrong, in words for the user; and the exit codes, a contract with scripts.

    MirrorfsError                  one line for stderr, and an exit code
    ├── UsageError                 the command line or an option is wrong
    │   └── UnknownOptionError     there is no such option
    ├── MountPointError            the mount point cannot be used
    ├── BackingError               the backing folder cannot be used
    ├── FuseError                  FUSE itself is not available here
    ├── InUseError                 mounted already, or another daemon has the folder
    ├── NotAMountError             the path is not a mirrorfs mount
    ├── PrivateError               the user may not look into the mount, or at the file
    ├── DifferenceError            copies that should be equal are not
    ├── StateError                 what is remembered between mounts cannot be used
    ├── ConfigFileError            the configuration file is wrong, or cannot be used
    ├── BusyError                  files are open, so it cannot be unmounted
    └── NoAnswerError              a daemon is dead, or did not answer in time

Errors of single file operations are plain `OSError`: their errno goes to the client.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command. `128 + N` stands for death by signal N."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    MOUNT_POINT = 3
    BACKING = 4
    FUSE = 5
    IN_USE = 6
    NOT_A_MOUNT = 7
    DIFFERENCE = 8
    STATE_DAMAGED = 9
    CONFIG_FILE = 10
    BUSY = 11
    NO_ANSWER = 12
    CHANGED = 13
    MOUNT_FAILED = 32


class MirrorfsError(Exception):
    """An error whose text is meant for the user: what happened, where, and what to do."""

    exit_code = ExitCode.FAILED


class UsageError(MirrorfsError):
    exit_code = ExitCode.USAGE


class UnknownOptionError(UsageError):
    pass


class MountPointError(MirrorfsError):
    exit_code = ExitCode.MOUNT_POINT


class BackingError(MirrorfsError):
    exit_code = ExitCode.BACKING


class FuseError(MirrorfsError):
    exit_code = ExitCode.FUSE


class InUseError(MirrorfsError):
    exit_code = ExitCode.IN_USE


class NotAMountError(MirrorfsError):
    exit_code = ExitCode.NOT_A_MOUNT


class PrivateError(MirrorfsError):
    pass


class DifferenceError(MirrorfsError):
    exit_code = ExitCode.DIFFERENCE


class StateError(MirrorfsError):
    exit_code = ExitCode.STATE_DAMAGED


class ConfigFileError(MirrorfsError):
    exit_code = ExitCode.CONFIG_FILE


class BusyError(MirrorfsError):
    exit_code = ExitCode.BUSY


class NoAnswerError(MirrorfsError):
    exit_code = ExitCode.NO_ANSWER


def from_process(message: str, exit_code: int) -> MirrorfsError:
    """The error that another process had, from its message and its exit code."""
    error = MirrorfsError(message)
    error.exit_code = ExitCode(exit_code)
    return error
