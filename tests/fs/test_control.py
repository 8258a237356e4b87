"""The control folder: its files lie on no disk, and what copies bring along is dropped there."""

from __future__ import annotations

import errno
import os
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing.credentials import Credentials
from mirrorfs.fs.control import ControlFile, ControlFolder
from mirrorfs.fs.entry import Changes
from mirrorfs.fs.inode_numbers import FIRST_CONTROL_ID, ROOT_ID
from mirrorfs.fs.threads import Threads
from mirrorfs.fs.turn import Turn
from tests.fs.tables import in_main_loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.fs.handles import ControlHandle

FOLDER = FIRST_CONTROL_ID
CALLER = Credentials(1000, 1001, 1, 0o022)
COPIED = b"format.json"


class Control:
    """A folder with one file of each kind: what was written, and how often a text was made."""

    def __init__(self, state_name: bytes | None = None) -> None:
        self.taken: list[bytes] = []
        self.made = 0
        files = {
            "stats": ControlFile(0o444, self._text),
            "reset": ControlFile(0o200, accept=self.taken.append),
            "long": ControlFile(0o400, self._text, takes_long=True),
            "both": ControlFile(0o600, lambda: b"", self.taken.append),
        }
        self.folder = ControlFolder(b".control", files, state_name)

    def _text(self) -> bytes:
        self.made += 1
        return b"text %d" % self.made

    async def read(self, handle: ControlHandle, offset: int, size: int) -> bytes:
        threads = Threads(1, Turn())
        try:
            return await self.folder.read(handle, offset, size, threads)
        finally:
            threads.close()

    def id_of(self, name: bytes) -> int:
        return self.folder.lookup(FOLDER, name).node_id

    def make(self, name: bytes, kind: int = stat.S_IFREG, parent_id: int = FOLDER) -> int:
        return self.folder.make(parent_id, name, kind | 0o666, CALLER).node_id

    def listed(self, folder_id: int = FOLDER, start: int = 0, room: int = 100) -> list[bytes]:
        found: list[bytes] = []

        def take(name: bytes, _entry: object, _following: int) -> bool:
            if len(found) == room:
                return False
            found.append(name)
            return True

        self.folder.list(folder_id, start, take)
        return found


@pytest.fixture
def control() -> Control:
    return Control()


def code_of(call: Callable[[], object]) -> int:
    with pytest.raises(OSError) as caught:
        call()
    return caught.value.errno or -1


@pytest.mark.parametrize(
    ("state_name", "reserved"),
    [(None, [b".control"]), (b".control", [b".control"]), (b".state", [b".control", b".state"])],
)
def test_the_names_of_the_control_folder_and_of_a_state_folder_in_the_root_are_reserved(
    state_name: bytes | None, reserved: list[bytes]
) -> None:
    folder = Control(state_name).folder
    names = [b".control", b".state", b"file"]
    assert [name for name in names if folder.reserves(ROOT_ID, name)] == reserved
    assert not any(folder.reserves(ROOT_ID + 1, name) for name in names)
    for name in reserved:
        assert code_of(lambda name=name: folder.check_free(ROOT_ID, name)) == errno.EEXIST  # type: ignore[misc]
    folder.check_free(ROOT_ID, b"file")
    assert folder.is_state_folder(ROOT_ID, b".state") is (b".state" in reserved)
    assert not folder.is_state_folder(ROOT_ID, b".control")


def test_a_state_folder_of_another_name_is_not_seen_but_for_a_copy_of_one() -> None:
    control = Control(b".state")
    assert control.folder.lookup_in_root(b".control").node_id == FOLDER
    assert code_of(lambda: control.folder.lookup_in_root(b".state")) == errno.ENOENT
    made = control.make(b".state", stat.S_IFDIR, ROOT_ID)
    assert control.folder.lookup_in_root(b".state").node_id == made


