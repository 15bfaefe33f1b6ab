"""Beside Kube-OVN: its rows stay as they are, byte for byte, whatever becomes of ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from veg.bfd.v1 import bfd_pb2
from veg.programmer.v1 import programmer_pb2 as pb
from veg_ovn_programmer.core.view import Variant

from tests.functional.ovn_programmer import kube_ovn_nb

pytestmark = pytest.mark.usefixtures("no_healing")

# The columns of Kube-OVN's routers that refer to our rows among others.
SHARED = {"Logical_Router": ("ports", "policies", "static_routes")}
LOCAL = ["192.168.0.0/24"]


def everything(nb: Any, rpc_to: Any) -> dict[str, dict[str, Any]]:
    """All rows of all tables by UUID, `_version` too; but for connections and counters, which are nobody's."""
    with rpc_to(nb.socket) as rpc:
        schema = rpc.call("get_schema", ["OVN_Northbound"])
    tables = set(schema["tables"]) - {"NB_Global", "Connection", "SSL"}
    return {table: nb.select(table) for table in sorted(tables)}


def is_ours(table: str, row: dict[str, Any]) -> bool:
    """As a reviewer would tell: by a mark that Kube-OVN writes nowhere, or by a name of ours."""
    marks = dict(row.get("external_ids", ["map", []])[1])
    if "veg-topology" in marks or "veg-parent" in marks:
        return True
    return table == "BFD" and marks.get("vpc-egress-gateway", "").startswith("default/ours")


def theirs(nb: Any, rpc_to: Any) -> str:
    """Kube-OVN's rows as text; of the routers' references only those to rows of Kube-OVN's."""
    tables = everything(nb, rpc_to)
    ours = {uuid for table, found in tables.items() for uuid, row in found.items() if is_ours(table, row)}
    for table, columns in SHARED.items():
        for row in tables[table].values():
            row.pop("_version")
            for column in columns:
                kind, value = row[column]
                references = [["uuid", value]] if kind == "uuid" else value
                row[column] = sorted(one for _, one in references if one not in ours)
    kept = {
        table: {uuid: row for uuid, row in found.items() if uuid not in ours}
        for table, found in tables.items()
    }
    return json.dumps(kept, sort_keys=True, indent=1)


def owned(nb: Any, rpc_to: Any) -> dict[str, int]:
    """How many rows of ours there are by table."""
    counts = {
        table: sum(is_ours(table, row) for row in found.values())
        for table, found in everything(nb, rpc_to).items()
    }
    return {table: count for table, count in counts.items() if count}


def with_bfd(intent: pb.Intent, port: str) -> pb.Intent:
    """The gateway's intent with sessions from a port."""
    timers = bfd_pb2.Timers(min_rx_ms=1000, min_tx_ms=1000, multiplier=3)
    intent.gateway.bfd.CopyFrom(pb.BfdIntent(timers=timers, logical_port=port))
    return intent


def bfd_port(vpc: str, address: str, *nodes: str, generation: int = 1) -> pb.Intent:
    """A VPC's intent beside Kube-OVN: it speaks of the BFD port only."""
    port = pb.BfdPort(addresses=[address], nodes=nodes)
    return pb.Intent(generation=generation, vpc=pb.Vpc(name=vpc, bfd_port=port))


@pytest.fixture
def filled(nb: Any) -> Any:
    """The database with Kube-OVN's rows."""
    nb.transact(*kube_ovn_nb.operations())
    return nb


def picture(make: Any) -> list[pb.Intent]:
    """Gateways of ours in every kind of VPC: policies, routes, the policy form, BFD by their port and by ours."""
    return [
        bfd_port("vpc1", "10.255.255.255", "worker", "worker2"),
        bfd_port("vpc2", "10.255.255.254", "worker", "worker2"),
        make.gateway(
            "ours1", "ovn-cluster", ["10.16.0.0/16"], ["10.16.0.12", "10.16.0.13"], default_vpc=True
        ),
        with_bfd(
            make.gateway("ours2", "vpc1", ["192.168.0.0/24"], ["192.168.0.2", "192.168.0.3"], local=LOCAL),
            "bfd@vpc1",
        ),
        make.gateway("ours3", "vpc1", ["192.168.0.5/32"], ["192.168.0.2"], local=LOCAL),
        with_bfd(
            make.gateway("ours4", "vpc2", ["192.168.1.0/24"], ["192.168.1.2"], local=["192.168.1.0/24"]),
            "bfd@vpc2",
        ),
    ]


@contextlib.asynccontextmanager
async def untouched(nb: Any, rpc_to: Any) -> AsyncIterator[None]:
    """What happens in the block leaves Kube-OVN's rows as they are."""
    before = theirs(nb, rpc_to)
    yield
    assert theirs(nb, rpc_to) == before


