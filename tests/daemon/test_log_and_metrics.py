"""What a mount says without a command: its log, and its errors in the metrics."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from mirrorfs import __version__
from mirrorfs.daemon import log_setup
from tests.commands import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror


def test_metrics_have_series_of_errors_before_the_first_one(mirror: Mirror) -> None:
    def values(name: str) -> dict[str, float]:
        """By errno, of which there may be none."""
        lines = (mirror.path / ".mirrorfs/metrics").read_text().splitlines()
        series = [line.rpartition(" ") for line in lines if line.startswith(f"{name}{{")]
        return {
            labels.partition('errno="')[2].partition('"')[0]: float(value)
            for labels, _, value in series
        }

    always = dict.fromkeys(("EDQUOT", "EIO", "ENOSPC", "EROFS"), 0.0)
    assert values("mirrorfs_errors_total") == always
    assert values("mirrorfs_failed_requests_total") == {"": 0.0}
    (mirror.path / "full/inside").mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(OSError, match="not empty"):
            os.rmdir(mirror.path / "full")
    assert values("mirrorfs_errors_total") == {**always, "ENOTEMPTY": 2.0}
    assert values("mirrorfs_failed_requests_total") == {"": 2.0}


def test_log_lines_carry_the_time_zone_and_none_is_of_pyfuse3(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "debug")
    (mirror.path / "full/inside").mkdir(parents=True)
    with pytest.raises(OSError, match="not empty"):
        os.rmdir(mirror.path / "full")
    mirror.umount()
    lines = mirror.log.read_text().splitlines()
    refused = [line for line in lines if " DEBUG " in line]
    assert any("rmdir: " in line and "not empty" in line and "full" in line for line in refused)
    assert not any("pyfuse" in line for line in lines)
    for line in lines:
        when = datetime.fromisoformat(line.split()[0])
        assert when.utcoffset() is not None


def test_log_lines_in_a_shared_file_carry_the_mount_point(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (ext4_folder / name).mkdir()
    options = f"log={tmp_path}/shared,noatime,nofail"
    mirrors = [mount_mirror(ext4_folder / name, options) for name in ("a", "b")]
    for mirror in mirrors:
        os.kill(mirror.pid, signal.SIGUSR2)  # the stacks, in many lines
        mirror.umount()
    lines = (tmp_path / "shared").read_text().splitlines()
    for mirror in mirrors:
        own = [line for line in lines if line.split()[2] == f"{mirror.path}:"]
        assert len(own) > 10
        given = f"log={mirror.log},{options}"
        assert own[0].endswith(
            f" INFO {mirror.path}: mounted {mirror.backing} on {mirror.path} "
            f"(mirrorfs {__version__}, ext4, options: {given})"
        )
        assert f" INFO {mirror.path}: unmounted: " in own[-1]
        lines = [line for line in lines if line not in own]
    assert not lines


def test_log_lines_in_syslog_carry_the_mount_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(tmp_path / "syslog"))
        monkeypatch.setattr(log_setup, "_SYSLOG_SOCKET", str(tmp_path / "syslog"))
        root = logging.getLogger()
        before = root.handlers[:], root.level, logging.raiseExceptions
        try:
            assert log_setup.set_up(None, b"/mnt/100%\xff", foreground=False, debug=False) is None
            logging.getLogger("mirrorfs.any").warning("one %s\ntwo", 1)
            root.handlers[0].close()
        finally:
            root.handlers[:], level, logging.raiseExceptions = before
            root.setLevel(level)
        lines = syslog.recv(1000).decode().rstrip("\0").partition(">")[2]
    head = r"WARNING /mnt/100%\xff: "
    assert lines == f"mirrorfs: {head}one 1\n{head}two"


def test_requests_for_what_does_not_exist_count_no_error(mirror: Mirror) -> None:
    mirror.write("file", 0, b"x")
    path = mirror.path / "file"
    with contextlib.suppress(FileNotFoundError):
        os.stat(mirror.path / "none")
    for call in (os.getxattr, os.removexattr):
        with pytest.raises(OSError, match="No data"):
            call(path, "user.none")
    run("setfacl", "-b", path)
    assert mirror.stats()["counters"]["errors"] == {}
