"""BFD rows in a real Northbound database; what OVN says is written by hand, as northd does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from veg.bfd.v1 import bfd_pb2
from veg.programmer.v1 import programmer_pb2 as pb
from veg.types.v1 import types_pb2
from veg_ovn_programmer.core import heal
from veg_ovn_programmer.core.view import Variant

pytestmark = pytest.mark.usefixtures("no_healing")
HELP = {name: getattr(heal, name) for name in ("NUDGES_S", "PATIENCE_S")}

LOCAL = ["192.168.0.0/24"]
PEERS = ["192.168.0.2", "192.168.0.3"]
CLOSED = [
    "31000 ip4.src == 192.168.0.0/24 && ip4.dst == 192.168.0.0/24 allow",
    "29090 ip4.src == 192.168.0.0/24 drop",
]
ROUTES = [f"192.168.0.0/24 {peer} src-ip ecmp ecmp-symmetric-reply bfd" for peer in PEERS]


def vpc(make: Any, name: str, nodes: list[str], *, generation: int = 1) -> pb.Intent:
    """A VPC with a BFD port."""
    intent: pb.Intent = make.vpc(name, default_vpc=name == "ovn-cluster", generation=generation)
    intent.vpc.bfd_port.addresses.extend(["10.255.255.255", "fdff::1"])
    intent.vpc.bfd_port.nodes.extend(nodes)
    return intent


def gateway(
    make: Any, of: str = "vpc1", peers: list[str] | None = None, *, ms: int = 1000, generation: int = 1
) -> pb.Intent:
    """A gateway with BFD: by routes in vpc1, by policies in the default VPC."""
    default = of == "ovn-cluster"
    intent: pb.Intent = make.gateway(
        "gateway2",
        of,
        LOCAL,
        PEERS if peers is None else peers,
        default_vpc=default,
        local=LOCAL,
        generation=generation,
    )
    intent.gateway.bfd.logical_port = f"bfd@{of}"
    intent.gateway.bfd.timers.min_rx_ms = intent.gateway.bfd.timers.min_tx_ms = ms
    intent.gateway.bfd.timers.multiplier = 3
    return intent


def say(nb: Any, **statuses: str) -> None:
    """Write statuses by peer's last part: `_2="up"`."""
    operations = []
    for number, status in statuses.items():
        operations.append(
            {
                "op": "update",
                "table": "BFD",
                "where": [["dst_ip", "==", f"192.168.0.{number[1:]}"]],
                "row": {"status": status},
            }
        )
    nb.transact(*operations)


def bfd_uuids(nb: Any) -> dict[str, str]:
    """UUIDs of BFD rows by peer."""
    return {row["dst_ip"]: uuid for uuid, row in nb.select("BFD").items()}


def waker(nb: Any) -> list[str]:
    """The addresses of the row that wakes ovn-controller; none when it is not there."""
    return [
        row["addresses"]
        for row in nb.select("Address_Set").values()
        if row["name"] == "vpc_egress_gateway_waker"
    ]


def serving(client: Any) -> dict[str, tuple[int, bool]]:
    """The last state and serving of every peer, as told by Watch."""
    return {
        event.bfd.peer: (event.bfd.state, event.bfd.serving)
        for event in client.events
        if event.WhichOneof("event") == "bfd"
    }


def policies(nb: Any, router: str = "vpc1") -> list[str]:
    """The router's policies, but for those that let answers reach the BFD port."""
    return [line for line in nb.policies(router) if "10.255.255.255" not in line and "fdff::1" not in line]


def groups(nb: Any) -> dict[str, int]:
    """Priorities by chassis."""
    return {row["chassis_name"]: row["priority"] for row in nb.select("HA_Chassis").values()}


@pytest.fixture
async def k_client(nb: Any, start: Any) -> AsyncIterator[Any]:
    """A sender to a programmer of variant K."""
    async with start(nb, variant=Variant.K) as one:
        yield one


