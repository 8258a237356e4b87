"""What doctor looks at, gathered apart from what is thought of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirrorfs.daemon.overview import Overview

State = Literal["unmounted", "answers", "dead", "hangs", "stopped", "private"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of fstab about a mirrorfs."""

    line: int
    source: bytes
    point: bytes
    fs_type: str
    options: str
    has_source: bool
    has_point: bool
    has_helper: bool  # the program that mount(8) would run is there
    refusal: str = ""  # why mirrorfs would refuse the options


@dataclass(frozen=True, slots=True)
class Copy:
    """A program that writes into a mount now."""

    pid: int
    program: str
    words: tuple[bytes, ...]  # those after the program's own name
    target: bytes  # absolute
    mount_point: bytes


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine, and who asks."""

    kernel: str
    is_root: bool
    is_virtual: bool
    cpuidle_governor: str  # empty where there is none
    halt_poll_ns: int | None  # None where the kernel has no haltpoll
    has_fuse_device: bool
    has_fusermount: bool
    user_allow_other: bool
    entries: tuple[Entry, ...] = ()
    copies: tuple[Copy, ...] = ()


@dataclass(frozen=True, slots=True)
class Examined:
    """A backing folder, mounted or not. What could not be found out is None, or empty."""

    name: bytes  # the mount point, or the backing folder
    backing: bytes
    state: State
    pid: int | None = None
    user_id: int = 0  # who has mounted it
    backing_type: str = ""  # of the file system below
    backing_options: str = ""  # of its mount, separated by commas
    # As config.json has them: of each option its value and where it is from; of each feature
    # whether it is on, and why not.
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    abilities: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    version: str = ""  # of the daemon
    open_files: int | None = None  # the daemon's limit of descriptors
    overview: Overview | None = None
    unseen: str = ""  # why there is no overview
    chunks: int = 0  # of files with digests
    known_chunks: int = 0  # of these the digest is known
    state_folder: bytes = b""
    state_free: int | None = None  # bytes, where the state folder is on a disk of its own
    knows_scrubs: bool = False  # the catalog can tell of scrubs
    scrubbed_ns: int | None = None  # since the epoch, the end of the last complete one
    damaged: tuple[bytes, ...] = ()  # files, below the backing folder
