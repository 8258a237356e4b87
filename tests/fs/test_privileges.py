"""Setuid, setgid and capabilities: what a change takes away is what it takes from a plain file."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs.backing.credentials import Credentials
from mirrorfs.fs import privileges
from tests.posix.checks import USER, as_user

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GROUP = 23456
CAP_FSETID = 4  # linux/capability.h
MODES = [
    setid | rest
    for setid in (0, stat.S_ISUID, stat.S_ISGID, stat.S_ISUID | stat.S_ISGID)
    for rest in (0o777, 0o767, 0o666)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that all users may search; what is in it may be changed by all."""
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    return tmp_path


def make(folder: Path, name: str, mode: int, gid: int = 0) -> Path:
    path = folder / name
    path.write_bytes(b"content")
    os.chown(path, 0, gid)
    path.chmod(mode)
    return path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def dropped(path: Path, change: Callable[[int, Credentials | None], None]) -> int:
    """The mode after a change that a client makes whose credentials are those of this process."""
    fd = os.open(path, os.O_PATH)
    change(fd, Credentials(os.geteuid(), os.getegid(), os.getpid()))
    os.close(fd)
    return mode_of(path)


def write(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, b"C", 0)
    os.close(fd)


def plain_and_ours(
    plain: Path, ours: Path, change: Callable[[Path], object], **user: Any
) -> tuple[int, int]:
    """The modes after a change by a user: one that the kernel saw, and one by `drop_setid`, whose
    caller is a process of that user.
    """
    assert as_user(lambda: change(plain), **user) in {"None", "0"}
    fd = os.open(ours, os.O_PATH)
    reading, writing = os.pipe()
    waiting, releasing = os.pipe()

    def stay() -> None:
        os.write(writing, b"%d" % os.getpid())
        os.read(waiting, 1)

    child = os.fork()
    if child == 0:
        try:
            as_user(stay, **user)
        finally:
            os._exit(0)
    pid = int(os.read(reading, 20))
    uid = user.get("uid", USER)
    privileges.drop_setid(fd, Credentials(uid, uid, pid))
    os.write(releasing, b".")
    os.waitpid(child, 0)
    for end in (releasing, waiting, reading, writing, fd):
        os.close(end)
    return mode_of(plain), mode_of(ours)


USERS: dict[str, dict[str, Any]] = {
    "another user": {},
    "a member of the group": {"groups": (GROUP,)},
    "one with CAP_FSETID": {"with_": CAP_FSETID},
}


@pytest.mark.parametrize("who", USERS)
def test_a_write_takes_setid_as_from_a_plain_file(folder: Path, who: str) -> None:
    for mode, gid in itertools.product(MODES, (GROUP, USER)):
        paths = [make(folder, f"{name}-{mode:o}-{gid}", mode, gid) for name in ("plain", "ours")]
        plain, ours = plain_and_ours(paths[0], paths[1], write, **USERS[who])
        assert f"{ours:o}" == f"{plain:o}", (f"{mode:o}", gid)


def test_root_keeps_setid_at_a_write(folder: Path) -> None:
    for mode in MODES:
        path = make(folder, f"{mode:o}", mode)
        write(path)
        assert mode_of(path) == mode
        assert dropped(path, privileges.drop_setid) == mode


def test_a_caller_without_privileges_takes_setuid_and_executable_setgid(folder: Path) -> None:
    path = make(folder, "file", 0o6777)
    fd = os.open(path, os.O_PATH)
    privileges.drop_setid(fd, None)
    assert mode_of(path) == 0o777
    path.chmod(0o6767)
    privileges.drop_setid(fd, None)
    assert mode_of(path) == 0o2767
    os.close(fd)


@pytest.mark.parametrize("kind", ["root", "user"])
def test_setid_that_cannot_be_taken_is_an_error_for_roots_daemon_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The kernel takes it itself when the daemon of an ordinary user writes below."""

    def refuse(_path: object, _mode: int) -> None:
        raise PermissionError(errno.EPERM, "injected")

    path = tmp_path / "file"
    path.touch()
    path.chmod(0o4755)
    fd = os.open(path, os.O_PATH)
    monkeypatch.setattr(os, "chmod", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 0 if kind == "root" else 1000)
    if kind == "root":
        with pytest.raises(PermissionError):
            privileges.drop_setid(fd, None)
    else:
        privileges.drop_setid(fd, None)
    os.close(fd)


def test_a_file_without_setid_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: object, _mode: int) -> None:
        pytest.fail("the mode was set")

    path = tmp_path / "file"
    path.touch()
    fd = os.open(path, os.O_PATH)
    monkeypatch.setattr(os, "chmod", fail)
    privileges.drop_setid(fd, None)
    os.close(fd)


@pytest.mark.parametrize("mode", [0o6755, 0o4755, 0o2745])
def test_a_new_owner_takes_setid_as_of_a_plain_file(folder: Path, mode: int) -> None:
    plain, ours = make(folder, "plain", mode), make(folder, "ours", mode)
    os.chown(plain, USER, -1)
    after = dropped(ours, lambda fd, caller: privileges.set_owner(fd, USER, -1, caller))  # type: ignore[arg-type]
    assert after == mode_of(plain)
    assert ours.stat().st_uid == USER


def test_a_user_who_is_not_the_owner_takes_no_setid_by_setting_no_owner(folder: Path) -> None:
    path = make(folder, "file", 0o6777)
    stranger = Credentials(USER, USER)
    fd = os.open(path, os.O_PATH)
    with pytest.raises(PermissionError):
        privileges.set_owner(fd, -1, -1, stranger)
    assert mode_of(path) == 0o6777
    os.close(fd)


@pytest.mark.parametrize(("gid", "expected"), [(USER, 0o2755), (GROUP, 0o755)])
def test_a_new_access_list_keeps_setgid_of_the_callers_own_group_alone(
    folder: Path, gid: int, expected: int
) -> None:
    path = make(folder, "file", 0o2755, gid)
    fd = os.open(path, os.O_PATH)
    privileges.drop_foreign_setgid(fd, Credentials(USER, USER))
    assert mode_of(path) == expected
    os.close(fd)
