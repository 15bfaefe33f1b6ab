"""On a real database: any order, repetition and grouping of the same changes ends in the same rows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from veg.programmer.v1 import programmer_pb2 as pb

from tests.functional.ovn_programmer.conftest import TABLES

pytestmark = pytest.mark.usefixtures("no_healing")

KINDS = {
    "vpc": pb.INTENT_KIND_VPC,
    "subnet": pb.INTENT_KIND_SUBNET,
    "port": pb.INTENT_KIND_PORT,
    "gateway": pb.INTENT_KIND_GATEWAY,
}
VPC = st.sampled_from(["vpc1", "vpc2"])
SOURCES = st.lists(
    st.sampled_from(["10.0.1.0/24", "10.0.1.7/32", "10.9.0.0/16", "fd00::/64"]), unique=True, max_size=3
)
REPLICAS = st.lists(st.sampled_from(["10.0.1.2", "10.0.1.3", "10.0.1.4", "fd00::2"]), unique=True, max_size=3)
NODES = st.lists(st.sampled_from(["n1", "n2", "n3"]), unique=True, max_size=3)
CHANGES = st.one_of(
    st.tuples(st.just("vpc"), VPC, NODES),
    st.tuples(st.just("subnet"), st.sampled_from(["s1", "s2"]), VPC),
    st.tuples(st.just("port"), st.sampled_from(["p1", "p2"]), st.sampled_from(["s1", "s2"])),
    st.tuples(
        st.just("gateway"),
        st.sampled_from(["g1", "g2"]),
        VPC,
        SOURCES,
        REPLICAS,
        st.sampled_from([0, 100, 300]),
    ),
    st.tuples(
        st.just("delete"), st.sampled_from(sorted(KINDS)), st.sampled_from(["vpc1", "vpc2", "s1", "p1", "g1"])
    ),
)


def intent(make: Any, change: Any, generation: int) -> Any:
    """The intent of a change."""
    match change:
        case ("vpc", name, nodes):
            of = make.vpc(name, default_vpc=name == "vpc1", generation=generation)
            if nodes:
                of.vpc.bfd_port.addresses.append("10.255.255.255")
                of.vpc.bfd_port.nodes.extend(nodes)
            return of
        case ("subnet", name, of):
            number = name[1]
            cidrs, gateways = [f"10.0.{number}.0/24"], [f"10.0.{number}.1"]
            return make.subnet(name, of, cidrs, gateways, generation=generation)
        case ("port", name, of):
            mac = f"0a:00:00:00:00:0{name[1]}"
            return make.port(name, of, mac, [f"10.0.{of[1]}.9"], generation=generation)
        case ("gateway", name, of, sources, replicas, ms):
            gateway = make.gateway(
                name, of, sources, [f"{text}{name[1]}" for text in replicas],
                default_vpc=of == "vpc1", local=["10.0.1.0/24", "10.0.2.0/24"], generation=generation,
            )  # fmt: skip
            if ms:
                gateway.gateway.bfd.logical_port = f"bfd@{of}"
                gateway.gateway.bfd.timers.min_rx_ms = gateway.gateway.bfd.timers.min_tx_ms = ms
                gateway.gateway.bfd.timers.multiplier = 3
            return gateway
    raise AssertionError(change)


def key(kind: str, name: str) -> pb.IntentKey:
    """The key of a deletion."""
    return pb.IntentKey(kind=KINDS[kind], name=f"default/{name}" if kind == "gateway" else name)


def content(nb: Any) -> list[str]:
    """Every row of ours without what the server chose, and the name of what holds it."""
    names: dict[str, str] = {}
    for table in ("Logical_Router", "Logical_Switch", "HA_Chassis_Group"):
        for row in nb.select(table).values():
            for column in ("ports", "policies", "static_routes", "ha_chassis"):
                held = row.get(column, ["set", []])
                for uuid in [held] if held[0] == "uuid" else held[1]:
                    names[uuid[1]] = row["name"]
    links = {uuid: row["dst_ip"] for uuid, row in nb.select("BFD").items()}
    links |= {uuid: row["name"] for uuid, row in nb.select("HA_Chassis_Group").items()}
    lines = []
    for table in TABLES:
        for uuid, row in nb.select(table).items():
            kept = {
                c: v
                for c, v in row.items()
                if c not in ("_uuid", "_version", "ports", "policies", "static_routes", "ha_chassis")
            }
            for column in ("bfd", "ha_chassis_group"):
                if kept.get(column, ["set", []])[0] == "uuid":
                    kept[column] = links.get(kept[column][1], "nowhere")
            lines.append(f"{table} on {names.get(uuid)}: {sorted(kept.items())}")
    return sorted(lines)


def _key(change: Any) -> tuple[str, str]:
    return (change[1], change[2]) if change[0] == "delete" else (change[0], change[1])


async def drop_waiting(client: Any) -> None:
    """Delete what waits: its rows of before stay until it can be done, and so tell of the past."""
    outcomes = await client.outcomes()
    await client.delete(*(one.key for one in outcomes.values() if one.state == pb.OUTCOME_STATE_WAITING))


async def play(nb: Any, start: Any, make: Any, groups: list[list[Any]], *, restart: bool) -> dict[Any, Any]:
    """Send the groups, each at once; returns the picture that is left."""
    held: dict[Any, Any] = {}
    generation = 0
    async with start(nb) as client:
        for group in groups:
            calls = []
            for change in {_key(change): change for change in group}.values():
                generation += 1
                if change[0] == "delete":
                    held.pop((change[1], change[2]), None)
                    calls.append(client.delete(key(change[1], change[2])))
                else:
                    held[change[0], change[1]] = change
                    calls.append(client.apply(intent(make, change, generation)))
            await asyncio.gather(*calls)
        if not restart:
            await client.resync()
            await drop_waiting(client)
    if restart:
        async with start(nb) as client:
            await client.apply(*(intent(make, change, 1) for change in held.values()))
            await client.resync()
            await client.apply(*(intent(make, change, 2) for change in held.values()))
            await drop_waiting(client)
    return held


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(st.lists(st.lists(CHANGES, max_size=4), max_size=6), st.booleans())
def test_same_end(nb: Any, other: Any, start: Any, make: Any, groups: list[list[Any]], restart: bool) -> None:  # noqa: PLR0917  # fixtures and the two drawn values
    """After any history the database holds what the final picture alone makes of an empty one."""
    held = asyncio.run(play(nb, start, make, groups, restart=restart))
    order = ["vpc", "subnet", "port", "gateway"]
    final = sorted(held.values(), key=lambda change: (order.index(change[0]), change[1]))
    asyncio.run(play(other, start, make, [[change] for change in final], restart=False))
    assert content(nb) == content(other)
    for server in (nb, other):
        asyncio.run(play(server, start, make, [], restart=False))
        assert content(server) == []
