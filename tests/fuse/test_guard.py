"""What handlers raise becomes the errno of an answer, counted and logged as it deserves."""

from __future__ import annotations

import errno
import logging

import pytest

from mirrorfs.fuse.guard import Guard
from mirrorfs.mirror.counters import Account


@pytest.fixture
def account() -> Account:
    return Account()


def errno_of(account: Account, name: str, error: Exception) -> int:
    return Guard(account).errno_of(name, error)


def counted(account: Account) -> dict[str, int]:
    return account.snapshot().errors


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("lookup", errno.ENOENT),
        ("getxattr", errno.ENODATA),
        ("getxattr", errno.ERANGE),
        ("listxattr", errno.EOPNOTSUPP),
        ("removexattr", errno.ENODATA),
        ("lseek", errno.ENXIO),
        ("link", errno.EXDEV),
        ("rename", errno.EXDEV),
        ("fallocate", errno.EOPNOTSUPP),
        ("copy_file_range", errno.EINTR),
    ],
)
def test_an_everyday_answer_is_no_error(
    account: Account, caplog: pytest.LogCaptureFixture, name: str, code: int
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert errno_of(account, name, OSError(code, "")) == code
    assert counted(account) == {}
    assert caplog.records == []


@pytest.mark.parametrize(
    ("error", "code", "name"),
    [
        (FileNotFoundError(errno.ENOENT, ""), errno.ENOENT, "ENOENT"),
        (OSError("without a number"), errno.EIO, "EIO"),
        (OSError(0, "success"), errno.EIO, "EIO"),
        (MemoryError(), errno.ENOMEM, "ENOMEM"),
    ],
)
def test_another_error_is_counted_once_and_logged_at_the_level_of_debugging(
    account: Account,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    code: int,
    name: str,
) -> None:
    with caplog.at_level(logging.INFO):
        assert errno_of(account, "unlink", error) == code
    assert counted(account) == {name: 1}
    assert caplog.records == []


def test_a_bug_is_eio_with_its_traceback_in_the_log(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    error = ZeroDivisionError("a bug")
    assert errno_of(account, "write", error) == errno.EIO
    assert counted(account) == {"EIO": 1}
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.message == "write failed unexpectedly; answered with EIO"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize("name", ["forget", "release", "releasedir"])
def test_an_error_that_reaches_no_client_is_a_warning(
    account: Account, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    assert errno_of(account, name, OSError(errno.EIO, "Input/output error")) == errno.EIO
    assert counted(account) == {"EIO": 1}
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.WARNING, f"{name}: [Errno 5] Input/output error")
    ]