def test_control_files_have_numbers_in_order_and_modes_of_their_own(control: Control) -> None:
    ids = [control.id_of(name) for name in (b"stats", b"reset", b"long", b"both")]
    assert ids == [FOLDER + 1, FOLDER + 2, FOLDER + 3, FOLDER + 4]
    modes = [control.folder.entry(node_id).status.mode for node_id in (FOLDER, *ids)]
    assert modes == [
        stat.S_IFDIR | 0o555,
        stat.S_IFREG | 0o444,
        stat.S_IFREG | 0o200,
        stat.S_IFREG | 0o400,
        stat.S_IFREG | 0o600,
    ]
    entry = control.folder.entry(ids[0])
    assert (entry.status.uid, entry.status.gid) == (os.geteuid(), os.getegid())
    assert (entry.name_seconds, entry.attribute_seconds) == (0, 0)
    assert all(map(ControlFolder.owns, [FOLDER, *ids]))
    assert not ControlFolder.owns(FOLDER - 1)


def test_a_dot_is_the_folder_itself_for_a_file_handle(control: Control) -> None:
    assert control.folder.lookup(FOLDER + 1, b".").node_id == FOLDER + 1


@pytest.mark.parametrize("name", [b"nothing", b"\xff", b""])
def test_a_name_that_is_not_there_is_not_found(control: Control, name: bytes) -> None:
    assert code_of(lambda: control.folder.lookup(FOLDER, name)) == errno.ENOENT
    assert code_of(lambda: control.folder.lookup(FOLDER + 1, b"stats")) == errno.ENOENT


def test_a_number_that_stands_for_nothing_is_stale(control: Control) -> None:
    assert code_of(lambda: control.folder.entry(FOLDER + 5)) == errno.ESTALE
    assert code_of(lambda: control.folder.open(FOLDER + 5, os.O_RDONLY)) == errno.ESTALE


@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        (b"stats", os.O_RDONLY, 0),
        (b"stats", os.O_WRONLY, errno.EACCES),
        (b"stats", os.O_RDWR, errno.EACCES),
        (b"reset", os.O_RDONLY, errno.EACCES),
        (b"reset", os.O_WRONLY | os.O_TRUNC, 0),
        (b"reset", os.O_RDWR, errno.EACCES),
        (b"both", os.O_RDWR, 0),
    ],
)
def test_a_control_file_opens_for_what_it_can_do_alone(
    control: Control, name: bytes, flags: int, expected: int
) -> None:
    node_id = control.id_of(name)
    if expected:
        assert code_of(lambda: control.folder.open(node_id, flags)) == expected
    else:
        handle = control.folder.open(node_id, flags)
        assert handle.name == name.decode()
        assert handle.writing is (flags & os.O_ACCMODE != os.O_RDONLY)


@pytest.mark.parametrize("name", [b"stats", b"long"])
@in_main_loop
async def test_one_reading_of_a_control_file_shows_one_instant(name: bytes) -> None:
    control = Control()
    handle = control.folder.open(control.id_of(name), os.O_RDONLY)
    read = control.read
    assert (await read(handle, 0, 4), await read(handle, 4, 100)) == (b"text", b" 1")
    assert await read(handle, 100, 5) == b""
    assert await read(handle, 0, 100) == b"text 2"
    other = control.folder.open(control.id_of(name), os.O_RDONLY)
    assert await read(other, 5, 100) == b"3"
    assert await read(handle, 0, 4) == b"text"


@in_main_loop
async def test_a_text_that_takes_long_is_made_in_another_thread() -> None:
    made_in: list[int] = []
    threads = Threads(1, Turn())

    def text() -> bytes:
        made_in.append(threading.get_ident())
        return b"text"

    folder = ControlFolder(b".control", {"a": ControlFile(0o400, text, takes_long=True)})
    handle = folder.open(FOLDER + 1, os.O_RDONLY)
    assert await folder.read(handle, 0, 10, threads) == b"text"
    assert made_in != [threading.get_ident()]
    threads.close()


