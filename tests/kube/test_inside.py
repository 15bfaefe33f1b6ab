"""Looking inside with kubectl port-forward and grpcurl: both services with mTLS, agent and speaker of a pod."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kube.cluster import Cluster
from tests.kube.rig import RELEASE_NAMESPACE, Rig, example, system

NAME = "veg-vpc-egress-gateway"
API, PROGRAMMER = "veg.api.v1.EgressGatewayService", "veg.programmer.v1.ProgrammerService"
AGENT, BFD = "veg.agent.v1.AgentService", "veg.bfd.v1.BfdService"
AGENT_PORT, BFD_PORT = 50053, 50054
KEY = '{"key": {"namespace": "default", "name": "gateway2"}}'


@pytest.fixture(scope="module")
def rig(own_cluster: Cluster) -> Iterator[Rig]:
    """The chart's system with the gateway of the third example."""
    with system(own_cluster, "chart") as running:
        running.cluster.apply(example("first.yaml"))
        running.cluster.apply(example("third.yaml"))
        running.ready("gateway2", 150)
        yield running


@pytest.fixture(scope="module")
def authority(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags that make grpcurl trust the services."""
    return ["-cacert", str(_files(rig, tmp_path_factory.mktemp("ca"))["ca.crt"])]


@pytest.fixture(scope="module")
def identity(rig: Rig, authority: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags that make the services trust grpcurl, too."""
    files = _files(rig, tmp_path_factory.mktemp("tls"))
    return [*authority, "-cert", str(files["tls.crt"]), "-key", str(files["tls.key"])]


def _files(rig: Rig, folder: Path) -> dict[str, Path]:
    data = rig.cluster.get("secret", f"{NAME}-tls", RELEASE_NAMESPACE)["data"]
    for name, value in data.items():
        (folder / name).write_bytes(base64.b64decode(value))
    return {name: folder / name for name in data}


def answer(rig: Rig, *args: str) -> Any:
    """What grpcurl prints as JSON; it must succeed."""
    done = rig.grpcurl(*args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def listed(rig: Rig, *args: str) -> set[str]:
    """Services by reflection."""
    done = rig.grpcurl(*args, "list")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def events(rig: Rig, *args: str) -> str:
    """What a stream says until it is interrupted."""
    done = rig.cluster.run("grpcurl", "-max-time", "6", *args)
    assert "DeadlineExceeded" in done.stderr, done.stderr
    return done.stdout


def test_the_api(rig: Rig, identity: list[str]) -> None:
    """list, describe, get, watch, plan."""
    with rig.forwarded(f"deployment/{NAME}-api", 50051, RELEASE_NAMESPACE) as address:
        here = [*identity, address]
        assert API in listed(rig, *here)
        assert "rpc PlanGateway" in rig.grpcurl(*here, "describe", API).stdout
        found = answer(rig, "-d", KEY, *here, f"{API}/GetGateway")
        assert found["gateway"]["key"]["name"] == "gateway2"
        # The standby may be the one that was asked: it has everything to say that a leader has.
        rig.eventually(
            lambda: answer(rig, "-d", KEY, *here, f"{API}/PlanGateway") == {}, 20, "nothing is to be done"
        )
        assert '"WATCH_EVENT_TYPE_ADDED"' in events(rig, *here, f"{API}/WatchGateways")


def test_the_programmer(rig: Rig, identity: list[str]) -> None:
    """list, describe, what was committed, watch, plan."""
    with rig.forwarded(f"deployment/{NAME}-ovn-programmer", 50052, RELEASE_NAMESPACE) as address:
        here = [*identity, address]
        assert PROGRAMMER in listed(rig, *here)
        assert "rpc Apply" in rig.grpcurl(*here, "describe", PROGRAMMER).stdout
        outcomes = answer(rig, *here, f"{PROGRAMMER}/List")["outcomes"]
        assert {
            "kind": "INTENT_KIND_GATEWAY",
            "name": "default/gateway2",
        } in [outcome["key"] for outcome in outcomes]
        assert '"hello"' in events(rig, *here, f"{PROGRAMMER}/Watch")


def test_without_a_certificate_nobody_calls(rig: Rig, authority: list[str]) -> None:
    """Neither service answers to who shows no certificate of the authority."""
    for component, port in (("api", 50051), ("ovn-programmer", 50052)):
        with rig.forwarded(f"deployment/{NAME}-{component}", port, RELEASE_NAMESPACE) as address:
            for flags in (authority, ["-insecure"], ["-plaintext"]):
                done = rig.grpcurl("-connect-timeout", "3", *flags, address, "list")
                assert done.returncode != 0, done.stdout


def test_the_agent_of_a_pod(rig: Rig) -> None:
    """list, describe, what it holds, what it would do."""
    with rig.forwarded(f"pod/{rig.pods('gateway2')[0]['metadata']['name']}", AGENT_PORT) as address:
        here = ["-plaintext", address]
        assert AGENT in listed(rig, *here)
        assert "rpc GetState" in rig.grpcurl(*here, "describe", AGENT).stdout
        state = answer(rig, *here, f"{AGENT}/GetState")
        assert state["config"]["gateway"] == "default/gateway2"
        assert "operations" not in answer(rig, *here, f"{AGENT}/Plan")


def test_the_speaker_of_a_pod(rig: Rig) -> None:
    """list, describe, sessions, watch; what would change something is refused there."""
    with rig.forwarded(f"pod/{rig.pods('gateway2')[0]['metadata']['name']}", BFD_PORT) as address:
        here = ["-plaintext", address]
        assert BFD in listed(rig, *here)
        assert "rpc ListSessions" in rig.grpcurl(*here, "describe", BFD).stdout
        (session,) = answer(rig, *here, f"{BFD}/ListSessions")["sessions"]
        assert session["state"] == "SESSION_STATE_UP"
        assert '"SESSION_STATE_UP"' in events(rig, *here, f"{BFD}/WatchSessions")
        for method in ("SetSessions", "SetAdminDown"):
            done = rig.grpcurl("-d", "{}", *here, f"{BFD}/{method}")
            assert "PermissionDenied" in done.stderr, (done.stdout, done.stderr)
    assert "state=Up" in rig.kubectl(
        *("exec", rig.pods("gateway2")[0]["metadata"]["name"], "-c", "bfdd", "--", "bfdd-control", "status")
    )


def test_a_port_that_nobody_listens_on(rig: Rig) -> None:
    """The connection ends, the forwarding stays."""
    pod = f"pod/{rig.pods('gateway2')[0]['metadata']['name']}"
    with rig.forwarded(pod, 9) as address:
        for _ in range(2):
            assert rig.grpcurl("-connect-timeout", "2", "-plaintext", address, "list").returncode != 0
