"""Generations, sessions, the resync barrier, the stream, and the kube-ovn topology."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from veg.programmer.v1 import programmer_pb2 as pb

from tests.functional.ovn_programmer.conftest import TABLES


async def picture(client: Any, make: Any) -> list[Any]:
    """A session's whole picture."""
    return [
        make.vpc("ovn-cluster", default_vpc=True),
        make.vpc("vpc1"),
        make.subnet("ovn-default", "ovn-cluster", ["10.16.0.0/16"], ["10.16.0.1"]),
        make.subnet("subnet1", "vpc1", ["192.168.0.0/24"], ["192.168.0.1"]),
        make.port("p.default", "subnet1", "0a:00:00:00:00:01", ["192.168.0.9"]),
        make.gateway(
            "a", "ovn-cluster", ["10.16.0.0/16", "fd00::/64"], ["10.16.0.12", "fd00::c"], default_vpc=True
        ),
        make.gateway(
            "b", "vpc1", ["192.168.0.0/24"], ["192.168.0.2", "192.168.0.3"], local=["192.168.0.0/24"]
        ),
        make.gateway("c", "vpc1", ["192.168.0.5/32"], ["192.168.0.2"], local=["192.168.0.0/24"]),
    ]


async def test_restart_changes_no_row(nb: Any, start: Any, make: Any) -> None:
    """The same intents in any order after a restart are zero operations and no transaction, up to the Resync."""
    async with start(nb) as client:
        intents = await picture(client, make)
        await client.commit(*intents)
        await client.resync()
        everything = {table: nb.select(table) for table in TABLES}
    counted = nb.transactions()
    async with start(nb) as client:
        client.session = "two"
        for intent in reversed(intents):
            (outcome,) = await client.apply(intent)
            assert outcome.operations == 0
        for outcome in (await client.outcomes()).values():
            assert outcome.state == pb.OUTCOME_STATE_COMMITTED
        assert await client.resync() == []
        assert not [event for event in client.events if event.WhichOneof("event") == "repair"]
    assert nb.transactions() == counted
    assert {table: nb.select(table) for table in TABLES} == everything


async def test_nothing_is_deleted_before_resync(nb: Any, start: Any, make: Any) -> None:
    """A new session's first intents remove nothing; its Resync removes what is not in the picture, and says what."""
    async with start(nb) as client:
        intents = await picture(client, make)
        await client.commit(*intents)
        await client.resync()
        # The same process, another sender.
        client.session = "two"
        before = {table: nb.select(table) for table in TABLES}
        await client.commit(*intents[:6])
        assert {table: nb.select(table) for table in TABLES} == before
        assert not (await client.stub.List(pb.ListRequest())).in_sync
        assert await client.resync() == ["default/b", "default/c"]
        assert nb.routes("vpc1") == []
    async with start(nb) as client:
        client.session = "three"
        await client.commit(*intents[:2])
        assert nb.policies("ovn-cluster") != []
        assert await client.resync() == ["default/a", "ovn-default", "subnet1", "p.default"]
        ports = [row["name"] for row in nb.select("Logical_Router_Port").values()]
        assert ports == ["blackhole@ovn-cluster"]
        client.session = "four"
        assert await client.resync() == ["ovn-cluster", "vpc1"]
    for table in TABLES:
        assert nb.select(table) == {}


async def test_old_generation_changes_nothing(nb: Any, client: Any, make: Any) -> None:
    """A smaller generation is answered with the current outcome; in a new session generations start again."""
    await client.commit(make.vpc("vpc1"))
    await client.commit(make.gateway("b", "vpc1", ["10.1.0.0/24"], ["192.168.0.2"], generation=7))
    (outcome,) = await client.apply(make.gateway("b", "vpc1", ["10.9.0.0/24"], ["192.168.0.2"], generation=6))
    assert outcome.generation == 7
    assert "10.1.0.0/24" in nb.routes("vpc1")[0]
    client.session = "two"
    (outcome,) = await client.apply(make.gateway("b", "vpc1", ["10.9.0.0/24"], ["192.168.0.2"], generation=1))
    assert (outcome.generation, outcome.operations) == (1, 2)


