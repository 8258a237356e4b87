"""The mount is like the folder below it: each check sees the same in both.

The mounts live as long as the session, and each check has a folder of its own in them.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.commands import run
from tests.disks import MKFS
from tests.mounted import Mirror, without_extension
from tests.posix.checks import CHECKS, EXTENSION, ZEROED_RANGES, let_others_through

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Each file beside this one adds its checks when it is imported.
for path in sorted(Path(__file__).parent.glob("*.py")):
    if not path.name.startswith(("test_", "_")):
        importlib.import_module(f"tests.posix.{path.stem}")

# What the mounts that are compared lack: on tmpfs names and attributes are dealt with in the main
# loop, and without the extension all goes through pyfuse3.
LACKS: dict[str, set[str]] = {
    **{kind: set() for kind in MKFS},
    "tmpfs": {ZEROED_RANGES},
    **{f"{kind} without the extension": {EXTENSION} for kind in MKFS},
}


@dataclass
class Twins:
    """A mount, and a plain folder on the file system that is below it."""

    mirror: Mirror
    plain: Path


@pytest.fixture(scope="session")
def twins_on(
    file_systems: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Twins]]:
    """Gives the twins of a name in LACKS; made when they are first wanted."""
    made: dict[str, Twins] = {}
    with contextlib.ExitStack() as stack:

        def make(where: str) -> Twins:
            kind = where.split()[0]
            folder = tmp_path_factory.mktemp("parity")
            if kind == "tmpfs":
                disk = folder / "memory"
                disk.mkdir()
                run("mount", "-t", "tmpfs", "none", disk)
                stack.callback(run, "umount", disk)
            else:
                disk = file_systems(kind)
            names = [disk / f"{folder.name}-{name}" for name in ("backing", "plain")]
            for name in names:
                name.mkdir()
            mirror = Mirror(names[0], folder / "mirror", folder / "mirror.log")
            mirror.path.mkdir()
            if EXTENSION in LACKS[where]:
                mirror.environment["PYTHONPATH"] = without_extension(folder)
            let_others_through(mirror.path, mirror.backing)
            mirror.mount()
            stack.callback(mirror.umount)
            return Twins(mirror, names[1])

        def get(where: str) -> Twins:
            if where not in made:
                made[where] = make(where)
            return made[where]

        yield get


@pytest.mark.parametrize(
    ("name", "where"),
    [
        pytest.param(name, where, id=f"{name}-{where.replace(' ', '-')}")
        for where, lacking in LACKS.items()
        for name, check in CHECKS.items()
        if not lacking & {*check.needs}
    ],
)
def test_mount_is_like_the_folder_below(
    name: str, where: str, twins_on: Callable[[str], Twins]
) -> None:
    """A check sees the same in both, and the mount finds nothing to warn of."""
    twins = twins_on(where)
    folders = twins.plain / name, twins.mirror.path / name
    for folder in folders:
        folder.mkdir()
    below, mounted = (CHECKS[name].look(folder) for folder in folders)
    assert mounted == below
    assert not twins.mirror.troubles()
    for folder in folders:
        shutil.rmtree(folder)


def test_name_of_a_check_is_no_part_of_the_name_of_another() -> None:
    """So `-k` finds it alone."""
    assert len(CHECKS) > 100
    for name in CHECKS:
        assert re.fullmatch("[a-z0-9_]+", name)
        assert [other for other in CHECKS if name in other] == [name]
