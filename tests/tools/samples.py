"""Functions of which `test_selection` says whether they need root."""

from __future__ import annotations

import os
from pathlib import Path

from tests.commands import mirrorfs, run
from tests.disks import loop_mounted
from tests.privileges import needs_root


def by_a_helper(folder: Path) -> None:
    with loop_mounted("ext4", folder, 64):
        pass


def by_a_command() -> None:
    mirrorfs("mount", "one", "two")


def by_words_in_a_list() -> None:
    for words in (["true"], ["umount", "--lazy", "/place"]):
        run(*words)


def by_a_call() -> None:
    os.chown("file", 1, 1)


def by_a_function_inside() -> None:
    def inside() -> None:
        by_a_call()

    inside()


def by_a_file() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("1")


@needs_root
def by_its_decorator() -> None:
    pass


def by_one_with_a_decorator() -> None:
    by_its_decorator()


def without_any() -> None:
    run("true")
    Path("mounted").exists()
