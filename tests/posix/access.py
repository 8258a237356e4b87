"""Extended attributes, access lists, and the limits of the file system."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any

from tests.posix.checks import CAPABILITY, GROUP, USER, as_user, check, put, said, seen, umask

if TYPE_CHECKING:
    from pathlib import Path


@check
def extended_attributes(folder: Path) -> Any:
    path = put(folder / "file")
    (folder / "dir").mkdir()
    big = os.urandom(8) * 250
    return [
        said(os.setxattr, path, "user.a", b"1"),
        said(os.setxattr, path, "user.a", b"2", os.XATTR_CREATE),
        said(os.setxattr, path, "user.b", b"2", os.XATTR_REPLACE),
        said(os.setxattr, path, "user.b", b""),
        said(os.setxattr, path, "user.big", big),
        os.getxattr(path, "user.big") == big,
        said(os.getxattr, path, "user.a"),
        said(os.getxattr, path, "user.b"),
        said(os.getxattr, path, "user.none"),
        sorted(os.listxattr(path)),
        said(os.removexattr, path, "user.a"),
        said(os.removexattr, path, "user.a"),
        said(os.setxattr, folder / "dir", "user.d", b"\x00\xff"),
        said(os.getxattr, folder / "dir", "user.d"),
        said(os.setxattr, path, "nonsense", b"1"),
        said(os.setxattr, path, "user." + "n" * 300, b"1"),
    ]


@check
def privileged_attributes(folder: Path) -> Any:
    path = put(folder / "file")
    os.symlink("nowhere", folder / "link")
    return [
        said(os.setxattr, path, "trusted.t", b"1"),
        said(os.getxattr, path, "trusted.t"),
        said(os.setxattr, path, "security.capability", CAPABILITY),
        said(os.getxattr, path, "security.capability"),
        said(os.setxattr, folder / "link", "trusted.t", b"1", follow_symlinks=False),
        said(os.setxattr, folder / "link", "user.t", b"1", follow_symlinks=False),
        as_user(lambda: os.getxattr(path, "trusted.t")),
        put(path, b"written") and said(os.getxattr, path, "security.capability"),
        said(os.setxattr, path, "security.capability", CAPABILITY),
        said(os.truncate, path, len(b"written")),
        said(os.getxattr, path, "security.capability"),
    ]


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
FOR_USER = acl((1, 7, NOBODY), (2, 6, USER), (4, 5, NOBODY), (16, 7, NOBODY), (32, 0, NOBODY))


@check
def access_lists_are_kept_and_enforced(folder: Path) -> Any:
    path = put(folder / "file")
    os.chmod(path, 0o600)
    os.chmod(folder, 0o755)
    refused = as_user(lambda: path.read_bytes())
    os.setxattr(path, "system.posix_acl_access", FOR_USER)
    granted = as_user(lambda: path.read_bytes())
    mode = seen(path)[0]
    os.chmod(path, 0o700)
    return (
        refused,
        granted,
        mode,
        as_user(lambda: path.read_bytes()),
        os.getxattr(path, "system.posix_acl_access"),
        said(os.removexattr, path, "system.posix_acl_access"),
        seen(path)[0],
    )


@check
def default_lists_are_inherited(folder: Path) -> Any:
    """Whatever the umask is: it does not count where there is a default list (acl(5))."""
    os.setxattr(folder, "system.posix_acl_default", FOR_USER)
    found = []
    for mask in (0, 0o077):
        inner = folder / oct(mask)
        with umask(mask):
            inner.mkdir(0o750)
            put(inner / "file")
            os.mkfifo(inner / "fifo", 0o640)
        found += [
            (seen(path)[0], said(os.getxattr, path, "system.posix_acl_access"))
            for path in (inner, inner / "file", inner / "fifo")
        ]
        found.append(said(os.getxattr, inner, "system.posix_acl_default"))
    return found


@check
def the_umask_counts_without_default_lists(folder: Path) -> Any:
    with umask(0o027):
        put(folder / "file")
        (folder / "dir").mkdir(0o777)
        os.mkfifo(folder / "fifo", 0o666)
        os.symlink("file", folder / "link")
    return [seen(folder / name)[0] for name in ("file", "dir", "fifo", "link")]


@check
def the_file_system_tells_its_limits(folder: Path) -> Any:
    status = os.statvfs(folder)
    return status.f_frsize, status.f_namemax, status.f_blocks > 0, status.f_files >= 0


@check
def an_outsiders_access_list_takes_setgid(folder: Path) -> Any:
    found = []
    for groups in ((), (GROUP,)):
        path = put(folder / f"file-{len(groups)}")
        os.chown(path, USER, GROUP)
        path.chmod(0o2775)
        entries = acl((1, 7, NOBODY), (4, 7, NOBODY), (32, 5, NOBODY))

        def set_it(path: Path = path, entries: bytes = entries) -> None:
            os.setxattr(path, "system.posix_acl_access", entries)

        found.append((as_user(set_it, groups=groups), seen(path)))
    return found
