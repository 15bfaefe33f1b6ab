"""One change is one transaction, and touches nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

from veg.programmer.v1 import programmer_pb2 as pb

TABLES = ("Logical_Router", "Logical_Switch", "Logical_Router_Port", "Logical_Switch_Port")
ROW_TABLES = ("Logical_Router_Policy", "Logical_Router_Static_Route")
LOCAL = ["192.168.0.0/24", "192.168.1.0/24"]


async def vpcs(client: Any, make: Any) -> None:
    """A default and a custom VPC."""
    await client.commit(
        make.vpc("ovn-cluster", default_vpc=True),
        make.vpc("vpc1"),
        make.subnet("subnet1", "vpc1", ["192.168.0.0/24"], ["192.168.0.1"]),
    )


async def test_one_change_is_one_transaction(nb: Any, client: Any, make: Any, rpc_to: Any) -> None:
    """Another client of the database sees the rows of before or those of after, and never a mixture."""
    await vpcs(client, make)
    before = [f"10.1.{n}.0/24" for n in range(8)]
    after = [f"10.2.{n}.0/24" for n in range(8)]
    await client.commit(make.gateway("g", "ovn-cluster", before, ["10.0.0.1"], default_vpc=True))
    with rpc_to(nb.socket) as watcher:
        columns = {"columns": ["match", "nexthops"]}
        rows = watcher.call("monitor", ["OVN_Northbound", "m", {"Logical_Router_Policy": [columns]}])
        state = {uuid: one["new"] for uuid, one in rows["Logical_Router_Policy"].items()}
        counted = nb.transactions()
        await client.commit(
            make.gateway("g", "ovn-cluster", after, ["10.0.0.1", "10.0.0.2"], default_vpc=True, generation=2)
        )
        assert nb.transactions() == counted + 1
        seen = []
        for update in watcher.updates(0.5):
            for uuid, one in update["Logical_Router_Policy"].items():
                state.pop(uuid, None)
                if "new" in one:
                    state[uuid] = one["new"]
            seen.append(sorted((row["match"], str(row["nexthops"])) for row in state.values()))
    assert len(seen) == 1
    assert [match for match, _ in seen[0]] == [f"ip4.src == {source}" for source in after]
    assert all("10.0.0.2" in nexthops for _, nexthops in seen[0])


async def test_move_to_another_router_is_one_transaction(nb: Any, client: Any, make: Any) -> None:
    """A changed vpc takes the rows off the old router and puts them on the new one at once, also the other way round."""
    await vpcs(client, make)
    await client.commit(make.gateway("g", "ovn-cluster", ["10.1.0.0/24"], ["10.0.0.1"], default_vpc=True))
    counted = nb.transactions()
    await client.commit(
        make.gateway("g", "vpc1", ["10.1.0.0/24"], ["192.168.0.2"], local=LOCAL, generation=2)
    )
    assert nb.transactions() == counted + 1
    assert nb.policies("ovn-cluster") == []
    assert nb.routes("vpc1") == ["10.1.0.0/24 192.168.0.2 src-ip ecmp-symmetric-reply"]
    await client.commit(
        make.gateway("g", "ovn-cluster", ["10.1.0.0/24"], ["10.0.0.1"], default_vpc=True, generation=3)
    )
    assert nb.routes("vpc1") == []
    assert nb.policies("ovn-cluster") == ["29100 ip4.src == 10.1.0.0/24 reroute 10.0.0.1"]


async def test_subnet_and_port_move(nb: Any, client: Any, make: Any) -> None:
    """A subnet of another VPC, a pod of another subnet: the old ports are gone, nothing is left."""
    await vpcs(client, make)
    await client.commit(
        make.subnet("subnet2", "vpc1", ["192.168.1.0/24"], ["192.168.1.1"]),
        make.port("p.default", "subnet1", "0a:00:00:00:00:01", ["192.168.0.9"]),
    )
    await client.commit(
        make.subnet("subnet2", "ovn-cluster", ["192.168.1.0/24"], ["192.168.1.1"], generation=2),
        make.port("p.default", "subnet2", "0a:00:00:00:00:01", ["192.168.1.9"], generation=2),
    )
    ports = sorted(row["name"] for row in nb.select("Logical_Router_Port").values())
    assert ports == ["blackhole@ovn-cluster", "ovn-cluster-subnet2", "vpc1-subnet1"]
    assert nb.policies("ovn-cluster") == ["31000 ip4.dst == 192.168.1.0/24 allow"]
    assert "p.default" in nb.nbctl("lsp-list", "subnet2")
    assert "p.default" not in nb.nbctl("lsp-list", "subnet1")


async def test_scaling_leaves_the_other_routes_alone(nb: Any, client: Any, make: Any) -> None:
    """A third replica adds one row a source; the rows of the first two keep UUID and version."""
    await vpcs(client, make)
    replicas = ["192.168.0.2", "192.168.0.3"]
    await client.commit(make.gateway("g", "vpc1", ["10.1.0.0/24", "10.2.0.0/24"], replicas))
    before = nb.select("Logical_Router_Static_Route")
    wider = make.gateway(
        "g", "vpc1", ["10.1.0.0/24", "10.2.0.0/24"], [*replicas, "192.168.0.4"], generation=2
    )
    assert await client.commit(wider) == [2]
    after = nb.select("Logical_Router_Static_Route")
    assert {uuid: after[uuid] for uuid in before} == before
    assert await client.commit(make.gateway("g", "vpc1", ["10.1.0.0/24"], replicas, generation=3)) == [4]
    ours = {
        uuid: row
        for uuid, row in nb.select("Logical_Router_Static_Route").items()
        if row["ip_prefix"][:2] == "10"
    }
    assert ours == {uuid: row for uuid, row in before.items() if row["ip_prefix"] == "10.1.0.0/24"}


async def test_rows_of_others_are_not_touched(nb: Any, client: Any, make: Any) -> None:
    """Foreign rows beside ours on the same router keep every byte and their version, through apply, delete and resync."""
    nb.nbctl("lr-add", "foreign", "--", "ls-add", "foreign", "--", "lsp-add", "foreign", "foreign.port")
    await vpcs(client, make)
    nb.nbctl("lr-policy-add", "ovn-cluster", "30000", "ip4.dst == 172.18.0.2", "reroute", "100.64.0.3")
    nb.nbctl("--policy=src-ip", "lr-route-add", "vpc1", "10.1.0.0/24", "192.168.0.9")
    ours = {table: set(nb.select(table)) for table in TABLES}
    foreign = {table: nb.select(table) for table in ROW_TABLES}
    foreign["Logical_Router_Static_Route"] = {
        uuid: row
        for uuid, row in foreign["Logical_Router_Static_Route"].items()
        if row["ip_prefix"] == "10.1.0.0/24"
    }
    named = {table: nb.select(table) for table in TABLES}
    await client.commit(
        make.gateway("a", "ovn-cluster", ["10.1.0.0/24"], ["10.0.0.1"], default_vpc=True),
        make.gateway("b", "vpc1", ["10.1.0.0/24"], ["192.168.0.2"]),
    )
    await client.resync()
    keys = [pb.IntentKey(kind=pb.INTENT_KIND_GATEWAY, name=f"default/{name}") for name in "ab"]
    keys += [
        pb.IntentKey(kind=pb.INTENT_KIND_SUBNET, name="subnet1"),
        pb.IntentKey(kind=pb.INTENT_KIND_GATEWAY, name="default/nobody"),
    ]
    for outcome in await client.delete(*keys):
        assert outcome.state == pb.OUTCOME_STATE_COMMITTED
    for table in ROW_TABLES:
        now = nb.select(table)
        assert {uuid: now[uuid] for uuid in foreign[table]} == foreign[table]
    for table in TABLES:
        now = nb.select(table)
        for uuid, row in named[table].items():
            if row["name"].startswith("foreign"):
                assert now[uuid] == row
        assert set(now) <= ours[table]


async def test_many_intents_share_transactions(nb: Any, client: Any, make: Any) -> None:
    """Concurrent callers are coalesced, each gets the outcome of its own, one waiting intent holds up nobody."""
    await vpcs(client, make)
    counted = nb.transactions()
    calls = [
        client.apply(make.gateway(f"g{n}", "ovn-cluster", [f"10.{n}.0.0/16"], ["10.0.0.1"], default_vpc=True))
        for n in range(50)
    ]
    calls.append(client.apply(make.gateway("lost", "nowhere", ["10.0.0.0/16"], ["10.0.0.1"])))
    outcomes = [one for (one,) in await asyncio.gather(*calls)]
    assert [one.key.name for one in outcomes] == [*(f"default/g{n}" for n in range(50)), "default/lost"]
    assert {one.state for one in outcomes[:50]} == {pb.OUTCOME_STATE_COMMITTED}
    assert (outcomes[50].state, outcomes[50].reason) == (pb.OUTCOME_STATE_WAITING, "RouterMissing")
    assert len(nb.policies("ovn-cluster")) == 50
    assert nb.transactions() - counted < 50


async def test_plan_is_empty_after_apply(nb: Any, client: Any, make: Any) -> None:
    """plan(x) tells what apply(x) does, and nothing afterwards; planning writes nothing."""
    await vpcs(client, make)
    wanted = [
        make.subnet("subnet2", "vpc1", ["192.168.1.0/24"], ["192.168.1.1"]),
        make.gateway("g", "vpc1", ["192.168.1.5/32", "192.168.1.0/24"], ["192.168.0.2"], local=LOCAL),
    ]
    counted = nb.transactions()
    planned = await client.plan(*wanted)
    assert nb.transactions() == counted
    assert f"{1} Logical_Router_Port vpc1-subnet2" in planned
    await client.commit(*wanted)
    assert await client.plan(*wanted) == []
    removal = await client.plan(deletes=[pb.IntentKey(kind=pb.INTENT_KIND_GATEWAY, name="default/g")])
    assert sorted(removal) == [
        "3 Logical_Router_Policy ip4.src == 192.168.1.5",
        "3 Logical_Router_Policy ip4.src == 192.168.1.5 && ip4.dst == {192.168.0.0/24, 192.168.1.0/24}",
        "3 Logical_Router_Static_Route 192.168.1.0/24",
    ]
    # Nothing of what was planned has stuck to the copy.
    assert await client.commit(*wanted) == [0, 0]
    await client.delete(pb.IntentKey(kind=pb.INTENT_KIND_GATEWAY, name="default/g"))
    assert nb.policies("vpc1") == []
