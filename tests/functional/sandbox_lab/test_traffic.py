"""Packets through the lab: pods, nodes, a gateway-like pod, the outside host, and the probes themselves."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import pytest
from veg_sandbox.net.lab import Lab
from veg_sandbox.proc import poll

from tests.functional.sandbox_lab.conftest import GATEWAY, GATEWAY_PORTS, WEB, WEB2, probe

OUTSIDE = {4: "172.17.0.1", 6: "fd17::1"}
BEYOND = {4: "198.51.100.1", 6: "2001:db8:51::1"}
EXTERNAL = {4: "172.17.0.11", 6: "fd17::11"}


@pytest.mark.parametrize("version", [4, 6])
def test_pods_reach_each_other_across_nodes_and_subnets(lab: Lab, version: int) -> None:
    """The first packet over a tunnel arrives: no warm-up is needed."""
    for target in (WEB2, GATEWAY):
        address = target.ipv4 if version == 4 else target.ipv6
        done = lab.pod_exec(WEB.name, ["ping", "-n", "-c", "3", "-i", "0.1", "-W", "2", address])
        assert done.returncode == 0, done.stdout
        assert " 0% packet loss" in done.stdout


@pytest.mark.parametrize("proto", ["tcp", "udp"])
@pytest.mark.parametrize("target", [OUTSIDE, BEYOND], ids=["outside", "beyond"])
@pytest.mark.parametrize("version", [4, 6])
def test_egress_is_masqueraded(lab: Lab, version: int, target: dict[int, str], proto: str) -> None:
    """The outside host answers, from the address that was asked, and sees the gateway's external address."""
    for client in (WEB, WEB2):
        seen = probe(
            lab, client.name, "connect", "--count", "40", "--proto", proto, "--target", target[version]
        )
        assert seen["failed"] == 0, seen
        assert seen["sources"] == {EXTERNAL[version]: 40}
        assert 0 < seen["latency_ms_p50"] < 1000


def test_a_connection_that_fails_is_counted(lab: Lab) -> None:
    """A refused port and a silent address are failures with a reason, within the bound."""
    refused = probe(lab, WEB.name, "connect", "--count", "3", "--target", OUTSIDE[4], "--port", "9")
    assert refused["failed"] == 3
    assert refused["errors"] == {"Connection refused": 3}
    silent = probe(
        lab,
        WEB.name,
        "connect",
        "--count",
        "2",
        "--target",
        "172.17.9.9",
        "--proto",
        "udp",
        "--timeout",
        "0.3",
    )
    assert silent["failed"] == 2
    assert silent["latency_ms_p50"] is None
    assert silent["seconds"] < 3


@pytest.mark.parametrize("version", [4, 6])
def test_a_stream_without_trouble_loses_nothing(lab: Lab, version: int) -> None:
    """Every request of every flow is answered; the gap between answers stays near the interval."""
    args = ("stream", "--interval-ms", "10", "--duration", "1", "--flows", "2", "--target", OUTSIDE[version])
    # The machine may stand still for a moment: that costs time, never a packet.
    gaps: list[float] = []
    while len(gaps) < 3 and min(gaps, default=500) >= 500:
        seen = probe(lab, WEB.name, *args)
        assert 0 < seen["sent"] <= 202
        assert seen["lost"] == 0, seen
        assert set(seen["sources"]) == {EXTERNAL[version]}
        gaps.append(seen["largest_gap_ms"])
    assert min(gaps) < 500
    assert seen["sent"] >= 100


def test_a_stream_sees_an_outage(lab: Lab) -> None:
    """Requests that were sent while the path was down are lost, and the gap is at least that long."""
    argv = [
        sys.executable,
        "-m",
        "veg_sandbox.net.probe",
        "stream",
        "--duration",
        "4",
        "--target",
        OUTSIDE[4],
    ]
    with subprocess.Popen(lab.pod_argv(WEB.name, argv), stdout=subprocess.PIPE, text=True) as process:
        block = ["iptables", "-I", "FORWARD", "-p", "udp", "-j", "DROP"]
        assert lab.pod_exec(GATEWAY.name, block).returncode == 0
        assert not poll(lambda: process.poll() is not None, 2.0), "the probe ended early"
        block[1] = "-D"
        assert lab.pod_exec(GATEWAY.name, block).returncode == 0
        seen = json.loads(process.communicate(timeout=20)[0])
    assert 30 < seen["lost"] < seen["sent"]
    assert seen["largest_gap_ms"] > 500


@pytest.mark.parametrize("how", ["stdin", "signal"])
def test_a_held_connection(lab: Lab, how: str) -> None:
    """It says when it stands, goes on until told to stop, and reports a connection that lived."""
    argv = lab.pod_argv(
        WEB.name, [sys.executable, "-m", "veg_sandbox.net.probe", "hold", "--target", OUTSIDE[4]]
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        assert process.stdin
        first = json.loads(process.stdout.readline())
        assert first["connected"]
        assert first["source"] == EXTERNAL[4]
        assert not poll(lambda: process.poll() is not None, 2.0), "it stopped by itself"
        if how == "stdin":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM)
        result = json.loads(process.stdout.readline())
        assert process.wait(10) == 0
    assert result["alive"], result
    assert result["resets"] == 0
    assert result["echoed"] == result["sent"] >= 5


