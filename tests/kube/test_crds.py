"""The chart's CRDs on a real API server: names and columns, defaults, and that it refuses what one object can tell."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from veg_api.core import gateway, network
from veg_common.objects import KINDS

from tests.kube.cluster import Cluster

CRDS = Path(__file__).resolve().parents[2] / "charts/vpc-egress-gateway/files/crds"
NAMESPACE = "of-test-crds"
FIRST = {"vpc": "ovn-cluster", "replicas": 1, "externalSubnet": "macvlan1"}
POLICY = {"snat": True, "subnets": ["ovn-default"]}
IN_USE = {"key": "zone", "operator": "In", "values": ["a"]}


@pytest.fixture(scope="module")
def crds(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster with all CRDs, which go again if they were not there before."""
    before = cluster.kubectl("get", "crd", "-o", "name").split()
    made = []
    for path in sorted(CRDS.glob("*.yaml")):
        crd = yaml.safe_load(path.read_text())
        name = f"customresourcedefinition.apiextensions.k8s.io/{crd['metadata']['name']}"
        if name not in before:
            cluster.kubectl("create", "-f", "-", input=json.dumps(crd))
            made.append(name)
    if made:
        cluster.kubectl("wait", "--for=condition=Established", *made)
    cluster.kubectl("create", "namespace", NAMESPACE)
    yield cluster
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    if made:
        cluster.kubectl("delete", *made)


def veg(name: str = "gateway1", **fields: Any) -> dict[str, Any]:
    """A VpcEgressGateway; a field of None is left out."""
    spec = {**FIRST, "policies": [POLICY], **fields}
    return {
        "apiVersion": "kubeovn.io/v1",
        "kind": "VpcEgressGateway",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {key: value for key, value in spec.items() if value is not None},
    }


def blocks(*found: str) -> dict[str, Any]:
    """A gateway's fields with these ipBlocks."""
    return {"policies": [{"snat": True, "ipBlocks": list(found)}]}


def nodes(**term: Any) -> dict[str, Any]:
    """A gateway's fields with one entry of nodeSelector."""
    return {"nodeSelector": [term]}


