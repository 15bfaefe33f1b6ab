"""The watch on the mounted file."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from veg_node_agent.io.watch import watch_config


@pytest.mark.parametrize("steps", range(8))
async def test_a_cancellation_is_never_swallowed(tmp_path: Path, steps: int) -> None:
    """The watch ends when it is cancelled, in whichever step of the loop an event comes along with it."""
    rung = asyncio.Event()
    watch = asyncio.create_task(watch_config(tmp_path / "agent.json", rung.set))
    async with asyncio.timeout(5):
        await rung.wait()
    # The first event of a burst, so that the watch waits for the burst's end when the second one comes.
    (tmp_path / "agent.json").touch()
    for _ in range(4):
        await asyncio.sleep(0)
    (tmp_path / "agent.json").touch()
    for _ in range(steps):
        await asyncio.sleep(0)
    watch.cancel()
    done, _ = await asyncio.wait({watch}, timeout=1)
    watch.cancel()
    assert done == {watch}
    assert watch.cancelled()
