"""Faults of pods, seen by another pod and by the objects; and containers, started again as a kubelet does."""

from __future__ import annotations

import pytest
from veg_sandbox.harness import CommandError, eventually

from tests.functional.sandbox_faults.conftest import Lab


@pytest.mark.parametrize(
    "fault",
    [
        ("kill-pod",),
        ("cut-internal",),
        ("cut-internal", "--how", "path"),
    ],
    ids="-".join,
)
def test_a_pod_is_away_until_it_is_healed(lab: Lab, pod: str, fault: tuple[str, ...]) -> None:
    """Nothing reaches the pod while it is broken, `status` says so; healed, it is there with the same address."""
    kind, *how = fault
    before = lab.get("pod", pod)
    lab("fault", kind, pod, *how)
    assert not lab.pings()
    assert f"{kind} {pod}" in lab.run("status").stdout
    assert lab("fault", kind, pod, *how, "--heal").startswith(f"{kind} {pod}")
    eventually(lab.pings, 30, "the pod is back")
    eventually(lab.pair, 30, "the pod is ready")
    after = lab.get("pod", pod)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["podIPs"] == before["status"]["podIPs"]
    assert lab("fault") == "nothing is broken on purpose\n"


def test_a_killed_pod_is_not_started_before_it_is_healed(lab: Lab, pod: str) -> None:
    """Both containers die at once, the pod is not ready, and neither is there again until the fault is healed."""
    lab("fault", "kill-pod", pod)
    eventually(lambda: not lab.container(pod, "bfdd")["ready"], 10)
    assert lab.run("exec", pod, "-c", "gateway", "--", "true").returncode == 1
    lab("fault", "kill-pod", pod, "--heal")
    eventually(lab.pair, 30)
    for name in ("gateway", "bfdd"):
        assert lab.container(pod, name)["state"].keys() == {"running"}  # type: ignore[attr-defined]


def test_a_stopped_pod_ends_in_peace(lab: Lab, pod: str) -> None:
    """Both containers get SIGTERM and end by themselves; the Deployment makes another pod."""
    with lab.background("exec", pod, "-c", "gateway", "--", "tail", "-f", "/dev/null"):
        lab("fault", "stop-pod", pod)
        eventually(lambda: lab.pair() != pod, 60, "another pod is ready")
    assert lab("fault") == "nothing is broken on purpose\n"


@pytest.mark.parametrize("how", ["path", "carrier"])
def test_what_is_not_there_can_not_be_cut(lab: Lab, pod: str, how: str) -> None:
    """A pod without net1 can not lose it: said in one line, and nothing is remembered as broken."""
    done = lab.run("fault", "cut-uplink", pod, "--how", how)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert lab("fault") == "nothing is broken on purpose\n"


@pytest.mark.parametrize("container", ["gateway", "bfdd"])
def test_a_killed_container_is_back_at_once(lab: Lab, pod: str, container: str) -> None:
    """It is started again without being healed, and the other container does not notice."""
    service = {"gateway": "node-agent", "bfdd": "bfdd"}[container]
    other = "bfdd" if container == "gateway" else "gateway"
    before = int(str(lab.container(pod, container)["restartCount"]))
    others = lab.container(pod, other)
    lab("fault", "kill-service", f"{service}@{pod}")
    eventually(lambda: lab.container(pod, container)["restartCount"] == before + 1, 10)
    eventually(lab.pair, 30)
    assert lab.container(pod, other) == others


def test_what_a_probe_says_is_in_condition_and_event(lab: Lab, pod: str) -> None:
    """A failing readiness probe is seen with its words, and they go when it passes."""
    lab("exec", pod, "-c", "bfdd", "--", "sh", "-c", "echo net1 has no carrier > /run/veg/bfdd.sick")

    def message() -> str:
        conditions = {c["type"]: c for c in lab.get("pod", pod)["status"]["conditions"]}
        return str(conditions["Ready"].get("message", ""))

    eventually(lambda: message().endswith("[bfdd]; bfdd: net1 has no carrier"), 10)
    unhealthy = "Readiness probe failed: net1 has no carrier"
    eventually(
        lambda: unhealthy in [e["message"] for e in lab.items("event") if e["reason"] == "Unhealthy"], 10
    )
    lab("exec", pod, "-c", "bfdd", "--", "rm", "/run/veg/bfdd.sick")
    eventually(lab.pair, 30)


def test_exec_finds_the_container(lab: Lab, pod: str) -> None:
    """Both containers share the folder and the network; each command runs in the one that was named."""
    assert lab("exec", pod, "-c", "bfdd", "--", "ls", "/run/veg").split() == ["bfdd.alive", "gateway.alive"]
    addresses = {
        lab("exec", pod, "-c", name, "--", "ip", "-br", "address", "show", "eth0")
        for name in ("gateway", "bfdd")
    }
    assert len(addresses) == 1
    with pytest.raises(CommandError, match="container other not found in pod"):
        lab("exec", pod, "-c", "other", "--", "true")
