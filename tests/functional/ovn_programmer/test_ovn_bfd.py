"""BFD on real OVN (variant S3) with the real speaker in pods: three chassis, and one VPC with three replicas."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from veg.bfd.v1 import bfd_pb2
from veg.bfd.v1 import bfd_pb2_grpc as bfd_grpc
from veg.programmer.v1 import programmer_pb2 as pb
from veg_common.server import channel
from veg_ovn_programmer.core import heal
from veg_sandbox.net.lab import Lab, LabSpec, lab_dir

BASE = Path(f"/run/veg-programmer-{os.getpid()}")
NODES = ["kube-ovn-worker", "kube-ovn-worker2", "kube-ovn-worker3"]
REPLICAS = {2: NODES[0], 3: NODES[1], 4: NODES[2]}
BFD = ("10.255.255.255", "fdff::1")
LOCAL = ["192.168.0.0/24", "fd00::/64"]
V4 = [f"192.168.0.{n}" for n in REPLICAS]
V6 = [f"fd00::{n}" for n in REPLICAS]
# A core of a virtual machine may stop for 200 ms: the detection time is well above that.
MS = 300
# Where nothing may go down: a machine that stands still for a second is no failure.
SLOW_MS = 1000


@dataclass
class Remote:
    """The lab's Northbound database, as the programmer and the assertions see it."""

    lab: Lab
    folder: Path
    process: object = field(default_factory=object)

    @property
    def remote(self) -> str:
        return self.lab.nb_remote

    def nbctl(self, *args: str) -> str:
        return self.lab.nbctl(*args)

    def shown(self, *args: str) -> list[str]:
        """Lines of a command, spaces folded, without headings."""
        lines = (" ".join(line.split()) for line in self.nbctl(*args).splitlines())
        return [line for line in lines if line and not line.startswith(("IPv", "Route Table", "Routing"))]

    def statuses(self) -> dict[str, str]:
        """Status of every BFD row by peer."""
        lines = self.nbctl(
            "--format=csv", "--data=bare", "--no-headings", "--columns=dst_ip,status", "list", "bfd"
        )
        return dict(line.split(",") for line in lines.split())


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three nodes with a pod each; the logical topology is the programmer's to make."""
    one = Lab(lab_dir("bfd", BASE))
    one.up(LabSpec(nodes=3))
    try:
        for n, node in REPLICAS.items():
            pod = f"gw{n}"
            one.create_pod_netns(pod)
            one.plug_internal(
                pod,
                node,
                lsp_name=f"{pod}.default",
                mac=f"0a:00:00:00:00:0{n}",
                addresses=[f"192.168.0.{n}/24", f"fd00::{n}/64"],
                gateways=["192.168.0.1", "fd00::1"],
            )
        yield one
    finally:
        one.down()
        shutil.rmtree(BASE, ignore_errors=True)


@dataclass
class Speaker:
    """veg-bfd in a pod, with passive sessions to the BFD port."""

    lab: Lab
    pod: str
    run: Path

    async def start(self, peers: dict[str, str], ms: int = MS) -> None:
        """`peers`: the BFD port's addresses by this pod's."""
        self.run.mkdir(parents=True, exist_ok=True)
        binary = str(Path(sys.executable).with_name("veg-bfd"))
        argv = [binary, "run", "--run-dir=/run/veg", "--linger=1"]
        await asyncio.to_thread(self.lab.pod_spawn, self.pod, "bfdd", argv, mounts={self.run: "/run/veg"})
        timers = bfd_pb2.Timers(min_rx_ms=ms, min_tx_ms=ms, multiplier=3)
        configs = [
            bfd_pb2.SessionConfig(
                peer=peer, local=local, timers=timers, min_ttl=253, role=bfd_pb2.SESSION_ROLE_PASSIVE
            )
            for local, peer in peers.items()
        ]
        async with self.stub() as stub:
            request = bfd_pb2.SetSessionsRequest(owner="test", sessions=configs)
            # Starting an interpreter may take its time on a busy machine.
            await stub.SetSessions(request, wait_for_ready=True, timeout=30)

    @contextlib.asynccontextmanager
    async def stub(self) -> AsyncIterator[bfd_grpc.BfdServiceAsyncStub]:
        async with channel(f"unix:{self.run}/bfd.sock") as opened:
            yield bfd_grpc.BfdServiceStub(opened)

    async def sessions(self) -> list[bfd_pb2.Session]:
        request = bfd_pb2.ListSessionsRequest()
        async with self.stub() as stub:
            return list((await stub.ListSessions(request, wait_for_ready=True, timeout=20)).sessions)

    def kill(self) -> None:
        """As a crash: nobody says goodbye."""
        with contextlib.suppress(Exception):
            self.lab.pod_kill(self.pod, "bfdd", signal.SIGKILL, wait=5)


