"""Faults of nodes and services, and that `down` cleans up after all of them."""

from __future__ import annotations

import datetime as dt
import os
import time

import pytest
from veg_sandbox.harness import Sandbox, eventually
from veg_sandbox.net.model import Layout, lab_dir
from veg_sandbox.net.shell import netns_names
from veg_sandbox.proc import marked

from tests.functional.sandbox_faults.conftest import Lab

NODE = "kube-ovn-worker"


def node_state(lab: Lab) -> str:
    """Condition Ready of the node."""
    conditions = {c["type"]: c["status"] for c in lab.get("node", NODE)["status"]["conditions"]}
    return str(conditions["Ready"])


def test_a_node_without_power(lab: Lab, pod: str) -> None:
    """Its pods are away at once, but told only after a while, as nobody is there to tell; both come back."""
    since = time.time()
    lab("fault", "kill-chassis", NODE)
    assert not lab.pings()
    for daemon in ("ovs-vswitchd", "ovn-controller", "ovsdb-server"):
        assert lab.process(f"{daemon}@{NODE}").split()[1] == "-"
    eventually(lambda: node_state(lab) == "Unknown", 20, "the node is lost")
    told = {c["type"]: c for c in lab.get("node", NODE)["status"]["conditions"]}["Ready"][
        "lastTransitionTime"
    ]
    assert dt.datetime.fromisoformat(told).timestamp() > since + 4
    assert lab("get", "node", NODE).split()[6] == "NotReady"

    def reason() -> str:
        conditions = {c["type"]: c for c in lab.get("pod", pod)["status"]["conditions"]}
        return str(conditions["Ready"].get("reason"))

    eventually(lambda: reason() == "NodeNotReady", 10, "the pod's condition tells")
    lab("fault", "--heal", timeout=60)
    eventually(lambda: node_state(lab) == "True", 30, "the node is back")
    eventually(lab.pings, 30, "its pod is back")
    eventually(lambda: lab.pair() == pod, 30, "and ready")
    assert lab("fault") == "nothing is broken on purpose\n"


@pytest.mark.parametrize("service", ["api", "ovn-northd", f"ovn-controller@{NODE}", "ovsdb-nb", "runtime"])
def test_a_killed_service_stays_down(lab: Lab, service: str) -> None:
    """Until it is healed; traffic does not mind."""
    lab("fault", "kill-service", service)
    assert lab.process(service).split()[1] == "-"
    assert f"kill-service {service}" in lab.run("status").stdout
    assert lab.pings()
    lab("fault", "kill-service", service, "--heal", timeout=60)
    eventually(lambda: lab.process(service).endswith("true"), 20, "it is healthy")
    assert lab("fault") == "nothing is broken on purpose\n"


@pytest.mark.parametrize("service", ["api", "ovn-northd"])
def test_a_paused_service_is_there_and_does_nothing(lab: Lab, service: str) -> None:
    """Its process lives and is not healthy; healed, it is the same process and healthy."""
    before = lab.process(service).split()[1]
    lab("fault", "pause-service", service)
    line = lab.process(service).split()
    assert (line[1], line[-1]) == (before, "false")
    lab("fault", "pause-service", service, "--heal")
    eventually(lambda: lab.process(service).split()[-1] == "true", 20)
    assert lab.process(service).split()[1] == before


def test_a_fault_that_is_mended_otherwise_is_forgotten(lab: Lab) -> None:
    """`restart` of a killed service is as good as healing it."""
    lab("fault", "kill-service", "api")
    lab("restart", "api")
    assert lab("fault") == "nothing is broken on purpose\n"


def test_ovn_restarts(lab: Lab) -> None:
    """Databases and northd are others afterwards, and traffic goes on."""
    central = ("ovsdb-nb", "ovsdb-sb", "ovn-northd")
    before = {name: lab.process(name).split()[1] for name in central}
    lab("fault", "restart-ovn", timeout=60)
    for name in central:
        assert lab.process(name).split()[1] != before[name]
        eventually(lambda name=name: lab.process(name).split()[-1] == "true", 20, f"{name} is healthy")  # type: ignore[misc]
    assert lab.pings()


def test_an_unknown_target_is_told(lab: Lab) -> None:
    """A service or node that is not there is refused, and nothing is remembered as broken."""
    done = lab.run("fault", "kill-service", "apj")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "bfdd@POD" in done.stderr
    done = lab.run("fault", "kill-chassis", "nowhere")
    assert (done.returncode, done.stderr) == (1, "error: no node 'nowhere' in this lab\n")
    assert lab("fault") == "nothing is broken on purpose\n"


def test_down_cleans_up_after_faults() -> None:
    """Paused, killed and cut: nothing of a broken sandbox is left, and the next `up` gives a whole one."""
    sandbox = Sandbox(f"g{os.getpid()}")
    layout = Layout(lab_dir(sandbox.name))
    try:
        sandbox("up", "--nodes", "2", timeout=600)
        sandbox("fault", "pause-service", "ovs-vswitchd@kube-ovn-worker2", "api")
        sandbox("fault", "kill-chassis", NODE)
        begun = time.monotonic()
        sandbox("down", timeout=60)
        assert time.monotonic() - begun < 30
        assert netns_names(layout.netns_prefix) == []
        assert marked(layout.processes) == []
        assert not layout.directory.exists()
        sandbox("up", "--nodes", "2", timeout=300)
        assert sandbox("fault") == "nothing is broken on purpose\n"
        assert sandbox.run("status").returncode == 0
    finally:
        sandbox("down", timeout=60)
