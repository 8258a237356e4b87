"""The options with which a mount is made known to FUSE."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import pytest

from mirrorfs import options
from mirrorfs.backing.probe import Abilities
from mirrorfs.daemon import main_loop
from mirrorfs.daemon.mount_spec import MountSpec, StateFolder

if TYPE_CHECKING:
    from collections.abc import Callable

ALWAYS = {"default_permissions", "subtype=mirrorfs", "fsname=/srv/backing"}


@pytest.mark.parametrize(
    ("backing", "expected"),
    [
        (b"/srv/backing", "/srv/backing"),
        (b"/srv/with space", "/srv/with space"),
        (b"/srv/a,b", r"/srv/a\,b"),
        (b"/srv/a\\b", r"/srv/a\\b"),
        (b"/srv/\xff", r"/srv/\\xff"),
        ("/srv/ñ".encode(), r"/srv/\\xc3\\xb1"),
        (b"/srv/a\\,b", r"/srv/a\\\,b"),
    ],
)
def test_the_source_in_the_mount_table_is_ascii_and_holds_commas(
    backing: bytes, expected: str
) -> None:
    assert main_loop._fs_name(backing) == expected


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda uid: monkeypatch.setattr(os, "geteuid", lambda: uid)


def fuse_options(words: str) -> set[str]:
    abilities = Abilities("ext4", 4096, punch=True, seek_proven=True)
    spec = MountSpec(
        b"/srv/backing", -1, b"/mnt", options.parse(words), abilities, StateFolder(None)
    )
    return main_loop._fuse_options(spec)


@pytest.mark.parametrize(
    ("uid", "words", "expected"),
    [
        (0, "", {"allow_other"}),
        (1000, "", set()),
        (0, "noallow_other", set()),
        (1000, "allow_other", {"allow_other"}),
        (1000, "ro", {"ro"}),
        (1000, "noatime", {"noatime"}),
        (1000, "nodiratime", set()),
        (1000, "noexec,nosuid,sync", {"noexec", "nosuid", "sync"}),
        (1000, "zeros=keep,debug,rw", set()),
    ],
)
def test_fuse_gets_the_options_that_it_knows_and_no_others(
    as_user: Callable[[int], None], uid: int, words: str, expected: set[str]
) -> None:
    as_user(uid)
    assert fuse_options(words) == ALWAYS | expected


@pytest.mark.parametrize(("limit", "expected"), [(1024, 256), (40, 16), (1 << 20, 1 << 18)])
def test_a_quarter_of_the_descriptors_is_for_files_that_are_merely_known(
    monkeypatch: pytest.MonkeyPatch, limit: int, expected: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (limit, limit))
    assert main_loop._descriptor_limit() == expected