def cluster_object(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A Vpc or a Subnet."""
    return {"apiVersion": "kubeovn.io/v1", "kind": kind, "metadata": {"name": "bad"}, "spec": spec}


def refusal(cluster: Cluster, obj: dict[str, Any]) -> str:
    """What the API server says against an object; "" when it would take it."""
    argv = ("apply", "--dry-run=server", "--validate=strict", "-f", "-")
    done = cluster.run("kubectl", *argv, input=json.dumps(obj))
    return done.stderr if done.returncode else ""


# What one VpcEgressGateway can tell: its fields, the field that the answer names, and a word of the reason.
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no-external-subnet": ({"externalSubnet": None}, "spec.externalSubnet", "Required"),
    "empty-external-subnet": ({"externalSubnet": ""}, "spec.externalSubnet", "at least 1"),
    "no-policies": ({"policies": []}, "spec.policies", "at least one policy"),
    "policies-missing": ({"policies": None}, "spec.policies", "at least one policy"),
    "empty-policy": ({"policies": [{"snat": True}]}, "spec.policies[0]", "neither ipBlocks nor subnets"),
    "host-bits": (blocks("10.16.0.1/16"), "spec.policies[0].ipBlocks[0]", "host bits"),
    "host-bits-v6": (blocks("fd00::1/64"), "spec.policies[0].ipBlocks[0]", "host bits"),
    "no-cidr": (blocks("10.16.0.0/16", "10.16.0"), "spec.policies[0].ipBlocks[1]", "neither an IP prefix"),
    "long-prefix": (blocks("10.16.0.0/33"), "spec.policies[0].ipBlocks[0]", "neither an IP prefix"),
    "leading-zeros": (blocks("010.16.0.0/16"), "spec.policies[0].ipBlocks[0]", "neither an IP prefix"),
    "zone": (blocks("fe80::1%eth0"), "spec.policies[0].ipBlocks[0]", "neither an IP prefix"),
    "mapped": (blocks("::ffff:10.0.0.0/104"), "spec.policies[0].ipBlocks[0]", "neither an IP prefix"),
    "multicast": (blocks("224.1.0.0/16"), "spec.policies[0].ipBlocks[0]", "multicast"),
    "loopback": (blocks("127.0.0.1"), "spec.policies[0].ipBlocks[0]", "loopback"),
    "link-local": (blocks("fe80::/64"), "spec.policies[0].ipBlocks[0]", "link-local"),
    "unspecified": (blocks("0.0.0.0"), "spec.policies[0].ipBlocks[0]", "unspecified"),
    "block-twice": (blocks("10.0.0.0/8", "10.0.0.0/8"), "spec.policies[0].ipBlocks[1]", "Duplicate"),
    "two-snats": (
        {"policies": [{"snat": True, "ipBlocks": ["10.0.0.0/8"]}, {"ipBlocks": ["10.0.0.0/8"]}]},
        "spec.policies",
        "same entry of ipBlocks",
    ),
    "two-snats-subnet": (
        {"policies": [{"snat": True, "subnets": ["a"]}, {"subnets": ["a"]}]},
        "spec.policies",
        "same Subnet",
    ),
    "too-few-ips": ({"replicas": 2, "internalIPs": ["10.16.0.77"]}, "spec.internalIPs", "as many"),
    "too-few-external": ({"replicas": 2, "externalIPs": ["172.17.0.77"]}, "spec.externalIPs", "as many"),
    "no-ip": ({"internalIPs": ["10.16.0.300"]}, "spec.internalIPs[0]", "must be an IPv4 address"),
    "prefix-for-ip": ({"internalIPs": ["10.16.0.1/24"]}, "spec.internalIPs[0]", "must be an IPv4 address"),
    "two-of-a-family": ({"internalIPs": ["10.0.0.1,10.0.0.2"]}, "spec.internalIPs[0]", "one of each"),
    "three": ({"internalIPs": ["10.0.0.1,fd00::1,fd00::2"]}, "spec.internalIPs[0]", "one of each"),
    "mixed-families": ({"internalIPs": ["10.0.0.1", "fd00::1"]}, "spec.internalIPs", "same IP families"),
    "other-families": (
        {"internalIPs": ["10.0.0.1"], "externalIPs": ["fd00::1"]},
        "spec.externalIPs",
        "families as internalIPs",
    ),
    "given-twice": ({"internalIPs": ["10.16.0.77"] * 2}, "spec.internalIPs[1]", "Duplicate"),
    "v4-twice": ({"externalIPs": ["10.0.0.1,fd00::1", "10.0.0.1,fd00::2"]}, "spec.externalIPs", "twice"),
    "v6-twice": ({"externalIPs": ["fd00::1", "fd00:0::1"]}, "spec.externalIPs", "twice"),
    "negative": ({"replicas": -1}, "spec.replicas", "greater than or equal to 0"),
    "too-many": ({"replicas": 11}, "spec.replicas", "less than or equal to 10"),
    "wrong-type": ({"replicas": "two"}, "spec.replicas", "integer"),
    "multiplier": ({"bfd": {"multiplier": 256}}, "spec.bfd.multiplier", "255"),
    "multiplier-zero": ({"bfd": {"multiplier": 0}}, "spec.bfd.multiplier", "1"),
    "min-rx": ({"bfd": {"minRX": 0}}, "spec.bfd.minRX", "1"),
    "min-tx": ({"bfd": {"minTX": 3600001}}, "spec.bfd.minTX", "3600000"),
    "prefix-upper": ({"prefix": "Veg-"}, "spec.prefix", "no valid name"),
    "prefix-long": ({"prefix": "p" * 60}, "spec.prefix", "63"),
    "unknown-field": ({"replcas": 2}, "spec.replcas", "unknown field"),
    "empty-term": (nodes(), "spec.nodeSelector[0]", "match no node"),
    "operator": (
        nodes(matchExpressions=[{**IN_USE, "operator": "Is"}]),
        "spec.nodeSelector[0].matchExpressions[0].operator",
        "Unsupported",
    ),
    "in-without-values": (
        nodes(matchExpressions=[{"key": "zone", "operator": "In"}]),
        "spec.nodeSelector[0].matchExpressions[0].values",
        "needs values",
    ),
    "exists-with-values": (
        nodes(matchExpressions=[{**IN_USE, "operator": "Exists"}]),
        "spec.nodeSelector[0].matchExpressions[0].values",
        "takes no values",
    ),
    "gt-word": (
        nodes(matchExpressions=[{**IN_USE, "operator": "Gt"}]),
        "spec.nodeSelector[0].matchExpressions[0].values",
        "one integer",
    ),
    "label-key": (nodes(matchLabels={"a b": "c"}), "spec.nodeSelector[0].matchLabels", "label key"),
    "label-value": (nodes(matchLabels={"a": "b c"}), "spec.nodeSelector[0].matchLabels.a", "should match"),
    "field": (
        nodes(matchFields=[{"key": "spec.x", "operator": "In", "values": ["a"]}]),
        "spec.nodeSelector[0].matchFields[0].key",
        "metadata.name",
    ),
    "two-names": (
        nodes(matchFields=[{"key": "metadata.name", "operator": "In", "values": ["a", "b"]}]),
        "spec.nodeSelector[0].matchFields[0].values",
        "1",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_one_gateway_tells_is_refused(crds: Cluster, case: str) -> None:
    """The API server refuses it, and its answer names the field and the reason."""
    fields, field, reason = REFUSED[case]
    said = refusal(crds, veg(**fields))
    assert field in said
    assert reason in said


def test_a_long_name_is_refused(crds: Cluster) -> None:
    """The name is a label of the workload: 63 characters."""
    said = refusal(crds, veg("n" * 64))
    assert "metadata.name" in said
    assert "63" in said


ACCEPTED: dict[str, dict[str, Any]] = {
    "first": {},
    "dual": {"replicas": 2, "internalIPs": ["10.0.0.1,fd00::1", "fd00::2, 10.0.0.2"]},
    "prefix": {"prefix": "veg-"},
    "empty-prefix": {"prefix": ""},
    "scaled-to-zero": {"replicas": 0},
    "blocks": blocks("192.168.0.1", "192.168.0.0/24", "fd00::/64", "fd00::1", "0.0.0.0/0", "::/0"),
    "nested": {
        "policies": [{"snat": True, "ipBlocks": ["10.0.0.0/8"]}, {"ipBlocks": ["10.1.0.0/16"], "subnets": []}]
    },
    "timers": {"bfd": {"enabled": True, "minRX": 50, "minTX": 3600000, "multiplier": 255}},
    "default-bfd": {"bfd": None},
    "nodes": nodes(
        matchLabels={"kubernetes.io/os": "linux", "empty": ""},
        matchExpressions=[IN_USE, {"key": "a/b", "operator": "Exists"}, {**IN_USE, "operator": "NotIn"}],
        matchFields=[{"key": "metadata.name", "operator": "In", "values": ["node1"]}],
    ),
    "number": nodes(matchExpressions=[{"key": "cores", "operator": "Gt", "values": ["4"]}]),
    # What is allowed at most must not be too expensive to check.
    "largest": {
        "replicas": 10,
        "internalIPs": [f"10.0.1.{i},fd00::1:{i}" for i in range(32)],
        "policies": [
            {
                "snat": bool(p % 2),
                "ipBlocks": [f"10.{p}.{b}.0/24" for b in range(100)],
                "subnets": [f"a-subnet-with-a-long-name-{p}-{s}" for s in range(100)],
            }
            for p in range(16)
        ],
    },
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_valid_is_taken(crds: Cluster, case: str) -> None:
    """The API server takes it, as api's own check of the object alone does."""
    obj = veg(**ACCEPTED[case])
    assert not refusal(crds, obj)
    parsed = gateway.parse(copy.deepcopy(obj))
    assert not parsed.problems
    assert parsed.spec.policies


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        pytest.param({}, "spec.cidrBlock", "Required", id="no-cidr"),
        pytest.param({"cidrBlock": "10.0.0.0"}, "spec.cidrBlock", "IP prefix", id="address"),
        pytest.param({"cidrBlock": "10.0.0.1/24"}, "spec.cidrBlock", "host bits", id="host-bits"),
        pytest.param({"cidrBlock": "10.0.0.0/31"}, "spec.cidrBlock", "no address", id="tiny"),
        pytest.param({"cidrBlock": "10.0.0.0/24,10.1.0.0/24"}, "spec.cidrBlock", "of a family", id="twice"),
        pytest.param({"cidrBlock": "10.0.0.0/24", "protocol": "IPv6"}, "spec.protocol", "fit", id="protocol"),
        pytest.param(
            {"cidrBlock": "10.0.0.0/24", "protocol": "x"}, "spec.protocol", "IPv4", id="no-protocol"
        ),
        pytest.param({"cidrBlock": "10.0.0.0/24", "gateway": "10.0.1.1"}, "spec.gateway", "outside", id="gw"),
        pytest.param({"cidrBlock": "10.0.0.0/24", "gateway": "x"}, "spec.gateway", "IP address", id="no-gw"),
        pytest.param(
            {"cidrBlock": "10.0.0.0/24", "excludeIps": ["10.0.0.1", "x"]},
            "spec.excludeIps[1]",
            "range",
            id="exclude",
        ),
        pytest.param(
            {"cidrBlock": "10.0.0.0/24", "excludeIps": ["10.0.0.1..fd00::1"]},
            "spec.excludeIps[0]",
            "mixes",
            id="exclude-mixed",
        ),
    ],
)
def test_what_one_subnet_tells_is_refused(
    crds: Cluster, spec: dict[str, Any], field: str, reason: str
) -> None:
    """The API server refuses it, and so does api's own check."""
    said = refusal(crds, cluster_object("Subnet", spec))
    assert field in said
    assert reason in said
    assert network.subnet_value("bad", spec)[0] is None


