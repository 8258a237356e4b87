"""The mount is like the folder below it: each check sees the same in both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import run
from tests.posix import access, attributes, content, making, naming, space
from tests.posix.checks import CHECKS, let_others_through

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Mirror


ZEROES_RANGES = {
    "ranges_are_punched_and_zeroed",
    "setuid_goes_by_who_changes_a_file_and_not_by_how",
}
# What only the extension can do.
NEEDS_EXTENSION = {
    "default_lists_are_inherited",
    "ranges_are_punched_and_zeroed",
    "space_is_preallocated",
    "data_and_holes_are_found",
    "setuid_goes_by_who_changes_a_file_and_not_by_how",
    "truncation_to_the_size_it_has_frees_what_lies_beyond",
}


def differences(mirror: Mirror, names: list[str]) -> str:
    """What each check sees in the plain folder and in the mount, where that is not the same."""
    let_others_through(mirror.path, mirror.backing)
    plain = mirror.backing.parent / f"{mirror.backing.name}-plain"
    found = []
    for name in names:
        folders = plain / name, mirror.path / name
        for folder in folders:
            folder.mkdir(parents=True)
        below, mounted = (CHECKS[name](folder) for folder in folders)
        if below != mounted:
            found.append(f"{name}\n  plain {below!r:.2000}\n  mount {mounted!r:.2000}")
    return "\n".join(found)


@pytest.mark.timeout(600)
def test_every_check_sees_the_same(mirror: Mirror, subtests_of: list[str]) -> None:
    assert not differences(mirror, subtests_of)


@pytest.mark.timeout(600)
def test_so_it_does_on_tmpfs(
    tmp_path: Path, mount_mirror: Callable[..., Mirror], subtests_of: list[str]
) -> None:
    """Where names and attributes are dealt with in the main loop. tmpfs cannot zero a range."""
    memory = tmp_path / "memory"
    memory.mkdir()
    run("mount", "-t", "tmpfs", "none", memory)
    try:
        backing = memory / "backing"
        backing.mkdir()
        mirror = mount_mirror(backing)
        names = [name for name in subtests_of if name not in ZEROES_RANGES]
        assert not differences(mirror, names)
        mirror.umount()
    finally:
        run("umount", "--lazy", memory, check=False)


@pytest.mark.timeout(600)
def test_so_it_does_without_the_extension(
    loop_fs: Path,
    mount_mirror: Callable[..., Mirror],
    subtests_of: list[str],
    no_extension: str,
) -> None:
    mirror = mount_mirror(loop_fs, PYTHONPATH=no_extension)
    names = [name for name in subtests_of if name not in NEEDS_EXTENSION]
    assert not differences(mirror, names)


@pytest.fixture
def subtests_of() -> list[str]:
    # Each of these adds its checks to the list when it is imported.
    assert all((access, attributes, content, making, naming, space))
    return list(CHECKS)
