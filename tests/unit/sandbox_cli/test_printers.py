"""`get` prints what the specification prints."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from veg_common.objects import KINDS, kind_of
from veg_sandbox.cli.printers import View, table

NOW = dt.datetime(2026, 3, 1, 12, 0, 0, tzinfo=dt.UTC)
LABEL = {"ovn.kubernetes.io/vpc-egress-gateway": "gateway1"}


def at(seconds: int) -> str:
    """The timestamp of so many seconds ago."""
    return (NOW - dt.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def gateway(name: str, seconds: int, spec: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    """A VpcEgressGateway of an age."""
    metadata = {"name": name, "namespace": "default", "creationTimestamp": at(seconds)}
    return {
        "apiVersion": "kubeovn.io/v1",
        "kind": "VpcEgressGateway",
        "metadata": metadata,
        "spec": spec,
        "status": status,
    }


def pod(name: str, seconds: int, ip: str, node: str, **status: Any) -> dict[str, Any]:
    """A running gateway pod of an age."""
    running = {
        "phase": "Running",
        "podIP": ip,
        "containerStatuses": [
            {"name": "gateway", "ready": True, "restartCount": 0, "state": {"running": {}}}
        ],
        **status,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": LABEL, "creationTimestamp": at(seconds)},
        "spec": {"nodeName": node, "containers": [{"name": "gateway"}]},
        "status": running,
    }


def shown(kind: str, *objects: dict[str, Any], wide: bool = False, namespaces: bool = False) -> str:
    """The table of objects."""
    return table(kind_of(kind), objects, NOW, View(wide, namespaces))


GATEWAY1 = gateway(
    "gateway1",
    13,
    {"vpc": "ovn-cluster", "replicas": 1, "externalSubnet": "macvlan1", "policies": []},
    {
        "phase": "Completed",
        "ready": True,
        "internalIPs": ["10.16.0.12"],
        "externalIPs": ["172.17.0.11"],
        "workload": {"nodes": ["kube-ovn-worker"]},
    },
)


def test_gateway() -> None:
    """`get veg` is the specification's."""
    assert shown("veg", GATEWAY1) == (
        "NAME       VPC           REPLICAS   BFD ENABLED   EXTERNAL SUBNET   PHASE       READY   AGE\n"
        "gateway1   ovn-cluster   1          false         macvlan1          Completed   true    13s\n"
    )


def test_gateway_wide() -> None:
    """`get veg -o wide` is the specification's, for one replica and for two with BFD."""
    first = gateway("gateway1", 82, GATEWAY1["spec"], GATEWAY1["status"])
    assert shown("veg", first, wide=True) == (
        "NAME       VPC           REPLICAS   BFD ENABLED   EXTERNAL SUBNET   PHASE       READY   INTERNAL IPS     EXTERNAL IPS      WORKING NODES         AGE\n"
        'gateway1   ovn-cluster   1          false         macvlan1          Completed   true    ["10.16.0.12"]   ["172.17.0.11"]   ["kube-ovn-worker"]   82s\n'
    )
    status = {
        "phase": "Completed",
        "ready": True,
        "internalIPs": ["192.168.0.2", "192.168.0.3"],
        "externalIPs": ["172.17.0.13", "172.17.0.14"],
        "workload": {"nodes": ["kube-ovn-worker", "kube-ovn-worker2"]},
    }
    spec = {"vpc": "vpc1", "replicas": 2, "externalSubnet": "macvlan", "bfd": {"enabled": True}}
    assert shown("veg", gateway("gateway2", 58, spec, status), wide=True) == (
        "NAME       VPC    REPLICAS   BFD ENABLED   EXTERNAL SUBNET   PHASE       READY   INTERNAL IPS                    EXTERNAL IPS                    WORKING NODES                            AGE\n"
        'gateway2   vpc1   2          true          macvlan           Completed   true    ["192.168.0.2","192.168.0.3"]   ["172.17.0.13","172.17.0.14"]   ["kube-ovn-worker","kube-ovn-worker2"]   58s\n'
    )


def test_gateway_with_nothing_but_a_name() -> None:
    """Defaults stand where the resource says nothing."""
    bare = gateway("g", 5, {}, {})
    assert shown("veg", bare).splitlines()[1].split() == [
        "g",
        "ovn-cluster",
        "1",
        "false",
        "Pending",
        "false",
        "5s",
    ]


