"""api on a real API server: Deployments, pods and nodes are real objects with their real controllers."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from veg_common.objects import Ref, kind_of

from tests.functional.api.conftest import gateway
from tests.kube.api_lab import LABEL, SYSTEM, ApiLab
from tests.kube.cluster import Cluster

ELECT = ("--leader-elect", "--namespace", SYSTEM)


@pytest.fixture
async def lab(cluster: Cluster, tmp_path: Path) -> AsyncIterator[ApiLab]:
    """A cluster with two nodes and no api yet."""
    async with ApiLab(cluster, tmp_path) as made:
        yield made


def hops(lab: ApiLab, name: str = "gateway1") -> list[str]:
    """Nexthops that the programmer holds."""
    row = lab.programmer.gateway(name)
    return [hop for family in row.families for hop in family.nexthops] if row is not None else []


async def test_the_first_example_and_what_it_leaves(lab: ApiLab) -> None:
    """Create, scale with kubectl, lose an object, delete: each ends where it should, and then nothing is written."""
    api = lab.start()
    await lab.apply(gateway())
    status = await lab.ready()
    assert (status["internalIPs"], status["externalIPs"]) == (["10.16.0.2"], ["172.17.0.11"])
    assert hops(lab) == ["10.16.0.2"]
    deployment = await lab.get("Deployment")
    assert deployment is not None
    assert deployment["metadata"]["ownerReferences"][0]["kind"] == "VpcEgressGateway"
    assert deployment["metadata"]["generation"] == 1, "the server's defaults are no difference"
    await lab.quiet(api)

    await asyncio.to_thread(lab.cluster.kubectl, "scale", "veg", "gateway1", "--replicas=2")
    assert len((await lab.ready())["internalIPs"]) == 2
    nodes = {pod["spec"]["nodeName"] for pod in await lab.pods()}
    assert nodes == {"node1", "node2"}
    assert (await lab.get("PodDisruptionBudget")) is not None
    await lab.quiet(api)

    for kind, name in (
        ("ConfigMap", "gateway1-config"),
        ("PodDisruptionBudget", "gateway1"),
        ("Deployment", "gateway1"),
    ):
        before = await lab.get(kind, name)
        assert before is not None
        await lab.store.delete(Ref(kind, "default", name))

        async def back(kind: str = kind, name: str = name, uid: str = before["metadata"]["uid"]) -> bool:
            found = await lab.get(kind, name)
            return found is not None and found["metadata"]["uid"] != uid

        await lab.until(back)
    again = await lab.ready()
    assert again["externalIPs"] == ["172.17.0.11", "172.17.0.12"], "addresses outlive the workload"
    await lab.quiet(api)

    await lab.store.delete(Ref("VpcEgressGateway", "default", "gateway1"))

    async def gone() -> bool:
        left = [await lab.store.list(kind) for kind in ("VpcEgressGateway", "IP", "PodDisruptionBudget")]
        ours = [
            o
            for kind in ("Deployment", "ConfigMap", "Pod")
            for o in await lab.store.list(kind, "default")
            if LABEL in (o["metadata"].get("labels") or {})
        ]
        return not any([*left, ours])

    await lab.until(gone)
    assert lab.programmer.gateway() is None


async def test_a_label_that_is_taken_away_comes_back(lab: ApiLab) -> None:
    """The watch sees only what bears our label: an object that lost it is found again, and gets it back."""
    api = lab.start()
    await lab.apply(gateway())
    await lab.ready()
    for kind, name in (("deployment", "gateway1"), ("configmap", "gateway1-config")):
        await asyncio.to_thread(lab.cluster.kubectl, "label", kind, name, f"{LABEL}-", "-n", "default")

        async def labelled(kind: str = kind, name: str = name) -> bool:
            found = await lab.get(kind_of(kind).kind, name)
            return found is not None and LABEL in (found["metadata"].get("labels") or {})

        await lab.until(labelled)
    await lab.ready()
    await lab.quiet(api)


async def test_bad_input_is_told_once(lab: ApiLab) -> None:
    """What only the cluster tells is a condition that names the field, and one Event with a count; good state runs on."""
    api = lab.start()
    await lab.apply(gateway())
    await lab.ready()
    for _ in range(2):
        await lab.apply(gateway(externalSubnet="nowhere"))

        async def refused() -> bool:
            return (await lab.condition("Validated")).get("status") == "False"

        await lab.until(refused)
        await lab.apply(gateway())
        await lab.ready()
    assert "externalSubnet" in str(
        [e["message"] for e in lab.cluster.items("events", "-n", "default") if e["type"] == "Warning"]
    )
    told = [
        e
        for e in await lab.store.list("Event", "default")
        if e["involvedObject"]["name"] == "gateway1" and "externalSubnet" in e["message"]
    ]
    assert [e["count"] for e in told] == [2]
    assert hops(lab) == ["10.16.0.2"]
    await lab.quiet(api)


async def test_an_unready_node_leaves_the_routes(lab: ApiLab) -> None:
    """Its replica is no nexthop within seconds, and is one again when the node returns; a new one is not waited for."""
    lab.start()
    await lab.apply(gateway(replicas=2))
    await lab.ready()
    assert len(hops(lab)) == 2
    await lab.node("node1", ready=False)
    # A second as a rule; busy machines take longer.
    await lab.until(lambda: len(hops(lab)) == 1, 15)
    await lab.until(lambda: _not_ready(lab), 15)
    await lab.node("node1", ready=True)
    await lab.until(lambda: len(hops(lab)) == 2, 30)


async def _not_ready(lab: ApiLab) -> bool:
    return (await lab.condition("Ready")).get("status") == "False"


async def test_one_of_two_leads_and_the_other_takes_over(lab: ApiLab) -> None:
    """Killed, stopped or asked to go: another leads, and whoever wakes up late writes nothing.

    A lease lasts 15 s and is looked at every two: 17 s at the most, and what a busy machine adds.
    """
    first, second = lab.start(*ELECT), lab.start(*ELECT)
    leader = await lab.until(lambda: next((a for a in (first, second) if a.leads), None))
    follower = second if leader is first else first
    await lab.apply(gateway())
    await lab.ready()
    assert follower.writes == 0
    assert not follower.leads

    leader.end(signal.SIGKILL)
    await lab.until(lambda: follower.leads, 40)
    await asyncio.to_thread(lab.cluster.kubectl, "scale", "veg", "gateway1", "--replicas=2")
    assert len((await lab.ready())["internalIPs"]) == 2

    third = lab.start(*ELECT)
    await lab.until(lambda: third.metric("process_start_time_seconds"))
    rows = lab.programmer.applied
    follower.process.send_signal(signal.SIGSTOP)
    await lab.until(lambda: third.leads, 40)
    # Its first word may be that the programmer has not answered yet.
    await lab.quiet(third)
    before = third.writes
    follower.process.send_signal(signal.SIGCONT)
    await lab.until(lambda: follower.metric("process_start_time_seconds"), 20)
    await lab.until(lambda: not follower.leads, 20)
    await lab.quiet(third, follower)
    assert (lab.programmer.applied, third.writes) == (rows, before), "nothing was to be done"

    third.end(signal.SIGTERM)
    # It gives the lease back: not the 15 s that a dead one's lasts.
    await lab.until(lambda: follower.leads, 12)
    assert (await lab.ready())["ready"] is True
    lease = await lab.get("Lease", "vpc-egress-gateway-api", SYSTEM)
    assert lease is not None
    assert lease["spec"]["leaseTransitions"] >= 2


async def test_the_lease_may_be_lost(lab: ApiLab) -> None:
    """A deleted Lease comes back with the same leader, even if another process starts at that very moment."""
    leader = lab.start(*ELECT)
    await lab.until(lambda: leader.leads)
    other = lab.start(*ELECT)
    ref = Ref("Lease", SYSTEM, "vpc-egress-gateway-api")
    holder = (await lab.store.get(ref))["spec"]["holderIdentity"]
    await lab.store.delete(ref)

    async def back() -> Any:
        found = await lab.get("Lease", ref.name, SYSTEM)
        return found and found["spec"].get("holderIdentity")

    assert await lab.until(back, 20) == holder
    await lab.until(lambda: other.metric("process_start_time_seconds"))
    assert leader.leads
    assert not other.leads


async def test_the_api_server_may_be_away(lab: ApiLab) -> None:
    """Running gateways carry on; what was wanted meanwhile is done when it is back, and nothing twice."""
    api = lab.start(*ELECT)
    await lab.apply(gateway())
    await lab.ready()
    row = lab.programmer.gateway()
    lab.cluster.kill_apiserver()
    # Longer than a leader may go on without a renewal.
    await lab.until(lambda: not api.leads)
    assert lab.programmer.gateway() == row
    assert api.process.poll() is None
    lab.cluster.start_apiserver()  # in this thread: it ends with the one that started it
    await lab.store.aclose()
    await asyncio.to_thread(lab.cluster.kubectl, "scale", "veg", "gateway1", "--replicas=2")
    assert len((await lab.ready())["internalIPs"]) == 2
    names = [ip["metadata"]["name"] for ip in await lab.store.list("IP")]
    assert len(names) == len(set(names)) == 4
    await lab.quiet(api)
