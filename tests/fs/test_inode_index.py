"""Which inode gets which node id, which is the inode number that clients see."""

from __future__ import annotations

import stat
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mirrorfs.backing.lookup import top
from mirrorfs.backing.statx import Status
from mirrorfs.fs import forgotten_inodes, inode_numbers
from mirrorfs.fs.inode import Inode
from mirrorfs.fs.inode_index import InodeIndex

ROOT_DEV, OTHER_DEV, TWIN_DEV = 10, 20, 30
SHIFT = 12345


class Below:
    """Three devices, of which the last two have one identity, and the index of what is known."""

    def __init__(self, finds_by_number: bool = True) -> None:
        self.root, self.finds_by_number = SimpleNamespace(dev=ROOT_DEV, shift=1), finds_by_number
        self.devices = {
            ROOT_DEV: self.root,
            **{dev: SimpleNamespace(dev=dev, shift=SHIFT) for dev in (OTHER_DEV, TWIN_DEV)},
        }
        self.index = InodeIndex(cast("Any", self))
        self.top = self.make(2)
        self.index.add_root(self.top)

    def number(self, dev: int, ino: int) -> int:
        if dev == ROOT_DEV and inode_numbers.is_own(ino):
            return ino
        return inode_numbers.shifted(self.devices[dev].shift, ino)

    def make(self, ino: int, dev: int = ROOT_DEV, **more: Any) -> Inode:
        """An inode that is not known yet; `generation` is 0 if the file system has none."""
        parent = more.pop("parent", None)
        status = described(ino, dev, **more)
        return Inode(cast("Any", self.devices[dev]), status, parent, b"name")

    def add(self, ino: int, dev: int = ROOT_DEV, **more: Any) -> Inode:
        inode = self.make(ino, dev, **more)
        self.index.add(inode)
        return inode


def described(ino: int, dev: int = ROOT_DEV, born: int = 7, **more: Any) -> Status:
    mode = stat.S_IFREG | 0o644
    return Status(mode, 1, 0, 0, ino, 0, 0, 4096, 0, born, 0, 0, 0, dev)._replace(**more)


def test_numbers_of_the_roots_device_are_kept() -> None:
    below = Below()
    assert below.top.node_id == inode_numbers.ROOT_ID
    assert below.add(77).node_id == 77


def test_a_number_that_stands_for_the_root_is_shifted_away() -> None:
    below = Below()
    node_id = below.add(inode_numbers.ROOT_ID).node_id
    assert inode_numbers.FIRST_OTHER_ID <= node_id < inode_numbers.FIRST_CONTROL_ID
    assert below.index.find(described(inode_numbers.ROOT_ID)) is below.index.get(node_id)


def test_numbers_of_another_device_are_shifted() -> None:
    below = Below()
    assert below.add(77, OTHER_DEV).node_id == inode_numbers.shifted(SHIFT, 77)


def test_two_inodes_with_one_number_get_two_and_each_is_found() -> None:
    below = Below()
    first = below.add(77, OTHER_DEV)
    first.pins = 1
    second = below.add(77, TWIN_DEV)
    assert second.node_id == inode_numbers.next_to_try(first.node_id)
    for inode in (first, second):
        assert below.index.find(described(77, inode.device.dev)) is inode
        assert below.index.get(inode.node_id) is inode
    below.index.remove(second)
    assert below.index.find(described(77, TWIN_DEV)) is None
    assert below.index.find(described(77, OTHER_DEV)) is first


def test_a_taken_number_is_passed_over_until_one_is_free() -> None:
    below = Below()
    usual = inode_numbers.shifted(SHIFT, 77)
    steps = [below.add(inode_numbers.next_to_try(usual) - SHIFT, OTHER_DEV)]
    first = below.add(77, OTHER_DEV)
    first.pins = 1
    second = below.add(77, TWIN_DEV)
    assert steps[0].node_id == inode_numbers.next_to_try(first.node_id)
    assert second.node_id == inode_numbers.next_to_try(steps[0].node_id)


def test_an_inode_with_the_number_of_one_that_is_no_more_takes_its_place() -> None:
    below = Below()
    old = below.add(77, generation=1)
    old.lookups = 3
    new = below.make(77, born=8, generation=2)
    assert below.index.add(new) is old
    assert (new.node_id, new.generation, new.lookups, old.lookups) == (77, 2, 3, 0)
    assert below.index.find(described(77)) is None
    assert below.index.find(described(77, born=8)) is new
    assert len(below.index) == 2


