"""Answers that are as large as a client wants: listings of folders, and extended attributes."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from typing import Any

import pytest

from mirrorfs.backing.statx import Status
from mirrorfs.fs.entry import Entry
from mirrorfs.fuse import messages
from tests.fuse import kernel_messages as kernel
from tests.fuse.listed import Listed, listed

S = 1_000_000_000
STATUS = Status(stat.S_IFREG | 0o640, 2, 11, 12, 13, 14, 15, 16, 17 * S, 19, 20 * S, S, 23, 24)
FILE = Entry(77, STATUS, 1.5, 0.25, 9)
FOLDER = Entry(1 << 63, STATUS._replace(mode=stat.S_IFDIR | 0o755), 1.5, 0.25, 9)
NO_NUMBER = (1 << 64) - 1
PLENTY = 4096
BIG = (1 << 63) + 1
DT_DIR, DT_REG = 4, 8  # readdir(3)
ENTRY_BYTES = ctypes.sizeof(kernel.ENTRY_OUT)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 255])
def test_a_listing_has_names_with_number_and_type(length: int) -> None:
    listing = messages.Listing(PLENTY, has_attributes=False)
    assert listing.take(b"n" * length, FILE, 5)
    assert listing.take(b"fol\xffder", FOLDER, BIG)
    assert listed(listing.data, has_attributes=False) == [
        Listed(b"n" * length, 77, 5, DT_REG, b""),
        Listed(b"fol\xffder", 1 << 63, BIG, DT_DIR, b""),
    ]


def test_a_listing_with_attributes_has_an_entry_before_each_name() -> None:
    listing = messages.Listing(PLENTY, has_attributes=True)
    assert listing.take(b"file", FILE, 5)
    assert listing.take(b"folder", FOLDER, 6)
    assert listed(listing.data, has_attributes=True) == [
        Listed(b"file", 77, 5, DT_REG, messages.entry_out(FILE)),
        Listed(b"folder", 1 << 63, 6, DT_DIR, messages.entry_out(FOLDER)),
    ]


def test_a_name_that_could_not_be_looked_at_is_listed_without_a_type() -> None:
    plain = messages.Listing(PLENTY, has_attributes=False)
    assert plain.take(b"broken", None, 5)
    assert listed(plain.data, has_attributes=False) == [Listed(b"broken", NO_NUMBER, 5, 0, b"")]


def test_attributes_of_a_name_that_could_not_be_looked_at_are_none_that_the_kernel_takes() -> None:
    """fs/fuse/readdir.c, fuse_direntplus_link: an invalid type."""
    listing = messages.Listing(PLENTY, has_attributes=True)
    assert listing.take(b"broken", None, 5)
    (found,) = listed(listing.data, has_attributes=True)
    assert found[:4] == (b"broken", NO_NUMBER, 5, 0)
    entry: Any = kernel.ENTRY_OUT.from_buffer_copy(found.entry)
    assert (entry.nodeid, entry.attr.ino, entry.attr.mode) == (NO_NUMBER, NO_NUMBER, 0)
    assert (entry.entry_valid, entry.attr_valid) == (0, 0)


@pytest.mark.parametrize("has_attributes", [False, True])
def test_a_listing_is_no_larger_than_the_client_wants(has_attributes: bool) -> None:
    one = 32 + (ENTRY_BYTES if has_attributes else 0)  # a name of up to 8 bytes
    for size, count in (one - 1, 0), (one, 1), (2 * one - 1, 1), (2 * one, 2):
        listing = messages.Listing(size, has_attributes)
        taken = [listing.take(b"name", FILE, number) for number in range(3)]
        assert taken == [number < count for number in range(3)], size
        assert len(listing.data) == count * one
        assert len(listed(listing.data, has_attributes)) == count


@pytest.mark.parametrize("value", [b"", b"value", b"\0" * 100])
def test_an_extended_attribute_fits_or_is_refused_or_says_its_size(value: bytes) -> None:
    assert messages.xattr_out(value, max(1, len(value))) == value
    assert messages.xattr_out(value, PLENTY) == value
    size: Any = kernel.GETXATTR_OUT.from_buffer_copy(messages.xattr_out(value, 0))
    assert (size.size, size._padding) == (len(value), 0)
    if len(value) > 1:
        with pytest.raises(OSError) as caught:
            messages.xattr_out(value, len(value) - 1)
        assert caught.value.errno == errno.ERANGE


def test_names_of_extended_attributes_end_with_a_zero_each() -> None:
    names = [b"user.a", b"user.\xff"]
    assert messages.xattr_out(names, 14) == b"user.a\0user.\xff\0"
    assert messages.xattr_out(names, 0)[:4] == b"\x0e\0\0\0"
    with pytest.raises(OSError) as caught:
        messages.xattr_out(names, 13)
    assert caught.value.errno == errno.ERANGE
    assert messages.xattr_out([], 5) == b""


def test_a_file_system_is_described_as_below() -> None:
    fields: Any = (4096, 1024, 1 << 40, 1 << 39, 1 << 38, 1 << 33, 1 << 32, 5, 7, 255)
    made = os.statvfs_result(fields)
    answer = messages.statfs_out(made)
    assert len(answer) == ctypes.sizeof(kernel.STATFS_OUT)
    found: Any = kernel.KSTATFS.from_buffer_copy(answer)
    values = {name: getattr(found, name) for name, *_ in found._fields_}
    assert list(values.pop("_spare")) == [0] * 6
    assert values == {
        "blocks": 1 << 40,
        "bfree": 1 << 39,
        "bavail": 1 << 38,
        "files": 1 << 33,
        "ffree": 1 << 32,
        "bsize": 4096,
        "namelen": 255,
        "frsize": 1024,
        "_padding": 0,
    }
