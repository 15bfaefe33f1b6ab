"""Pods' plumbing and containers: idempotent, private, removed without a trace."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from veg_sandbox.net.lab import Lab, LabError, UnknownPodError
from veg_sandbox.net.model import port_name
from veg_sandbox.net.shell import netns_names
from veg_sandbox.proc import poll

from tests.functional.sandbox_lab.conftest import WORKER, WORKER2

POD = "a pod's/uid"


@pytest.fixture
def pod(empty_lab: Lab) -> Iterator[str]:
    """A pod with a namespace and nothing else."""
    empty_lab.create_pod_netns(POD)
    yield POD
    empty_lab.unplug_pod(POD)


def plug_eth0(lab: Lab, node: str = WORKER, address: str = "10.16.0.77/16") -> None:
    """Give the pod eth0."""
    lab.plug_internal(
        POD,
        node,
        lsp_name="p77.default",
        mac="02:00:00:00:00:77",
        addresses=[address],
        gateways=["10.16.0.1"],
    )


def plug_net1(lab: Lab) -> None:
    """Give the pod net1."""
    lab.plug_external(POD, WORKER, "net1", addresses=["172.17.0.77/16", "fd17::77/64"])


def output(lab: Lab, *argv: str, container: str | None = None) -> str:
    """What a command that must succeed prints in the pod."""
    done = lab.pod_exec(POD, argv, container=container)
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(folder: str) -> list[str]:
    """What lies in a folder of the host."""
    return sorted(entry.name for entry in Path(folder).iterdir())


def test_plugging_again_changes_nothing(empty_lab: Lab, pod: str) -> None:
    """The same calls again keep interfaces, addresses and what the pod itself changed since."""
    plug_eth0(empty_lab)
    plug_net1(empty_lab)
    output(empty_lab, "ip", "route", "replace", "default", "via", "172.17.0.1", "dev", "net1")
    before = output(empty_lab, "ip", "address"), output(empty_lab, "ip", "route")
    empty_lab.create_pod_netns(pod)
    plug_eth0(empty_lab)
    plug_net1(empty_lab)
    assert (output(empty_lab, "ip", "address"), output(empty_lab, "ip", "route")) == before
    assert pod in empty_lab.pod_ids()


def test_plugging_otherwise_makes_the_interface_anew(empty_lab: Lab, pod: str) -> None:
    """Another address and another node: the new state holds, the old node keeps no port."""
    plug_eth0(empty_lab)
    plug_eth0(empty_lab, WORKER2, "10.16.0.78/16")
    shown = output(empty_lab, "ip", "address", "show", "eth0")
    assert "10.16.0.78/16" in shown
    assert "10.16.0.77" not in shown
    assert port_name(pod) not in empty_lab.vsctl(WORKER, "list-ports", "br-int")
    assert port_name(pod) in empty_lab.vsctl(WORKER2, "list-ports", "br-int")


def test_a_half_made_interface_is_completed(empty_lab: Lab, pod: str) -> None:
    """A plug that was cut short after the link was made is done again."""
    plug_eth0(empty_lab)
    record = empty_lab.layout.pod_dir(pod) / "pod.json"
    record.write_text(record.read_text().replace('"made": true', '"made": false'))
    output(empty_lab, "ip", "address", "flush", "dev", "eth0")
    plug_eth0(empty_lab)
    assert "10.16.0.77/16" in output(empty_lab, "ip", "address", "show", "eth0")


def test_a_lost_port_comes_back(empty_lab: Lab, pod: str) -> None:
    """An OVS port that was removed by hand is there again after the same call."""
    plug_eth0(empty_lab)
    empty_lab.vsctl(WORKER, "del-port", port_name(pod))
    plug_eth0(empty_lab)
    assert port_name(pod) in empty_lab.vsctl(WORKER, "list-ports", "br-int")


def test_unplug_leaves_nothing(empty_lab: Lab, pod: str) -> None:
    """Namespace, OVS port, link, container, record and files are gone; twice is once."""
    plug_eth0(empty_lab)
    plug_net1(empty_lab)
    pid = empty_lab.pod_spawn(pod, "gateway", ["sleep", "600"])
    empty_lab.unplug_pod(pod)
    assert netns_names(empty_lab.pod_netns(pod)) == []
    assert port_name(pod) not in empty_lab.vsctl(WORKER, "list-ports", "br-int")
    assert "ifname" not in empty_lab.netns_exec(WORKER, ["ip", "-j", "link", "show", port_name(pod)]).stdout
    assert not Path(f"/proc/{pid}").exists()
    assert not empty_lab.layout.pod_dir(pod).exists()
    assert pod not in empty_lab.pod_ids()
    empty_lab.unplug_pod(pod)


def test_calls_on_a_pod_that_is_not_there(empty_lab: Lab) -> None:
    """Each says so in a typed error."""
    with pytest.raises(UnknownPodError):
        empty_lab.pod_exec("nobody", ["true"])
    with pytest.raises(UnknownPodError):
        empty_lab.pod_spawn("nobody", "c", ["true"])
    with pytest.raises(UnknownPodError):
        empty_lab.plug_external("nobody", WORKER, addresses=["172.17.0.9/16"])
    assert empty_lab.pod_pid("nobody", "c") is None


def test_a_container_has_its_own_mounts(empty_lab: Lab, pod: str, tmp_path: Path) -> None:
    """/etc/veg and /run/veg are the pod's own in the container and in exec, and the host has neither."""
    config, run_dir = tmp_path / "config", tmp_path / "run"
    config.mkdir()
    run_dir.mkdir()
    (config / "agent.json").write_text("{}")
    before = names("/etc"), names("/run")
    script = (
        "cat /etc/veg/agent.json; echo $GREETING; uname -n > /run/veg/name; touch /etc/mine; exec sleep 600"
    )
    pid = empty_lab.pod_spawn(
        pod,
        "gateway",
        ["sh", "-c", script],
        mounts={config: "/etc/veg", run_dir: "/run/veg"},
        env={"GREETING": "hello"},
        hostname="gateway1-abc",
    )
    assert poll((run_dir / "name").exists, 5)
    assert poll(lambda: "hello" in empty_lab.pod_log(pod, "gateway").read_text(), 5)
    assert output(empty_lab, "cat", "/run/veg/name", container="gateway").startswith("gateway1-abc")
    assert output(empty_lab, "ls", "/etc/veg") == "agent.json\n"
    # What a ConfigMap mount does: a symlink swapped by rename is seen at once.
    (config / "new").write_text("new")
    (config / "..data").symlink_to("new")
    assert output(empty_lab, "cat", "/etc/veg/..data") == "new"
    assert (names("/etc"), names("/run")) == before
    assert empty_lab.pod_spawn(pod, "gateway", ["sleep", "1"]) == pid
    assert empty_lab.pod_kill(pod, "gateway", signal.SIGTERM)
    assert not empty_lab.pod_kill(pod, "gateway")
    assert empty_lab.pod_pid(pod, "gateway") is None


