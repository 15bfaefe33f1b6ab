"""Elections among several candidates in one process, by a real store."""

import asyncio
import contextlib
from pathlib import Path

import pytest
from veg_api.core.election import Timing
from veg_api.fence import FencedStore
from veg_api.io.election import LEASE_NAME, Election
from veg_common.folder import FolderStore
from veg_common.objects import Object, Ref
from veg_common.store import UnavailableError

FAST = Timing(lease_s=1, renew_s=0.6, retry_s=0.1)
LONG = Timing(lease_s=10, renew_s=6, retry_s=0.1)
LEASE = Ref("Lease", "veg", LEASE_NAME)


class Broken(FolderStore):
    """A store that can be out of reach."""

    away = False

    async def get(self, ref: Ref) -> Object:
        if self.away:
            raise UnavailableError("away")
        return await super().get(ref)

    async def update(self, ref: Ref, patch: Object) -> Object:
        if self.away:
            raise UnavailableError("away")
        return await super().update(ref, patch)


class Candidate:
    """A process that takes part."""

    def __init__(self, root: Path, name: str, timing: Timing = FAST) -> None:
        self.store = Broken(root)
        self.told: list[bool] = []
        self.election = Election(self.store, "veg", name, self.told.append, timing)
        self.task = asyncio.create_task(self.election.run())

    async def end(self, *, gracefully: bool = True) -> None:
        self.store.away |= not gracefully
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def until(check: object, seconds: float = 15.0) -> None:
    """Poll until a callable is true."""
    assert callable(check)
    deadline = asyncio.get_running_loop().time() + seconds
    while not check():
        assert asyncio.get_running_loop().time() < deadline, "not true in time"
        await asyncio.sleep(0.01)


async def test_a_leader_that_can_not_renew_stops_before_another_begins(tmp_path: Path) -> None:
    """Out of reach, it writes nothing any more by the time that the other leads."""
    one = Candidate(tmp_path, "one")
    await until(lambda: one.election.leading)
    two = Candidate(tmp_path, "two")
    fenced = FencedStore(one.store, one.election)
    await fenced.create({"apiVersion": "kubeovn.io/v1", "kind": "Vpc", "metadata": {"name": "v"}, "spec": {}})
    one.store.away = True
    await until(lambda: two.election.leading)
    assert not one.election.leading
    assert one.told == [True, False]
    with pytest.raises(UnavailableError):
        await fenced.update(Ref("Vpc", "", "v"), {"spec": {"a": 1}})
    one.store.away = False
    await asyncio.sleep(0.3)  # several attempts of the one that was away
    assert (one.election.leading, two.election.leading) == (False, True)
    await one.end()
    await two.end()


async def test_never_two_at_once(tmp_path: Path) -> None:
    """Whatever comes and goes, at no moment do two lead; and somebody leads in the end."""
    candidates = [Candidate(tmp_path, f"c{n}") for n in range(3)]
    worst = 0

    async def watch() -> None:
        nonlocal worst
        while True:
            worst = max(worst, sum(c.election.leading for c in candidates))
            await asyncio.sleep(0.002)

    watching = asyncio.create_task(watch())
    for turn in range(3):
        await until(lambda: any(c.election.leading for c in candidates))
        leader = next(c for c in candidates if c.election.leading)
        if turn == 1:
            await candidates[0].store.delete(LEASE)
        leader.store.away = True
        await until(lambda gone=leader: not gone.election.leading)
        leader.store.away = False
    await until(lambda: any(c.election.leading for c in candidates))
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    assert worst == 1
    for candidate in candidates:
        await candidate.end()


async def test_a_lease_that_is_given_back_is_taken_at_once(tmp_path: Path) -> None:
    """A process that ends on request costs no leaderless time beyond one look."""
    one = Candidate(tmp_path, "one", LONG)
    await until(lambda: one.election.leading)
    two = Candidate(tmp_path, "two", LONG)
    await one.end()
    assert one.told[-1] is False
    await until(lambda: two.election.leading, LONG.lease_s / 2)
    await two.end()
