"""Extended attributes, access lists, and the limits of the file system."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any

from tests.posix.checks import (
    CAPABILITY,
    EXTENSION,
    GROUP,
    USER,
    as_user,
    check,
    check_rows,
    check_that_needs,
    put,
    said,
    seen,
    umask,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def answers(folder: Path, call: Callable[[Path], Any], prepare: Callable[[Path], Any]) -> Any:
    """What a call says of a file, and the file's attributes thereafter."""
    path = put(folder / "file")
    prepare(path)
    return said(call, path), {name: os.getxattr(path, name) for name in os.listxattr(path)}


def nothing(_path: Path) -> None:
    pass


def set_one(path: Path) -> None:
    os.setxattr(path, "user.a", b"1")


BIG = b"\0\xffabcdef" * 250
XATTRS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "xattr_set_and_read": (set_one, nothing),
    "xattr_set_again": (lambda path: os.setxattr(path, "user.a", b"two"), set_one),
    "xattr_create_of_one_that_is_there": (
        lambda path: os.setxattr(path, "user.a", b"2", os.XATTR_CREATE),
        set_one,
    ),
    "xattr_replace_of_a_missing_one": (
        lambda path: os.setxattr(path, "user.b", b"2", os.XATTR_REPLACE),
        set_one,
    ),
    "xattr_without_content": (lambda path: os.setxattr(path, "user.b", b""), set_one),
    "xattr_of_two_thousand_bytes": (lambda path: os.setxattr(path, "user.big", BIG), nothing),
    "xattr_get_of_a_missing_one": (lambda path: os.getxattr(path, "user.none"), set_one),
    "xattr_list": (lambda path: sorted(os.listxattr(path)), set_one),
    "xattr_removed": (lambda path: os.removexattr(path, "user.a"), set_one),
    "xattr_remove_of_a_missing_one": (lambda path: os.removexattr(path, "user.a"), nothing),
    "xattr_of_no_namespace": (lambda path: os.setxattr(path, "nonsense", b"1"), nothing),
    "xattr_of_a_name_that_is_too_long": (
        lambda path: os.setxattr(path, "user." + "n" * 300, b"1"),
        nothing,
    ),
    "xattr_trusted_is_kept": (
        lambda path: os.setxattr(path, "trusted.t", b"1"),
        nothing,
    ),
    "xattr_trusted_is_hidden_from_users": (
        lambda path: as_user(lambda: os.getxattr(path, "trusted.t")),
        lambda path: os.setxattr(path, "trusted.t", b"1"),
    ),
    "xattr_capability_is_kept": (
        lambda path: os.setxattr(path, "security.capability", CAPABILITY),
        nothing,
    ),
    "xattr_capability_goes_with_a_write": (
        lambda path: put(path, b"written") and None,
        lambda path: os.setxattr(path, "security.capability", CAPABILITY),
    ),
    "xattr_capability_goes_with_a_truncation": (
        lambda path: os.truncate(path, len(b"content")),
        lambda path: os.setxattr(path, "security.capability", CAPABILITY),
    ),
}
check_rows(XATTRS, answers)


@check
def xattr_of_a_folder(folder: Path) -> Any:
    (folder / "dir").mkdir()
    return [
        said(os.setxattr, folder / "dir", "user.d", b"\x00\xff"),
        said(os.getxattr, folder / "dir", "user.d"),
    ]


@check
def xattr_of_a_symbolic_link(folder: Path) -> Any:
    os.symlink("nowhere", folder / "link")
    return [
        said(os.setxattr, folder / "link", name, b"1", follow_symlinks=False)
        for name in ("trusted.t", "user.t")
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


@check_that_needs(EXTENSION)
def default_access_lists_are_inherited(folder: Path) -> Any:
    """Under any umask: that does not count where there is a default list (acl(5))."""
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
def the_umask_counts_without_default_access_lists(folder: Path) -> Any:
    with umask(0o027):
        put(folder / "file")
        (folder / "dir").mkdir(0o777)
        os.mkfifo(folder / "fifo", 0o666)
        os.symlink("file", folder / "link")
    return [seen(folder / name)[0] for name in ("file", "dir", "fifo", "link")]


@check
def statfs_shows_the_limits(folder: Path) -> Any:
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