async def test_third_example(nb: Any, client: Any, make: Any, wait: Any) -> None:
    """The specification's rows, as the plan tells and as the tools print them."""
    intents = [
        vpc(make, "vpc1", ["kube-ovn-worker", "kube-ovn-worker2"]),
        make.subnet("subnet1", "vpc1", LOCAL, ["192.168.0.1"]),
        gateway(make),
    ]
    plan = await client.plan(*intents)
    for line in ("1 HA_Chassis_Group bfd@vpc1", "1 HA_Chassis kube-ovn-worker2", "1 BFD 192.168.0.2"):
        assert line in plan
    # The waker's row comes with the first gateway that has BFD, and is nobody's outcome.
    assert "1 Address_Set vpc_egress_gateway_waker" in plan
    assert sum(await client.commit(*intents)) == len(plan) - 1
    assert len(waker(nb)) == 1
    assert await client.plan(*intents) == []
    assert policies(nb) == CLOSED
    say(nb, _2="up", _3="up")
    await wait(lambda: policies(nb) == [])
    assert nb.routes("vpc1")[0].startswith("10.255.255.255 10.255.255.255 dst-ip")
    assert nb.routes("vpc1")[1:3] == ROUTES
    for row in nb.select("BFD").values():
        assert row["external_ids"] == [
            "map",
            [["af", "4"], ["vendor", "kube-ovn"], ["vpc-egress-gateway", "default/gateway2"]],
        ]
        assert (row["logical_port"], row["detect_mult"], row["min_rx"], row["min_tx"]) == (
            "bfd@vpc1",
            3,
            1000,
            1000,
        )
    assert groups(nb) == {"kube-ovn-worker": 2, "kube-ovn-worker2": 1}
    await wait(lambda: serving(client) == dict.fromkeys(PEERS, (bfd_pb2.SESSION_STATE_UP, True)))


async def test_variant_k(nb: Any, k_client: Any, make: Any, wait: Any) -> None:
    """One port on the VPC's router and nothing else; policies name their sessions, and a drop lies below."""
    await k_client.commit(
        vpc(make, "vpc1", ["n1"]), vpc(make, "ovn-cluster", ["n1"]), gateway(make, "ovn-cluster")
    )
    shown = nb.nbctl("show", "vpc1")
    assert "port bfd@vpc1" in shown
    assert 'networks: ["10.255.255.255", "fdff::1"]' in shown
    (port,) = [row for row in nb.select("Logical_Router_Port").values() if row["name"] == "bfd@vpc1"]
    assert port["options"] == ["map", [["bfd-only", "true"]]]
    group = nb.select("HA_Chassis_Group")[port["ha_chassis_group"][1]]
    assert group["name"] == "bfd@vpc1"
    assert "vpc1-bfd" not in nb.nbctl("show")
    assert policies(nb, "ovn-cluster") == [
        "29100 ip4.src == 192.168.0.0/24 reroute 192.168.0.2, 192.168.0.3 bfd",
        "29090 ip4.src == 192.168.0.0/24 drop",
    ]
    (policy,) = [row for row in nb.select("Logical_Router_Policy").values() if row["action"] == "reroute"]
    assert {uuid for _, uuid in policy["bfd_sessions"][1]} == set(bfd_uuids(nb).values())
    assert nb.select("Logical_Router_Static_Route").keys()
    say(nb, _2="up", _3="down")
    await wait(lambda: len(serving(k_client)) == 2 and serving(k_client)[PEERS[0]][1])
    assert serving(k_client)[PEERS[1]] == (bfd_pb2.SESSION_STATE_DOWN, False)
    assert "reroute 192.168.0.2, 192.168.0.3 bfd" in policies(nb, "ovn-cluster")[0]
    async for event in k_client.stub.Watch(pb.WatchRequest()):
        assert event.hello.bfd_variant == pb.BFD_VARIANT_K
        break


async def test_policies_follow_the_sessions(nb: Any, client: Any, make: Any, wait: Any) -> None:
    """On stock OVN a dead replica leaves the policy within moments and returns; with none left it drops."""
    await client.commit(vpc(make, "ovn-cluster", ["n1"]), gateway(make, "ovn-cluster"))
    await client.resync()
    both = ["29100 ip4.src == 192.168.0.0/24 reroute 192.168.0.2, 192.168.0.3"]
    drop = ["29090 ip4.src == 192.168.0.0/24 drop"]
    steps = [
        ({}, drop),
        ({"_2": "up", "_3": "up"}, both),
        ({"_2": "down"}, ["29100 ip4.src == 192.168.0.0/24 reroute 192.168.0.3"]),
        ({"_3": "down"}, drop),
        ({"_2": "init"}, ["29100 ip4.src == 192.168.0.0/24 reroute 192.168.0.2"]),
        ({"_2": "up", "_3": "up"}, both),
    ]
    for statuses, expected in steps:
        if statuses:
            say(nb, **statuses)
        await wait(lambda expected=expected: policies(nb, "ovn-cluster") == expected)
    kept = [
        line for line in nb.nbctl("lr-route-list", "ovn-cluster-bfd").splitlines() if "192.168.0." in line
    ]
    assert len(kept) == 2
    assert not [event for event in client.events if event.WhichOneof("event") == "repair"]


