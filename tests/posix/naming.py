"""Links, renames and listings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tests.posix.checks import (
    as_user,
    check,
    check_rows,
    opened,
    put,
    rename_with,
    said,
    seen,
    tree,
)

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
def a_hard_link_of_a_symbolic_link_is_a_symbolic_link(folder: Path) -> Any:
    os.symlink("nowhere", folder / "link")
    os.link(folder / "link", folder / "hard", follow_symlinks=False)
    return seen(folder / "hard"), os.readlink(folder / "hard")


def renamed(folder: Path, flags: int | None, source: str, target: str) -> Any:
    """What a rename says, and what it leaves. Without flags it is the older call."""
    put(folder / "a", b"a")
    put(folder / "b", b"b")
    (folder / "dir/sub").mkdir(parents=True)
    (folder / "empty").mkdir()
    names = folder / source, folder / target
    answer = said(os.rename, *names) if flags is None else rename_with(flags, *names)
    return answer, tree(folder)


NOREPLACE, EXCHANGE, UNKNOWN = 1, 2, 64
RENAMES = {
    "rename_to_a_new_name": (None, "a", "c"),
    "rename_over_file": (None, "a", "b"),
    "rename_over_directory": (None, "a", "dir"),
    "rename_over_itself": (None, "a", "a"),
    "rename_of_directory_over_file": (None, "dir", "a"),
    "rename_of_directory_over_empty_directory": (None, "dir", "empty"),
    "rename_of_directory_over_full_directory": (None, "empty", "dir"),
    "rename_of_directory_into_itself": (None, "dir", "dir/sub/x"),
    "rename_of_a_missing_file": (None, "none", "x"),
    "rename_into_a_missing_directory": (None, "a", "none/x"),
    "rename_into_a_directory": (None, "a", "empty/a"),
    "rename_into_a_file": (None, "a", "b/a"),
    "rename_to_a_name_that_is_too_long": (None, "a", "n" * 256),
    "rename_noreplace_over_a_file": (NOREPLACE, "a", "b"),
    "rename_noreplace_to_a_free_name": (NOREPLACE, "a", "c"),
    "rename_exchange_of_two_files": (EXCHANGE, "a", "b"),
    "rename_exchange_of_file_and_directory": (EXCHANGE, "a", "dir"),
    "rename_exchange_with_a_missing_file": (EXCHANGE, "a", "none"),
    "rename_exchange_that_must_not_replace": (EXCHANGE | NOREPLACE, "a", "b"),
    "rename_with_an_unknown_flag": (UNKNOWN, "a", "b"),
}
check_rows(RENAMES, renamed)


@check
def rename_whiteout_leaves_a_device_for_root_alone(folder: Path) -> Any:
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
def an_unlinked_open_file_is_read_and_written(folder: Path) -> Any:
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
def a_removed_folder_that_is_open_is_empty_and_takes_nothing(folder: Path) -> Any:
    (folder / "dir").mkdir()
    with opened(folder / "dir", os.O_RDONLY) as fd:
        os.rmdir(folder / "dir")
        return os.listdir(fd), said(os.mkdir, "x", dir_fd=fd), os.fstat(fd).st_nlink in {0, 1}


@check
def a_listing_survives_deletion_while_reading(folder: Path) -> Any:
    for number in range(400):  # names so long that a client's buffer takes a third of them
        (folder / f"{number:0200}").touch()
    removed = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            os.unlink(entry.path)
            removed += 1
    return removed, os.listdir(folder)


@check
def a_listing_tells_the_kind_of_each_entry(folder: Path) -> Any:
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
def names_hold_any_byte_but_slash_and_nul(folder: Path) -> Any:
    raw = os.fsencode(folder)
    for byte in range(1, 256):
        if byte != ord("/"):
            with open(os.path.join(raw, b"n" + bytes([byte])), "wb"):
                pass
    return sorted(os.listdir(raw))
