"""What others break is put right within a second, and reported."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from veg.programmer.v1 import programmer_pb2 as pb


async def gateways(client: Any, make: Any) -> None:
    """One gateway in each kind of VPC."""
    await client.commit(
        make.vpc("ovn-cluster", default_vpc=True),
        make.vpc("vpc1"),
        make.subnet("subnet1", "vpc1", ["192.168.0.0/24"], ["192.168.0.1"]),
        make.port("p.default", "subnet1", "0a:00:00:00:00:01", ["192.168.0.9"]),
        make.gateway("a", "ovn-cluster", ["10.1.0.0/24"], ["10.0.0.1"], default_vpc=True),
        make.gateway("b", "vpc1", ["10.1.0.0/24"], ["192.168.0.2", "192.168.0.3"]),
    )
    await client.resync()


def repairs(client: Any) -> list[str]:
    """Whose repairs were reported."""
    return [event.repair.key.name for event in client.events if event.WhichOneof("event") == "repair"]


def content(nb: Any) -> Any:
    """Everything that the tools print of our rows."""
    shown = [line for line in nb.nbctl("show").splitlines() if "(" not in line]
    return [
        sorted(shown),
        *(what(router) for router in ("ovn-cluster", "vpc1") for what in (nb.policies, nb.routes)),
    ]


async def all_committed(client: Any) -> None:
    """Wait until every intent is: an outcome is told just after its rows are there."""
    deadline = asyncio.get_running_loop().time() + 15
    while {one.state for one in (await client.outcomes()).values()} != {pb.OUTCOME_STATE_COMMITTED}:
        assert asyncio.get_running_loop().time() < deadline, await client.outcomes()
        await asyncio.sleep(0.01)


BREAKS = {
    "policy removed": (["lr-policy-del", "ovn-cluster"], "default/a"),
    "routes removed": (["lr-route-del", "vpc1"], "default/b"),
    "policy changed": (["set", "logical_router_policy", "POLICY", "nexthops=10.9.9.9"], "default/a"),
    "match changed": (["set", "logical_router_policy", "POLICY", 'match="ip4.src == 1.2.3.4"'], "default/a"),
    "mark of the family lost": (["remove", "logical_router_policy", "POLICY", "external_ids", "af"], "default/a"),
    "mark of the holder wrong": (["set", "logical_router_policy", "POLICY", "external_ids:veg-parent=vpc1"], "default/a"),
    "mark of the holder lost": (["remove", "logical_router_policy", "POLICY", "external_ids", "veg-parent"], "default/a"),
    "router port removed": (["lrp-del", "vpc1-subnet1"], "subnet1"),
    "router port changed": (["set", "logical_router_port", "vpc1-subnet1", 'mac="0a:00:00:00:00:99"'], "subnet1"),
    "pod's port changed": (["lsp-set-addresses", "p.default", "unknown"], "p.default"),
    "switch removed": (["ls-del", "subnet1"], "subnet1"),
    "router renamed": (["set", "logical_router", "vpc1", "name=other"], "vpc1"),
    "router removed": (["lr-del", "vpc1"], "vpc1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BREAKS)
async def test_comes_back(case: str, nb: Any, client: Any, make: Any, wait: Any) -> None:
    """The rows are as before within a second, the owner is named on the stream, then it is quiet.

    On a busy machine looking alone may take a second: the best of three repairs counts. What is not noticed at once is
    repaired a second later or never.
    """
    await gateways(client, make)
    before = content(nb)
    command, owner = BREAKS[case]
    seconds: list[float] = []
    while len(seconds) < 3 and min(seconds, default=1) >= 1:
        rows = nb.select("Logical_Router_Policy").items()
        uuid = next(uuid for uuid, row in rows if row["priority"] == 29100)
        await asyncio.to_thread(nb.nbctl, *(word.replace("POLICY", uuid) for word in command))
        seconds.append(await wait(lambda: content(nb) == before))
    assert min(seconds) < 1, seconds
    await wait(lambda: owner in repairs(client))
    await all_committed(client)
    counted = nb.transactions()
    assert (
        await client.plan(make.gateway("a", "ovn-cluster", ["10.1.0.0/24"], ["10.0.0.1"], default_vpc=True))
        == []
    )
    assert nb.transactions() == counted
    assert len(repairs(client)) < 10 * len(seconds)


async def test_row_put_back_by_hand_without_an_owner(nb: Any, client: Any, make: Any, wait: Any) -> None:
    """Once in sync, rows with our mark of an owner that nobody asked for go; before that they stay."""
    await client.commit(make.vpc("vpc1"))

    def stray(name: str) -> None:
        nb.nbctl(
            "--id=@p", "create", "logical_router_policy", "priority=29100", 'match="ip4"', "action=drop",
            f"external_ids:vpc-egress-gateway=default/{name}", "--", "add", "logical_router", "vpc1", "policies", "@p",
        )  # fmt: skip

    await asyncio.to_thread(stray, "one")
    await client.commit(make.gateway("b", "vpc1", ["10.1.0.0/24"], ["192.168.0.2"]))
    assert nb.policies("vpc1") == ["29100 ip4 drop"]
    assert await client.resync() == ["default/one"]
    assert nb.policies("vpc1") == []
    await asyncio.to_thread(stray, "two")
    await wait(lambda: nb.policies("vpc1") == [])


async def test_own_commits_are_no_drift(client: Any, make: Any) -> None:
    """Changes of our own are not taken for somebody else's."""
    await gateways(client, make)
    for generation in range(2, 30):
        await client.commit(
            make.gateway("b", "vpc1", [f"10.{generation}.0.0/24"], ["192.168.0.2"], generation=generation)
        )
    assert repairs(client) == []


