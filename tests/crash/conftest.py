"""What most tests of crashes begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror


@pytest.fixture
def ext4_mirror(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    """A mount in which a crash may leave something to warn of."""
    return mount_mirror(ext4_folder, noisy=True)