async def test_changes_reach_policies_fast(nb: Any, client: Any, make: Any, wait: Any) -> None:
    """From OVN's word to the policy in the database: far below a detection time."""
    await client.commit(vpc(make, "ovn-cluster", ["n1"]), gateway(make, "ovn-cluster"))
    say(nb, _2="up", _3="up")
    await wait(lambda: len(policies(nb, "ovn-cluster")) == 1)
    times = []
    for turn in range(20):
        status = "up" if turn % 2 else "down"
        started = time.monotonic()
        say(nb, _2=status)
        await wait(lambda status=status: serving(client)[PEERS[0]][1] == (status == "up"))
        times.append(time.monotonic() - started)
    assert sorted(times)[10] < 0.2, times


async def test_routes_close_and_open(nb: Any, client: Any, make: Any, wait: Any) -> None:
    """In the route form OVN takes dead routes away itself; when the last one goes, nothing else is a way out."""
    await client.commit(vpc(make, "vpc1", ["n1"]), gateway(make))
    for statuses, expected in [
        ({"_2": "up", "_3": "up"}, []),
        ({"_2": "down"}, []),
        ({"_3": "down"}, CLOSED),
        ({"_2": "up"}, []),
    ]:
        say(nb, **statuses)
        await wait(lambda expected=expected: policies(nb) == expected)
        assert nb.routes("vpc1")[1:3] == ROUTES


async def test_retuned_in_place(nb: Any, client: Any, make: Any) -> None:
    """Other timers are an update of the same rows; a replica that leaves takes its row along."""
    await client.commit(vpc(make, "vpc1", ["n1"]), gateway(make))
    say(nb, _2="up", _3="up")
    before = bfd_uuids(nb)
    await client.commit(gateway(make, ms=300, generation=2))
    assert bfd_uuids(nb) == before
    assert {row["min_tx"] for row in nb.select("BFD").values()} == {300}
    await client.commit(gateway(make, peers=[PEERS[0], "192.168.0.9"], ms=300, generation=3))
    after = bfd_uuids(nb)
    assert after[PEERS[0]] == before[PEERS[0]]
    assert set(after) == {PEERS[0], "192.168.0.9"}
    await client.commit(make.gateway("gateway2", "vpc1", LOCAL, PEERS, local=LOCAL, generation=4))
    assert bfd_uuids(nb) == {}
    assert nb.routes("vpc1")[1:3] == [route.removesuffix(" bfd") for route in ROUTES]


async def test_nodes_come_and_go(nb: Any, client: Any, make: Any) -> None:
    """Another order is another priority of the same rows; an emptied list is refused, and the last good one stays."""
    await client.commit(vpc(make, "vpc1", ["a", "b"]))
    before = {row["chassis_name"]: uuid for uuid, row in nb.select("HA_Chassis").items()}
    await client.commit(vpc(make, "vpc1", ["b", "a", "c"], generation=2))
    after = {row["chassis_name"]: uuid for uuid, row in nb.select("HA_Chassis").items()}
    assert groups(nb) == {"b": 3, "a": 2, "c": 1}
    assert {name: after[name] for name in before} == before
    (outcome,) = await client.apply(vpc(make, "vpc1", [], generation=3))
    assert (outcome.state, outcome.reason) == (pb.OUTCOME_STATE_REFUSED, "NoNodes")
    assert groups(nb) == {"b": 3, "a": 2, "c": 1}
    await client.commit(vpc(make, "vpc1", ["c"], generation=4))
    assert groups(nb) == {"c": 1}


