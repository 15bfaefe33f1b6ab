"""The Northbound database as a cluster of three: the leader is found and followed, nothing is lost, nothing doubled."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from veg.programmer.v1 import programmer_pb2 as pb
from veg_ovn_programmer.errors import NorthboundUnavailableError
from veg_ovn_programmer.io import streams, wire
from veg_sandbox.ovn.root import OvnRoot

from tests.functional.ovn_programmer.certificates import Authority
from tests.functional.ovn_programmer.cluster import DATABASE, Cluster, Member

REPLICAS = [f"192.168.0.{n}" for n in range(2, 6)]
GATEWAYS = 40


@pytest.fixture
def cluster(root: OvnRoot, folder: Path, request: Any) -> Iterator[Cluster]:
    """Three servers on unix sockets, or on what the test asks for."""
    one = Cluster(root, folder, getattr(request, "param", "unix"))
    if one.listen == "ssl":
        one.files = Authority.make(folder / "pki").issue("server")
    try:
        one.start()
        yield one
    finally:
        one.stop()


def expected(numbers: range) -> list[str]:
    """The routes of gateways with those numbers."""
    return sorted(
        f"10.{n}.0.0/16 {replica} src-ip ecmp ecmp-symmetric-reply" for n in numbers for replica in REPLICAS
    )


async def settled(client: Any, wait: Any) -> None:
    """Everything that was asked for is committed by itself."""

    async def states() -> set[int]:
        return {one.state for one in (await client.outcomes()).values()}

    deadline = asyncio.get_running_loop().time() + 60
    while await states() != {pb.OUTCOME_STATE_COMMITTED}:
        assert asyncio.get_running_loop().time() < deadline, await client.outcomes()
        await asyncio.sleep(0.1)


def dies(cluster: Cluster, leader: Member) -> None:
    """Kill -9."""
    leader.kill()


def leaves(cluster: Cluster, leader: Member) -> None:
    """An orderly leave, as when a node is taken out of service."""
    leader.control("cluster/leave", DATABASE)


def hangs(cluster: Cluster, leader: Member) -> None:
    """Stopped, as on a node without CPU: the others elect a leader, it never closes its connections."""
    assert leader.process is not None
    leader.process.send_signal(signal.SIGSTOP)


@pytest.mark.parametrize(
    ("cluster", "event"),
    [("unix", dies), ("unix", leaves), ("tcp", hangs)],
    ids=["dies", "leaves", "hangs"],
    indirect=["cluster"],
)
async def test_leader_goes_in_the_middle(
    cluster: Cluster, event: Any, start: Any, make: Any, wait: Any
) -> None:
    """Changes are under way when the leader goes: all are made once, by the next leader, without being asked again."""
    async with start(cluster) as client:
        first = cluster.leader()
        await client.apply(make.vpc("vpc1"))
        await settled(client, wait)
        calls = [
            asyncio.create_task(client.apply(make.gateway(f"g{n}", "vpc1", [f"10.{n}.0.0/16"], REPLICAS)))
            for n in range(GATEWAYS)
        ]
        await wait(lambda: cluster.routes("vpc1"))
        await asyncio.to_thread(event, cluster, first)
        try:
            more = [
                asyncio.create_task(client.apply(make.gateway(f"g{n}", "vpc1", [f"10.{n}.0.0/16"], REPLICAS)))
                for n in range(GATEWAYS, GATEWAYS + 10)
            ]
            for (outcome,) in await asyncio.gather(*calls, *more):
                assert (
                    outcome.state == pb.OUTCOME_STATE_COMMITTED or outcome.reason == "NorthboundUnavailable"
                )
            await settled(client, wait)
            others = Cluster(
                cluster.root, cluster.folder, members=[m for m in cluster.members if m is not first]
            )
            assert sorted(others.routes("vpc1")) == expected(range(GATEWAYS + 10))
            await told(client, others.leader().remote)
            await client.delete(*(make.gateway_key(f"g{n}") for n in range(10)))
            await client.apply(make.gateway("g10", "vpc1", ["10.10.0.0/16"], REPLICAS[:1], generation=2))
            await settled(client, wait)
            assert len(others.routes("vpc1")) == len(REPLICAS) * (GATEWAYS - 1) + 1
        finally:
            if first.process is not None:
                first.process.send_signal(signal.SIGCONT)


async def test_first_connection_finds_the_leader(cluster: Cluster, start: Any, make: Any, wait: Any) -> None:
    """With dead servers and followers in the list, in any order, the leader is used for reads and writes."""
    dead = cluster.followers()[0]
    dead.kill()
    leader = cluster.leader()
    remotes = [dead.remote, cluster.followers()[0].remote, leader.remote]
    for turn in range(3):
        seen = Cluster(cluster.root, cluster.folder, members=[*cluster.members])
        seen.members = sorted(cluster.members, key=lambda m: (remotes.index(m.remote) + turn) % 3)
        async with start(seen) as client:
            await client.apply(make.vpc(f"vpc{turn}"))
            await settled(client, wait)
            await told(client, cluster.leader().remote)
    with wire.opened(",".join(remotes), DATABASE) as rpc:
        assert rpc.name in remotes[1:]
    follower = cluster.followers()[0].remote
    with (
        pytest.raises(NorthboundUnavailableError, match="is not the leader"),
        wire.opened(follower, DATABASE),
    ):
        pass


async def test_without_a_majority(cluster: Cluster, start: Any, make: Any, wait: Any) -> None:
    """Two of three servers gone: nobody is kept waiting, every server's trouble is named, and it goes on by itself."""
    async with start(cluster) as client:
        await client.apply(make.vpc("vpc1"))
        await settled(client, wait)
        gone = [cluster.leader(), cluster.followers()[0]]
        for member in gone:
            member.kill()
        (outcome,) = await client.apply(make.gateway("a", "vpc1", ["10.1.0.0/16"], REPLICAS))
        assert outcome.reason == "NorthboundUnavailable"
        await told(client, *(f"{member.remote}: " for member in gone))
        for member in gone:
            member.start()
        await settled(client, wait)
        assert sorted(cluster.routes("vpc1")) == expected(range(1, 2))


