"""What is known of the caller, the process that made a request."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mirrorfs.backing.credentials import CAP_FSETID, Credentials, in_group, is_capable

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
NO_PROCESS = 1 << 22  # above pid_max


@contextmanager
def running(*command: str) -> Iterator[int]:
    """A process that has done what `command` does before it says that it is ready."""
    words = [*command, "sh", "-c", "echo ready; exec sleep 60"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process.pid
        finally:
            process.kill()


def test_root_has_a_capability_that_it_has_not_given_up() -> None:
    assert is_capable(Credentials(0, 0, os.getpid()), CAP_FSETID)
    with running("setpriv", "--bounding-set", "-fsetid", "--inh-caps", "-fsetid") as pid:
        assert not is_capable(Credentials(0, 0, pid), CAP_FSETID)


def test_a_user_has_a_capability_only_if_it_was_given() -> None:
    user = ("setpriv", "--reuid", str(NOBODY), "--clear-groups")
    with running(*user) as pid:
        assert not is_capable(Credentials(NOBODY, NOBODY, pid), CAP_FSETID)
    with running(*user, "--inh-caps", "+fsetid", "--ambient-caps", "+fsetid") as pid:
        assert is_capable(Credentials(NOBODY, NOBODY, pid), CAP_FSETID)


def test_root_of_another_user_namespace_has_no_capability_here() -> None:
    with running("unshare", "--user", "--map-root-user") as pid:
        assert not is_capable(Credentials(0, 0, pid), CAP_FSETID)


def test_of_processes_that_are_gone_only_root_has_a_capability() -> None:
    assert is_capable(Credentials(0, 0, NO_PROCESS), CAP_FSETID)
    assert not is_capable(Credentials(NOBODY, NOBODY, NO_PROCESS), CAP_FSETID)


def test_supplementary_groups_count() -> None:
    with running("setpriv", "--reuid", str(NOBODY), "--regid", "7", "--groups", "8,9") as pid:
        assert in_group(Credentials(NOBODY, 7, pid), 7)
        assert in_group(Credentials(NOBODY, 7, pid), 9)
        assert not in_group(Credentials(NOBODY, 7, pid), 10)
    assert not in_group(Credentials(NOBODY, 7, NO_PROCESS), 8)
