"""What the kubelet decides: plugging, containers, status, return routes."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from veg_common.objects import Ref, merge_patch
from veg_sandbox.runtime.core import podstatus
from veg_sandbox.runtime.core.containers import Probe, containers_of
from veg_sandbox.runtime.core.network import (
    Interface,
    NetworkError,
    network_status,
    plug_of,
    secondary_networks,
)
from veg_sandbox.runtime.core.returns import return_routes

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
NAD = Ref("NetworkAttachmentDefinition", "default", "eth1")


def attachment(kind: str = "macvlan") -> dict[str, Any]:
    """A NetworkAttachmentDefinition of a CNI plugin."""
    return {
        "kind": NAD.kind,
        "metadata": {"name": "eth1", "namespace": "default"},
        "spec": {"config": json.dumps({"type": kind, "master": "eth1"})},
    }


ETH0 = {
    "ovn.kubernetes.io/allocated": "true",
    "ovn.kubernetes.io/ip_address": "10.16.0.12,fd00:10:16::c",
    "ovn.kubernetes.io/cidr": "10.16.0.0/16,fd00:10:16::/112",
    "ovn.kubernetes.io/gateway": "10.16.0.1,fd00:10:16::1",
    "ovn.kubernetes.io/mac_address": "00:00:00:01:02:03",
}
NET1 = {
    "k8s.v1.cni.cncf.io/networks": "default/eth1",
    "eth1.default.kubernetes.io/allocated": "true",
    "eth1.default.kubernetes.io/ip_address": "172.17.0.11",
    "eth1.default.kubernetes.io/cidr": "172.17.0.0/16",
    "eth1.default.kubernetes.io/gateway": "172.17.0.1",
}


def pod(annotations: dict[str, str], **parts: Any) -> dict[str, Any]:
    """A pod with annotations."""
    metadata = {"name": "p", "namespace": "default", "annotations": annotations, **parts.pop("metadata", {})}
    return {"metadata": metadata, "spec": {}, **parts}


def test_interfaces() -> None:
    """Both interfaces carry their addresses with prefix lengths and the gateways of their families."""
    plug = plug_of(pod({**ETH0, **NET1}), {NAD: attachment()})
    assert plug.interfaces == (
        Interface(
            "eth0",
            "kube-ovn",
            ("10.16.0.12/16", "fd00:10:16::c/112"),
            ("10.16.0.1", "fd00:10:16::1"),
            "00:00:00:01:02:03",
        ),
        Interface("net1", "default/eth1", ("172.17.0.11/16",), ("172.17.0.1",), master="eth1"),
    )


@pytest.mark.parametrize(
    ("annotations", "waiting"),
    [
        ({}, "addresses of provider ovn are not allocated yet"),
        ({**ETH0, "ovn.kubernetes.io/allocated": "false"}, "addresses of provider ovn are not allocated yet"),
        ({**ETH0, **NET1, "eth1.default.kubernetes.io/allocated": ""}, "addresses of provider eth1.default"),
        (
            {**ETH0, "k8s.v1.cni.cncf.io/networks": "other/eth1"},
            "NetworkAttachmentDefinition other/eth1 not found",
        ),
    ],
)
def test_waiting(annotations: dict[str, str], waiting: str) -> None:
    """A pod waits until every interface has its addresses and its attachment definition is there."""
    plug = plug_of(pod(annotations), {NAD: attachment()})
    assert plug.interfaces == ()
    assert plug.waiting.startswith(waiting)


def test_ipv4_only_pod_takes_the_ipv4_gateway() -> None:
    """A gateway of a family that the pod has no address of is left out."""
    plug = plug_of(pod({**ETH0, "ovn.kubernetes.io/ip_address": "10.16.0.12"}), {})
    assert plug.interfaces[0].gateways == ("10.16.0.1",)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"ovn.kubernetes.io/ip_address": "10.17.0.1"}, "macvlan", "holds no network of 10.17.0.1"),
        ({"ovn.kubernetes.io/ip_address": "x"}, "macvlan", "x"),
        ({"ovn.kubernetes.io/ip_address": ""}, "macvlan", "ip_address is empty"),
        ({}, "sriov", "not 'sriov'"),
    ],
)
def test_what_can_not_be_plugged(change: dict[str, str], kind: str, message: str) -> None:
    """Annotations that make no interface are told by name."""
    with pytest.raises(NetworkError, match=message):
        plug_of(pod({**ETH0, **NET1, **change}), {NAD: attachment(kind)})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("eth1", ["default/eth1"]),
        ("kube-system/a@net7, b", ["kube-system/a", "default/b"]),
        ('[{"name": "a"}, {"name": "b", "namespace": "c"}]', ["default/a", "c/b"]),
    ],
)
def test_networks_annotation(text: str, expected: list[str]) -> None:
    """Both of Multus' notations are understood."""
    found = secondary_networks(pod({"k8s.v1.cni.cncf.io/networks": text}))
    assert [f"{ref.namespace}/{ref.name}" for ref in found] == expected