@pytest.fixture
async def speakers(lab: Lab, tmp_path: Path) -> AsyncIterator[dict[int, Speaker]]:
    """Started on demand, by the last part of their addresses."""
    all_of = {
        n: Speaker(lab, f"gw{n}", BASE / f"run{n}-{hash(tmp_path.name) & 0xFFFFFF:x}") for n in REPLICAS
    }
    yield all_of
    for one in all_of.values():
        one.kill()


@pytest.fixture
async def world(
    lab: Lab, start: Any, make: Any, wait: Any, tmp_path: Path
) -> AsyncIterator[tuple[Remote, Any]]:
    """A programmer on the lab, with the VPC's topology; all rows go in the end."""
    folder = BASE / f"p-{hash(tmp_path.name) & 0xFFFFFF:x}"
    folder.mkdir(parents=True)
    remote = Remote(lab, folder)
    async with start(remote) as client:
        vpc = make.vpc("vpc1")
        vpc.vpc.bfd_port.addresses.extend(BFD)
        vpc.vpc.bfd_port.nodes.extend(NODES)
        ports = [
            make.port(f"gw{n}.default", "subnet1", f"0a:00:00:00:00:0{n}", [f"192.168.0.{n}", f"fd00::{n}"])
            for n in REPLICAS
        ]
        await client.commit(vpc, make.subnet("subnet1", "vpc1", LOCAL, ["192.168.0.1", "fd00::1"]), *ports)
        await client.resync()
        await asyncio.to_thread(lab.nbctl, "--wait=hv", "sync")
        await wait(lambda: settled(lab), 30)
        yield remote, client
        client.session = "end"
        await client.resync()
    assert remote.statuses() == {}


def settled(lab: Lab) -> bool:
    """Whether each chassis hears the others, by the tunnels' own BFD: until then the BFD port may move, and its sessions
    would go down with it.
    """
    columns = ("--bare", "--columns=bfd_status", "find", "Interface", "type=geneve")
    heard = [re.findall(r"\b(?:remote_)?state=up\b", lab.vsctl(node, *columns)) for node in NODES]
    return [len(some) for some in heard] == [2 * (len(NODES) - 1)] * len(NODES)


def gateway(make: Any, *, default: bool = False, ms: int = MS, generation: int = 1) -> pb.Intent:
    """A gateway of all replicas; by policies when `default`."""
    intent: pb.Intent = make.gateway(
        "gateway2", "vpc1", LOCAL, [*V4, *V6], default_vpc=default, local=LOCAL, generation=generation
    )
    intent.gateway.bfd.logical_port = "bfd@vpc1"
    intent.gateway.bfd.timers.min_rx_ms = intent.gateway.bfd.timers.min_tx_ms = ms
    intent.gateway.bfd.timers.multiplier = 3
    for n, node in REPLICAS.items():
        intent.gateway.bfd.chassis.update({f"192.168.0.{n}": node, f"fd00::{n}": node})
    return intent


async def speak(speakers: dict[int, Speaker], ms: int = MS) -> None:
    """Start every speaker."""
    peers = {n: dict(zip((f"192.168.0.{n}", f"fd00::{n}"), BFD, strict=True)) for n in speakers}
    await asyncio.gather(*(one.start(peers[n], ms) for n, one in speakers.items()))


async def pod_up(one: Speaker) -> list[bfd_pb2.Session]:
    """A pod's sessions once they are up: OVN may be so first, by one of its intervals."""
    deadline = time.monotonic() + 20
    while True:
        sessions = await one.sessions()
        if all(session.state == bfd_pb2.SESSION_STATE_UP for session in sessions):
            return sessions
        assert time.monotonic() < deadline, sessions
        await asyncio.sleep(0.05)


async def downs(speakers: dict[int, Speaker]) -> dict[int, list[int]]:
    """How often each pod's sessions have gone down so far; all are up."""
    return {n: [session.downs for session in await pod_up(one)] for n, one in speakers.items()}


def states(client: Any) -> dict[str, tuple[int, bool]]:
    """The last state and serving of every peer, as told by Watch."""
    return {
        event.bfd.peer: (event.bfd.state, event.bfd.serving)
        for event in client.events
        if event.WhichOneof("event") == "bfd"
    }