@pytest.mark.parametrize(
    ("port", "field", "reason"),
    [
        pytest.param({"enabled": True}, "spec.bfdPort.ip", "required", id="no-ip"),
        pytest.param({"ip": "10.0.0.0/24"}, "spec.bfdPort.ip", "IPv4 address", id="prefix"),
        pytest.param({"enabled": True, "ip": "127.0.0.1"}, "spec.bfdPort.ip", "loopback", id="loopback"),
        pytest.param({"enabled": True, "ip": "1.1.1.1,2.2.2.2"}, "spec.bfdPort.ip", "one of each", id="two"),
        pytest.param(
            {"enabled": True, "ip": "1.1.1.1", "nodeSelector": {"matchLabels": {"a b": "c"}}},
            "spec.bfdPort.nodeSelector.matchLabels",
            "label key",
            id="label",
        ),
    ],
)
def test_what_one_vpc_tells_is_refused(crds: Cluster, port: dict[str, Any], field: str, reason: str) -> None:
    """The API server refuses a BFD port that can not work."""
    said = refusal(crds, cluster_object("Vpc", {"bfdPort": port}))
    assert field in said
    assert reason in said


@pytest.mark.parametrize(
    ("before", "after"), [("veg-", "x-"), ("veg-", None), (None, "veg-")], ids=["changed", "taken", "given"]
)
def test_a_prefix_can_not_change(crds: Cluster, before: str | None, after: str | None) -> None:
    """Neither changed nor given nor taken away later; the same again is fine."""
    name = "prefixed"
    crds.kubectl("create", "-f", "-", input=json.dumps(veg(name, prefix=before)))
    try:
        patch = json.dumps({"spec": {"prefix": after, "replicas": 2}})
        done = crds.run("kubectl", "patch", "veg", name, "-n", NAMESPACE, "--type=merge", "-p", patch)
        assert done.returncode
        assert "spec.prefix" in done.stderr
        assert "can not be changed" in done.stderr
        crds.kubectl("scale", "veg", name, "-n", NAMESPACE, "--replicas=2")
    finally:
        crds.kubectl("delete", "veg", name, "-n", NAMESPACE)


