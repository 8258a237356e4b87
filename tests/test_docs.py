"""The pages name what is there: files of the package, links with their headings, words of today."""

from __future__ import annotations

import ast
import errno
import os
import re
from pathlib import Path

import pytest

from mirrorfs.options import OPTIONS, parse

TOP = Path(__file__).parent.parent
PAGES = [*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md")]
_NAMED = re.compile(r"(?<![\w./-])((?:mirrorfs|tools|tests|docs)/[\w./-]*\w/?)")
_SHORT = re.compile(r"`((?:backing|mirror|fs|fuse|daemon|cli|native)/[\w/]+\.(?:py|c))`")
_BARE = re.compile(r"`(\w+\.(?:py|c))`")
_LINK = re.compile(r"\]\(([^):]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_OPTION = re.compile(r"(?<![\w-])-o ([\w.=/,-]+)")
# Messages on the page on troubleshooting: in bold, or in the first column of a table.
_MESSAGE = re.compile(r"(?:\*\*|^\| |, )`([^`]+)`", re.MULTILINE)
# What stands for something, or is an example of it.
_PLACEHOLDER = re.compile(r"…|\b[A-Z]+\b|ext4|\([\d:]+\)|\b\d+\b|: ")
_NO_OPTIONS = {"OPT", "remount"}  # the former stands for any, the latter is refused


def page_id(page: Path) -> str:
    return str(page.relative_to(TOP))


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as they are made where it is shown."""
    headings = _HEADING.findall(without_code(page.read_text()))
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    for name in _NAMED.findall(text):
        assert (TOP / name).exists(), name
    for name in _SHORT.findall(text):
        room = "mirrorfs/fuse" if name.startswith("native/") else "mirrorfs"
        assert (TOP / room / name).exists(), name
    for name in _BARE.findall(text):
        assert any((TOP / "mirrorfs").rglob(name)), name


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_leads_to_a_page_and_its_heading(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_option_that_a_page_passes_is_known(page: Path) -> None:
    for words in _OPTION.findall(page.read_text()):
        for word in words.strip(".").split(","):
            name, _, value = word.partition("=")
            if value.isupper():  # it stands for any value
                assert name in {option.name for option in OPTIONS}, word
            elif word not in _NO_OPTIONS:
                parse(word)


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, left = set[Path](), [TOP / "README.md"]
    while left:
        page = left.pop()
        if page in reached:
            continue
        reached.add(page)
        for target in _LINK.findall(page.read_text()):
            there = (page.parent / target.partition("#")[0]).resolve()
            if there.suffix == ".md":
                left.append(there)
    assert set(PAGES) <= reached


def texts() -> str:
    """All strings of the package, and of errno, with blanks for what is put into them."""
    found = [os.strerror(code) for code in errno.errorcode]
    for path in (TOP / "mirrorfs").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (one.value if isinstance(one, ast.Constant) else " " for one in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value.replace("%s", " "))
    return "\n".join(" ".join(text.split()) for text in found)


def test_troubleshooting_quotes_messages_as_they_are() -> None:
    page = (TOP / "docs/troubleshooting.md").read_text()
    known = texts()
    for message in _MESSAGE.findall(page):
        if message.startswith(("kill ", "mirrorfs ")):  # a command
            continue
        for words in _PLACEHOLDER.split(" ".join(message.split())):
            piece = words.strip(" :;,().'")
            assert len(piece) < 4 or piece in known, message