def test_two_containers_of_a_pod_share_a_directory(empty_lab: Lab, pod: str, tmp_path: Path) -> None:
    """A unix socket that one listens on is reached by the other, and by exec."""
    listen = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.bind('/run/veg/s'); s.listen()\n"
        "while True: s.accept()[0].sendall(b'hi')"
    )
    ask = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/veg/s'); print(s.recv(9).decode())"
    )
    mounts = {tmp_path: "/run/veg"}
    empty_lab.pod_spawn(pod, "bfdd", [sys.executable, "-c", listen], mounts=mounts)
    empty_lab.pod_spawn(pod, "gateway", ["sleep", "600"], mounts=mounts)
    assert poll((tmp_path / "s").exists, 5)
    assert output(empty_lab, sys.executable, "-c", ask, container="gateway") == "hi\n"


def test_a_container_that_fails_tells_why(empty_lab: Lab, pod: str, tmp_path: Path) -> None:
    """The error holds the log's end; a bad mount target is refused before anything is started."""
    with pytest.raises(LabError, match=r"no-such-program|not found"):
        empty_lab.pod_spawn(pod, "gateway", ["/no-such-program"])
    with pytest.raises(LabError, match="must be an absolute path"):
        empty_lab.pod_spawn(pod, "gateway", ["true"], mounts={tmp_path: "nowhere"})
    assert empty_lab.pod_pid(pod, "gateway") is None