def test_columns_defaults_and_scale(crds: Cluster) -> None:
    """`kubectl get veg` prints the specification's columns, with its defaults, and `kubectl scale` works in its range."""
    obj = veg("gateway1")
    obj["spec"] = {"externalSubnet": "macvlan1", "policies": [POLICY]}
    crds.kubectl("create", "-f", "-", input=json.dumps(obj))
    try:
        heading, row = crds.kubectl("get", "veg", "gateway1", "-n", NAMESPACE).splitlines()
        wanted = "NAME VPC REPLICAS BFD ENABLED EXTERNAL SUBNET PHASE READY AGE"
        assert " ".join(heading.split()) == wanted
        assert row.split()[:-1] == ["gateway1", "ovn-cluster", "1", "false", "macvlan1", "Pending", "false"]
        status = {
            "ready": True,
            "phase": "Completed",
            "replicas": 1,
            "labelSelector": "ovn.kubernetes.io/vpc-egress-gateway=gateway1",
            "internalIPs": ["10.16.0.12"],
            "externalIPs": ["172.17.0.11"],
            "workload": {"apiVersion": "apps/v1", "kind": "Deployment", "nodes": ["kube-ovn-worker"]},
            "pods": [{"pod": "gateway1-x", "anything": 1}],
        }
        argv = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
        crds.kubectl("patch", "veg", "gateway1", "-n", NAMESPACE, *argv)
        heading, row = crds.kubectl("get", "vpc-egress-gw", "-n", NAMESPACE, "-o", "wide").splitlines()
        wide = "READY INTERNAL IPS EXTERNAL IPS WORKING NODES AGE"
        assert " ".join(heading.split()) == wanted.replace("READY AGE", wide)
        assert row.split()[-4:-1] == ['["10.16.0.12"]', '["172.17.0.11"]', '["kube-ovn-worker"]']
        path = f"/apis/kubeovn.io/v1/namespaces/{NAMESPACE}/vpc-egress-gateways/gateway1"
        said = crds.kubectl("scale", "veg", "gateway1", "-n", NAMESPACE, "--replicas=2")
        assert said.strip() == "vpcegressgateway.kubeovn.io/gateway1 scaled"
        scale = json.loads(crds.kubectl("get", "--raw", f"{path}/scale"))
        assert scale["spec"]["replicas"] == 2
        assert scale["status"] == {"replicas": 1, "selector": status["labelSelector"]}
        stored = crds.get("veg", "gateway1", NAMESPACE)
        assert stored["status"]["pods"] == status["pods"]
        assert stored["spec"]["bfd"] == {"enabled": False, "minRX": 1000, "minTX": 1000, "multiplier": 3}
        done = crds.run("kubectl", "scale", "veg", "gateway1", "-n", NAMESPACE, "--replicas=11")
        assert done.returncode
        assert "spec.replicas" in done.stderr
    finally:
        crds.kubectl("delete", "veg", "gateway1", "-n", NAMESPACE)