@pytest.mark.parametrize("variant", [Variant.K, Variant.S3], ids=["K", "S3"])
async def test_only_our_rows_change(
    variant: Variant, filled: Any, start: Any, make: Any, rpc_to: Any
) -> None:
    """Apply, change, delete, resync, restart and the end of all: not one byte of Kube-OVN's differs at any time."""
    intents = picture(make)
    if variant is Variant.S3:
        # Their port is not for this OVN, and no second one may have its name: vpc2 alone has BFD.
        del intents[3], intents[0]
    async with untouched(filled, rpc_to), start(filled, managed=False, variant=variant) as client:
        async with untouched(filled, rpc_to):
            assert sum(await client.commit(*intents)) > 10
        rows = owned(filled, rpc_to)
        ports = {row["name"] for row in filled.select("Logical_Router_Port").values()}
        assert {"bfd@vpc1", "bfd@vpc2"} <= ports
        assert ("vpc2-bfd" in filled.nbctl("lr-list")) == (variant is Variant.S3)
        async with untouched(filled, rpc_to):
            assert await client.resync() == []
            assert owned(filled, rpc_to) == rows
        async with untouched(filled, rpc_to):
            await client.commit(
                make.gateway("ours1", "ovn-cluster", ["10.16.0.0/17"], [], default_vpc=True, generation=2),
                bfd_port("vpc2", "10.255.255.254", "worker2", "control-plane", generation=2),
            )
        async with untouched(filled, rpc_to):
            await client.delete(make.gateway_key("ours3"))
    async with untouched(filled, rpc_to), start(filled, managed=False, variant=variant) as client:
        client.session = "two"
        left = [one for one in intents if one.gateway.key.name not in ("ours1", "ours3")]
        await client.commit(*left)
        assert sorted(await client.resync()) == ["default/ours1"]
        assert await client.resync() == []
        client.session = "three"
        assert len(await client.resync()) == len(left)
        assert owned(filled, rpc_to) == {}


async def test_their_gateways_are_not_taken_for_ours(
    filled: Any, start: Any, make: Any, rpc_to: Any, wait: Any
) -> None:
    """Rows that Kube-OVN writes for a gateway of its own, before and after our Resync, are left to it."""
    async with start(filled, managed=False, variant=Variant.K) as client:
        await client.commit(*picture(make))
        async with untouched(filled, rpc_to):
            assert await client.resync() == []
        marks = kube_ovn_nb.THEIR_MARKS | {"vpc-egress-gateway": "default/more"}
        filled.transact(
            {
                "op": "insert", "table": "Logical_Router_Policy", "uuid-name": "p",
                "row": {
                    "priority": 29100, "match": "ip4.src == $VEG.more", "action": "reroute",
                    "nexthops": "192.168.0.92", "external_ids": ["map", [list(pair) for pair in marks.items()]],
                },
            },
            {
                "op": "mutate", "table": "Logical_Router", "where": [["name", "==", "vpc1"]],
                "mutations": [["policies", "insert", ["set", [["named-uuid", "p"]]]]],
            },
        )  # fmt: skip
        async with untouched(filled, rpc_to):
            # A later change of ours shows that the programmer has seen theirs.
            await client.commit(
                make.gateway("ours3", "vpc1", ["192.168.0.6/32"], ["192.168.0.2"], local=LOCAL, generation=2)
            )
            assert await client.resync() == []
        assert any("VEG.more" in line for line in filled.policies("vpc1"))
    # Ours is told apart also by a process that has never seen it.
    async with untouched(filled, rpc_to), start(filled, managed=False, variant=Variant.K) as client:
        removed = await client.resync()
        assert removed == ["default/ours1", "default/ours2", "default/ours3", "default/ours4", "vpc2"]


async def test_kube_ovn_clears_a_router(filled: Any, start: Any, make: Any, rpc_to: Any, wait: Any) -> None:
    """Kube-OVN's controller may clear all policies of a custom VPC: ours are back at once, its own are its affair."""
    async with start(filled, managed=False, variant=Variant.K) as client:
        await client.commit(*picture(make))
        await client.resync()

        def ours() -> list[str]:
            return [line for line in filled.policies("vpc1") if "192.168.0.5" in line]

        before = ours()
        assert before
        await asyncio.to_thread(filled.nbctl, "lr-policy-del", "vpc1")
        await wait(lambda: ours() == before)