def test_what_is_written_to_a_control_file_is_handed_on_as_it_came(control: Control) -> None:
    handle = control.folder.open(control.id_of(b"reset"), os.O_WRONLY)
    assert control.folder.write(handle, 77, b"1\n") == 2
    assert control.taken == [b"1\n"]


@in_main_loop
async def test_a_handle_cannot_do_what_its_file_cannot() -> None:
    control = Control()
    reader = control.folder.open(control.id_of(b"stats"), os.O_RDONLY)
    writer = control.folder.open(control.id_of(b"reset"), os.O_WRONLY)
    assert code_of(lambda: control.folder.write(reader, 0, b"x")) == errno.EBADF
    with pytest.raises(OSError) as caught:
        await control.read(writer, 0, 1)
    assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (Changes(size=0), 0),
        (Changes(atime_ns=1, mtime_ns=1), 0),
        (Changes(mode=0o600), errno.EPERM),
        (Changes(uid=0), errno.EPERM),
        (Changes(gid=0), errno.EPERM),
    ],
)
def test_a_control_file_can_be_truncated_but_not_given_away(
    control: Control, changes: Changes, expected: int
) -> None:
    before = control.folder.entry(FOLDER + 2).status.mode
    if expected:
        assert code_of(lambda: control.folder.set(FOLDER + 2, changes)) == expected
    else:
        assert control.folder.set(FOLDER + 2, changes).status.mode == before


def test_attributes_that_a_copy_sets_of_the_folder_are_accepted(control: Control) -> None:
    entry = control.folder.set(FOLDER, Changes(mode=0o700, uid=5))
    assert entry.status.mode == stat.S_IFDIR | 0o555


def test_a_listing_goes_on_where_it_stopped(control: Control) -> None:
    control.make(COPIED)
    names = [b".", b"stats", b"reset", b"long", b"both"]
    assert control.listed() == names
    assert control.listed(room=2) == names[:2]
    assert control.listed(start=2) == names[2:]
    assert control.listed(start=9) == []


def test_a_removed_control_file_is_still_there(control: Control) -> None:
    control.folder.remove(FOLDER, b"stats")
    assert control.id_of(b"stats") == FOLDER + 1
    assert code_of(lambda: control.folder.remove(FOLDER, b"nothing")) == errno.ENOENT


@pytest.mark.parametrize(
    "name", [COPIED, b".format.json.Ab12Cd", b"unsettled", b".unsettled.Ab12Cd", b"unsettled.new"]
)
@in_main_loop
async def test_what_a_copy_of_a_state_folder_brings_is_accepted_and_dropped(name: bytes) -> None:
    control = Control()
    node_id = control.make(name)
    status = control.folder.entry(node_id).status
    assert (status.mode, status.uid, status.gid) == (stat.S_IFREG | 0o644, 1000, 1001)
    handle = control.folder.open(node_id, os.O_RDWR)
    assert control.folder.write(handle, 100, b"x" * 50) == 50
    assert control.folder.write(handle, 0, b"x") == 1
    assert control.folder.entry(node_id).status.size == 150
    assert await control.read(handle, 0, 1000) == b""
    assert control.taken == []
    control.folder.set(node_id, Changes(0o600, 5, 6, 7, 8, 9))
    status = control.folder.entry(node_id).status
    assert status.mode == stat.S_IFREG | 0o600
    assert (status.uid, status.gid, status.size) == (5, 6, 7)
    assert (status.atime_ns, status.mtime_ns) == (8, 9)


@pytest.mark.parametrize("name", [b"notes", b"stats2", b"my-unsettled"])
def test_nothing_else_is_accepted_and_dropped(control: Control, name: bytes) -> None:
    assert code_of(lambda: control.make(name)) == errno.EPERM


def test_a_dropped_name_is_taken_once(control: Control) -> None:
    control.make(COPIED)
    assert code_of(lambda: control.make(COPIED)) == errno.EEXIST