def test_deployment() -> None:
    """`get deployment` is the specification's."""
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "gateway1", "creationTimestamp": at(280)},
        "spec": {"replicas": 1},
        "status": {"readyReplicas": 1, "updatedReplicas": 1, "availableReplicas": 1},
    }
    assert shown("deployment", deployment) == (
        "NAME       READY   UP-TO-DATE   AVAILABLE   AGE\ngateway1   1/1     1            1           4m40s\n"
    )


def test_pod_wide() -> None:
    """`get pod -o wide` is the specification's, for one pod and for two."""
    one = pod("gateway1-b9f8b4448-76lhm", 288, "10.16.0.12", "kube-ovn-worker")
    assert shown("pod", one, wide=True) == (
        "NAME                       READY   STATUS    RESTARTS   AGE     IP           NODE              NOMINATED NODE   READINESS GATES\n"
        "gateway1-b9f8b4448-76lhm   1/1     Running   0          4m48s   10.16.0.12   kube-ovn-worker   <none>           <none>\n"
    )
    two = [
        pod("gateway1-b9f8b4448-76lhm", 2400, "10.16.0.12", "kube-ovn-worker"),
        pod("gateway1-b9f8b4448-zd4dl", 64, "10.16.0.13", "kube-ovn-worker2"),
    ]
    assert shown("pod", *two, wide=True) == (
        "NAME                       READY   STATUS    RESTARTS   AGE   IP           NODE               NOMINATED NODE   READINESS GATES\n"
        "gateway1-b9f8b4448-76lhm   1/1     Running   0          40m   10.16.0.12   kube-ovn-worker    <none>           <none>\n"
        "gateway1-b9f8b4448-zd4dl   1/1     Running   0          64s   10.16.0.13   kube-ovn-worker2   <none>           <none>\n"
    )


@pytest.mark.parametrize(
    ("change", "status", "restarts"),
    [
        ({}, "Running", "0"),
        ({"status": {"phase": "Pending"}}, "Pending", "0"),
        (
            {"status": {"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}},
            "ContainerCreating",
            "0",
        ),
        (
            {"metadata": {"name": "p", "deletionTimestamp": at(1), "creationTimestamp": at(9)}},
            "Terminating",
            "0",
        ),
        (
            {
                "status": {
                    "phase": "Running",
                    "containerStatuses": [
                        {"restartCount": 2, "lastState": {"terminated": {"finishedAt": at(30)}}, "state": {}}
                    ],
                }
            },
            "Running",
            "2 (30s ago)",
        ),
    ],
    ids=["running", "unbound", "creating", "terminating", "restarted"],
)
def test_pod_status(change: dict[str, Any], status: str, restarts: str) -> None:
    """STATUS and RESTARTS tell what happens to a pod, as kubectl does."""
    line = shown("pod", {**pod("p", 9, "10.16.0.2", "n"), **change}).splitlines()
    column = line[0].index
    assert line[1][column("STATUS") : column("RESTARTS")].strip() == status
    assert line[1][column("RESTARTS") : column("AGE")].strip() == restarts


def test_namespace_column() -> None:
    """`-A` puts the namespace first, and only for kinds that have one."""
    assert shown("veg", GATEWAY1, namespaces=True).startswith("NAMESPACE   NAME")
    vpc = {"metadata": {"name": "vpc1"}, "spec": {"namespaces": ["a"]}, "status": {"subnets": ["s"]}}
    assert shown("vpc", vpc, namespaces=True) == (
        'NAME   ENABLEEXTERNAL   STANDBY   SUBNETS   NAMESPACES\nvpc1   false            false     ["s"]     ["a"]\n'
    )


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("kind", [kind.kind for kind in KINDS])
@pytest.mark.parametrize(
    "rubbish",
    [
        {},
        {"spec": 1, "status": [], "data": None},
        {"spec": {"containers": 5}, "status": {"conditions": None}},
    ],
    ids=["empty", "wrong types", "odd"],
)
def test_any_object_prints(kind: str, rubbish: dict[str, Any], wide: bool) -> None:
    """An object that a person wrote wrongly is listed like any other: one line, no failure."""
    text = shown(kind, {"metadata": {"name": "x", "creationTimestamp": at(1)}, **rubbish}, wide=wide)
    assert len(text.splitlines()) == 2
