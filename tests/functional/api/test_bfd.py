"""BFD in the real api process: sessions told by the programmer, containers told by the kubelet."""

import asyncio
import json
import time
from typing import Any

from veg.api.v1 import api_pb2
from veg.bfd.v1 import bfd_pb2
from veg.types.v1 import types_pb2
from veg_common.objects import Object, Ref

from tests.functional.api.conftest import Lab, gateway

VPC = """
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: ovn-cluster}
spec: {bfdPort: {enabled: true, ip: 10.255.255.255%s}}
"""
DOWN, UP = bfd_pb2.SESSION_STATE_DOWN, bfd_pb2.SESSION_STATE_UP


def bfd_gateway(**spec: Any) -> str:
    """A gateway of two replicas with BFD."""
    return gateway(**{"replicas": 2, "bfd": {"enabled": True}, **spec})


async def pods(lab: Lab) -> dict[str, Object]:
    """Entries of status.pods by internal address."""
    return {entry["internalIPs"]: entry for entry in (await lab.status()).get("pods", [])}


async def test_readiness_follows_the_sessions(lab: Lab) -> None:
    """Down at once, up again, over a restart of api and of the programmer; nexthops never move."""
    await lab.apply(VPC % "")
    lab.programmer.first_state = DOWN
    await lab.apply(bfd_gateway())

    async def dark() -> bool:
        found = await pods(lab)
        return len(found) == 2 and all(e["nexthop"] and not e["serving"] for e in found.values())

    await lab.until(dark)
    row = await lab.until(lambda: len(lab.programmer.sessions) == 2 and lab.programmer.gateway())
    assert (row.bfd.logical_port, row.bfd.timers.multiplier) == ("bfd@ovn-cluster", 3)
    vpc = lab.programmer.rows[2, "ovn-cluster"]
    assert (list(vpc.bfd_port.addresses), list(vpc.bfd_port.nodes)) == (
        ["10.255.255.255"],
        ["node1", "node2"],
    )
    lab.programmer.say("10.16.0.2", UP)
    lab.programmer.say("10.16.0.3", UP)
    await lab.ready()
    lab.programmer.say("10.16.0.3", DOWN)

    async def told() -> bool:
        condition = await lab.condition("BfdSessionsUp")
        return condition["status"] == "False" and "10.255.255.255 - 10.16.0.3 is Down" in condition["message"]

    await lab.until(told)
    assert (await lab.status())["ready"] is False
    async with lab.stub() as stub:
        key = types_pb2.ObjectKey(namespace="default", name="gateway1")

        async def served() -> bool:
            found = (await stub.GetGateway(api_pb2.GetGatewayRequest(key=key), timeout=5)).gateway.status
            states = [(r.nexthop, r.bfd.state) for r in found.pods]
            return states == [(True, "Up"), (True, "Down")] and list(found.nexthops) == [
                "10.16.0.2",
                "10.16.0.3",
            ]

        await lab.until(served)
    lab.stop_api()
    lab.programmer.say("10.16.0.3", UP)
    lab.start_api()
    await lab.ready()
    applied = lab.programmer.applied
    await lab.programmer.stop()
    await lab.programmer.start()
    await asyncio.sleep(0.5)
    assert (await lab.status())["ready"] is True
    assert lab.programmer.applied == applied
    assert list(lab.programmer.gateway().families[0].nexthops) == ["10.16.0.2", "10.16.0.3"]


async def test_timers_change_without_a_new_pod(lab: Lab) -> None:
    """The configuration and the intent change within seconds; pods and rows are the same."""
    await lab.apply(VPC % "")
    await lab.apply(bfd_gateway())
    await lab.ready()
    before = sorted(p["metadata"]["uid"] for p in await lab.store.list("Pod"))
    await lab.apply(bfd_gateway(bfd={"enabled": True, "minRX": 50, "minTX": 100}))

    async def retuned() -> bool:
        found = await lab.get("ConfigMap", "gateway1-config")
        timers = json.loads((found or {})["data"]["agent.json"])["bfd"]["timers"]
        row = lab.programmer.gateway().bfd.timers
        return bool(timers["minRxMs"] == 50 == row.min_rx_ms and timers["minTxMs"] == 100 == row.min_tx_ms)

    await lab.until(retuned)
    await lab.ready()
    assert sorted(p["metadata"]["uid"] for p in await lab.store.list("Pod")) == before


async def test_a_stale_session_is_reset(lab: Lab) -> None:
    """The speaker has no session for three seconds and OVN says Up: its row is made anew, once, and no other."""
    await lab.apply(VPC % "")
    await lab.apply(bfd_gateway())
    await lab.ready()
    entry = (await pods(lab))["10.16.0.3"]
    begun = time.monotonic()
    lab.unready[entry["pod"]] = frozenset({"bfdd"})
    await lab.until(lambda: lab.programmer.resets)
    assert 2.5 < time.monotonic() - begun < 15
    assert lab.programmer.resets == [("gateway1", ("10.16.0.3",))]
    lab.programmer.say("10.16.0.3", DOWN)
    await asyncio.sleep(0.3)
    lab.unready.clear()
    lab.programmer.say("10.16.0.3", UP)
    await lab.ready()
    assert len(lab.programmer.resets) == 1


async def test_the_port_follows_nodes(lab: Lab) -> None:
    """A node that gets the label carries the port; one that loses it does not; nobody left changes nothing."""
    await lab.apply(VPC % ", nodeSelector: {matchLabels: {edge: 'yes'}}")

    async def label(name: str, value: str | None) -> None:
        await lab.store.update(Ref("Node", "", name), {"metadata": {"labels": {"edge": value}}})

    def nodes() -> list[str]:
        return list(lab.programmer.rows[2, "ovn-cluster"].bfd_port.nodes)

    await lab.until(lambda: lab.programmer.names(2) == ["ovn-cluster"])
    assert nodes() == []
    await label("node2", "yes")
    await lab.until(lambda: nodes() == ["node2"])
    await label("node1", "yes")
    await lab.until(lambda: nodes() == ["node2", "node1"])
    await label("node2", None)
    await lab.until(lambda: nodes() == ["node1"])
    await label("node1", None)

    async def told() -> bool:
        found = await lab.get("Vpc", "ovn-cluster")
        conditions = {c["type"]: c for c in (found or {})["status"]["conditions"]}
        return bool(conditions["BFDPortReady"]["reason"] == "NoNode")

    await lab.until(told)
    assert nodes() == ["node1"]


async def test_an_address_begins_anew_with_its_next_pod(lab: Lab) -> None:
    """The session of a pod that is gone says nothing of the one that gets its address."""
    await lab.apply(VPC % "")
    await lab.apply(bfd_gateway())
    await lab.ready()
    lab.programmer.first_state = DOWN
    gone = (await pods(lab))["10.16.0.2"]["pod"]
    await lab.store.delete(Ref("Pod", "default", gone))

    async def successor() -> bool:
        found = (await pods(lab)).get("10.16.0.2")
        return bool(found and found["pod"] != gone and found["nexthop"])

    await lab.until(successor)
    assert (await pods(lab))["10.16.0.2"]["bfd"]["state"] != "Up"
    assert (await lab.status())["ready"] is False
    await lab.until(lambda: ("gateway1", "10.16.0.2") in lab.programmer.sessions)
    lab.programmer.say("10.16.0.2", UP)
    await lab.ready()