async def test_the_port_stays_where_it_is(nb: Any, client: Any, make: Any, wait: Any) -> None:
    """The chassis that OVN has the port on comes first, whatever order was asked for; one that is not asked for does
    not count.
    """
    await client.commit(vpc(make, "vpc1", ["a", "b", "c"]))
    where = ("set", "logical_router_port", "bfd@vpc1")
    nb.nbctl(*where, "status:hosting-chassis=b")
    await wait(lambda: groups(nb) == {"b": 3, "a": 2, "c": 1})
    await client.commit(vpc(make, "vpc1", ["c", "a", "b"], generation=2))
    assert groups(nb) == {"b": 3, "c": 2, "a": 1}
    await client.commit(vpc(make, "vpc1", ["c", "a"], generation=3))
    assert groups(nb) == {"c": 2, "a": 1}
    nb.nbctl(*where, "status:hosting-chassis=a")
    await wait(lambda: groups(nb) == {"a": 2, "c": 1})
    await client.commit(make.vpc("vpc1", generation=5))
    for table in ("HA_Chassis", "HA_Chassis_Group", "Logical_Switch", "Logical_Router_Port"):
        assert nb.select(table) == {}, table
    assert [row["name"] for row in nb.select("Logical_Router").values()] == ["vpc1"]


async def test_the_join_keeps_clear_of_subnets(nb: Any, client: Any, make: Any) -> None:
    """A subnet around the join's address moves the join; the way back follows."""
    await client.commit(vpc(make, "vpc1", ["a"]))
    assert "0.0.0.0/0 169.254.255.1 dst-ip bfd@vpc1" in nb.routes("vpc1-bfd")
    await client.commit(make.subnet("link", "vpc1", ["169.254.255.0/24"], ["169.254.255.1"]))
    assert "0.0.0.0/0 169.254.253.1 dst-ip bfd@vpc1" in nb.routes("vpc1-bfd")
    await client.delete(pb.IntentKey(kind=pb.INTENT_KIND_SUBNET, name="link"))
    assert "0.0.0.0/0 169.254.255.1 dst-ip bfd@vpc1" in nb.routes("vpc1-bfd")


def bfd_of(nb: Any, peer: str) -> str:
    return bfd_uuids(nb)[peer]


BREAKS = {
    "row removed": (["destroy", "bfd", "BFD"], "default/gateway2"),
    "timer changed": (["set", "bfd", "BFD", "min_rx=5"], "default/gateway2"),
    "mark lost": (["remove", "bfd", "BFD", "external_ids", "af"], "default/gateway2"),
    "reference lost": (["clear", "logical_router_static_route", "ROUTE", "bfd"], "default/gateway2"),
    "chassis removed": (["ha-chassis-group-remove-chassis", "bfd@vpc1", "a"], "vpc1"),
    "priority changed": (["ha-chassis-group-add-chassis", "bfd@vpc1", "b", "77"], "vpc1"),
    "chassis added": (["ha-chassis-group-add-chassis", "bfd@vpc1", "zzz", "77"], None),
    "group left": (["clear", "logical_router_port", "bfd@vpc1", "ha_chassis_group"], "vpc1"),
    "port removed": (["lrp-del", "bfd@vpc1"], "vpc1"),
    "networks changed": (["set", "logical_router_port", "bfd@vpc1", 'networks="10.0.0.1/24"'], "vpc1"),
    "router removed": (["lr-del", "vpc1-bfd"], "vpc1"),
    "switch removed": (["ls-del", "bfd@vpc1"], "vpc1"),
}


def content(nb: Any) -> list[str]:
    """All of our rows, without UUIDs."""
    lines = []
    names = {uuid: row["dst_ip"] for uuid, row in nb.select("BFD").items()}
    for table in (
        "BFD",
        "HA_Chassis",
        "Logical_Router",
        "Logical_Switch",
        "Logical_Router_Port",
        "Logical_Switch_Port",
        "Logical_Router_Policy",
        "Logical_Router_Static_Route",
    ):
        for row in nb.select(table).values():
            kept = {
                name: value
                for name, value in row.items()
                if name
                not in ("_uuid", "_version", "ports", "policies", "static_routes", "ha_chassis_group", "bfd")
            }
            linked = names.get(row["bfd"][1], "") if row.get("bfd", ["set", []])[0] == "uuid" else ""
            grouped = bool(row.get("ha_chassis_group", ["set", []])[1])
            lines.append(f"{table} {sorted(kept.items())} {linked} {grouped}")
    return sorted(lines)