async def test_bfd_port_is_awaited(filled: Any, start: Any, make: Any, wait: Any) -> None:
    """A gateway whose BFD port nobody has made yet is closed, and says what it waits for, until Kube-OVN makes the port."""
    gateway = with_bfd(make.gateway("ours4", "vpc2", ["192.168.1.0/24"], ["192.168.1.2"]), "bfd@vpc2")
    async with start(filled, managed=False, variant=Variant.K) as client:
        (outcome,) = await client.apply(gateway)
        assert (outcome.state, outcome.reason) == (pb.OUTCOME_STATE_WAITING, "BfdPortMissing")
        assert "29090 ip4.src == 192.168.1.0/24 drop" in filled.policies("vpc2")
        await asyncio.to_thread(
            filled.nbctl, "lrp-add", "vpc2", "bfd@vpc2", "0a:00:00:00:ff:02", "10.255.255.254/32"
        )
        await wait(lambda: client.events[-1].outcome.state == pb.OUTCOME_STATE_COMMITTED)


async def test_their_bfd_port_comes_and_goes(
    filled: Any, start: Any, make: Any, rpc_to: Any, wait: Any
) -> None:
    """Where Kube-OVN has made the port ours is not; ours comes when theirs goes, never beside it."""
    async with start(filled, managed=False, variant=Variant.K) as client:
        await client.commit(bfd_port("vpc1", "10.255.255.255", "worker"))
        await client.resync()
        assert "Logical_Router_Port" not in owned(filled, rpc_to)
        for command in ("lrp-del", "ha-chassis-group-del"):
            await asyncio.to_thread(filled.nbctl, command, "bfd@vpc1")
        await wait(lambda: "Logical_Router_Port" in owned(filled, rpc_to))


async def test_topology_intents_are_refused(filled: Any, start: Any, make: Any, rpc_to: Any) -> None:
    """Subnets and ports are Kube-OVN's; a VPC without a BFD port is no row; deleting one removes no router."""
    async with untouched(filled, rpc_to), start(filled, managed=False, variant=Variant.K) as client:
        outcomes = await client.apply(
            make.vpc("ovn-cluster", default_vpc=True),
            make.vpc("nowhere"),
            make.subnet("s", "vpc1", ["192.168.7.0/24"], ["192.168.7.1"]),
            make.port("p.default", "subnet1", "0a:00:00:00:00:01", ["192.168.0.9"]),
        )
        assert [one.reason for one in outcomes] == ["", "", "TopologyNotManaged", "TopologyNotManaged"]
        deleted = await client.delete(
            pb.IntentKey(kind=pb.INTENT_KIND_VPC, name="vpc1"),
            pb.IntentKey(kind=pb.INTENT_KIND_SUBNET, name="subnet1"),
        )
        assert [one.reason for one in deleted] == ["", "TopologyNotManaged"]
        await client.resync()
        assert owned(filled, rpc_to) == {}


@pytest.mark.parametrize("variant", [Variant.K, Variant.S3], ids=["K", "S3"])
async def test_northd_takes_it(variant: Variant, filled: Any, northd: Any, start: Any, make: Any) -> None:
    """A real northd has nothing to say of our rows among Kube-OVN's, and makes flows of them."""

    def complaints() -> set[str]:
        return {line.split("|", 2)[2] for line in northd.complaints()}

    assert "10.16.0.0/16" in await asyncio.to_thread(northd.flows, "ovn-cluster")
    before = complaints()
    intents = picture(make)
    if variant is Variant.S3:
        del intents[3], intents[0]
    async with start(filled, managed=False, variant=variant) as client:
        await client.commit(*intents)
        flows = await asyncio.to_thread(northd.flows, "ovn-cluster")
        assert "ip4.src == 10.16.0.0/16" in flows
        assert "ip4.src == 192.168.0.5" in await asyncio.to_thread(northd.flows, "vpc1")
    assert complaints() <= before


async def test_topology_of_before_is_left(nb: Any, start: Any, make: Any) -> None:
    """Routers, switches and ports that were once made in the managed topology are Kube-OVN's now: none is removed."""
    topology = ("Logical_Router", "Logical_Switch", "Logical_Switch_Port")
    async with start(nb) as client:
        await client.commit(
            make.vpc("vpc1"),
            make.subnet("subnet1", "vpc1", ["192.168.0.0/24"], ["192.168.0.1"]),
            make.port("p.default", "subnet1", "0a:00:00:00:00:01", ["192.168.0.9"]),
            make.gateway("ours1", "vpc1", ["192.168.0.0/24"], ["192.168.0.2"], local=LOCAL),
        )
        await client.resync()
    before = {table: set(nb.select(table)) for table in topology}
    async with start(nb, managed=False, variant=Variant.K) as client:
        client.session = "two"
        assert await client.resync() == ["default/ours1"]
        await client.delete(pb.IntentKey(kind=pb.INTENT_KIND_VPC, name="vpc1"))
    assert {table: set(nb.select(table)) for table in topology} == before
    assert nb.routes("vpc1") == []