def test_fields_of_others_are_kept(crds: Cluster) -> None:
    """What Kube-OVN and Multus have beyond our fields is stored and read as it was."""
    specs: dict[str, dict[str, Any]] = {
        "Vpc": {"staticRoutes": [{"cidr": "0.0.0.0/0", "nextHopIP": "10.0.1.254", "policy": "policyDst"}]},
        "Subnet": {
            "cidrBlock": "10.0.1.0/24",
            "acls": [{"direction": "to-lport", "priority": 1}],
            "mtu": 1400,
        },
        "IP": {"ipAddress": "10.0.1.9", "somethingNew": {"a": [1, True]}},
    }
    for kind, spec in specs.items():
        obj = {**cluster_object(kind, spec), "metadata": {"name": "of-others"}}
        crds.kubectl("create", "-f", "-", input=json.dumps(obj))
        try:
            assert crds.get(kind.lower(), "of-others")["spec"] == spec
        finally:
            crds.kubectl("delete", kind.lower(), "of-others")
    attachment = {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "eth1", "namespace": NAMESPACE},
        "spec": {"config": "{}", "later": 1},
    }
    crds.kubectl("create", "-f", "-", input=json.dumps(attachment))
    assert crds.get("net-attach-def", "eth1", NAMESPACE)["spec"] == {"config": "{}", "later": 1}
    crds.kubectl("delete", "net-attach-def", "eth1", "-n", NAMESPACE)


def test_names_are_those_that_the_services_use(crds: Cluster) -> None:
    """Every custom kind that the services know is served under its plural, scope and short names."""
    groups = ("kubeovn.io", "k8s.cni.cncf.io")
    for kind in (k for k in KINDS if k.group in groups):
        served = json.loads(crds.kubectl("get", "--raw", f"/apis/{kind.api_version}"))["resources"]
        found = next(r for r in served if r["name"] == kind.plural)
        assert (found["kind"], found["namespaced"]) == (kind.kind, kind.namespaced)
        assert set(kind.short_names) <= set(found.get("shortNames", ()))
