"""What the runtime needs to play kubelet on a real cluster: pure decisions and the files of volumes."""

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from veg_sandbox.runtime.core import podstatus
from veg_sandbox.runtime.core.containers import containers_of, expanded, init_containers_of, is_on_host
from veg_sandbox.runtime.core.hostnet import address_for, hosts_text
from veg_sandbox.runtime.core.podstatus import ContainerFacts, PodFacts
from veg_sandbox.runtime.mounts import MissingError, Mounter

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def pod(name: str = "p", **parts: Any) -> dict[str, Any]:
    """A pod of namespace `ns`."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "uid": f"uid-{name}", **parts.pop("metadata", {})},
        "spec": {"containers": [{"name": "c", "image": "i"}], **parts.pop("spec", {})},
        "status": parts.pop("status", {}),
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--listen=$(IP):50051", "--listen=10.0.0.1:50051"),
        ("$(NOT_THERE)", "$(NOT_THERE)"),
        ("$$(IP)", "$(IP)"),
        ("$IP ${IP}", "$IP ${IP}"),
    ],
)
def test_variables_of_a_command_line(text: str, shown: str) -> None:
    """As Kubernetes expands them: $(NAME) if it is set, $$ for a plain $, nothing of a shell's."""
    assert expanded(text, {"IP": "10.0.0.1"}) == shown


def test_an_http_probe_names_its_port() -> None:
    """A named port is looked up in the container's ports."""
    spec = {
        "containers": [
            {
                "name": "c",
                "command": ["sleep"],
                "ports": [{"name": "metrics", "containerPort": 9090}],
                "readinessProbe": {"httpGet": {"path": "/readyz", "port": "metrics"}, "periodSeconds": 2},
                "startupProbe": {"httpGet": {"port": 8080}},
            }
        ]
    }
    container = containers_of(pod(spec=spec), lambda name: name, must_run=True)[0]
    assert container.readiness is not None
    assert container.startup is not None
    assert container.readiness.http is not None
    assert (container.readiness.http.port, container.readiness.http.path) == (9090, "/readyz")
    assert container.startup.http is not None
    assert container.startup.http.port == 8080


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [
        ("Always", 0, True),
        ("Always", 1, True),
        ("OnFailure", 0, False),
        ("OnFailure", 1, True),
        ("OnFailure", None, True),
        ("Never", 1, False),
    ],
)
def test_restart_policies(policy: str, code: int | None, again: bool) -> None:
    """Who is started again after which end."""
    container = containers_of(pod(spec={"restartPolicy": policy}), lambda name: name, must_run=True)[0]
    assert container.starts_again(code) is again


def test_init_containers_are_read_like_others() -> None:
    """With their command and environment."""
    spec = {"initContainers": [{"name": "i", "command": ["sh", "-c", "x"]}]}
    assert [c.command for c in init_containers_of(pod(spec=spec), lambda name: name, must_run=True)] == [
        ("sh", "-c", "x")
    ]


def test_addresses_on_the_host_are_stable_and_distinct() -> None:
    """Replicas get different ones; a successor of the same Deployment gets its predecessor's when that is free."""
    first = pod("a-1-x", metadata={"labels": {"app": "a", "pod-template-hash": "1"}})
    successor = pod("a-2-y", metadata={"labels": {"app": "a", "pod-template-hash": "2"}})
    other = pod("b-1-z", metadata={"labels": {"app": "b"}})
    address = address_for(first, "/run/lab", [])
    assert address.startswith("127.")
    assert address_for(successor, "/run/lab", []) == address
    assert address_for(successor, "/run/lab", [address]) not in ("", address)
    assert address_for(other, "/run/lab", []) != address
    assert address_for(first, "/run/other", []) != address


