"""How long traffic is away: `veg-sandbox failover` as people run it. Bounds are for busy machines; docs have figures."""

from __future__ import annotations

import json
from typing import Any

import pytest
from veg_sandbox.harness import eventually

from tests.topology.conftest import Lab
from tests.topology.test_change import files, northbound
from tests.topology.test_faults import normal

# A virtual machine may lose a core for 200 ms: a detection time of 300 ms then ends sessions that nothing is wrong with,
# of 900 ms it does not.
STEADY = ("--interval", "300")
OUTAGE_MS = 3000
# node-agent asks four times before it believes that the uplink is dead; only then the detection time begins.
UPLINK_MS = 6000
# As many flows and packets as a busy machine takes without losing some in its own queues; runs in which it stood still
# for longer than that are made again.
GENTLE = ("--flows", "8", "--period", "20", "--max-pause", "250")


def failover(lab: Lab, *args: str) -> dict[str, Any]:
    """Run it and return the object on the last line."""
    output = lab("failover", *args, "--json", timeout=500)
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def processes(lab: Lab) -> list[str]:
    """Services of the sandbox by name."""
    return [line.split()[0] for line in lab.run("status").stdout.splitlines()]


def test_a_killed_pod(lab: Lab) -> None:
    """Traffic moves within the detection time and a little; nothing of the measurement is left, however often it ran."""
    before = normal(northbound(lab)), files(lab), processes(lab)
    result = failover(lab, "--interval", "100", "--runs", "5")
    assert list(result) == ["interval_ms", "runs", "dying", "surviving", "repeated"]
    assert (result["interval_ms"], result["runs"]) == (100, 5)
    for group in ("dying", "surviving"):
        assert list(result[group]) == ["p50_ms", "p99_ms", "max_ms", "lost"]
    assert 0 < result["dying"]["p50_ms"] < OUTAGE_MS / 2
    assert result["dying"]["p50_ms"] <= result["dying"]["max_ms"] < OUTAGE_MS
    assert result["dying"]["lost"] > 0
    eventually(lambda: (normal(northbound(lab)), files(lab), processes(lab)) == before, 30, "nothing is left")


@pytest.mark.parametrize("family", ["ipv4", "dual"])
def test_a_drained_pod_loses_nothing(lab: Lab, dual: Lab, family: str) -> None:
    """A planned end is announced: OVN sends the traffic elsewhere before the pod goes, and no packet is lost."""
    sandbox = dual if family == "dual" else lab
    result = failover(sandbox, "--fault", "drain", "--runs", "2", *STEADY, *GENTLE, "--ip-family", family)
    assert (result["dying"]["lost"], result["surviving"]["lost"]) == (0, 0)


@pytest.mark.parametrize("fault", ["cut-internal", "cut-uplink", "kill-bfdd", "kill-node-agent"])
def test_other_faults(lab: Lab, fault: str) -> None:
    """Links and processes: traffic comes back by itself, and the agent's death alone costs nothing."""
    result = failover(lab, "--fault", fault, "--runs", "2", *STEADY, *GENTLE)
    assert result["dying"]["max_ms"] < (UPLINK_MS if fault == "cut-uplink" else OUTAGE_MS)
    if fault == "kill-node-agent":
        assert (result["dying"]["lost"], result["surviving"]["lost"]) == (0, 0)