def all_up(remote: Remote, but: tuple[str, ...] = ()) -> Callable[[], bool]:
    """Whether OVN says `up` of all sessions, and of `but` that they are not."""
    return lambda: all((status == "up") != (peer in but) for peer, status in remote.statuses().items())


UP = (bfd_pb2.SESSION_STATE_UP, True)


async def test_sessions_come_up(world: Any, speakers: Any, make: Any, wait: Any) -> None:
    """The third example, both families: rows, both ends up, and what listeners hear; packets come with TTL 254."""
    remote, client = world
    await speak(speakers, SLOW_MS)
    await client.commit(gateway(make, ms=SLOW_MS))
    took = await wait(all_up(remote), 30)
    sys.stdout.write(f"all up after {took:.1f} s\n")
    await wait(lambda: set(states(client).values()) == {UP} and len(states(client)) == 6)
    assert remote.shown("lr-policy-list", "vpc1") == [
        "31000 ip4.dst == 10.255.255.255 allow",
        "31000 ip6.dst == fdff::1 allow",
    ]
    routes = remote.shown("lr-route-list", "vpc1")
    assert "192.168.0.0/24 192.168.0.2 src-ip ecmp ecmp-symmetric-reply bfd" in routes
    assert len(routes) == 8
    for one in speakers.values():
        # A session that takes longer than the healer's patience is started afresh.
        assert [session.downs for session in await pod_up(one)] == [0, 0] or took > 4.5
    shown = remote.nbctl("show", "vpc1-bfd")
    assert 'networks: ["10.255.255.255", "fdff::1"]' in shown


@pytest.mark.parametrize("default", [False, True], ids=["routes", "policies"])
async def test_a_replica_dies_and_returns(
    world: Any, speakers: Any, make: Any, wait: Any, default: bool
) -> None:
    """Traffic leaves the dead replica at once and returns to it; with all of them dead the sources are closed."""
    remote, client = world
    await speak(speakers)
    await client.commit(gateway(make, default=default))
    await wait(all_up(remote), 30)
    await wait(lambda: set(states(client).values()) == {UP}, 30)
    await asyncio.gather(*map(pod_up, speakers.values()))
    await asyncio.sleep(0.5)  # OVN goes by the interval of the last packet it had
    died = time.monotonic()
    speakers[2].kill()
    dead = ("192.168.0.2", "fd00::2")
    await wait(lambda: all(states(client)[peer][1] is False for peer in dead), 30)
    sys.stdout.write(f"not serving any more after {(time.monotonic() - died) * 1e3:.0f} ms\n")
    await wait(all_up(remote, dead), 30)
    if default:
        rerouted = "29100 ip4.src == 192.168.0.0/24 reroute 192.168.0.3, 192.168.0.4"
        await wait(lambda: rerouted in remote.shown("lr-policy-list", "vpc1"), 30)
    speakers[3].kill()
    speakers[4].kill()
    closed = {"29090 ip4.src == 192.168.0.0/24 drop", "29090 ip6.src == fd00::/64 drop"}
    await wait(lambda: closed <= set(remote.shown("lr-policy-list", "vpc1")), 30)
    back = time.monotonic()
    await speak(speakers)
    await wait(all_up(remote), 60)
    sys.stdout.write(f"all up again after {time.monotonic() - back:.1f} s\n")
    await wait(lambda: set(states(client).values()) == {UP}, 30)
    await wait(lambda: not any(" drop" in line for line in remote.shown("lr-policy-list", "vpc1")), 30)


async def test_retuned_live(world: Any, speakers: Any, make: Any, wait: Any) -> None:
    """Other timers reach the same rows, and no session goes down."""
    remote, client = world
    await speak(speakers, SLOW_MS)
    await client.commit(gateway(make, ms=SLOW_MS))
    await wait(all_up(remote), 30)
    before = await downs(speakers)
    uuids = sorted(remote.nbctl("--bare", "--columns=_uuid", "list", "bfd").split())
    assert await client.commit(gateway(make, ms=1200, generation=2)) == [6]
    await speak(speakers, 1200)
    for one in speakers.values():
        deadline = time.monotonic() + 20
        while {session.tx_interval_us for session in await one.sessions()} != {1_200_000}:
            assert time.monotonic() < deadline, await one.sessions()
            await asyncio.sleep(0.1)
    assert sorted(remote.nbctl("--bare", "--columns=_uuid", "list", "bfd").split()) == uuids
    await wait(all_up(remote))
    assert await downs(speakers) == before