def pin(inode: Inode) -> None:
    inode.pins = 1


def unlink(inode: Inode) -> None:
    inode.nameless = True


def keep_open(inode: Inode) -> None:
    inode.fd = 5


@pytest.mark.parametrize("use", [pin, unlink, keep_open])
def test_an_inode_in_use_is_not_replaced(use: Any) -> None:
    below = Below()
    old = below.add(77, generation=1)
    use(old)
    new = below.make(77, born=8, generation=2)
    assert below.index.add(new) is None
    assert old.node_id == 77 != new.node_id
    assert below.index.find(described(77)) is old
    assert below.index.find(described(77, born=8)) is new


def test_a_descriptor_on_a_device_that_was_mounted_anew_holds_no_number() -> None:
    below = Below()
    old = below.add(77, OTHER_DEV)
    keep_open(old)
    new = below.make(77, TWIN_DEV, born=8)
    assert below.index.add(new) is old
    assert new.node_id == old.node_id


def test_the_generation_below_is_kept_and_compared() -> None:
    below = Below()
    inode = below.add(77, generation=5)
    assert inode.generation == 5
    assert below.index.find(described(77, generation=5)) is inode
    assert below.index.find(described(77)) is inode  # it was not asked for
    assert below.index.find(described(77, generation=6)) is None


def test_an_inode_without_a_generation_gets_a_new_one_each_time() -> None:
    below = Below()
    first = below.add(77)
    below.index.remove(first)
    second = below.add(77)
    assert first.has_own_generation
    assert 0 < first.generation < 1 << 32
    assert first.generation != second.generation
    assert below.index.find(described(77, generation=6)) is second


def test_the_root_has_no_generation() -> None:
    below = Below()
    assert (below.top.generation, below.top.has_own_generation) == (0, True)


def test_what_a_mount_point_leads_to_has_a_number_by_its_place() -> None:
    below = Below()
    tops: list[Inode] = []
    for mount_id in (40, 41):
        status = top(described(2, OTHER_DEV, mount_id=mount_id))
        inode = Inode(cast("Any", below.devices[OTHER_DEV]), status, below.top, b"name")
        gone = below.index.add(inode)
        assert gone is (tops[-1] if tops else None)
        tops.append(inode)
    assert {inode.node_id for inode in tops} == {inode_numbers.of_place(1, b"name")}
    assert tops[0].generation != tops[1].generation
    assert below.index.find(top(described(2, OTHER_DEV, mount_id=41))) is tops[1]


def test_a_top_of_a_mount_and_a_file_do_not_replace_each_other() -> None:
    below = Below()
    place = inode_numbers.of_place(1, b"name")
    file = below.add(place - SHIFT, OTHER_DEV)
    assert file.node_id == place
    mounted = Inode(
        cast("Any", below.devices[OTHER_DEV]), top(described(2, OTHER_DEV)), below.top, b"name"
    )
    assert below.index.add(mounted) is None
    assert mounted.node_id != place


@pytest.mark.parametrize(
    ("finds_by_number", "dev", "is_remembered"),
    [(True, ROOT_DEV, False), (False, ROOT_DEV, True), (True, OTHER_DEV, True)],
)
def test_the_place_of_a_forgotten_inode_is_remembered_where_its_number_does_not_lead_to_it(
    finds_by_number: bool, dev: int, is_remembered: bool
) -> None:
    below = Below(finds_by_number)
    inode = below.add(77, dev, parent=below.top)
    below.index.remove(inode)
    place = below.index.forgotten.place_of(inode.node_id)
    assert place == ((1, b"name") if is_remembered else None)


def test_nothing_is_remembered_of_an_inode_without_a_name() -> None:
    below = Below(finds_by_number=False)
    inode = below.add(77, parent=below.top)
    inode.nameless = True
    below.index.remove(inode)
    assert below.index.forgotten.place_of(77) is None


def test_the_inodes_that_were_forgotten_most_recently_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forgotten_inodes, "_REMEMBERED", 2)
    below = Below(finds_by_number=False)
    for number in (5, 6, 5, 7):
        below.index.remove(below.add(number, parent=below.top))
    places = [below.index.forgotten.place_of(number) for number in (5, 6, 7)]
    assert places == [(1, b"name"), None, (1, b"name")]


def test_taking_all_inodes_out_leaves_none_known() -> None:
    below = Below()
    inode = below.add(77)
    assert below.index.pop_all() == [below.top, inode]
    assert len(below.index) == 0