async def test_someone_who_does_not_give_up(nb: Any, client: Any, make: Any, wait: Any) -> None:
    """A second controller that undoes every repair does not make the programmer spin; the last word is ours."""
    await gateways(client, make)
    counted = nb.transactions()
    for _ in range(15):
        await asyncio.to_thread(nb.nbctl, "lr-policy-del", "ovn-cluster")
    await wait(lambda: nb.policies("ovn-cluster"))
    assert nb.transactions() - counted <= 30


async def test_waiting_is_applied_by_itself(nb: Any, client: Any, make: Any, wait: Any) -> None:
    """Router, VPC or switch missing: WAITING with the reason; done as soon as it is there, in any order."""
    gateway, subnet, port = await client.apply(
        make.gateway("b", "vpc1", ["10.1.0.0/24"], ["192.168.0.2"]),
        make.subnet("subnet1", "vpc1", ["192.168.0.0/24"], ["192.168.0.1"]),
        make.port("p.default", "subnet1", "0a:00:00:00:00:01", ["192.168.0.9"]),
    )
    assert [(one.state, one.reason) for one in (gateway, subnet, port)] == [
        (pb.OUTCOME_STATE_WAITING, reason) for reason in ("RouterMissing", "VpcMissing", "SwitchMissing")
    ]
    await client.commit(make.vpc("vpc1"))
    await wait(lambda: "p.default" in nb.nbctl("show"))
    await wait(lambda: nb.routes("vpc1"))
    await all_committed(client)
    # The router goes with everything on it, and comes back later.
    await client.delete(pb.IntentKey(kind=pb.INTENT_KIND_VPC, name="vpc1"))
    deadline = asyncio.get_running_loop().time() + 15
    while (await client.outcomes())["default/b"].state != pb.OUTCOME_STATE_WAITING:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
    await client.commit(make.vpc("vpc1", generation=2))
    await wait(lambda: nb.routes("vpc1"))
    assert "vpc1-subnet1" in nb.nbctl("show")


async def test_name_taken(nb: Any, client: Any, make: Any, wait: Any) -> None:
    """A router or port of somebody else's with the wanted name is left alone; ours comes when it is gone."""
    nb.nbctl("lr-add", "vpc1", "--", "ls-add", "foreign", "--", "lsp-add", "foreign", "p.default")
    outcome = (await client.apply(make.vpc("vpc1")))[0]
    assert (outcome.state, outcome.reason) == (pb.OUTCOME_STATE_WAITING, "NameTaken")
    await asyncio.to_thread(nb.nbctl, "lr-del", "vpc1")
    await wait(lambda: "vpc1" in nb.nbctl("lr-list"))
    outcomes = await client.apply(
        make.subnet("subnet1", "vpc1", ["192.168.0.0/24"], ["192.168.0.1"]),
        make.port("p.default", "subnet1", "0a:00:00:00:00:01", ["192.168.0.9"]),
    )
    assert [one.reason for one in outcomes] == ["", "NameTaken"]
    await asyncio.to_thread(nb.nbctl, "ls-del", "foreign")
    await wait(lambda: "p.default" in nb.nbctl("lsp-list", "subnet1"))