async def test_cluster_made_anew(cluster: Cluster, start: Any, make: Any, wait: Any) -> None:
    """A new cluster in the place of the old one, empty: it is taken, and filled."""
    async with start(cluster) as client:
        await client.apply(make.vpc("vpc1"), make.gateway("a", "vpc1", ["10.1.0.0/16"], REPLICAS))
        await settled(client, wait)
        cluster.stop()
        for member in cluster.members:
            member.file.unlink()
            member.socket.unlink(missing_ok=True)
        cluster.members.clear()
        cluster.start()
        await wait(lambda: "vpc1" in cluster.nbctl("lr-list") and cluster.routes("vpc1"), 60)
        await settled(client, wait)
        assert sorted(cluster.routes("vpc1")) == expected(range(1, 2))


@contextlib.contextmanager
def client_files(authority: Authority) -> Iterator[streams.Tls]:
    """A folder of the client's own files, which rotate by replacement as a mounted Secret does."""
    with tempfile.TemporaryDirectory() as name:
        mounted = Path(name)
        tls = streams.Tls(mounted / "tls.key", mounted / "tls.crt", mounted / "ca.crt")
        renew(tls, authority)
        yield tls


def renew(tls: streams.Tls, authority: Authority) -> None:
    """Write new files over the old ones."""
    files = authority.issue("client")
    tls.key.write_bytes(files.key.read_bytes())
    tls.certificate.write_bytes(files.certificate.read_bytes())
    tls.authority.write_bytes(files.authority.read_bytes())


@pytest.mark.parametrize("cluster", ["ssl"], indirect=True)
async def test_certificates_rotate(cluster: Cluster, start: Any, make: Any, wait: Any) -> None:
    """New files take effect with the next connection, running ones go on; bad files are told and do no harm."""
    with client_files(Authority(cluster.folder / "pki")) as tls:
        async with start(cluster, tls=tls) as client:
            await client.apply(make.vpc("vpc1"))
            await settled(client, wait)
            other = Authority.make(cluster.folder / "pki2")
            renew(tls, other)
            await client.apply(make.vpc("vpc2"))
            await settled(client, wait)
            cluster.files = other.issue("server")
            for member in cluster.members:
                member.kill()
                member.files = cluster.files
                member.start()
            await wait(cluster.leader, 60)
            await client.apply(make.vpc("vpc3"))
            await settled(client, wait)
            # The client's files are half replaced: nothing is lost, and the reason can be read.
            tls.certificate.write_text("no certificate")
            leader = cluster.leader()
            leader.kill()
            (outcome,) = await client.apply(make.vpc("vpc4"))
            assert outcome.reason == "NorthboundUnavailable"
            await told(client, "TLS")
            renew(tls, other)
            await settled(client, wait)
            # The server's certificate is of an authority that the client does not know.
            renew(tls, Authority.make(cluster.folder / "pki3"))
            cluster.leader().kill()
            leader.start()
            (outcome,) = await client.apply(make.vpc("vpc5"))
            await told(client, "certificate not accepted")
            # The other way round: the server does not know our authority.
            tls.authority.write_bytes(other.issue("client").authority.read_bytes())
            await told(client, "TLS: TLSV1_ALERT_UNKNOWN_CA")
            renew(tls, other)
            await settled(client, wait)
        names = cluster.nbctl("lr-list")
        assert all(f"vpc{n}" in names for n in range(1, 6))


async def told(client: Any, *words: str) -> None:
    """All of these are soon among what is said of the servers."""
    deadline = asyncio.get_running_loop().time() + 30
    while True:
        northbound = (await client.stub.List(pb.ListRequest())).northbound
        if all(word in northbound for word in words):
            return
        assert asyncio.get_running_loop().time() < deadline, northbound
        await asyncio.sleep(0.05)
