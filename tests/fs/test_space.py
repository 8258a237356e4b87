"""What is only kept as a seed is given up before a request fails for want of space."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.lowlevel

from mirrorfs.fs import space as space_module
from mirrorfs.fs.space import Space
from mirrorfs.fs.turn import MAIN_LOOP, Turn
from tests.fs.filesystems import make_file, opened_filesystem
from tests.fs.tables import in_main_loop, receive

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Seeds:
    """What a device keeps as seeds: recently unlinked files, old files, stale tails."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = set(kinds)
        self.calls: list[str] = []

    async def _give_up(self, kind: str) -> bool:
        self.calls.append(kind)
        found = kind in self.kinds
        self.kinds.discard(kind)
        return found

    async def give_up_all(self, _device: object) -> bool:
        return await self._give_up("unlinked")

    async def give_up_seeds(self, _device: object) -> bool:
        return await self._give_up("seeds")

    async def finalise_all(self, _device: object) -> bool:
        return await self._give_up("stale tails")


class Device:
    """Runs calls at once, and counts them."""

    def __init__(self) -> None:
        self.runs = 0
        self.threads = self
        self.turn = Turn()
        self.reclaiming = trio.Lock()

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        self.runs += 1
        return function(*args)


class Disk:
    """A call that fails with each of these errors before it succeeds."""

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)

    def use(self, word: str) -> str:
        if self.codes:
            raise OSError(self.codes.pop(0), "injected")
        return word


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space_module, "_FORGET_SECONDS", 0.0)


def space_with(seeds: Seeds) -> Space:
    return Space(cast("Any", seeds), cast("Any", seeds))


async def attempt(space: Space, disk: Disk, device: Device) -> str:
    """What a call returns, or the name of its error."""
    try:
        return await space.retry_after_reclaim(cast("Any", device), disk.use, "done")
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]


@in_main_loop
async def test_a_call_that_succeeds_gives_up_nothing() -> None:
    seeds, device = Seeds("unlinked"), Device()
    assert await attempt(space_with(seeds), Disk(), device) == "done"
    assert (seeds.calls, device.runs) == ([], 1)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("kind", ["unlinked", "seeds", "stale tails"])
@in_main_loop
async def test_a_call_without_space_is_made_once_more_when_a_seed_was_given_up(
    kind: str, code: int
) -> None:
    seeds, device = Seeds(kind), Device()
    space = space_with(seeds)
    assert await attempt(space, Disk(code), device) == "done"
    assert seeds.calls == ["unlinked", "seeds", "stale tails"]
    assert device.runs == 2
    assert space.reclaimed == 1


@in_main_loop
async def test_a_call_without_space_fails_where_there_is_no_seed() -> None:
    device, space = Device(), space_with(Seeds())
    assert await attempt(space, Disk(errno.ENOSPC), device) == "ENOSPC"
    assert device.runs == 1
    assert space.reclaimed == 0


@in_main_loop
async def test_a_call_is_not_made_a_third_time() -> None:
    device, space = Device(), space_with(Seeds("unlinked", "seeds"))
    assert await attempt(space, Disk(errno.ENOSPC, errno.ENOSPC), device) == "ENOSPC"
    assert device.runs == 2


@in_main_loop
async def test_another_error_gives_up_nothing() -> None:
    seeds = Seeds("unlinked")
    assert await attempt(space_with(seeds), Disk(errno.EIO), Device()) == "EIO"
    assert seeds.calls == []


@in_main_loop
async def test_a_receiver_moves_to_the_main_loop_before_it_gives_up_anything() -> None:
    seeds, device = Seeds("seeds"), Device()
    space = space_with(seeds)
    assert receive(device.turn, attempt(space, Disk(), device)) == "done"
    assert receive(device.turn, attempt(space, Disk(errno.EIO), device)) == "EIO"
    assert receive(device.turn, attempt(space, Disk(errno.ENOSPC), device)) is MAIN_LOOP
    assert (seeds.calls, space.reclaimed) == ([], 0)


@in_main_loop
async def test_a_call_is_made_again_if_another_request_has_reclaimed_space_meanwhile() -> None:
    space, others = space_with(Seeds("unlinked")), [Disk(errno.ENOSPC)]

    class Slow(Device):
        async def run(self, function: Callable[..., Any], *args: Any) -> Any:
            """Another request meets the full disk first, and gives up all there is."""
            for disk in [others.pop() for _ in others]:
                assert await attempt(space, disk, Device()) == "done"
            return await super().run(function, *args)

    assert await attempt(space, Disk(errno.ENOSPC), Slow()) == "done"
    assert space.reclaimed == 1


@in_main_loop
async def test_a_call_is_made_again_when_another_request_is_done_with_reclaiming() -> None:
    space, device, results = space_with(Seeds("unlinked")), Device(), []

    async def call() -> None:
        results.append(await attempt(space, Disk(errno.ENOSPC), device))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        nursery.start_soon(call)
    assert results == ["done", "done"]


def old_fd(folder: Path) -> int:
    return os.open(folder / "old", os.O_RDONLY | os.O_CREAT)


@in_main_loop
async def test_old_files_that_wait_for_a_first_write_are_given_up(tmp_path: Path) -> None:
    async with opened_filesystem(tmp_path) as fs:
        node_id, _ = await make_file(fs, b"new")
        file = fs.open_files.get(fs.inodes.get(node_id))
        assert file is not None
        file.seed_fd = fd = old_fd(tmp_path)
        assert await fs.open_files.give_up_seeds(fs.devices.root)
        assert file.seed_fd == -1
        with pytest.raises(OSError):
            os.fstat(fd)
        assert not await fs.open_files.give_up_seeds(fs.devices.root)


@in_main_loop
async def test_an_old_file_is_closed_once_if_its_file_is_closed_while_seeds_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []
    close = os.close

    def note(fd: int) -> None:
        if fd != seed_fd or fd not in closed:
            close(fd)
        closed.append(fd)

    async with opened_filesystem(tmp_path) as fs:
        handles = []
        for name in (b"first", b"second"):
            node_id, handle = await make_file(fs, name)
            file = fs.open_files.get(fs.inodes.get(node_id))
            assert file is not None
            file.seed_fd = seed_fd = old_fd(tmp_path)
            handles.append(handle)
        run = fs.devices.root.threads.run

        async def run_slowly(function: Callable[..., Any], *args: Any) -> Any:
            monkeypatch.setattr(fs.devices.root.threads, "run", run)
            result = await run(function, *args)
            await fs.files.release(handles[1])  # as a client does meanwhile
            return result

        monkeypatch.setattr(os, "close", note)
        monkeypatch.setattr(fs.devices.root.threads, "run", run_slowly)
        await fs.open_files.give_up_seeds(fs.devices.root)
        fs.devices.root.threads.close()
        fs.devices.root.threads.join(time.monotonic() + 60)
        assert closed.count(seed_fd) == 1
