"""How the native module is loaded and bound, each time in a Python of its own."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.commands import run

if TYPE_CHECKING:
    import subprocess

TOP = Path(__file__).parent.parent.parent


ORDERS = {
    "pyfuse3 first": ("import pyfuse3", os.RTLD_NOW | os.RTLD_GLOBAL, "was loaded before"),
    "not global": ("", os.RTLD_NOW, "finds another fuse_session_new before the hook"),
    "right": ("", os.RTLD_NOW | os.RTLD_GLOBAL, None),
}


@pytest.mark.parametrize("order", ORDERS)
def test_bind_refuses_a_module_that_is_not_before_libfuse(order: str) -> None:
    first, flags, complaint = ORDERS[order]
    done = python(
        f"""
        {first}
        import sys
        sys.setdlopenflags({flags})
        import mirrorfs._native as extension, pyfuse3
        print(extension.bind(pyfuse3.__file__))
        """
    )
    if complaint:
        assert "OSError" in done.stderr
        assert complaint in done.stderr
    else:
        assert "/libfuse3.so" in done.stdout


def test_bind_and_install_refuse_what_makes_no_sense() -> None:
    done = python(
        """
        from mirrorfs.fuse import extension
        from mirrorfs import _native
        import _ctypes, pyfuse3
        for call, words in [
            (_native.bind, {}), (_native.install, {"requests": 1}),
            (_native.install, {"requests": {26: print}}), (_native.install, {"want": "x"}),
            (_native.install, {"other": None}), (_native.install, {"requests": {1: 1}}),
            (_native.install, {"requests": {0: print}}),
            (_native.install, {"requests": {64: print}}),
            (_native.install, {"requests": {"1": print}}),
        ]:
            try:
                call(**words)
            except (TypeError, ValueError) as exc:
                print(type(exc).__name__)
        for path in ["/nowhere", _ctypes.__file__, _native.__file__]:
            try:
                _native.bind(path)
            except OSError as exc:
                print(str(exc).removeprefix(path))
        """
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "TypeError",
        "TypeError",
        "ValueError",
        "TypeError",
        "TypeError",
        "ValueError",
        "ValueError",
        "ValueError",
        "TypeError",
        " is not loaded",
        " has no fuse_session_new behind it",
        " has no fuse_session_process_buf behind it",
    ]


def test_without_a_session_nothing_is_received_or_answered() -> None:
    done = python(
        """
        from mirrorfs import _native
        _native.answer(5, b"")
        try:
            _native.serve(print)
        except RuntimeError as exc:
            print(exc)
        print(_native.is_ended())
        _native.stop()
        print(_native.is_ended())
        """
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["there is no session", "False", "True"]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-c", textwrap.dedent(code), check=False, cwd=TOP)


def test_loading_the_native_module_imports_neither_pyfuse3_nor_trio() -> None:
    done = python(
        """
        import sys, mirrorfs.fuse
        print("mirrorfs._native" in sys.modules, {"pyfuse3", "trio"} & set(sys.modules))
        """
    )
    assert done.stdout == "True set()\n"
