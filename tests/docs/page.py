"""The command blocks of docs/nightly.md, as they stand there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/nightly.md"
_BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`(/[^`]+)`")

# Each block by the words that it begins with. One that is not here fails the tests, so that the
# page holds nothing that was never run.
_BLOCKS = {
    "install": "git clone",
    "fstab": "LABEL=backup",
    "mount": "mkdir -p /srv/bk",
    "job": "#!/bin/sh",
    "service": "[Unit]\nDescription=Copy the images into the mirror",
    "timer": "[Unit]\nDescription=Copy the images every night",
    "enable": "systemctl daemon-reload",
    "cron": "30 2 * * *",
    "restore": "cp -a --sparse=always",
    "upgrade": "mirrorfs umount /mnt/mirror && cd",
    "disable": "systemctl disable",
    "remove": "mirrorfs umount /mnt/mirror &&\n",
}


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `file` is the path that the paragraph before it names last, if any."""

    text: str
    file: str
    is_executable: bool


def blocks() -> dict[str, Block]:
    """Every block of the page, by the names above. ValueError for one that is unknown, missing or
    there twice.
    """
    text = PAGE.read_text()
    found: dict[str, Block] = {}
    for match in _BLOCK.finditer(text):
        before = text[: match.start()].strip().rsplit("\n\n", 1)[-1]
        names = [name for name, start in _BLOCKS.items() if match[1].startswith(start)]
        if len(names) != 1 or names[0] in found:
            raise ValueError(f"a block of {PAGE.name} that no test runs:\n{match[1]}")
        files = _FILE.findall(before)
        found[names[0]] = Block(match[1], files[0] if files else "", "mode 755" in before)
    if missing := set(_BLOCKS) - set(found):
        raise ValueError(f"{PAGE.name} no longer has the blocks {missing}")
    return found
