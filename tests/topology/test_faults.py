"""Services that are killed: traffic goes on, the state converges."""

import json
import time

import pytest
from veg_sandbox.harness import ECHO_PORT, eventually

from tests.topology.conftest import OUTSIDE, Lab, gateway, pod, subnet
from tests.topology.test_change import files, northbound

SNAT_ALL = "[{snat: true, subnets: [ovn-default]}]"
BOTH = "[{snat: true, subnets: [ovn-default, extra]}]"


def settle(lab: Lab) -> None:
    """Wait until the gateway is ready and the database stands still."""
    lab.ready("gw")

    def still() -> bool:
        before = northbound(lab)
        time.sleep(0.5)
        return northbound(lab) == before

    eventually(still, 20)


@pytest.mark.parametrize("changing", [False, True], ids=["at-rest", "while-changing"])
@pytest.mark.parametrize(
    "victims",
    [
        ("api",),
        ("ovn-programmer",),
        ("node-agent",),
        ("runtime",),
        ("ovn-programmer", "api", "runtime", "node-agent"),
        ("node-agent", "runtime", "api", "ovn-programmer"),
    ],
    ids="+".join,
)
def test_killed_services_lose_no_packet_and_leave_nothing(
    lab: Lab, victims: tuple[str, ...], changing: bool
) -> None:
    """A running gateway's traffic loses no packet, and the end is the one that would have come without the kill."""
    lab.start(
        subnet("extra", "10.70.0.0/24", vpc="ovn-cluster"),
        gateway("gw", SNAT_ALL, replicas=2),
        pod("client"),
        gateways=("gw",),
        pods=("client",),
    )
    if changing:  # the end that must be reached, and back
        lab.start(gateway("gw", BOTH, replicas=2), gateways=("gw",))
    settle(lab)
    wanted = normal(northbound(lab)), files(lab)
    if changing:
        lab.start(gateway("gw", SNAT_ALL, replicas=2), gateways=("gw",))
        settle(lab)
    pods = lab.gateway_pods("gw")
    command = (
        "stream",
        "--interval-ms",
        "20",
        "--duration",
        "12",
        "--target",
        OUTSIDE[4],
        "--port",
        str(ECHO_PORT),
    )
    with lab.background("exec", "client", "--", *lab.probe_command(*command)) as stream:
        time.sleep(1)
        if changing:
            lab.apply(gateway("gw", BOTH, replicas=2))
        for victim in victims:
            target = f"{victim}@{pods[0]}" if victim == "node-agent" else victim
            lab("restart", target, "--kill", timeout=60)
        settle(lab)
        output, errors = stream.communicate(timeout=60)
    seen = json.loads(output or "{}")
    assert seen.get("sent", 0) > 300, errors
    assert seen["lost"] == 0, seen
    assert lab.gateway_pods("gw") == pods
    eventually(lambda: (normal(northbound(lab)), files(lab)) == wanted, 60)


def normal(dump: str) -> list[str]:
    """A dump without the identities of rows, which differ between equal databases."""
    import re

    return sorted(
        re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "uuid", dump).splitlines()
    )


def test_a_missing_programmer_is_told_and_heals(lab: Lab) -> None:
    """Status says that routes are not programmed while ovn-programmer is away, and completes when it is back."""
    lab("stop", "ovn-programmer")
    try:
        lab.apply(gateway("gw", SNAT_ALL))
        eventually(
            lambda: lab.condition("gw", "RoutesProgrammed").get("reason") == "ProgrammerUnreachable", 20
        )
        assert lab.status("gw")["ready"] is False
    finally:
        lab("restart", "ovn-programmer")
    lab.ready("gw")


def test_a_lost_northbound_server_heals(lab: Lab) -> None:
    """Traffic survives the database server; a change made while it was away arrives after it."""
    lab.start(gateway("gw", SNAT_ALL), pod("client"), gateways=("gw",), pods=("client",))
    (external,) = lab.status("gw")["externalIPs"]
    lab("restart", "ovsdb-nb", "--kill")
    assert lab.seen("client") == {external: 10}
    lab("scale", "veg", "gw", "--replicas=2")
    lab.ready("gw")
    assert len(lab.seen("client", count=60)) == 2