async def test_delete_is_idempotent(nb: Any, client: Any, make: Any) -> None:
    """A second delete, and one of a name never heard of, are done already; a later apply makes it again."""
    await client.commit(make.vpc("vpc1"))
    wanted = make.gateway("b", "vpc1", ["10.1.0.0/24"], ["192.168.0.2"])
    await client.commit(wanted)
    key = pb.IntentKey(kind=pb.INTENT_KIND_GATEWAY, name="default/b")
    for expected in (1, 0):
        (outcome,) = await client.delete(key)
        assert (outcome.state, outcome.operations) == (pb.OUTCOME_STATE_COMMITTED, expected)
    assert "default/b" not in await client.outcomes()
    assert await client.commit(wanted) == [1]


async def test_delete_of_rows_from_before_a_restart(nb: Any, start: Any, make: Any) -> None:
    """The rows go although this process never saw the intent."""
    async with start(nb) as client:
        await client.commit(make.vpc("vpc1"), make.gateway("b", "vpc1", ["10.1.0.0/24"], ["192.168.0.2"]))
    async with start(nb) as client:
        await client.delete(pb.IntentKey(kind=pb.INTENT_KIND_GATEWAY, name="default/b"))
        assert nb.routes("vpc1") == []


async def test_stream_is_numbered(client: Any, make: Any, wait: Any) -> None:
    """Hello first with the schema, then every outcome once, without a gap."""
    await client.commit(make.vpc("vpc1"))
    await client.commit(make.vpc("vpc1"))
    await client.apply(make.gateway("b", "vpc1", ["10.1.0.1/24"], []))
    await wait(lambda: len(client.events) >= 3)
    late = client.stub.Watch(pb.WatchRequest())
    hello = await late.read()
    assert hello.hello.nb_schema.count(".") == 2
    assert [event.sequence for event in client.events] == [1, 2, 3]
    assert [(await late.read()).outcome.key.name for _ in range(2)] == ["default/b", "vpc1"]
    late.cancel()
    assert [event.outcome.state for event in client.events[1:]] == [
        pb.OUTCOME_STATE_COMMITTED,
        pb.OUTCOME_STATE_REFUSED,
    ]


