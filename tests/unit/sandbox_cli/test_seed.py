"""What a fresh sandbox holds."""

from __future__ import annotations

import datetime as dt

import pytest
from veg_common.objects import check_object, ref_of
from veg_sandbox.cli import seed


@pytest.mark.parametrize(
    ("family", "protocol", "cidr", "gateway"),
    [
        ("ipv4", "IPv4", "10.16.0.0/16", "10.16.0.1"),
        ("ipv6", "IPv6", "fd00:10:16::/112", "fd00:10:16::1"),
        ("dual", "Dual", "10.16.0.0/16,fd00:10:16::/112", "10.16.0.1,fd00:10:16::1"),
    ],
)
def test_default_subnet(family: str, protocol: str, cidr: str, gateway: str) -> None:
    """The default subnet has the families asked for, and its gateways are excluded."""
    spec = seed.default_subnet(family)["spec"]
    assert (spec["protocol"], spec["cidrBlock"], spec["gateway"]) == (protocol, cidr, gateway)
    assert spec["excludeIps"] == gateway.split(",")


def test_objects() -> None:
    """Namespaces (each once), nodes, the default VPC and its subnet, all of them valid."""
    facts = [seed.NodeFacts("kube-ovn-worker", "172.18.0.2")]
    found = seed.objects(facts, "ipv4", ["team", "default"], dt.datetime.now(dt.UTC))
    assert [str(ref_of(obj)) for obj in found] == [
        "Namespace default",
        "Namespace kube-system",
        "Namespace team",
        "Node kube-ovn-worker",
        "Vpc ovn-cluster",
        "Subnet ovn-default",
    ]
    assert [check_object(obj) for obj in found] == [None] * len(found)
