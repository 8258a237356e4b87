"""How the C extension is loaded and bound, each time in a Python of its own."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import run

if TYPE_CHECKING:
    import subprocess

TOP = Path(__file__).parent.parent.parent


ORDERS = {
    "pyfuse3 first": ("import pyfuse3", os.RTLD_NOW | os.RTLD_GLOBAL, "was loaded before"),
    "not global": ("", os.RTLD_NOW, "finds another fuse_session_new before the hook"),
    "right": ("", os.RTLD_NOW | os.RTLD_GLOBAL, None),
}


@pytest.mark.parametrize("order", ORDERS)
def test_bind_sees_a_wrong_order(order: str) -> None:
    first, flags, complaint = ORDERS[order]
    told = python(
        f"""
        {first}
        import sys
        sys.setdlopenflags({flags})
        import mirrorfs._fuseext as extension, pyfuse3
        print(extension.bind(pyfuse3.__file__))
        """
    )
    if complaint:
        assert "OSError" in told.stderr
        assert complaint in told.stderr
    else:
        assert "/libfuse3.so" in told.stdout


def test_bind_and_install_refuse_what_makes_no_sense() -> None:
    told = python(
        """
        from mirrorfs.fuse import extension
        from mirrorfs import _fuseext
        import _ctypes, pyfuse3
        for call, words in [
            (_fuseext.bind, {}), (_fuseext.install, {"lseek": 1}), (_fuseext.install, {"want": -1}),
            (_fuseext.install, {"want": "x"}), (_fuseext.install, {"other": None}),
        ]:
            try:
                call(**words)
            except (TypeError, OverflowError) as exc:
                print(type(exc).__name__)
        for path in ["/nowhere", _ctypes.__file__, _fuseext.__file__]:
            try:
                _fuseext.bind(path)
            except OSError as exc:
                print(str(exc).removeprefix(path))
        """
    )
    assert told.stderr == ""
    assert told.stdout.splitlines() == [
        "TypeError",
        "TypeError",
        "OverflowError",
        "TypeError",
        "TypeError",
        " is not loaded",
        " has no fuse_session_new behind it",
        " has no fuse_version behind it",
    ]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-c", textwrap.dedent(code), check=False, cwd=TOP)


def test_loading_it_imports_nothing_heavy() -> None:
    told = python(
        """
        import sys, mirrorfs.daemon.mount_spec
        print("mirrorfs._fuseext" in sys.modules, {"pyfuse3", "trio"} & set(sys.modules))
        """
    )
    assert told.stdout == "True set()\n"
