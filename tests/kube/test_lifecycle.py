"""The system installed by its chart: upgrades, drains, restarts, selectors, lost nodes, faults, uninstalling.

One system for all tests of this file, with one gateway of two replicas that has BFD, and a client on a node of its own:
OVS's userspace datapath loses packets whenever a port of its bridge comes or goes, which is not what is measured here.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from veg_sandbox.harness import ECHO_PORT, eventually

from tests.kube.cluster import Cluster
from tests.kube.rig import CHART, LABEL, OUTSIDE, RELEASE, RELEASE_NAMESPACE, Rig, example, system

# The machine stands still for some 100 ms at times, twice in a row too: timers that see no failure in that.
BFD = "{enabled: true, minRX: 1000, minTX: 1000, multiplier: 3}"
NETWORKS = example("first.yaml").rpartition("---")[0]
NODES = 4
CLIENTS_NODE = "kube-ovn-worker4"
ELSEWHERE = {
    "matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [CLIENTS_NODE]}]
}
VPC = f"""\
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {{name: vpc1}}
spec: {{bfdPort: {{enabled: true, ip: 10.255.255.255}}}}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {{name: subnet1}}
spec: {{vpc: vpc1, protocol: IPv4, cidrBlock: 192.168.0.0/24}}
---
apiVersion: kubeovn.io/v1
kind: VpcEgressGateway
metadata: {{name: gateway2, namespace: default}}
spec:
  vpc: vpc1
  replicas: 2
  internalSubnet: subnet1
  externalSubnet: macvlan1
  bfd: {BFD}
  nodeSelector: [{json.dumps(ELSEWHERE)}]
  policies: [{{snat: true, ipBlocks: [192.168.0.0/24]}}]
"""
CLIENT = f"""\
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: default, annotations: {{ovn.kubernetes.io/logical_switch: subnet1}}}}
spec: {{nodeName: {CLIENTS_NODE}, containers: [{{name: client, image: none}}]}}
"""
API = "app.kubernetes.io/component=api"
PROGRAMMER = "app.kubernetes.io/component=ovn-programmer"


@pytest.fixture(scope="module")
def rig(own_cluster: Cluster) -> Iterator[Rig]:
    """The chart's system with the gateway and the client."""
    with system(own_cluster, "chart", nodes=NODES) as running:
        running.cluster.apply(f"{NETWORKS}---\n{VPC}")
        running.ready("gateway2", 150)
        running.cluster.apply(CLIENT)
        running.running("client")
        yield running


@pytest.fixture(autouse=True)
def _steady(rig: Rig) -> Iterator[None]:
    """Every test begins and ends with both replicas carrying traffic, whatever a failed one left."""
    patch(rig, replicas=2, nodeSelector=[ELSEWHERE])
    steady(rig)
    yield
    steady(rig)


def patch(rig: Rig, **spec: Any) -> None:
    """Change fields of the gateway's spec."""
    rig.kubectl("patch", "veg", "gateway2", "--type=merge", "-p", json.dumps({"spec": spec}))


def steady(rig: Rig) -> None:
    """Wait until the gateway is ready, has two pods and no third on its way out, and both carry traffic."""
    rig.ready("gateway2", 120)
    rig.eventually(lambda: len(rig.pods("gateway2")) == 2, 60, "two pods")
    eventually(lambda: len(rig.seen("client", 40)) == 2, 60, "both replicas carry traffic")


def nodes_of(rig: Rig) -> set[str]:
    """Where the replicas are."""
    return {pod["spec"].get("nodeName", "") for pod in rig.pods("gateway2")}


def routes(rig: Rig) -> str:
    """The static routes of the VPC."""
    return rig.sandbox("nbctl", "lr-route-list", "vpc1")


@contextmanager
def stream(rig: Rig, seconds: int = 0) -> Iterator[Callable[[], dict[str, Any]]]:
    """UDP in eight flows, ten packets a second each; yields what ends it and returns the result.

    With `seconds` it lasts so long, whatever happens.
    """
    args = ["stream", "--interval-ms", "100", "--duration", str(seconds or 280), "--flows", "8"]
    args += [] if seconds else ["--until-told"]
    command = rig.sandbox.probe_command(*args, "--target", OUTSIDE, "--port", str(ECHO_PORT))
    # Not through the API server, which a test may take away.
    argv = rig.lab.pod_argv(rig.cluster.get("pod", "client")["metadata"]["uid"], command)
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:

        def result() -> dict[str, Any]:
            output, errors = process.communicate("\n", timeout=seconds + 30)
            assert process.returncode == 0, errors
            found: dict[str, Any] = json.loads(output)
            assert found["sent"] > 100
            return found

        try:
            yield result
        finally:
            process.kill()


def own_pods(rig: Rig, selector: str) -> list[dict[str, Any]]:
    """Pods of the release."""
    return rig.cluster.items("pod", "-n", RELEASE_NAMESPACE, "-l", selector)


