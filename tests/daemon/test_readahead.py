"""How far the kernel reads ahead in files of a mount, and what is said where that is refused."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from mirrorfs.backing import mounts
from mirrorfs.backing.mounts import Mount
from mirrorfs.daemon import readahead
from mirrorfs.daemon.readahead import READAHEAD_BYTES, Readahead, set_readahead

POINT = b"/mnt/mirror"
MOUNTED = Mount(40, b"/", POINT, "fuse.mirrorfs", b"/srv", "0:57")


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the kernel's setting for the mount at POINT."""
    folder = tmp_path / "sys/class/bdi/0:57"
    folder.mkdir(parents=True)
    (folder / "read_ahead_kb").write_text("128\n")
    monkeypatch.setattr(readahead, "Path", lambda path: Path(f"{tmp_path}{path}"))
    monkeypatch.setattr(mounts, "mount_table", lambda: [MOUNTED])
    return folder / "read_ahead_kb"


def test_the_kernel_is_told_in_kib_for_the_device_of_the_mount(setting: Path) -> None:
    set_readahead(POINT, 256 << 10)
    assert setting.read_text() == "256"


def test_what_is_not_mounted_cannot_be_set(setting: Path) -> None:
    with pytest.raises(FileNotFoundError, match="mount table"):
        set_readahead(b"/elsewhere", 256 << 10)
    assert setting.read_text() == "128\n"


def test_the_feature_is_on_when_it_was_set(setting: Path) -> None:
    made = Readahead(POINT)
    assert made.describe() == {"on": False, "reason": "not tried yet"}
    made.set()
    assert made.describe() == {"on": True}
    assert int(setting.read_text()) << 10 == READAHEAD_BYTES


def test_a_refusal_keeps_the_kernels_own_and_says_why(
    setting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path, _text: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    made = Readahead(POINT)
    made.set()
    assert made.describe() == {
        "on": False,
        "reason": "the kernel's own is kept: Permission denied",
    }
    assert setting.read_text() == "128\n"
