"""Events about pods: counted, bounded, and grace periods that no manifest can spoil."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from veg_common.folder import FolderStore
from veg_sandbox.runtime.core import events
from veg_sandbox.runtime.core.events import PodEvent
from veg_sandbox.runtime.core.pods import DEFAULT_GRACE_SECONDS, MAX_GRACE_SECONDS, grace_of
from veg_sandbox.runtime.recorder import KUBELET, Recorder

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
POD: dict[str, Any] = {"metadata": {"name": "p", "namespace": "default", "uid": "u1"}}
BACK_OFF = PodEvent(KUBELET, "BackOff", "Back-off restarting", warning=True, container="gateway")


async def test_what_repeats_is_counted(tmp_path: Path) -> None:
    """The same event again raises the count of the first; another container's is another event."""
    store = FolderStore(tmp_path)
    recorder = Recorder(store)
    task = asyncio.ensure_future(recorder.run())
    for container in ("gateway", "bfdd", "gateway"):
        recorder.tell(POD, PodEvent(KUBELET, "BackOff", "Back-off restarting", True, container))
    async with asyncio.timeout(10):
        twice = await anext(
            w.object async for w in store.watch(["Event"]) if w.object and w.object["count"] == 2
        )
    task.cancel()
    assert sorted(e["count"] for e in await store.list("Event")) == [1, 2]
    assert twice["involvedObject"]["fieldPath"] == "spec.containers{gateway}"
    assert (twice["type"], twice["involvedObject"]["uid"]) == ("Warning", "u1")


def at(number: int, seconds_ago: float) -> dict[str, Any]:
    """An event that was seen some seconds ago."""
    told = PodEvent(KUBELET, "Killing", str(number))
    return events.first(POD, told, NOW - dt.timedelta(seconds=seconds_ago))


def test_old_events_go() -> None:
    """After an hour an event is removed, earlier when there are too many; those of others are left alone."""
    assert events.outdated([at(0, 3599), at(1, 10)], [KUBELET], NOW) == []
    assert len(events.outdated([at(0, 3601), at(1, 10)], [KUBELET], NOW)) == 1
    many = [at(number, 100 + number) for number in range(events.KEPT_EVENTS + 2)]
    gone = events.outdated(many, [KUBELET], NOW)
    assert {ref.name for ref in gone} == {event["metadata"]["name"] for event in many[-2:]}
    assert events.outdated(many, ["veg-api"], NOW) == []


def test_a_long_message_is_cut() -> None:
    """What an API server would refuse is cut to what it takes."""
    assert len(events.first(POD, PodEvent(KUBELET, "Failed", "x" * 5000), NOW)["message"]) == 1024


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (5, 5.0),
        (0, 0.0),
        (2.5, 2.5),
        (10**400, MAX_GRACE_SECONDS),
        (float("inf"), MAX_GRACE_SECONDS),
        (float("nan"), DEFAULT_GRACE_SECONDS),
        (-1, DEFAULT_GRACE_SECONDS),
        ("soon", DEFAULT_GRACE_SECONDS),
        ([3], DEFAULT_GRACE_SECONDS),
        (True, DEFAULT_GRACE_SECONDS),
        (None, DEFAULT_GRACE_SECONDS),
    ],
)
def test_grace_periods(value: object, seconds: float) -> None:
    """Whatever a manifest says, the grace period is a number of seconds within bounds."""
    assert grace_of({"metadata": {}, "spec": {"terminationGracePeriodSeconds": value}}) == seconds
    assert grace_of({"metadata": {"deletionGracePeriodSeconds": value}}) == seconds