@pytest.mark.parametrize("case", BREAKS)
async def test_drift_is_repaired(case: str, nb: Any, client: Any, make: Any, wait: Any) -> None:
    """BFD rows, references, groups and the join come back, and the owner is named on the stream."""
    await client.commit(vpc(make, "vpc1", ["a", "b"]), gateway(make))
    say(nb, _2="up", _3="up")
    await wait(lambda: policies(nb) == [])
    before = content(nb)
    command, owner = BREAKS[case]
    (route,) = [u for u, r in nb.select("Logical_Router_Static_Route").items() if r["nexthop"] == PEERS[0]]
    words = {"BFD": bfd_of(nb, PEERS[0]), "ROUTE": route}
    nb.nbctl(*(words.get(word, word) for word in command))
    if owner is None:
        # Somebody else's chassis in our group is not ours to remove.
        await asyncio.sleep(0.3)
        assert len(nb.select("HA_Chassis")) == 3
        return
    if case == "row removed":
        # The new row is unknown to OVN until it says so.
        await wait(lambda: len(bfd_uuids(nb)) == 2)
        say(nb, _2="up")
    await wait(lambda: content(nb) == before)
    await wait(
        lambda: owner in [one.repair.key.name for one in client.events if one.WhichOneof("event") == "repair"]
    )


async def test_a_session_of_somebody_elses(nb: Any, client: Any, make: Any, wait: Any) -> None:
    """A BFD row that is not ours is not touched; the gateway waits for its end."""
    nb.nbctl("create", "bfd", "logical_port=bfd@vpc1", 'dst_ip="192.168.0.2"')
    (foreign,) = bfd_uuids(nb).values()
    (_, outcome) = await client.apply(vpc(make, "vpc1", ["a"]), gateway(make))
    assert (outcome.state, outcome.reason) == (pb.OUTCOME_STATE_WAITING, "NameTaken")
    assert bfd_uuids(nb) == {"192.168.0.2": foreign}
    nb.nbctl("destroy", "bfd", foreign)
    await wait(lambda: set(bfd_uuids(nb)) == set(PEERS))