def test_names_of_services_lead_to_a_ready_pod() -> None:
    """All forms of a Service's name; the short one only in its namespace; nothing for one without pods."""
    ready = {"podIP": "127.1.1.1", "conditions": [{"type": "Ready", "status": "True"}]}
    waiting = {"podIP": "127.1.1.2", "conditions": [{"type": "Ready", "status": "False"}]}
    host = {"hostNetwork": True}
    labels = {"labels": {"app": "api"}}
    pods: list[dict[str, Any]] = [
        pod("a", spec=host, metadata=labels, status=waiting),
        pod("b", spec=host, metadata=labels, status=ready),
    ]
    services: list[dict[str, Any]] = [
        {"metadata": {"name": "api", "namespace": "ns"}, "spec": {"selector": {"app": "api"}}},
        {"metadata": {"name": "none", "namespace": "ns"}, "spec": {"selector": {"app": "none"}}},
        {"metadata": {"name": "kubernetes", "namespace": "default"}, "spec": {}},
    ]
    assert is_on_host(pods[0])
    text = hosts_text("ns", services, pods)
    assert "127.1.1.1\tapi.ns.svc.cluster.local\tapi.ns.svc\tapi.ns\tapi\n" in text
    assert "none" not in text
    assert "\tapi\n" not in hosts_text("elsewhere", services, pods)


def facts(**values: Any) -> PodFacts:
    """A pod of one container."""
    values = {"name": "c", "image": "i", "ready": True, "restarts": 0, "started_at": "t", **values}
    return PodFacts(
        host_ip="172.18.0.2", ips=["10.16.0.2"], started_at="t", containers=[ContainerFacts(**values)]
    )


def test_what_a_server_adds_is_no_change() -> None:
    """Nulls and fields that the API server fills in do not make the status be written for ever; a change does."""
    status = podstatus.running_status(pod(), facts(probe_output="why", ready=False), NOW)
    kept = {**status, "qosClass": "BestEffort"}
    kept["conditions"] = [{**c, "lastProbeTime": None} for c in status["conditions"]]
    kept["containerStatuses"] = [
        {key: value for key, value in c.items() if key != "message"} for c in status["containerStatuses"]
    ]
    stored = pod(status=kept)
    assert not podstatus.changed(
        stored, podstatus.running_status(stored, facts(probe_output="why", ready=False), NOW)
    )
    assert podstatus.changed(stored, podstatus.running_status(stored, facts(), NOW))


def test_conditions_of_others_stay() -> None:
    """What an eviction wrote is not lost with the kubelet's next status."""
    evicted = {"type": "DisruptionTarget", "status": "True"}
    status = podstatus.running_status(pod(status={"conditions": [evicted]}), facts(), NOW)
    assert evicted in status["conditions"]


@pytest.mark.parametrize(("code", "phase"), [(0, "Succeeded"), (3, "Failed"), (-9, "Failed")])
def test_a_pod_that_ended_for_good(code: int, phase: str) -> None:
    """Its phase tells how, and its container the exit code (a signal as 128 and its number)."""
    ended = facts(ended=True, ready=False, last_exit_code=code, last_finished_at="t")
    status = podstatus.running_status(pod(), ended, NOW)
    assert status["phase"] == phase
    state = status["containerStatuses"][0]["state"]["terminated"]
    assert state["exitCode"] == (137 if code == -9 else code)


async def test_projected_volumes_are_merged(tmp_path: Path) -> None:
    """ConfigMaps and fields of the pod in one folder; a ConfigMap that is missing holds the pod up, later it stays."""
    maps = {"root": {"data": {"ca.crt": "CA"}}}
    sources = [
        {"configMap": {"name": "root", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    spec = {"volumes": [{"name": "v", "projected": {"sources": sources}}, {"name": "e", "emptyDir": {}}]}
    mounter = Mounter(tmp_path, maps.get, None)
    await mounter.refresh(pod(spec=spec), lenient=False)
    assert (tmp_path / "v" / "ca.crt").read_text() == "CA"
    assert (tmp_path / "v" / "namespace").read_text() == "ns"
    assert (tmp_path / "e").is_dir()
    maps.clear()
    with pytest.raises(MissingError, match='configmap "root" not found'):
        await mounter.refresh(pod(spec=spec), lenient=False)
    await mounter.refresh(pod(spec=spec), lenient=True)
    assert (tmp_path / "v" / "ca.crt").read_text() == "CA"
