"""The end of a session with ovn-programmer, at an awkward moment."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from veg_api.core.intents import IntentKey, VpcIntent
from veg_api.errors import ProgrammerUnreachableError
from veg_api.link import Event, Hello, Link


class Failing:
    """A programmer that greets, and then fails every call."""

    def __init__(self) -> None:
        self.calls = 0

    async def watch(self) -> AsyncGenerator[Event, None]:
        yield Hello("1", "7.11.0")
        await asyncio.Event().wait()

    async def _fail(self, *_: Any) -> Any:
        self.calls += 1
        raise ProgrammerUnreachableError("not now")

    apply = delete = resync = reset_sessions = plan = _fail


async def test_a_closed_link_is_silent() -> None:
    """Closed while its calls fail, it ends by itself and tells nobody anything any more."""
    client, told = Failing(), list[Any]()
    link = Link(client, told.append)
    link.want([(IntentKey("VPC", "v"), VpcIntent("v", default_vpc=False))], complete=True)
    running = asyncio.create_task(link.run())
    async with asyncio.timeout(5):
        while not client.calls:  # noqa: ASYNC110 - nobody sets an event
            await asyncio.sleep(0.01)
    link.close()
    before = len(told)
    await asyncio.wait_for(running, 5)
    assert len(told) == before
