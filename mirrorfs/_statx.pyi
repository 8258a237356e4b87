"""statx(2) in C (fuse/native/statx.c)."""

from mirrorfs.backing.statx import Status

def statx(
    kind: type[Status], fd: int, name: bytes, flags: int, identifies: bool = False, /
) -> Status:
    """Status of `name` in the folder `fd`, or of `fd` itself; with `identifies`, the generation."""
