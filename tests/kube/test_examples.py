"""The specification's examples through kubectl, with real packets, on a real control plane."""

import re
from collections.abc import Iterator

import pytest
from veg_sandbox.harness import eventually

from tests.kube.cluster import Cluster
from tests.kube.rig import LABEL, Rig, example, system

HEADER = ["NAME", "VPC", "REPLICAS", "BFD ENABLED", "EXTERNAL SUBNET", "PHASE", "READY"]


@pytest.fixture(scope="module", params=["chart"])
def rig(request: pytest.FixtureRequest, own_cluster: Cluster) -> Iterator[Rig]:
    """The whole system, api and ovn-programmer as the parameter says."""
    with system(own_cluster, request.param) as running:
        yield running


@pytest.fixture(autouse=True)
def _clean(rig: Rig) -> Iterator[None]:
    yield
    rig.clean()


def test_the_first_example(rig: Rig) -> None:
    """NAD, Subnet and gateway of one replica: outputs as printed in the specification, one fixed source address."""
    applied = rig.cluster.apply(example("first.yaml") + "---\n" + example("client.yaml"))
    assert "vpcegressgateway.kubeovn.io/gateway1 created" in applied
    rig.ready("gateway1")
    rig.running("client")

    header, row = rig.table("veg", "gateway1")
    assert header == [*HEADER, "AGE"]
    assert row[:-1] == ["gateway1", "ovn-cluster", "1", "false", "macvlan1", "Completed", "true"]
    pod = rig.pods("gateway1")[0]
    inside, node = pod["status"]["podIP"], pod["spec"]["nodeName"]
    wide = rig.table("veg", "gateway1", "-o", "wide")
    assert wide[0] == [*HEADER, "INTERNAL IPS", "EXTERNAL IPS", "WORKING NODES", "AGE"]
    assert wide[1][7:10] == [f'["{inside}"]', '["172.17.0.11"]', f'["{node}"]']
    deployment = ("deployment", "-l", f"{LABEL}=gateway1")
    rig.eventually(lambda: rig.table(*deployment)[1][:4] == ["gateway1", "1/1", "1", "1"], 30, "available")
    row = rig.table("pod", "-l", f"{LABEL}=gateway1", "-o", "wide")[1]
    assert re.fullmatch(r"gateway1-[a-z0-9]+-[a-z0-9]{5}", row[0])
    assert (row[1:4], row[5:]) == (["1/1", "Running", "0"], [inside, node, "<none>", "<none>"])

    gateway = ("exec", pod["metadata"]["name"], "-c", "gateway", "--")
    assert f"inet {inside}/16 brd 10.16.255.255 scope global eth0" in rig.kubectl(
        *gateway, "ip", "address", "show"
    )
    assert (
        rig.kubectl(*gateway, "ip", "route", "show").splitlines()[0].strip()
        == "default via 172.17.0.1 dev net1"
    )
    rules = rig.kubectl(*gateway, "iptables", "-t", "nat", "-S")
    assert "-A POSTROUTING -s 10.16.0.0/16 -j MASQUERADE --random-fully" in rules
    assert rig.kubectl("logs", pod["metadata"]["name"], "-c", "gateway")

    assert rig.seen("client") == {"172.17.0.11": 20}
    assert re.search(
        rf"29100\s+ip4\.src == 10\.16\.0\.0/16\s+reroute\s+{re.escape(inside)}",
        rig.sandbox("nbctl", "lr-policy-list", "ovn-cluster"),
    )
    described = rig.kubectl("describe", "veg", "gateway1")
    assert "Kind:         VpcEgressGateway" in described
    assert "Ready" in described


def test_scaling_shares_the_traffic_and_survives_a_pod(rig: Rig) -> None:
    """`kubectl scale` to two: a replica a node, traffic by both; one deleted: no packet is refused afterwards."""
    rig.cluster.apply(example("first.yaml") + "---\n" + example("client.yaml"))
    rig.ready("gateway1")
    rig.running("client")
    told = rig.kubectl("scale", "veg", "gateway1", "--replicas=2")
    assert told.strip() == "vpcegressgateway.kubeovn.io/gateway1 scaled"
    rig.eventually(lambda: len(rig.pods("gateway1")) == 2, 60, "two pods")
    rig.ready("gateway1")
    pods = rig.pods("gateway1")
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 2
    assert rig.table("veg", "gateway1")[1][2] == "2"
    eventually(
        lambda: set(rig.seen("client", 60)) == {"172.17.0.11", "172.17.0.12"}, 60, "both carry traffic"
    )

    rig.kubectl("delete", "pod", pods[0]["metadata"]["name"], "--wait=false")
    eventually(lambda: len(rig.seen("client", 40)) >= 1, 60, "traffic goes on")
    rig.ready("gateway1")
    eventually(lambda: len(rig.seen("client", 60)) == 2, 60, "two replicas again")


def test_the_third_example(rig: Rig) -> None:
    """A VPC with a BFD port and a gateway of two replicas: sessions up on both ends, ECMP routes as printed."""
    rig.cluster.apply(example("first.yaml"))
    rig.ready("gateway1")
    client = example("client.yaml").replace("name: client", "name: client-vpc1", 1)
    client = client.replace(
        "  namespace: default",
        "  namespace: default\n  annotations: {ovn.kubernetes.io/logical_switch: subnet1}",
        1,
    )
    rig.cluster.apply(example("third.yaml") + "---\n" + client)
    rig.ready("gateway2", 120)
    rig.running("client-vpc1")
    shown = ["gateway2", "vpc1", "2", "true", "macvlan1", "Completed", "true"]
    assert rig.table("veg", "gateway2")[1][:7] == shown
    routes = rig.sandbox("nbctl", "lr-route-list", "vpc1")
    for pod in rig.pods("gateway2"):
        address = pod["status"]["podIP"]
        assert re.search(
            rf"192\.168\.0\.0/24\s+{re.escape(address)}.*src-ip.*ecmp-symmetric-reply.*bfd", routes
        )
        status = rig.kubectl("exec", pod["metadata"]["name"], "-c", "bfdd", "--", "bfdd-control", "status")
        assert f"local={address} (p) remote=10.255.255.255 state=Up" in status
    eventually(lambda: len(rig.seen("client-vpc1", 60)) == 2, 60, "both replicas carry traffic")


def test_deleting_leaves_nothing(rig: Rig) -> None:
    """`kubectl delete veg` returns when rows, workload and addresses are gone."""
    rig.cluster.apply(example("first.yaml"))
    rig.ready("gateway1")
    told = rig.kubectl("delete", "veg", "gateway1", "--timeout=60s", timeout=90)
    assert 'vpcegressgateway.kubeovn.io "gateway1" deleted' in told
    assert "29100" not in rig.sandbox("nbctl", "lr-policy-list", "ovn-cluster")
    rig.eventually(lambda: not rig.pods("gateway1"), 60, "no pods")
    for kind in ("deployment", "configmap", "pdb"):
        assert rig.cluster.items(kind, "-n", "default", "-l", f"{LABEL}=gateway1") == []
    rig.eventually(lambda: not rig.cluster.items("ip", "-l", f"{LABEL}=gateway1"), 60, "addresses are free")