async def test_reset_sessions(world: Any, speakers: Any, make: Any, wait: Any) -> None:
    """A session starts afresh on both ends, the others stay; the row is the same."""
    remote, client = world
    await speak(speakers, SLOW_MS)
    await client.commit(gateway(make, ms=SLOW_MS))
    await wait(all_up(remote), 30)
    before = await downs(speakers)
    request = pb.ResetSessionsRequest(gateway=gateway(make).gateway.key, peers=["192.168.0.3", "10.9.9.9"])
    reply = await client.stub.ResetSessions(request, timeout=10)
    assert list(reply.peers) == ["192.168.0.3"]
    seen = len(client.events)
    took = await wait(lambda: states(client)["192.168.0.3"] == UP and len(client.events) > seen + 1, 20)
    sys.stdout.write(f"up again after {took:.1f} s\n")
    before[3][0] += 1
    assert await downs(speakers) == before


async def test_speakers_that_start_late(world: Any, speakers: Any, make: Any, wait: Any) -> None:
    """OVN sleeps while nobody speaks; what wakes it is the healing, or the first packet."""
    remote, client = world
    await client.commit(gateway(make))
    await asyncio.sleep(7)
    await speak(speakers)
    took = await wait(all_up(remote), 20)
    sys.stdout.write(f"up after {took:.1f} s\n")
    assert took < 12


async def test_admin_down(world: Any, speakers: Any, make: Any, wait: Any) -> None:
    """A replica that says AdminDown is out when OVN has written it down (within its batch time of 5 s), and in both
    families at the same time: the first to be written has OVN look at the rest.
    """
    remote, client = world
    await speak(speakers)
    await client.commit(gateway(make))
    await wait(all_up(remote), 20)
    await wait(lambda: set(states(client).values()) == {UP})
    await asyncio.gather(*map(pod_up, speakers.values()))
    async with speakers[2].stub() as stub:
        down = bfd_pb2.SetAdminDownRequest(down=True, reason="test")
        await stub.SetAdminDown(down, wait_for_ready=True, timeout=20)
    dead = ("192.168.0.2", "fd00::2")
    first = await wait(lambda: any(states(client)[peer][1] is False for peer in dead), 8)
    second = await wait(lambda: all(states(client)[peer][1] is False for peer in dead), 8)
    sys.stdout.write(f"out after {first * 1e3:.0f} ms, both {second * 1e3:.0f} ms later\n")
    assert second < 2.5  # and not the five seconds of OVN's batch
    async with speakers[2].stub() as stub:
        up = bfd_pb2.SetAdminDownRequest(down=False)
        await stub.SetAdminDown(up, wait_for_ready=True, timeout=20)
    await wait(all_up(remote), 20)


def active_node(lab: Lab) -> str:
    """Where the BFD port is now."""
    binding = lab.sbctl("--bare", "--columns=chassis", "find", "port_binding", "logical_port=cr-bfd@vpc1")
    return lab.sbctl("--bare", "--columns=name", "list", "chassis", binding.strip()).strip()