def test_network_status() -> None:
    """The annotation holds both interfaces with the hardware addresses that they have."""
    plug = plug_of(pod({**ETH0, **NET1}), {NAD: attachment()})
    entries = json.loads(network_status(plug.interfaces, {"net1": "62:d8:71:90:7b:86"}))
    assert [(e["name"], e["interface"], e["ips"], e["mac"], e["default"]) for e in entries] == [
        ("kube-ovn", "eth0", ["10.16.0.12", "fd00:10:16::c"], "00:00:00:01:02:03", True),
        ("default/eth1", "net1", ["172.17.0.11"], "62:d8:71:90:7b:86", False),
    ]


def test_containers() -> None:
    """Command, arguments, environment, mounts and probe come from the manifest."""
    spec = {
        "containers": [
            {
                "name": "gateway",
                "command": ["veg-node-agent", "run"],
                "args": ["--verbose"],
                "env": [
                    {"name": "A", "value": "1"},
                    {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
                ],
                "volumeMounts": [
                    {"name": "config", "mountPath": "/etc/veg"},
                    {"name": "x", "mountPath": "relative"},
                ],
                "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 2},
                "livenessProbe": {"exec": {"command": ["true"]}, "initialDelaySeconds": 30},
            }
        ]
    }
    (found,) = containers_of(
        pod({}, spec=spec, metadata={"labels": {"a": "b"}}), lambda name: f"/bin/{name}", must_run=True
    )
    assert found.command == ("/bin/veg-node-agent", "run", "--verbose")
    assert found.env == {"A": "1", "POD": "p", "L": "b"}
    assert found.mounts == {"config": "/etc/veg"}
    assert found.readiness == Probe(("true",), period=2)
    assert found.liveness == Probe(("true",), delay=30)


@pytest.mark.parametrize(
    ("container", "must_run", "command"),
    [
        ({"image": "nginx"}, False, ()),
        ({"command": ["/pause"]}, False, ()),
        ({"command": ["veg-lost"]}, True, ("veg-lost",)),
        ({"args": ["x"]}, False, ()),
    ],
    ids=["image only", "not on the host", "a gateway must run", "arguments only"],
)
def test_client_pods_pause(container: dict[str, Any], must_run: bool, command: tuple[str, ...]) -> None:
    """A client pod whose program the host has not just sits there; a gateway's is started and fails visibly."""
    spec = {"containers": [{"name": "c", **container}]}
    (found,) = containers_of(pod({}, spec=spec), lambda _: None, must_run=must_run)
    assert found.command == command


def facts(*, ready: bool, ips: tuple[str, ...] = ("10.16.0.12",), waiting: str = "") -> podstatus.PodFacts:
    """A pod of one container."""
    started = "" if waiting else "2026-03-01T00:00:00Z"
    container = podstatus.ContainerFacts("gateway", "img", ready, 0, started, waiting)
    return podstatus.PodFacts("172.18.0.2", ips, "2026-03-01T00:00:00Z", [container])


def test_status_of_a_ready_pod() -> None:
    """Phase, addresses and conditions are a kubelet's; written once, it does not change by itself."""
    status = podstatus.running_status(pod({}), facts(ready=True, ips=("10.16.0.12", "fd00::c")), NOW)
    assert (status["phase"], status["podIP"], status["hostIP"]) == ("Running", "10.16.0.12", "172.18.0.2")
    assert status["podIPs"] == [{"ip": "10.16.0.12"}, {"ip": "fd00::c"}]
    assert {c["type"]: c["status"] for c in status["conditions"]} == dict.fromkeys(
        ("Initialized", "Ready", "ContainersReady", "PodScheduled"), "True"
    )
    written = pod({}, status=merge_patch({}, status))
    later = podstatus.running_status(
        written, facts(ready=True, ips=("10.16.0.12", "fd00::c")), NOW + dt.timedelta(1)
    )
    assert not podstatus.changed(written, later)


def test_ready_changes_its_time_only_with_its_status() -> None:
    """lastTransitionTime tells when readiness changed last."""
    written = pod({}, status=merge_patch({}, podstatus.running_status(pod({}), facts(ready=False), NOW)))
    later = NOW + dt.timedelta(minutes=5)
    status = podstatus.running_status(written, facts(ready=True), later)
    times = {c["type"]: c["lastTransitionTime"] for c in status["conditions"]}
    assert times["Ready"] == "2026-03-01T00:05:00Z"
    assert times["PodScheduled"] == "2026-03-01T00:00:00Z"


def test_status_of_a_waiting_pod() -> None:
    """Before it is plugged a pod is Pending, has no address and says why it waits."""
    status = podstatus.running_status(pod({}), facts(ready=False, ips=(), waiting="ContainerCreating"), NOW)
    assert (status["phase"], status["podIP"]) == ("Pending", None)
    assert status["containerStatuses"][0]["state"] == {"waiting": {"reason": "ContainerCreating"}}


def test_backoff_starts_at_once_and_is_bounded() -> None:
    """The first restart follows at once, later ones after growing pauses."""
    pauses = [podstatus.backoff_ms(failures) for failures in range(1, 20)]
    assert pauses[0] == 0
    assert pauses == sorted(pauses)
    assert pauses[-1] <= 10_000


def gateway(*policies: dict[str, Any]) -> dict[str, Any]:
    """A gateway called g."""
    return {
        "kind": "VpcEgressGateway",
        "metadata": {"name": "g", "namespace": "default"},
        "spec": {"policies": list(policies)},
    }


def gateway_pod(name: str, address: str, *, ready: bool = True, **metadata: Any) -> dict[str, Any]:
    """One of its pods."""
    labels = {"ovn.kubernetes.io/vpc-egress-gateway": "g"}
    annotations = {**ETH0, **NET1, "eth1.default.kubernetes.io/ip_address": address}
    status = {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
    return pod(annotations, metadata={"name": name, "labels": labels, **metadata}, status=status)


def test_return_routes() -> None:
    """Unmasqueraded sources go back over the ready pods' external addresses; everything else is left out."""
    subnets: dict[str, Any] = {
        "dual": {"spec": {"cidrBlock": "10.1.0.0/24,fd01::/64"}},
        "odd": {"spec": {"cidrBlock": 5}},
    }
    pods = [
        gateway_pod("a", "172.17.0.12"),
        gateway_pod("b", "172.17.0.11"),
        gateway_pod("c", "172.17.0.13", ready=False),
        gateway_pod("d", "172.17.0.14", deletionTimestamp="t"),
        gateway_pod("e", "172.17.0.15", namespace="other"),
        gateway_pod("f", "172.17.0.16", labels={}),
    ]
    one = gateway(
        {
            "snat": False,
            "subnets": ["dual", "odd", "lost"],
            "ipBlocks": ["192.168.0.1", "nonsense", "10.2.0.1/16"],
        },
        {"snat": True, "ipBlocks": ["192.168.7.0/24"]},
        {"ipBlocks": ["192.168.8.0/24"]},
    )
    both = ("172.17.0.11", "172.17.0.12")
    assert return_routes([one], subnets, pods, {NAD: attachment()}) == {
        "10.1.0.0/24": both,
        "192.168.0.1/32": both,
        "192.168.8.0/24": both,
    }
    assert return_routes([one], subnets, pods[2:], {NAD: attachment()}) == {}