def leader(rig: Rig) -> str:
    """Who holds api's Lease, "" when there is none."""
    leases = rig.cluster.items("lease", "-n", RELEASE_NAMESPACE)
    found = [lease for lease in leases if lease["metadata"]["name"] == "vpc-egress-gateway-api"]
    return str(found[0]["spec"].get("holderIdentity") or "") if found else ""


def rescale(rig: Rig, replicas: int) -> None:
    """Scale, and wait until that is so everywhere: the whole chain works."""
    rig.kubectl("scale", "veg", "gateway2", f"--replicas={replicas}")
    rig.ready("gateway2", 120)
    # After an outage a watch may come back only 20 s after the API server.
    rig.eventually(lambda: routes(rig).count("192.168.0.0/24") == replicas, 60, f"{replicas} routes")


def test_helm_test_passes(rig: Rig) -> None:
    """api and ovn-programmer answer to who shows a certificate."""
    told = rig.cluster.helm("test", RELEASE, "-n", RELEASE_NAMESPACE, "--timeout", "60s")
    assert "Phase:          Succeeded" in told


def test_an_upgrade_disturbs_no_traffic(rig: Rig) -> None:
    """Changed values roll api and ovn-programmer over; not a packet is lost meanwhile."""
    before = {pod["metadata"]["uid"] for pod in own_pods(rig, API)}
    with stream(rig) as result:
        rig.cluster.helm(
            *("upgrade", RELEASE, str(CHART), "-n", RELEASE_NAMESPACE, "--reuse-values", "--wait"),
            *("--set", "api.logLevel=debug", "--set", "ovnProgrammer.logLevel=debug", "--timeout", "120s"),
        )
        # `--wait` is content with one new replica of two.
        for name in ("api", "ovn-programmer"):
            where = (f"deployment/{RELEASE}-vpc-egress-gateway-{name}", "-n", RELEASE_NAMESPACE)
            rig.kubectl("rollout", "status", *where, "--timeout=75s", timeout=80)
        rig.eventually(
            lambda: before.isdisjoint(pod["metadata"]["uid"] for pod in own_pods(rig, API)), 60, "all new"
        )
        assert result()["lost"] == 0
    rescale(rig, 1)
    rescale(rig, 2)


def test_draining_a_node_loses_no_packet(rig: Rig) -> None:
    """`kubectl drain` of a replica's node: its traffic moves before it goes; the replica comes back elsewhere."""
    node = min(nodes_of(rig))
    with stream(rig) as result:
        rig.kubectl(
            *("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=50s"), timeout=60
        )
        assert result()["lost"] == 0
    rig.kubectl("uncordon", node)


def test_a_rollout_restart_loses_no_packet(rig: Rig) -> None:
    """`kubectl rollout restart` replaces every pod, one at a time."""
    before = {pod["metadata"]["uid"] for pod in rig.pods("gateway2")}
    with stream(rig) as result:
        rig.kubectl("rollout", "restart", "deployment/gateway2")
        rig.kubectl("rollout", "status", "deployment/gateway2", "--timeout=120s", timeout=130)
        assert result()["lost"] == 0
    rig.eventually(
        lambda: before.isdisjoint(p["metadata"]["uid"] for p in rig.pods("gateway2")), 30, "all new"
    )


@pytest.mark.parametrize("kind", ["deployment", "configmap"])
def test_what_is_deleted_by_hand_comes_back(rig: Rig, kind: str) -> None:
    """A Deployment and a ConfigMap of a gateway are made again."""
    name = {"deployment": "gateway2", "configmap": "gateway2-config"}[kind]
    uid = rig.cluster.get(kind, name)["metadata"]["uid"]
    rig.kubectl("delete", kind, name, "--wait=false")
    rig.eventually(lambda: rig.cluster.get(kind, name)["metadata"]["uid"] != uid, 30, f"a new {kind}")


def test_node_selectors_are_followed(rig: Rig) -> None:
    """Labels and names of nodes: pods move to where the selector says, and back when it is taken away."""
    first = rig.lab.nodes[0].name
    rig.kubectl("label", "node", first, "egress=yes", "--overwrite")
    rescale(rig, 1)
    patch(rig, nodeSelector=[{"matchLabels": {"egress": "yes"}}])
    rig.eventually(lambda: nodes_of(rig) == {first}, 60, "the replica is on the labelled node")
    patch(rig, nodeSelector=[ELSEWHERE])
    rig.kubectl("label", "node", first, "egress-")
    rescale(rig, 2)


def test_a_node_without_power_leaves_the_routes(rig: Rig) -> None:
    """Its replica carries nothing after the detection time, the node becomes NotReady, and all comes back with it."""
    node = min(nodes_of(rig))
    rig.sandbox("fault", "kill-chassis", node)
    try:
        eventually(lambda: len(rig.seen("client", 40)) == 1, 60, "one replica carries all traffic")
        rig.eventually(lambda: "NotReady" in rig.kubectl("get", "node", node), 40, "the node is NotReady")
    finally:
        rig.sandbox("fault", "kill-chassis", node, "--heal")
    rig.eventually(lambda: "NotReady" not in rig.kubectl("get", "node", node), 30, "the node is Ready")