async def test_a_session_that_does_not_come_up(
    nb: Any, client: Any, make: Any, wait: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is nudged, and after five seconds nothing refers to it until OVN has forgotten it; the other stays in use."""
    for name, value in HELP.items():
        monkeypatch.setattr(heal, name, value)
    await client.commit(vpc(make, "vpc1", ["a"]), gateway(make))
    say(nb, _2="up", _3="down")
    rows = bfd_uuids(nb)
    woken = waker(nb)
    await wait(lambda: waker(nb) != woken)
    await wait(lambda: not any(PEERS[1] in line for line in nb.routes("vpc1")), 20)
    assert ROUTES[0].replace(" ecmp ", " ") in nb.routes("vpc1")
    say(nb, _3="admin_down")
    await wait(lambda: any(PEERS[1] in line for line in nb.routes("vpc1")))
    assert bfd_uuids(nb) == rows
    say(nb, _3="up")
    await wait(lambda: serving(client)[PEERS[1]] == (bfd_pb2.SESSION_STATE_UP, True))
    assert {row["min_rx"] for row in nb.select("BFD").values()} == {1000}


async def test_reset_sessions(nb: Any, client: Any, make: Any, wait: Any) -> None:
    """At once when asked, but never the last that serve."""
    await client.commit(vpc(make, "vpc1", ["a"]), gateway(make))
    say(nb, _2="up", _3="up")
    await wait(lambda: len(serving(client)) == 2 and all(one for _, one in serving(client).values()))
    key = gateway(make).gateway.key

    async def reset(*peers: str) -> list[str]:
        reply = await client.stub.ResetSessions(pb.ResetSessionsRequest(gateway=key, peers=peers), timeout=10)
        return list(reply.peers)

    assert await reset() == []
    assert await reset(*PEERS) == []
    assert await reset("192.168.0.77") == []
    assert await reset(PEERS[1]) == [PEERS[1]]
    assert not any(PEERS[1] in line for line in nb.routes("vpc1"))
    assert await reset(PEERS[0]) == []
    say(nb, _3="admin_down")
    await wait(lambda: nb.routes("vpc1")[1:3] == ROUTES)
    nobody = types_pb2.ObjectKey(namespace="default", name="nobody")
    unknown = pb.ResetSessionsRequest(gateway=nobody)
    assert list((await client.stub.ResetSessions(unknown, timeout=10)).peers) == []


async def test_who_died_with_the_port_starts_afresh(nb: Any, client: Any, make: Any, wait: Any) -> None:
    """When the port leaves a chassis, what OVN believes of a replica there is not believed; others stay as they are, and so
    does a gateway that has nobody else.
    """
    three = [*PEERS, "192.168.0.4"]
    intent = gateway(make, peers=three)
    intent.gateway.bfd.chassis.update(dict(zip(three, "abb", strict=True)))
    await client.commit(vpc(make, "vpc1", ["a", "b", "c"]), intent)
    say(nb, _2="up", _3="up", _4="up")
    await wait(lambda: len(serving(client)) == 3 and all(one for _, one in serving(client).values()))
    port = ("set", "logical_router_port", "bfd@vpc1")

    def routed() -> set[str]:
        return {peer for peer in three if any(peer in line for line in nb.routes("vpc1"))}

    nb.nbctl(*port, "status:hosting-chassis=a")
    await wait(lambda: groups(nb)["a"] == 3)
    assert routed() == set(three)
    nb.nbctl(*port, "status:hosting-chassis=b")
    await wait(lambda: routed() == {"192.168.0.3", "192.168.0.4"})
    say(nb, _2="admin_down")
    await wait(lambda: routed() == set(three))
    say(nb, _2="down", _3="up", _4="up")
    await wait(lambda: serving(client)[three[0]][1] is False)
    # Both that are left share the fate of the port's chassis: nobody would be left.
    nb.nbctl(*port, "status:hosting-chassis=c")
    await wait(lambda: groups(nb)["c"] == 3)
    assert routed() == set(three)


async def test_restart_and_delete(nb: Any, start: Any, make: Any, wait: Any) -> None:
    """A new programmer finds everything in place; orphans go at its Resync, and a deletion leaves nothing."""
    intents = [
        vpc(make, "vpc1", ["a", "b"]),
        make.subnet("subnet1", "vpc1", LOCAL, ["192.168.0.1"]),
        gateway(make),
    ]
    async with start(nb) as client:
        await client.commit(*intents)
        say(nb, _2="up", _3="down")
        await client.commit(gateway(make, generation=2))
        await wait(lambda: policies(nb) == [])
    async with start(nb) as client:
        client.session = "two"
        assert await client.commit(*intents) == [0, 0, 0]
        assert await client.resync() == []
    async with start(nb) as client:
        client.session = "three"
        assert len(bfd_uuids(nb)) == 2
        assert sorted(await client.resync()) == ["default/gateway2", "subnet1", "vpc1"]
        for table in (
            "Address_Set",
            "BFD",
            "HA_Chassis_Group",
            "HA_Chassis",
            "Logical_Router",
            "Logical_Switch",
        ):
            assert nb.select(table) == {}, table


async def test_in_kube_ovns_topology(nb: Any, start: Any, make: Any, wait: Any) -> None:
    """The port is Kube-OVN's; sessions name it. Beside its default route a guard stands while all is well."""
    nb.nbctl(
        *["lr-add", "vpc1", "--", "lrp-add", "vpc1", "vpc1-subnet1", "0a:00:00:00:00:01", "192.168.0.1/24"],
        *["--", "lrp-add", "vpc1", "vpc1-ext", "0a:00:00:00:00:02", "172.16.0.1/24"],
        *["--", "lrp-add", "vpc1", "bfd@vpc1", "0a:00:00:00:00:03", "10.255.255.255/32"],
        *["--", "lr-route-add", "vpc1", "0.0.0.0/0", "172.16.0.254"],
    )
    async with start(nb, managed=False, variant=Variant.K) as client:
        await client.commit(gateway(make))
        assert policies(nb) == CLOSED
        say(nb, _2="up", _3="up")
        guard = '29090 ip4.src == 192.168.0.0/24 && outport != "vpc1-subnet1" drop'
        await wait(lambda: policies(nb) == [CLOSED[0], guard])
        say(nb, _2="down", _3="down")
        await wait(lambda: policies(nb) == CLOSED)
        # Kube-OVN has made the port: ours is not.
        assert await client.commit(vpc(make, "vpc1", ["a"])) == [0]
        await client.delete(make.gateway_key("gateway2"))
        assert bfd_uuids(nb) == {}
        assert policies(nb) == []
