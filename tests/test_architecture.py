"""Imports point downwards, files stay readable, and the pages of docs/ are complete."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mirrorfs.errors import ExitCode
from mirrorfs.options import OPTIONS

TOP = Path(__file__).parent.parent
PACKAGE = TOP / "mirrorfs"
ROOMS = ["backing", "mirror", "fs", "fuse", "daemon", "cli"]
EVERYWHERE = {"mirrorfs.options", "mirrorfs.errors", "mirrorfs"}
MODULES = sorted(PACKAGE.rglob("*.py"))
# Standard library modules that a pure decision does without.
IMPURE = {"os", "trio", "pyfuse3", "threading", "subprocess"}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> int | None:
    parts = module.split(".")
    return ROOMS.index(parts[1]) if len(parts) > 1 and parts[1] in ROOMS else None


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    own = room(".".join(["mirrorfs", *path.relative_to(PACKAGE).with_suffix("").parts]))
    for name in imports(path):
        if not name.startswith("mirrorfs"):
            continue
        there = room(name)
        if own is None:
            assert there is None or path.name == "__main__.py", name
        elif there is not None:
            assert there <= own, name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_mount_knows_fuse(path: Path) -> None:
    heavy = {name.split(".")[0] for name in imports(path)} & {"pyfuse3", "trio"}
    assert not heavy or path.parent.name in {"fs", "fuse", "daemon"}


def test_the_plan_is_pure() -> None:
    assert not {name.split(".")[0] for name in imports(PACKAGE / "mirror/plan.py")} & IMPURE


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_fit_a_head(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
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
