"""A lab of two nodes with one VPC, made by hand with ovn-nbctl: the lab knows nothing of logical objects."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from veg_sandbox.net.lab import Lab, LabSpec, lab_dir
from veg_sandbox.net.shell import netns_names

WORKER, WORKER2 = "kube-ovn-worker", "kube-ovn-worker2"
BASE = Path(f"/run/veg-sandbox-test-{os.getpid()}")

CLIENTS, GATEWAYS = "s1", "s2"
GATEWAY_PORTS = {CLIENTS: ("10.16.0.1", "fd00:10:16::1"), GATEWAYS: ("10.17.0.1", "fd00:10:17::1")}


@dataclass(frozen=True)
class TestPod:
    """A pod and its two addresses on the VPC."""

    __test__ = False

    name: str
    node: str
    switch: str
    ipv4: str
    ipv6: str
    mac: str

    @property
    def lsp(self) -> str:
        """Its logical switch port."""
        return f"{self.name}.default"


WEB = TestPod("web", WORKER, CLIENTS, "10.16.0.12", "fd00:10:16::c", "02:00:00:00:00:12")
WEB2 = TestPod("web2", WORKER2, CLIENTS, "10.16.0.13", "fd00:10:16::d", "02:00:00:00:00:13")
GATEWAY = TestPod("gateway", WORKER2, GATEWAYS, "10.17.0.2", "fd00:10:17::2", "02:00:00:00:00:22")
PODS = (WEB, WEB2, GATEWAY)


@pytest.fixture(scope="session")
def empty_lab() -> Iterator[Lab]:
    """A lab without pods, shared by the whole run; nothing of it may be left afterwards."""
    lab = Lab(lab_dir("shared", BASE))
    prefix = lab.layout.netns_prefix
    lab.up(LabSpec(nodes=2))
    try:
        yield lab
    finally:
        lab.down()
    assert netns_names(prefix) == []
    assert not BASE.exists()


@pytest.fixture(scope="session")
def lab(empty_lab: Lab) -> Lab:
    """Two client pods on two nodes and a gateway-like pod with a hand-made MASQUERADE."""
    empty_lab.nbctl(*_topology())
    for pod in PODS:
        plug(empty_lab, pod)
    empty_lab.plug_external(
        GATEWAY.name, GATEWAY.node, "net1", master="eth1", addresses=["172.17.0.11/16", "fd17::11/64"]
    )
    for pod in PODS:
        assert empty_lab.wait_port_up(pod.lsp, timeout=20), pod
    masquerade = """
        echo 1 > /proc/sys/net/ipv4/ip_forward
        echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
        ip route replace default via 172.17.0.1 dev net1
        ip -6 route replace default via fd17::1 dev net1
        ip route add 10.16.0.0/16 via 10.17.0.1 dev eth0
        ip -6 route add fd00:10:16::/112 via fd00:10:17::1 dev eth0
        iptables -t nat -A POSTROUTING -s 10.16.0.0/16 -j MASQUERADE --random-fully
        ip6tables -t nat -A POSTROUTING -s fd00:10:16::/112 -j MASQUERADE --random-fully
    """
    done = empty_lab.pod_exec(GATEWAY.name, ["sh", "-e", "-c", masquerade])
    assert done.returncode == 0, done.stderr
    empty_lab.nbctl("--wait=hv", "sync")
    return empty_lab


def plug(lab: Lab, pod: TestPod) -> None:
    """What a CNI does for the pod."""
    lab.create_pod_netns(pod.name)
    lab.plug_internal(
        pod.name,
        pod.node,
        lsp_name=pod.lsp,
        mac=pod.mac,
        addresses=[f"{pod.ipv4}/16", f"{pod.ipv6}/112"],
        gateways=list(GATEWAY_PORTS[pod.switch]),
    )


def probe(lab: Lab, pod: str, *args: str) -> dict[str, Any]:
    """Run a traffic probe in a pod."""
    done = lab.pod_exec(pod, [sys.executable, "-m", "veg_sandbox.net.probe", *args], timeout=60)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _topology() -> list[str]:
    args = ["lr-add", "r"]
    for number, (switch, (ipv4, ipv6)) in enumerate(GATEWAY_PORTS.items()):
        mac = f"02:00:00:00:ff:0{number}"
        args += ["--", "ls-add", switch]
        args += ["--", "lrp-add", "r", f"r-{switch}", mac, f"{ipv4}/16", f"{ipv6}/112"]
        args += ["--", "lsp-add", switch, f"{switch}-r", "--", "lsp-set-type", f"{switch}-r", "router"]
        args += ["--", "lsp-set-addresses", f"{switch}-r", "router"]
        args += ["--", "lsp-set-options", f"{switch}-r", f"router-port=r-{switch}"]
    for pod in PODS:
        args += ["--", "lsp-add", pod.switch, pod.lsp]
        args += ["--", "lsp-set-addresses", pod.lsp, f"{pod.mac} {pod.ipv4} {pod.ipv6}"]
    args += ["--", "lr-route-add", "r", "0.0.0.0/0", GATEWAY.ipv4]
    return [*args, "--", "lr-route-add", "r", "::/0", GATEWAY.ipv6]