def test_a_deleted_node(rig: Rig) -> None:
    """What was on it goes elsewhere, and the node may come back; the other replica carries all traffic meanwhile."""
    node = min(nodes_of(rig))
    rig.kubectl("delete", "node", node)
    try:
        # The pod collector of Kubernetes waits for 40 s before it believes that a node is gone.
        rig.eventually(
            lambda: node not in nodes_of(rig) and len(nodes_of(rig)) == 2, 120, "a replica elsewhere"
        )
        steady(rig)
    finally:
        rig.sandbox("up", "--nodes", str(NODES))
    rig.eventually(lambda: " Ready" in rig.kubectl("get", "node", node), 60, "the node is back")


def test_expired_watches(rig: Rig) -> None:
    """etcd forgets all history while the API server is away: api lists anew (410) and misses nothing."""
    rig.cluster.kill_apiserver()
    rig.cluster.compact()
    rig.cluster.start_apiserver()
    steady(rig)
    rescale(rig, 1)
    rescale(rig, 2)
    logs = [
        rig.kubectl("logs", pod["metadata"]["name"], "-n", RELEASE_NAMESPACE) for pod in own_pods(rig, API)
    ]
    assert any("watch expired" in text for text in logs)


def test_the_api_server_away(rig: Rig) -> None:
    """Gateways carry on for a minute without it, and what is asked for afterwards is done; nothing twice."""
    pods = {pod["metadata"]["uid"] for pod in rig.pods("gateway2")}
    with stream(rig, 60) as result:
        rig.cluster.kill_apiserver()
        try:
            told = result()
        finally:
            rig.cluster.start_apiserver()
    assert told["lost"] == 0
    steady(rig)
    assert {pod["metadata"]["uid"] for pod in rig.pods("gateway2")} == pods
    rescale(rig, 1)
    rescale(rig, 2)


def test_the_lease_deleted(rig: Rig) -> None:
    """Somebody leads again."""
    rig.kubectl("delete", "lease", "vpc-egress-gateway-api", "-n", RELEASE_NAMESPACE)
    rig.eventually(lambda: leader(rig), 40, "a leader")
    rescale(rig, 1)
    rescale(rig, 2)


@pytest.mark.parametrize("selector", [API, PROGRAMMER])
def test_killed_services_come_back(rig: Rig, selector: str) -> None:
    """All replicas of a service killed at once, in the middle of a change: the change is done afterwards, no traffic lost."""
    lab = rig.lab
    with stream(rig) as result:
        rig.kubectl("scale", "veg", "gateway2", "--replicas=3")
        for pod in own_pods(rig, selector):
            lab.pod_kill(pod["metadata"]["uid"], pod["spec"]["containers"][0]["name"], 9)
        rescale(rig, 3)
        assert result()["lost"] == 0
    rescale(rig, 2)


def test_certificates_rotated(rig: Rig) -> None:
    """A new authority and new certificates reach running services, which go on without a restart."""
    name = "veg-vpc-egress-gateway-tls"
    before = rig.cluster.get("secret", name, RELEASE_NAMESPACE)["data"]["tls.crt"]
    uids = {pod["metadata"]["uid"] for pod in own_pods(rig, API)}
    rig.kubectl("delete", "secret", name, "-n", RELEASE_NAMESPACE)
    rig.cluster.helm("upgrade", RELEASE, str(CHART), "-n", RELEASE_NAMESPACE, "--reuse-values")
    assert rig.cluster.get("secret", name, RELEASE_NAMESPACE)["data"]["tls.crt"] != before

    def accepted() -> bool:
        done = rig.cluster.run("helm", "test", RELEASE, "-n", RELEASE_NAMESPACE, "--timeout", "30s")
        return done.returncode == 0

    eventually(accepted, 90, "the new certificates are in use")
    rescale(rig, 1)
    rescale(rig, 2)
    assert {pod["metadata"]["uid"] for pod in own_pods(rig, API)} == uids


def test_a_pod_of_the_gateway_may_do_nothing(rig: Rig) -> None:
    """No token of a service account in a gateway's pod."""
    pod = rig.pods("gateway2")[0]
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert not [v for v in pod["spec"].get("volumes", []) if "projected" in v]
    done = subprocess.run(
        rig.lab.pod_argv(pod["metadata"]["uid"], ["ls", "/run/secrets/kubernetes.io"], container="gateway"),
        capture_output=True,
        check=False,
        timeout=10,
    )
    assert done.returncode != 0


def test_labels_find_everything_of_a_gateway(rig: Rig) -> None:
    """Deployment, ConfigMap, PodDisruptionBudget and addresses bear the gateway's label."""
    for kind, namespaced in (("deployment", True), ("configmap", True), ("pdb", True), ("ip", False)):
        where = ("-n", "default") if namespaced else ()
        assert rig.cluster.items(kind, *where, "-l", f"{LABEL}=gateway2"), kind