def test_a_held_connection_that_is_reset(lab: Lab) -> None:
    """A reset is seen and told."""
    argv = lab.pod_argv(
        WEB.name, [sys.executable, "-m", "veg_sandbox.net.probe", "hold", "--target", OUTSIDE[4]]
    )
    rule = ["-p", "tcp", "--dport", "7", "-j", "REJECT", "--reject-with", "tcp-reset"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        assert lab.pod_exec(GATEWAY.name, ["iptables", "-I", "FORWARD", *rule]).returncode == 0
        result = json.loads(process.stdout.readline())
        assert lab.pod_exec(GATEWAY.name, ["iptables", "-D", "FORWARD", *rule]).returncode == 0
        process.stdin and process.stdin.close()
        process.wait(10)
    assert not result["alive"]
    assert result["resets"] == 1


@pytest.mark.parametrize("version", [4, 6])
def test_unmasqueraded_traffic_returns_over_the_return_routes(lab: Lab, version: int) -> None:
    """With the set of return routes the outside sees the pod's own address; each call replaces the set."""
    tool = "iptables" if version == 4 else "ip6tables"
    cidr = "10.16.0.0/16" if version == 4 else "fd00:10:16::/112"
    own = WEB.ipv4 if version == 4 else WEB.ipv6
    accept = ["-t", "nat", "-I", "POSTROUTING", "-s", own, "-j", "ACCEPT"]
    assert lab.pod_exec(GATEWAY.name, [tool, *accept]).returncode == 0
    try:
        lab.outside_routes({cidr: [EXTERNAL[version]]})
        seen = probe(lab, WEB.name, "connect", "--count", "5", "--target", OUTSIDE[version])
        assert seen["sources"] == {own: 5}, seen
        lab.outside_routes({})
        args = ("connect", "--count", "1", "--target", OUTSIDE[version], "--timeout", "0.5")
        assert probe(lab, WEB.name, *args)["failed"] == 1
    finally:
        lab.outside_routes({})
        accept[2] = "-D"
        lab.pod_exec(GATEWAY.name, [tool, *accept])


def test_return_routes_are_replaced_as_a_set(lab: Lab) -> None:
    """Multipath, both families, host routes; what stays the same stays, what is gone goes, others' stay."""

    def routes() -> list[str]:
        lines = []
        for family in ("-4", "-6"):
            shown = lab.netns_exec("outside", ["ip", family, "route", "show", "proto", "199"]).stdout
            lines += [" ".join(line.split()) for line in shown.splitlines()]
        return lines

    foreign = ["ip", "route", "add", "10.99.0.0/16", "via", "172.17.0.50"]
    assert lab.netns_exec("outside", foreign).returncode == 0
    two = {"10.16.0.0/16": ["172.17.0.11", "172.17.0.12"], "fd00:10:16::/112": ["fd17::11", "fd17::12"]}
    try:
        for wanted in (two, two, {**two, "10.20.0.5/32": ["172.17.0.11"], "10.30.0.0/16": []}):
            lab.outside_routes(wanted)
            text = "\n".join(routes())
            assert all(text.count(hop) >= 1 for hops in wanted.values() for hop in hops), text
        assert "10.20.0.5 via 172.17.0.11" in text
        lab.outside_routes({"10.16.0.0/16": ["172.17.0.12"], "fd00:10:16::/112": ["fd17::12"]})
        text = "\n".join(routes())
        assert "172.17.0.11" not in text
        assert "fd17::11" not in text
        assert re.search(r"10\.16\.0\.0/16 via 172\.17\.0\.12", text), text
        assert re.search(r"fd00:10:16::/112 via fd17::12", text), text
        lab.outside_routes({})
        assert routes() == []
        assert "10.99.0.0/16" in lab.netns_exec("outside", ["ip", "route"]).stdout
    finally:
        lab.outside_routes({})
        lab.netns_exec("outside", ["ip", "route", "del", "10.99.0.0/16"])


def test_pods_print_addresses_as_the_specification_does(lab: Lab) -> None:
    """`ip address show` and `ip route` in a pod have the specification's lines."""
    shown = lab.pod_exec(GATEWAY.name, ["ip", "address", "show"]).stdout
    up = "<BROADCAST,MULTICAST,UP,LOWER_UP>"
    assert re.search(
        rf"^\d+: eth0@if\d+: {up} mtu 1400 qdisc noqueue state UP group default $", shown, re.MULTILINE
    ), shown
    assert re.search(
        rf"^\d+: net1@if\d+: {up} mtu 1500 qdisc noqueue state UP group default qlen 1000$",
        shown,
        re.MULTILINE,
    ), shown
    assert f"link/ether {GATEWAY.mac} brd ff:ff:ff:ff:ff:ff link-netnsid 0" in shown
    assert "    inet 10.17.0.2/16 brd 10.17.255.255 scope global eth0\n" in shown
    assert "    inet 172.17.0.11/16 brd 172.17.255.255 scope global net1\n" in shown
    assert "tentative" not in shown
    routes = lab.pod_exec(WEB.name, ["ip", "route", "show"]).stdout
    assert routes.splitlines()[0].strip() == f"default via {GATEWAY_PORTS['s1'][0]} dev eth0"
    assert "10.16.0.0/16 dev eth0 proto kernel scope link src 10.16.0.12" in routes
    rules = lab.pod_exec(GATEWAY.name, ["iptables", "-t", "nat", "-S"]).stdout
    assert rules.splitlines()[-1] == "-A POSTROUTING -s 10.16.0.0/16 -j MASQUERADE --random-fully"