BAD = {
    "host bits": (["10.1.0.1/24"], ["10.0.0.1"], [], "InvalidCIDR", "sources"),
    "not a prefix": (["ten"], ["10.0.0.1"], [], "InvalidCIDR", "sources"),
    "bad nexthop": (["10.1.0.0/24"], ["10.0.0.256"], [], "InvalidAddress", "nexthops"),
    "bad local prefix": (["10.1.0.0/24"], ["10.0.0.1"], ["10.0.0.1/8"], "InvalidCIDR", "local_cidrs"),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_gateway_is_refused(case: str, nb: Any, client: Any, make: Any) -> None:
    """The outcome names field and reason, the last good rows stay and are still repaired, the others go on."""
    await client.commit(make.vpc("ovn-cluster", default_vpc=True))
    await client.commit(make.gateway("a", "ovn-cluster", ["10.1.0.0/24"], ["10.0.0.1"], default_vpc=True))
    sources, nexthops, local, reason, field = BAD[case]
    bad, good = await client.apply(
        make.gateway("a", "ovn-cluster", sources, nexthops, default_vpc=True, local=local, generation=2),
        make.gateway("z", "ovn-cluster", ["10.2.0.0/24"], ["10.0.0.1"], default_vpc=True),
    )
    assert (bad.state, bad.reason, bad.generation) == (pb.OUTCOME_STATE_REFUSED, reason, 2)
    assert field in bad.message
    assert good.state == pb.OUTCOME_STATE_COMMITTED
    assert len(nb.policies("ovn-cluster")) == 2
    assert await client.resync() == []
    assert len(nb.policies("ovn-cluster")) == 2
    assert (await client.outcomes())["default/a"].reason == reason


async def test_other_bad_intents(client: Any, make: Any) -> None:
    """Names, families, MACs and BFD are refused by name; what is no intent at all is an error of the call."""
    mixed = make.gateway("g", "vpc1", ["10.1.0.0/24"], ["10.0.0.1"])
    mixed.gateway.families[0].nexthops.append("fd00::1")
    twice = make.gateway("t", "vpc1", ["10.1.0.0/24"], ["10.0.0.1"])
    twice.gateway.families.append(twice.gateway.families[0])
    bfd = make.gateway("h", "vpc1", ["10.1.0.0/24"], ["10.0.0.1"])
    bfd.gateway.bfd.logical_port = "bfd@vpc1"
    unnamed = make.gateway("", "vpc1", ["10.1.0.0/24"], ["10.0.0.1"])
    port_vpc = make.vpc("vpc1")
    port_vpc.vpc.bfd_port.addresses.append("10.255.255.255")
    outcomes = await client.apply(
        mixed, twice, bfd, unnamed, port_vpc,
        make.subnet("s", "vpc1", ["10.1.0.0/24"], ["10.2.0.1"]),
        make.subnet("s2", "vpc1", ["10.1.0.0/24"], []),
        make.port("p", "s", "0a:00", ["10.1.0.5"]),
        make.port("p2", "s", "0a:00:00:00:00:01", []),
    )  # fmt: skip
    assert {one.state for one in outcomes} == {pb.OUTCOME_STATE_REFUSED}
    assert [one.reason for one in outcomes] == [
        "InvalidFamily", "InvalidFamily", "InvalidTimers", "InvalidName", "NoNodes",
        "InvalidAddress", "InvalidAddress", "InvalidMAC", "InvalidAddress",
    ]  # fmt: skip
    for request, call in (
        (pb.ApplyRequest(session="s", intents=[pb.Intent()]), client.stub.Apply),
        (pb.ApplyRequest(intents=[make.vpc("v")]), client.stub.Apply),
        (pb.DeleteRequest(session="s", keys=[pb.IntentKey(name="x")]), client.stub.Delete),
        (pb.ResyncRequest(), client.stub.Resync),
        (pb.PlanRequest(intents=[bfd]), client.stub.Plan),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(request)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_kube_ovn_topology(nb: Any, start: Any, make: Any, wait: Any) -> None:
    """Routers are only read; a default route is added where policies need one and nobody else has made one."""
    nb.nbctl("lr-add", "vpc1", "--", "lrp-add", "vpc1", "vpc1-s", "0a:00:00:00:00:01", "192.168.0.1/24")
    local = ["192.168.0.0/24"]
    async with start(nb, managed=False) as client:
        outcomes = await client.apply(
            make.vpc("vpc1"),
            make.subnet("s", "vpc1", ["192.168.0.0/24"], ["192.168.0.1"]),
            make.gateway("b", "vpc1", ["192.168.0.5/32"], ["192.168.0.2"], local=local),
        )
        assert [one.reason for one in outcomes] == ["", "TopologyNotManaged", ""]
        assert nb.routes("vpc1") == ["0.0.0.0/0 192.0.0.8 dst-ip", "::/0 100:: dst-ip"]
        await asyncio.to_thread(nb.nbctl, "--ecmp", "lr-route-add", "vpc1", "0.0.0.0/0", "192.168.0.254")
        await wait(lambda: nb.routes("vpc1") == ["0.0.0.0/0 192.168.0.254 dst-ip", "::/0 100:: dst-ip"])
        await asyncio.to_thread(nb.nbctl, "lr-route-del", "vpc1", "0.0.0.0/0")
        await wait(lambda: nb.routes("vpc1") == ["0.0.0.0/0 192.0.0.8 dst-ip", "::/0 100:: dst-ip"])
        (outcome,) = await client.delete(pb.IntentKey(kind=pb.INTENT_KIND_VPC, name="vpc1"))
        assert (outcome.reason, outcome.operations) == ("", 0)
        assert await client.resync() == []
        await client.delete(pb.IntentKey(kind=pb.INTENT_KIND_GATEWAY, name="default/b"))
        await wait(lambda: nb.routes("vpc1") == [])
    assert [row["name"] for row in nb.select("Logical_Router_Port").values()] == ["vpc1-s"]
