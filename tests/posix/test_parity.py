"""The mount is like the folder below it: each check sees the same in both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.posix import access, attributes, content, making, naming, space
from tests.posix.checks import CHECKS, let_others_through

if TYPE_CHECKING:
    from tests.conftest import Mirror


@pytest.mark.timeout(600)
def test_every_check_sees_the_same(mirror: Mirror, subtests_of: list[str]) -> None:
    let_others_through(mirror.path, mirror.backing)
    plain = mirror.backing.parent / f"{mirror.backing.name}-plain"
    differences = []
    for name in subtests_of:
        folders = plain / name, mirror.path / name
        for folder in folders:
            folder.mkdir(parents=True)
        below, mounted = (CHECKS[name](folder) for folder in folders)
        if below != mounted:
            differences.append(f"{name}\n  plain {below!r:.2000}\n  mount {mounted!r:.2000}")
    assert not differences, "\n".join(differences)


@pytest.fixture
def subtests_of() -> list[str]:
    # Each of these adds its checks to the list when it is imported.
    assert all((access, attributes, content, making, naming, space))
    return list(CHECKS)