def test_a_mount_where_the_host_has_nothing(empty_lab: Lab, pod: str, tmp_path: Path) -> None:
    """The pod gets the place, the host does not; a change of the mounted folder is seen; /var/run leads to /run."""
    (tmp_path / "a").write_text("one")
    token = tmp_path / "token"
    token.mkdir()
    mounts = {tmp_path: "/nowhere/at/all", token: "/var/run/secrets/token"}
    empty_lab.pod_spawn(pod, "gateway", ["sleep", "600"], mounts=mounts)
    assert output(empty_lab, "cat", "/nowhere/at/all/a") == "one"
    (tmp_path / "b").write_text("two")
    (token / "c").write_text("three")
    assert output(empty_lab, "cat", "/nowhere/at/all/b", "/run/secrets/token/c") == "twothree"
    assert not Path("/nowhere").exists()


def test_the_pod_network_is_the_pods_own(empty_lab: Lab, pod: str) -> None:
    """sysctl, /sys and iptables in a container are the pod's; the host's stay as they were."""
    host = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    empty_lab.pod_spawn(pod, "gateway", ["sleep", "600"])
    value = "0" if host.strip() == "1" else "1"
    output(empty_lab, "sh", "-c", f"echo {value} > /proc/sys/net/ipv4/ip_forward")
    assert output(empty_lab, "cat", "/proc/sys/net/ipv4/ip_forward").strip() == value
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == host
    assert output(empty_lab, "ls", "/sys/class/net").split() == ["lo"]
    assert "legacy" in output(empty_lab, "iptables", "-V")
    assert "legacy" in output(empty_lab, "ip6tables", "-V")


@pytest.mark.parametrize("container", [None, "main"])
def test_ip_has_nothing_to_complain_of(empty_lab: Lab, pod: str, container: str | None) -> None:
    """In a pod, as in any other, `ip address` prints no error and sees no named namespaces of the host."""
    plug_eth0(empty_lab)
    if container:
        empty_lab.pod_spawn(POD, container, ["sleep", "60"])
    done = empty_lab.pod_exec(POD, ["ip", "address", "show", "eth0"], container=container)
    assert (done.returncode, done.stderr) == (0, "")
    assert "link-netnsid 0" in done.stdout
    assert output(empty_lab, "ip", "netns", "list", container=container) == ""


def test_exec_without_a_container(empty_lab: Lab, pod: str) -> None:
    """A pod that runs nothing: commands run in its namespace, with input, exit code and a time limit."""
    assert output(empty_lab, "ls", "/sys/class/net").split() == ["lo"]
    done = empty_lab.pod_exec(pod, ["sh", "-c", "cat; exit 3"], input_text="in")
    assert (done.returncode, done.stdout) == (3, "in")
    with pytest.raises(LabError, match="longer than"):
        empty_lab.pod_exec(pod, ["sleep", "30"], timeout=0.3)
    assert poll(lambda: not empty_lab.pod_exec(pod, ["pgrep", "-f", "^sleep 30$"]).stdout, 5)


@pytest.mark.parametrize("address", ["172.17.0.77", "fd17::77"])
def test_neighbours_follow_an_address_to_its_next_pod(empty_lab: Lab, pod: str, address: str) -> None:
    """An address that returns with another MAC is reached at once by a host that knew the old one."""
    for _ in range(2):
        plug_net1(empty_lab)
        ping = ["ping", "-n", "-c", "1", "-W", "1", address]
        done = empty_lab.netns_exec("outside", ping)
        assert done.returncode == 0, done.stdout
        empty_lab.unplug_pod(POD)
        empty_lab.create_pod_netns(POD)
