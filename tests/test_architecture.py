"""Imports point to the left, files stay readable, and the pages of docs/ are complete."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mirrorfs.errors import ExitCode
from mirrorfs.options import OPTIONS

TOP = Path(__file__).parent.parent
PACKAGE = TOP / "mirrorfs"
# Imports point to the left only.
ROOMS = ["backing", "mirror", "catalog", "fs", "fuse", "daemon", "cli"]
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [*MODULES, *sorted(PACKAGE.rglob("*.[ch]")), *sorted(PACKAGE.rglob("*.pyi"))]
# Standard library modules that a pure decision does without.
IMPURE = {"os", "trio", "pyfuse3", "threading", "subprocess"}
MAX_LINES = 400


def path_id(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imports(path: Path) -> set[str]:
    """What a file imports, also inside functions and under TYPE_CHECKING."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def file_of(name: str) -> Path | None:
    """The file of the package that an imported name leads to."""
    parts = name.split(".")
    if parts[0] != PACKAGE.name:
        return None
    for length in range(len(parts), 1, -1):
        path = PACKAGE.joinpath(*parts[1:length])
        if path.with_suffix(".py").exists():
            return path.with_suffix(".py")
        if (path / "__init__.py").exists():
            return path / "__init__.py"
    return None


def room(path: Path) -> int | None:
    """The place of a file's room from the left; None for what all may import."""
    first = path.relative_to(PACKAGE).parts[0]
    return ROOMS.index(first) if first in ROOMS else None


@pytest.mark.parametrize("path", MODULES, ids=path_id)
def test_imports_point_to_the_left(path: Path) -> None:
    own = room(path)
    for name in imports(path):
        imported = file_of(name)
        there = None if imported is None else room(imported)
        if own is None:
            assert there is None or path.name == "__main__.py", name
        elif there is not None:
            assert there <= own, name


def test_every_folder_of_the_package_is_a_room() -> None:
    folders = {path.parent.relative_to(PACKAGE).parts[:1] for path in MODULES} - {()}
    assert {first for (first,) in folders} <= set(ROOMS)


def test_no_files_of_a_room_import_each_other_in_a_circle() -> None:
    graph = {
        path: {
            found
            for found in map(file_of, imports(path))
            if found is not None and found != path and room(found) == room(path)
        }
        for path in MODULES
        if room(path) is not None
    }
    graph = {
        path: {found for found in found_all if found.name != "__init__.py"}
        for path, found_all in graph.items()
    }
    with_way: dict[Path, bool] = {}

    def visit(path: Path, way: list[Path]) -> None:
        assert path not in way, " -> ".join(map(path_id, [*way[way.index(path) :], path]))
        if path not in with_way:
            for found in sorted(graph[path]):
                visit(found, [*way, path])
            with_way[path] = True

    for path in graph:
        visit(path, [])


@pytest.mark.parametrize("path", MODULES, ids=path_id)
def test_only_fuse_knows_pyfuse3(path: Path) -> None:
    known = {name.split(".")[0] for name in imports(path)}
    assert "pyfuse3" not in known or path.parent.name == "fuse"
    assert "trio" not in known or path.parent.name in {"fs", "fuse", "daemon"}


def test_the_plan_is_pure() -> None:
    assert not {name.split(".")[0] for name in imports(PACKAGE / "mirror/plan.py")} & IMPURE


@pytest.mark.parametrize("path", SOURCES, ids=path_id)
def test_a_file_is_short_enough_to_be_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", MODULES, ids=path_id)
def test_a_module_says_what_it_holds(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_every_option_is_documented() -> None:
    page = (TOP / "docs/options.md").read_text().replace("\\|", "|")
    for option in OPTIONS:
        assert f"`{option.spelled}`" in page, option.name


def test_every_exit_code_is_documented() -> None:
    page = (TOP / "docs/exit-codes.md").read_text()
    for code in ExitCode:
        assert f"| {code.value} |" in page, code.name


def test_every_counter_is_documented() -> None:
    from mirrorfs.mirror.counters import NAMES

    page = (TOP / "docs/account.md").read_text()
    for name in NAMES:
        assert f"`{name}`" in page, name


def test_links_between_the_pages_lead_somewhere() -> None:
    import re

    for page in [TOP / "README.md", *(TOP / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