def test_a_dropped_folder_holds_what_is_made_in_it_and_is_removed_when_empty(
    control: Control,
) -> None:
    folder = control.make(b"unsettled", stat.S_IFDIR)
    inside = control.make(b"anything", stat.S_IFDIR, folder)
    assert control.folder.entry(folder).status.nlink == 2
    assert control.listed(folder) == [b".", b"anything"]
    assert code_of(lambda: control.folder.remove(FOLDER, b"unsettled")) == errno.ENOTEMPTY
    control.folder.remove(folder, b"anything")
    control.folder.remove(FOLDER, b"unsettled")
    assert code_of(lambda: control.folder.lookup(FOLDER, b"unsettled")) == errno.ENOENT
    assert control.folder.entry(inside).status.nlink == 2  # the kernel still knows it


def test_a_dropped_file_is_renamed_onto_another(control: Control) -> None:
    temporary, old = control.make(b".unsettled.Ab12Cd"), control.make(b"unsettled")
    control.folder.rename(FOLDER, b".unsettled.Ab12Cd", FOLDER, b"unsettled")
    assert control.folder.lookup(FOLDER, b"unsettled").node_id == temporary
    assert code_of(lambda: control.folder.lookup(FOLDER, b".unsettled.Ab12Cd")) == errno.ENOENT
    assert control.folder.entry(old).node_id == old


def test_renames_to_and_from_control_files_and_the_mount_are_refused(control: Control) -> None:
    control.make(COPIED)
    for old, new, expected in [
        ((FOLDER, b"stats"), (FOLDER, b"unsettled"), errno.EPERM),
        ((FOLDER, COPIED), (FOLDER, b"stats"), errno.EPERM),
        ((FOLDER, COPIED), (ROOT_ID, b"file"), errno.EPERM),
        ((ROOT_ID, b"file"), (FOLDER, b"unsettled"), errno.EPERM),
        ((FOLDER, b"nothing"), (FOLDER, b"unsettled"), errno.ENOENT),
    ]:
        call = lambda old=old, new=new: control.folder.rename(*old, *new)  # noqa: E731
        assert code_of(call) == expected


def test_a_dropped_file_is_known_until_its_last_lookup_is_taken_away(control: Control) -> None:
    node_id = control.make(COPIED)
    assert control.id_of(COPIED) == node_id
    control.folder.forget(node_id, 1)
    assert control.id_of(COPIED) == node_id
    control.folder.forget(node_id, 2)
    assert code_of(lambda: control.folder.lookup(FOLDER, COPIED)) == errno.ENOENT
    assert code_of(lambda: control.folder.entry(node_id)) == errno.ESTALE
    control.folder.forget(node_id, 1)
    assert control.make(COPIED) != node_id  # numbers are not used twice


def test_an_entry_of_a_listing_counts_as_a_lookup_but_for_the_folder(control: Control) -> None:
    folder = control.make(b"unsettled", stat.S_IFDIR)
    inside = control.make(b"anything", parent_id=folder)
    assert control.listed(folder) == [b".", b"anything"]
    control.folder.forget(inside, 1)
    assert control.folder.entry(inside).node_id == inside
    control.folder.forget(folder, 1)
    assert code_of(lambda: control.folder.entry(folder)) == errno.ESTALE


def test_control_files_take_no_part_in_lookup_counts(control: Control) -> None:
    control.folder.forget(FOLDER, 5)
    control.folder.forget(FOLDER + 1, 5)
    assert control.id_of(b"stats") == FOLDER + 1


def test_a_forgotten_file_that_was_renamed_over_does_not_take_the_name_along(
    control: Control,
) -> None:
    new, old = control.make(b".unsettled.Ab12Cd"), control.make(b"unsettled")
    control.folder.rename(FOLDER, b".unsettled.Ab12Cd", FOLDER, b"unsettled")
    control.folder.forget(old, 1)
    assert control.folder.lookup(FOLDER, b"unsettled").node_id == new
