"""Links, renames and listings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tests.posix.checks import as_user, check, opened, put, rename_with, said, seen

if TYPE_CHECKING:
    from pathlib import Path


@check
def symbolic_links_keep_their_target(folder: Path) -> Any:
    targets = [b"file", b"/etc/passwd", b"../..", b"\xff\xfe", b"x" * 1000, b" "]
    for number, target in enumerate(targets):
        os.symlink(target, os.fsencode(folder / str(number)))
    return [
        (os.readlink(os.fsencode(folder / str(number))), (folder / str(number)).lstat().st_size)
        for number in range(len(targets))
    ] + [said(os.symlink, "", folder / "empty"), said(os.symlink, "x" * 5000, folder / "long")]


@check
def hard_links_are_one_file(folder: Path) -> Any:
    put(folder / "a")
    os.link(folder / "a", folder / "b")
    with (folder / "b").open("ab") as file:
        file.write(b" more")
    os.chmod(folder / "b", 0o600)
    one = os.path.samefile(folder / "a", folder / "b")
    before = seen(folder / "a")
    os.unlink(folder / "a")
    return one, before, seen(folder / "b"), (folder / "b").read_bytes()


@check
def a_hard_link_to_a_symbolic_link(folder: Path) -> Any:
    os.symlink("nowhere", folder / "link")
    os.link(folder / "link", folder / "hard", follow_symlinks=False)
    return seen(folder / "hard"), os.readlink(folder / "hard")


@check
def renames(folder: Path) -> Any:
    put(folder / "a", b"a")
    put(folder / "b", b"b")
    (folder / "dir/sub").mkdir(parents=True)
    (folder / "empty").mkdir()
    return [
        said(os.rename, folder / "a", folder / "b"),
        (folder / "b").read_bytes(),
        said(os.rename, folder / "b", folder / "dir"),
        said(os.rename, folder / "dir", folder / "b"),
        said(os.rename, folder / "dir", folder / "dir/sub/x"),
        said(os.rename, folder / "empty", folder / "dir"),
        said(os.rename, folder / "dir", folder / "empty"),
        said(os.rename, folder / "none", folder / "x"),
        said(os.rename, folder / "b", folder / "none/x"),
        said(os.rename, folder / "b", folder / ("n" * 256)),
        said(os.rename, folder / "b", folder / "b"),
        said(os.rename, folder / "b", folder / "empty/sub/b"),
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*")),
    ]


@check
def renames_with_flags(folder: Path) -> Any:
    put(folder / "a", b"a")
    put(folder / "b", b"b")
    (folder / "dir").mkdir()
    return [
        rename_with(1, folder / "a", folder / "b"),
        rename_with(1, folder / "a", folder / "c"),
        rename_with(2, folder / "c", folder / "b"),
        (folder / "b").read_bytes(),
        rename_with(2, folder / "c", folder / "none"),
        rename_with(2, folder / "c", folder / "dir"),
        seen(folder / "c")[0][:5],
        rename_with(3, folder / "b", folder / "c"),
        rename_with(64, folder / "b", folder / "c"),
        sorted(os.listdir(folder)),
    ]


@check
def a_whiteout_is_left_by_rename(folder: Path) -> Any:
    put(folder / "a")
    put(folder / "c")
    folder.chmod(0o777)
    return [
        rename_with(4, folder / "a", folder / "b"),
        as_user(lambda: rename_with(4, folder / "c", folder / "d")),
        *[seen(folder / name) for name in "abcd"],
    ]


@check
def renaming_one_hard_link_onto_the_other_does_nothing(folder: Path) -> Any:
    put(folder / "a")
    os.link(folder / "a", folder / "b")
    os.rename(folder / "a", folder / "b")
    return sorted(os.listdir(folder)), seen(folder / "b")


@check
def a_file_replaced_while_open_stays_readable(folder: Path) -> Any:
    put(folder / "old", b"old")
    put(folder / "new", b"new")
    with opened(folder / "old", os.O_RDWR) as fd:
        os.rename(folder / "new", folder / "old")
        os.pwrite(fd, b"OLD and", 0)
        return os.pread(fd, 100, 0), os.fstat(fd).st_nlink, (folder / "old").read_bytes()


@check
def an_unlinked_open_file_works(folder: Path) -> Any:
    with opened(folder / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.unlink(folder / "file")
        os.write(fd, b"content")
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, 4)
        os.utime(fd, ns=(1, 2))
        status = os.fstat(fd)
        put(folder / "file", b"another")
        return (
            os.pread(fd, 100, 0),
            oct(status.st_mode),
            status.st_nlink,
            status.st_mtime_ns,
            said(os.link, f"/proc/self/fd/{fd}", folder / "back"),
        )


@check
def a_removed_working_folder_still_answers(folder: Path) -> Any:
    (folder / "dir").mkdir()
    with opened(folder / "dir", os.O_RDONLY) as fd:
        os.rmdir(folder / "dir")
        return os.listdir(fd), said(os.mkdir, "x", dir_fd=fd), os.fstat(fd).st_nlink in {0, 1}


@check
def a_listing_survives_deletion_while_reading(folder: Path) -> Any:
    for number in range(2000):
        (folder / f"file-{number}").touch()
    removed = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            os.unlink(entry.path)
            removed += 1
    return removed, os.listdir(folder)


@check
def a_listing_knows_the_kinds(folder: Path) -> Any:
    put(folder / "file")
    (folder / "dir").mkdir()
    os.symlink("x", folder / "link")
    os.mkfifo(folder / "fifo")
    with os.scandir(folder) as entries:
        return sorted(
            (
                e.name,
                e.is_file(follow_symlinks=False),
                e.is_dir(follow_symlinks=False),
                e.is_symlink(),
            )
            for e in entries
        )


@check
def names_of_any_bytes(folder: Path) -> Any:
    raw = os.fsencode(folder)
    for byte in range(1, 256):
        if byte != ord("/"):
            with open(os.path.join(raw, b"n" + bytes([byte])), "wb"):
                pass
    return sorted(os.listdir(raw))
