"""What config.json says of features that the machine may not allow."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from mirrorfs import _native, options
from mirrorfs.fs import direct_writes
from mirrorfs.fuse import extension, optional_features
from mirrorfs.fuse.optional_features import OptionalFeatures, describe_feature

ON = {"on": True}
SPARSE = {"sparse_operations", "append_where_the_end_is"}


class Machine:
    """What the native module and the kernel can do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reason = ""  # why the native module is not bound
        self.state: dict[str, Any] = {
            "want": _native.CAP_DONT_MASK | _native.CAP_HANDLE_KILLPRIV_V2,
            "sees_requests": True,
            "reason": "",
        }
        self.installed: dict[str, Any] = {}
        self._patch = monkeypatch
        monkeypatch.setattr(extension, "bind", lambda: not self.reason)
        monkeypatch.setattr(_native, "state", lambda: self.state)
        monkeypatch.setattr(_native, "install", self.installed.update)
        monkeypatch.setattr(direct_writes, "is_coherent", lambda _release: True)

    def features(self, words: str = "") -> OptionalFeatures:
        self._patch.setattr(extension, "reason", self.reason)
        return OptionalFeatures(options.parse(words))

    def off(self, words: str = "") -> dict[str, object]:
        """The features that are off, and why."""
        found: dict[str, Any] = self.features(words).describe()
        assert all(one == ON or one.keys() == {"on", "reason"} for one in found.values())
        return {name: one["reason"] for name, one in found.items() if not one["on"]}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_all_features_are_on_where_the_machine_allows_them(machine: Machine) -> None:
    assert machine.features().describe() == {
        "sparse_operations": ON,
        "umask_by_default_acl": ON,
        "writes_without_asking": ON,
        "append_where_the_end_is": ON,
        "direct_writes": ON,
    }


def test_without_the_native_module_all_are_off_for_the_reason_it_is_missing(
    machine: Machine,
) -> None:
    machine.reason = "pyfuse3 was imported before it"
    assert machine.off() == dict.fromkeys(machine.features().describe(), machine.reason)


def test_a_capability_that_the_kernel_does_not_give_turns_off_what_needs_it(
    machine: Machine,
) -> None:
    cannot = "this kernel or libfuse cannot"
    machine.state["want"] = _native.CAP_HANDLE_KILLPRIV_V2
    assert machine.off() == {"umask_by_default_acl": cannot}
    machine.state["want"] = _native.CAP_DONT_MASK
    assert machine.off() == {"writes_without_asking": cannot, "direct_writes": cannot}


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("hooked too late", "hooked too late"), ("", "this kernel or libfuse cannot")],
)
def test_sparse_operations_are_off_where_requests_do_not_come_through(
    machine: Machine, caplog: pytest.LogCaptureFixture, reason: str, expected: str
) -> None:
    machine.state |= {"sees_requests": False, "reason": reason}
    assert machine.off() == dict.fromkeys(SPARSE, expected)
    with caplog.at_level(logging.INFO):
        machine.features().log_missing()
    assert [record.message.partition(": ")[2] for record in caplog.records] == [expected]


def test_nothing_is_logged_where_nothing_is_missing(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        machine.features().log_missing()
    assert caplog.records == []


def test_direct_writes_are_off_where_the_user_or_the_kernel_refuses_them(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine.off("direct_writes=off") == {"direct_writes": "turned off by direct_writes=off"}
    monkeypatch.setattr(direct_writes, "is_coherent", lambda _release: False)
    assert machine.off().keys() == {"direct_writes"}
    assert machine.off("direct_writes=on") == {}


def test_writes_are_direct_from_the_moment_at_which_the_kernel_has_answered(
    machine: Machine,
) -> None:
    machine.state["sees_requests"] = False
    features = machine.features()
    assert not features.writes_directly()
    machine.state["sees_requests"] = True
    assert features.writes_directly()
    machine.state["want"] = 0  # decided for the whole mount
    assert features.writes_directly()


def test_writes_are_never_direct_without_the_native_module(machine: Machine) -> None:
    machine.reason = "it was not loaded"
    assert not machine.features().writes_directly()


def test_the_native_module_is_shown_what_it_is_to_ask_for(machine: Machine) -> None:
    requests: Any = type("Requests", (), {"receivers": {5: print}})
    machine.features().install(requests)
    assert machine.installed == {
        "requests": {5: print},
        "want": _native.CAP_DONT_MASK | _native.CAP_HANDLE_KILLPRIV_V2,
        "dont_want": _native.CAP_ASYNC_DIO,
        "max_background": optional_features.BACKGROUND,
    }
    machine.installed.clear()
    machine.reason = "it was not loaded"
    machine.features().install(requests)
    assert machine.installed == {}


def test_requests_are_ours_where_the_session_was_made_through_the_native_module(
    machine: Machine,
) -> None:
    assert machine.features().are_requests_ours
    machine.state["reason"] = "hooked too late"
    assert not machine.features().are_requests_ours
    machine.state["reason"] = ""
    machine.reason = "it was not loaded"
    assert not machine.features().are_requests_ours


def test_a_feature_is_on_or_has_a_reason() -> None:
    assert describe_feature("") == ON
    assert describe_feature("no") == {"on": False, "reason": "no"}
