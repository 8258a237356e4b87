"""`mirrorfs top` on a terminal."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

from mirrorfs.errors import ExitCode
from tests.commands import MIRRORFS, spelled, wait_for
from tests.terminal import (
    ENTER_SCREEN,
    LEAVE_SCREEN,
    SHOW_CURSOR,
    Terminal,
    mirrorfs_on_a_terminal,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

MIB = 1 << 20
_COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38;5;\d+)m")


@pytest.fixture
def mirror(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    return mount_mirror(ext4_folder)


def is_left_as_it_was(terminal: Terminal) -> bool:
    """Whether the terminal has its own screen, its cursor and its attributes again."""
    text = terminal.text
    return (
        terminal.attributes() == terminal.attributes_before
        and text.count(ENTER_SCREEN) == text.count(LEAVE_SCREEN) == text.count(SHOW_CURSOR) >= 1
        and text.rindex(LEAVE_SCREEN) > text.rindex(ENTER_SCREEN)
        and "Traceback" not in text
    )


@pytest.mark.parametrize("key", [b"q", b"Q"])
def test_q_ends_it(mirror: Mirror, key: bytes) -> None:
    with mirrorfs_on_a_terminal("top", mirror.path) as terminal:
        terminal.wait_until_it_shows("mirrorfs top", mirror.path.name, "0 B/s", "GiB")
        assert terminal.attributes() != terminal.attributes_before
        terminal.type(b"x" + key)
        assert terminal.end() == 0
        assert is_left_as_it_was(terminal)
        assert "x" + key.decode() not in terminal.text  # no echo


def test_ctrl_c_ends_it(mirror: Mirror) -> None:
    with mirrorfs_on_a_terminal("top", mirror.path, "--interval", "0.1") as terminal:
        terminal.wait_until_it_shows(mirror.path.name)
        terminal.type(b"\x03")
        assert terminal.end() == 128 + signal.SIGINT
        assert is_left_as_it_was(terminal)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(mirror: Mirror, number: signal.Signals) -> None:
    with mirrorfs_on_a_terminal("top", mirror.path, "--interval", "0.1") as terminal:
        terminal.wait_until_it_shows(mirror.path.name)
        terminal.send(number)
        assert terminal.end() == 128 + number
        assert is_left_as_it_was(terminal)


def test_ctrl_z_gives_the_terminal_back_and_fg_goes_on(mirror: Mirror) -> None:
    top = " ".join(spelled([*MIRRORFS, "top", mirror.path]))
    script = f"{top}; echo a shell again; fg >/dev/null; echo over $?"
    with Terminal("bash", "-mc", script) as terminal:
        terminal.wait_until_it_shows(mirror.path.name)
        terminal.type(b"\x1a")
        wait_for(lambda: terminal.text.count(ENTER_SCREEN) == 2)
        between = terminal.text.rpartition(ENTER_SCREEN)[0].partition(LEAVE_SCREEN)[2]
        assert "a shell again" in between
        terminal.wait_until_it_shows(mirror.path.name)
        terminal.type(b"q")
        assert terminal.end() == 0
        assert "over 0" in terminal.text
        assert is_left_as_it_was(terminal)


def test_the_screen_follows_the_size_of_the_terminal(mirror: Mirror) -> None:
    words = ("top", mirror.path, "--interval", "3600")
    with mirrorfs_on_a_terminal(*words, lines=20, columns=120, COLUMNS="40") as terminal:
        for lines, columns in [(20, 120), (10, 90), (30, 140), (3, 12), (24, 100)]:
            terminal.resize(lines, columns)

            def fits(lines: int = lines, columns: int = columns) -> bool:
                frames = terminal.frames()
                return bool(frames) and ([len(line) for line in frames[-1]] == [columns] * lines)

            wait_for(fits)
        terminal.wait_until_it_shows(mirror.path.name)
        terminal.type(b"q")
        assert terminal.end() == 0


def test_the_busiest_files_are_shown_by_their_names(mirror: Mirror) -> None:
    with mirrorfs_on_a_terminal("top", mirror.path, "--interval", "0.2") as terminal:

        def is_shown() -> bool:
            mirror.write("[red]odd\nname:smile:", 0, os.urandom(2 * MIB))
            mirror.write("small", 0, b"x" * 1000)
            return terminal.shows(r"[red]odd\nname:smile:", "small", "MiB/s")

        wait_for(is_shown)
        (frame,) = [one for one in terminal.frames()[-2:] if "small" in "\n".join(one)][-1:]
        (large,) = [number for number, line in enumerate(frame) if "[red]" in line]
        (small,) = [number for number, line in enumerate(frame) if line.startswith("small")]
        assert large < small


def test_a_mount_that_hangs_is_shown_and_one_that_is_unmounted_goes_away(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    for name in ("a", "b"):
        (ext4_folder / name).mkdir()
    hung, well = mount_mirror(ext4_folder / "a"), mount_mirror(ext4_folder / "b")
    words = ("top", hung.path, well.path, "--interval", "0.2")
    with mirrorfs_on_a_terminal(*words, columns=200) as terminal:
        terminal.wait_until_it_shows(str(hung.path), str(well.path))
        pid = hung.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            terminal.wait_until_it_shows(f"{hung.path} not answering", "does not answer")

            def goes_on() -> bool:
                well.write("file", 0, os.urandom(MIB))
                return terminal.shows(f"{hung.path} not answering", "file", "/s")

            wait_for(goes_on)
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: "not answering" not in "\n".join(terminal.frames()[-1]))
        hung.umount()
        wait_for(lambda: str(hung.path) not in "\n".join(terminal.frames()[-1]))
        well.umount()
        assert terminal.end() == ExitCode.NOT_A_MOUNT
        assert is_left_as_it_was(terminal)
        after = terminal.text.rpartition(LEAVE_SCREEN)[2]
        assert after.strip() == "mirrorfs: no mirrorfs is mounted here any more"


@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_color_is_honoured(mirror: Mirror, no_color: str) -> None:
    mirror.kill()
    with mirrorfs_on_a_terminal("top", mirror.path, NO_COLOR=no_color) as terminal:
        terminal.wait_until_it_shows("not answering", "is dead")
        terminal.type(b"q")
        assert terminal.end() == 0
        assert bool(_COLOUR.search(terminal.text)) == (not no_color)


def test_a_count_ends_it_and_a_terminal_that_can_do_nothing_gets_lines(mirror: Mirror) -> None:
    words = ("top", mirror.path, "--interval", "0.1", "--count", "2")
    with mirrorfs_on_a_terminal(*words) as terminal:
        assert terminal.end() == 0
        assert is_left_as_it_was(terminal)
    with mirrorfs_on_a_terminal(*words, TERM="dumb") as terminal:
        assert terminal.end() == 0
        assert "\x1b" not in terminal.text
        assert len(terminal.text.splitlines()) == 2