async def test_ovn_controller_is_killed(lab: Lab, world: Any, speakers: Any, make: Any, wait: Any) -> None:
    """While OVN's speaker is away its rows stay, and nobody may reset them; a peer that died meanwhile stays `up` after
    its return until its session is reset.
    """
    remote, client = world
    await speak(speakers)
    await client.commit(gateway(make))
    await wait(all_up(remote), 20)
    await asyncio.gather(*map(pod_up, speakers.values()))
    controller = f"ovn-controller@{active_node(lab)}"
    key = gateway(make).gateway.key
    try:
        lab.kill_daemon(controller)
        speakers[3].kill()
        deadline = time.monotonic() + 15
        while any(one.state == bfd_pb2.SESSION_STATE_UP for one in await speakers[2].sessions()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        reply = await client.stub.ResetSessions(pb.ResetSessionsRequest(gateway=key), timeout=10)
        assert list(reply.peers) == []
        assert all_up(remote)()
    finally:
        lab.start_daemon(controller)
    back = time.monotonic()
    for n in (2, 4):
        await pod_up(speakers[n])
    sys.stdout.write(f"pods up {time.monotonic() - back:.1f} s after ovn-controller's return\n")
    # A pod is up before OVN's last word of the same session (down, init, up) has passed Southbound and northd.
    await wait(all_up(remote), 20)
    dead = ["192.168.0.3", "fd00::3"]
    await wait(lambda: all(state == UP for peer, state in states(client).items() if peer not in dead), 20)
    reply = await client.stub.ResetSessions(pb.ResetSessionsRequest(gateway=key, peers=dead), timeout=10)
    assert sorted(reply.peers) == dead
    await wait(lambda: all(states(client)[peer][0] == bfd_pb2.SESSION_STATE_DOWN for peer in dead), 20)
    await wait(all_up(remote, tuple(dead)), 20)


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh start of a session that takes long on a busy machine would be told as one that does not serve."""
    monkeypatch.setattr(heal, "PATIENCE_S", (30.0,))


@pytest.mark.usefixtures("_patient")
async def test_the_port_moves(lab: Lab, world: Any, speakers: Any, make: Any, wait: Any) -> None:
    """The active chassis dies: the port moves, and traffic of healthy replicas goes on all the while. The replica that died
    with it, of whom OVN's next speaker says `up` for ever, is out a second after the port has moved. When the chassis returns
    the port stays where it is now.
    """
    remote, client = world
    await speak(speakers)
    await client.commit(gateway(make))
    await wait(all_up(remote), 30)
    await asyncio.gather(*map(pod_up, speakers.values()))
    await wait(lambda: set(states(client).values()) == {UP})
    node = active_node(lab)
    daemons = [f"ovn-controller@{node}", f"ovs-vswitchd@{node}"]
    others = [speaker for n, speaker in speakers.items() if REPLICAS[n] != node]
    before = len(client.events)
    try:
        for daemon in daemons:
            lab.kill_daemon(daemon)
        took = await wait(lambda: active_node(lab) not in (node, ""), 30)
        sys.stdout.write(f"the port moved after {took:.1f} s\n")
        dead = [
            f"{prefix}{n}" for n in REPLICAS if REPLICAS[n] == node for prefix in ("192.168.0.", "fd00::")
        ]
        took = await wait(lambda: not any(states(client)[peer][1] for peer in dead))
        sys.stdout.write(f"who died with it is out {took * 1e3:.0f} ms later\n")
        for speaker in others:
            deadline = time.monotonic() + 30
            while any(one.state != bfd_pb2.SESSION_STATE_UP for one in await speaker.sessions()):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        healthy = [
            f"{prefix}{n}" for n in REPLICAS if REPLICAS[n] != node for prefix in ("192.168.0.", "fd00::")
        ]
        moved = active_node(lab)
        away = client.events[before:]
    finally:
        for daemon in reversed(daemons):
            lab.start_daemon(daemon)
    # The chassis that returns claims the port for a moment, before it hears of the others.
    await wait(all_up(remote), 60)
    await wait(lambda: active_node(lab) == moved, 20)
    told = [event.bfd for event in away if event.WhichOneof("event") == "bfd"]
    assert not [one for one in told if one.peer in healthy and not one.serving]


async def test_the_ports_address_changes(world: Any, speakers: Any, make: Any, wait: Any) -> None:
    """ovn-controller keeps a session's source address for as long as it knows the session: it is made to forget it."""
    remote, client = world
    await speak({2: speakers[2]})
    intent = gateway(make)
    del intent.gateway.families[1]
    intent.gateway.families[0].nexthops[:] = V4[:1]
    await client.commit(intent)
    await wait(all_up(remote), 20)
    await pod_up_of(speakers[2], {"192.168.0.2": BFD[0]})
    vpc = make.vpc("vpc1", generation=2)
    vpc.vpc.bfd_port.addresses.extend(["10.255.255.1", BFD[1]])
    vpc.vpc.bfd_port.nodes.extend(NODES)
    await client.commit(vpc)
    started = time.monotonic()
    await pod_up_of(speakers[2], {"192.168.0.2": "10.255.255.1"})
    took = time.monotonic() - started
    sys.stdout.write(f"up with the new address after {took:.1f} s\n")
    assert took < 14
    await wait(all_up(remote), 20)


async def pod_up_of(one: Speaker, peers: dict[str, str]) -> None:
    """Set a pod's only sessions and wait until they are up."""
    await one.start(peers)
    deadline = time.monotonic() + 40
    while not all(session.state == bfd_pb2.SESSION_STATE_UP for session in await one.sessions()):
        assert time.monotonic() < deadline, await one.sessions()
        await asyncio.sleep(0.1)
