"""Up, attach, down: whole labs, half-made ones, killed ones. Nothing may be left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from veg_sandbox.net import bringup
from veg_sandbox.net.lab import Lab, LabError, LabExistsError, LabNotFoundError, LabSpec, lab_dir
from veg_sandbox.net.shell import netns_names
from veg_sandbox.ovn.root import ovn_root
from veg_sandbox.proc import all_pids, poll

from tests.functional.sandbox_lab.conftest import BASE, WEB, WORKER, WORKER2, plug, probe


def processes_of(lab: Lab) -> list[str]:
    """Command lines of live processes that mention the lab's directory."""
    wanted, found = str(lab.directory).encode(), []
    for pid in all_pids():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if wanted in command and pid != os.getpid():
            found.append(command.replace(b"\0", b" ").decode())
    return found


def left_of(lab: Lab) -> list[str]:
    """Everything that is left of a lab."""
    files = [str(lab.directory)] if lab.directory.exists() else []
    return files + netns_names(lab.layout.netns_prefix) + processes_of(lab)


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The directory of a lab of the test's own; nothing of it is left at the end."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)[:40].strip("-")
    lab = Lab(lab_dir(name, BASE))
    yield lab
    lab.down()
    assert left_of(lab) == []


def links_of_the_host() -> list[str]:
    """Interfaces of the host's own namespace."""
    return sorted(link["ifname"] for link in json.loads(subprocess.check_output(["ip", "-j", "link"])))


def test_up_and_down_leave_nothing(own: Lab) -> None:
    """Nodes and chassis as asked, the host's own network untouched; down twice, also with pods in it."""
    before = links_of_the_host()
    own.up(LabSpec(nodes=2), progress=lambda _: None)
    assert [(node.name, node.underlay_ip) for node in own.nodes] == [
        (WORKER, "172.18.0.2"),
        (WORKER2, "172.18.0.3"),
    ]
    assert sorted(own.sbctl("--bare", "--columns=name", "list", "Chassis").split()) == [WORKER, WORKER2]
    assert all(own.daemons().values())
    plug(own, WEB)
    own.pod_spawn(WEB.name, "client", ["sleep", "600"])
    assert links_of_the_host() == before
    own.down()
    assert left_of(own) == []
    own.down()


def test_labs_coexist(own: Lab, empty_lab: Lab) -> None:
    """Two labs are up at once with names that differ, and taking one down leaves the other whole."""
    own.up(LabSpec(nodes=1), progress=lambda _: None)
    assert not set(netns_names(own.layout.netns_prefix)) & set(netns_names(empty_lab.layout.netns_prefix))
    own.down()
    assert all(empty_lab.daemons().values())
    assert WORKER2 in empty_lab.sbctl("show")


def test_a_second_up_is_refused(own: Lab) -> None:
    """What is there is not touched by an `up` that comes again."""
    own.up(LabSpec(nodes=1), progress=lambda _: None)
    before = own.daemons()
    with pytest.raises(LabExistsError):
        Lab(own.directory).up(LabSpec(nodes=1), progress=lambda _: None)
    assert own.daemons() == before


def test_attach_from_another_process(own: Lab) -> None:
    """A lab that a process brought up and left is whole, and any other process can use it and end it."""
    script = (
        "import sys; from pathlib import Path; from veg_sandbox.net.lab import *\n"
        "Lab(Path(sys.argv[1])).up(LabSpec(nodes=1))"
    )
    subprocess.run([sys.executable, "-c", script, str(own.directory)], check=True, timeout=60)
    lab = Lab.attach(own.directory)
    assert lab.spec == LabSpec(nodes=1)
    assert all(lab.daemons().values())
    lab.nbctl("ls-add", "s")
    assert "switch" in lab.nbctl("show")
    lab.down()
    with pytest.raises(LabNotFoundError):
        Lab.attach(own.directory)


def test_a_failing_up_takes_down_what_it_built(own: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a step fails, the error is raised and nothing stays."""

    def fail(*_: object) -> None:
        raise LabError("no chassis")

    monkeypatch.setattr(bringup, "_wait_chassis", fail)
    with pytest.raises(LabError, match="no chassis"):
        own.up(LabSpec(nodes=1), progress=lambda _: None)
    assert left_of(own) == []


def alive(group: int) -> bool:
    """Whether a process group has a process."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("when", [0.02, 0.1, 0.25])
def test_down_after_an_up_that_was_killed(own: Lab, when: float) -> None:
    """kill -9 of the program half-way through `up`: down removes what there is by then."""
    ovn_root()
    script = (
        "import sys; from pathlib import Path; from veg_sandbox.net.lab import *\n"
        "print('go', flush=True); Lab(Path(sys.argv[1])).up(LabSpec(nodes=2))"
    )
    argv = [sys.executable, "-c", script, str(own.directory)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdout=pipe, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        assert process.stdout
        process.stdout.readline()
        poll(lambda: False, when)
        process.kill()
    # A command that it had started may go on for a moment, and make what `down` has looked for already.
    poll(lambda: not alive(process.pid), 3)
    assert own.directory.exists() or left_of(own) == []
    own.down()
    assert left_of(own) == []


def test_down_without_records(own: Lab) -> None:
    """Files removed by hand: processes and namespaces are found by the lab's name all the same."""
    own.up(LabSpec(nodes=1), progress=lambda _: None)
    for file in own.layout.processes.glob("*.pid"):
        file.unlink()
    own.layout.state_file.unlink()
    own.down()
    assert left_of(own) == []


@pytest.mark.parametrize(
    "name",
    [
        "ovsdb-nb",
        "ovsdb-sb",
        "ovn-northd",
        "echo",
        f"ovsdb-server@{WORKER}",
        f"ovs-vswitchd@{WORKER}",
        f"ovn-controller@{WORKER}",
    ],
)
def test_a_daemon_that_is_killed_can_be_started(lab: Lab, name: str) -> None:
    """After kill -9 and start, packets go from a client over both nodes to the outside and back."""
    lab.kill_daemon(name)
    assert lab.daemons()[name] is None
    lab.start_daemon(name)
    pid = lab.restart_daemon(name)
    assert lab.daemons()[name] == pid

    def passes() -> bool:
        done = lab.pod_exec(WEB.name, ["ping", "-n", "-c", "1", "-W", "1", "172.17.0.1"])
        return done.returncode == 0

    assert poll(passes, 30)
    lab.nbctl("--wait=hv", "sync", timeout=30)
    seen = probe(lab, WEB.name, "connect", "--count", "5", "--target", "172.17.0.1")
    assert seen["failed"] == 0, seen


def test_an_unknown_daemon_is_named(lab: Lab) -> None:
    """The message lists the daemons there are."""
    with pytest.raises(LabError, match="ovn-northd"):
        lab.kill_daemon("ovn-nothd", signal.SIGTERM)
