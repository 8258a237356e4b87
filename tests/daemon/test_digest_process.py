"""A side that hangs, or says what nobody understands, ends a comparison and is not waited for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mirrorfs.daemon import digest_process
from mirrorfs.daemon.digest_process import DigestProcess
from mirrorfs.errors import ExitCode, MirrorfsError, NoAnswerError
from tests.commands import run, wait_for

PYTHON = sys.executable


def test_a_side_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(digest_process, "STALL_SECONDS", 0.2)
    process = ["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 1000"]
    with (
        pytest.raises(NoAnswerError, match="/srv/x: nothing was read for 0 seconds"),
        DigestProcess(process, "/srv/x") as side,
    ):
        wait_for((tmp_path / "pid").exists)
        side.header()
    pid = (tmp_path / "pid").read_text().strip()
    assert not Path(f"/proc/{pid}").exists()


def test_another_host_may_ask_for_a_password_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest_process, "STALL_SECONDS", 0.1)
    words = ["sh", "-c", "sleep 0.5; exit 255"]
    with (
        pytest.raises(MirrorfsError, match="kvm1: cannot be reached"),
        DigestProcess(words, "kvm1:/x", "kvm1") as side,
    ):
        side.header()


@pytest.mark.parametrize("code", [1, 4, 12, 99, 255])
def test_what_a_side_says_before_it_fails_is_passed_on(code: int) -> None:
    words = ["sh", "-c", f"echo noise >&2; echo 'mirrorfs: /x: is bad' >&2; exit {code}"]
    with (
        pytest.raises(MirrorfsError, match=r"^/x: is bad$") as caught,
        DigestProcess(words, "/x") as side,
    ):
        side.header()
    known = code in set(ExitCode)
    assert caught.value.exit_code == (code if known else ExitCode.FAILED)


def test_names_are_not_written_to_one_that_has_ended() -> None:
    with (
        pytest.raises(MirrorfsError, match="it could not be read"),
        DigestProcess(["true"], "/x") as side,
    ):
        side._ended_with(60)
        side.choose([b"name"])


def test_a_path_that_begins_with_a_dash(tmp_path: Path) -> None:
    path = tmp_path / "-x"
    path.touch()
    with digest_process.here(b"-x", []) as side, pytest.raises(MirrorfsError, match="-x: No such"):
        side.header()
    assert run(PYTHON, "-m", "mirrorfs", "digest", "--", "-x", cwd=tmp_path).stdout.endswith("-x\n")
