"""The gateway under test as the run sees it: built, watched at both ends, removed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from veg_common.folder import FolderStore
from veg_common.objects import Object, Ref, kind_of, ref_of
from veg_common.store import NotFoundError

from veg_sandbox.cli import context, objects
from veg_sandbox.cli.context import Paths
from veg_sandbox.cli.errors import FAILED, CliError
from veg_sandbox.failover import manifests
from veg_sandbox.failover.manifests import CLIENT, GATEWAY, NAME
from veg_sandbox.net.lab import Lab
from veg_sandbox.runtime.core.pods import annotations_of, is_terminating, labels_of, node_of, status_of
from veg_sandbox.runtime.core.returns import GATEWAY_LABEL

READY_SECONDS = 60.0
_POLL_SECONDS = 0.1
# The speaker refreshes its file every second while every session is up.
_FRESH_SECONDS = 1.6


@dataclass(frozen=True)
class Replica:
    """One gateway pod."""

    name: str
    uid: str
    node: str
    external: tuple[str, ...]
    """Its addresses outside."""


class Gateway:
    """Owns everything in the namespace and VPC `veg-failover`."""

    def __init__(self, lab: Lab, where: Paths, ip_family: str) -> None:
        self._lab = lab
        self._where = where
        self._ip_family = ip_family
        self._store = FolderStore(where.objects)

    # ---- life

    def build(self, interval_ms: int, multiplier: int) -> str:
        """Apply it and wait until it is ready; returns the uid of the client pod. Raises CliError."""
        nodes = [node.name for node in self._lab.nodes]
        # The client has a node without replicas, if there are enough: the death of a replica's node is not the death
        # of its clients then, and no pod comes or goes there. OVS's userspace datapath, which has every packet of the
        # client, loses some whenever a port of its bridge is added or removed.
        serving, own = (nodes[:-1], nodes[-1]) if len(nodes) > 2 else (nodes, nodes[-1])
        for obj in manifests.topology(self._ip_family):
            self._apply(obj)
        self._apply(manifests.gateway(interval_ms, multiplier, serving))
        kind, ref = kind_of("VpcEgressGateway"), Ref("VpcEgressGateway", NAME, GATEWAY)
        context.run(lambda: objects.wait(self._store, kind, ref, READY_SECONDS))
        self._apply(manifests.client(own))
        client = Ref("Pod", NAME, CLIENT)
        context.run(lambda: objects.wait(self._store, kind_of("Pod"), client, READY_SECONDS))
        return str(self._get(client)["metadata"]["uid"])

    def remove(self) -> None:
        """Delete all of it and wait until it is gone."""
        groups = (
            (Ref("VpcEgressGateway", NAME, GATEWAY), Ref("Pod", NAME, CLIENT)),
            tuple(ref_of(obj) for obj in reversed(manifests.topology(self._ip_family))),
            (Ref("Namespace", "", NAME),),
        )
        options = objects.DeleteOptions(timeout=READY_SECONDS, ignore_not_found=True)
        for refs in groups:
            context.run(
                lambda refs=refs: objects.delete(self._store, refs, options, _quiet, objects.echo_error)  # type: ignore[misc]
            )

    def delete_pod(self, replica: Replica) -> None:
        """Ask for its graceful end."""
        context.run(lambda: self._store.delete(Ref("Pod", NAME, replica.name)))

    def is_gone(self, replica: Replica) -> bool:
        """Whether the pod's object is gone."""
        try:
            found = self._get(Ref("Pod", NAME, replica.name))
        except NotFoundError:
            return True
        return str(found["metadata"]["uid"]) != replica.uid

    # ---- how it is

    def replicas(self) -> list[Replica]:
        """The pods that are to serve, in the order of their addresses outside."""
        pods = context.run(lambda: self._store.list("Pod", NAME))
        found = [
            Replica(pod["metadata"]["name"], str(pod["metadata"]["uid"]), node_of(pod), _external(pod))
            for pod in pods
            if labels_of(pod).get(GATEWAY_LABEL) == GATEWAY and not is_terminating(pod)
        ]
        return sorted(found, key=lambda replica: replica.external)

    def lacks(self) -> str:
        """What is not as it should be at either end of the sessions, "" when all is well."""
        replicas = self.replicas()
        if len(replicas) != 2 or not all(replica.external for replica in replicas):
            return f"{len(replicas)} replicas with addresses"
        families = len(manifests.targets(self._ip_family))
        states = self._sessions()
        if len(states) != 2 * families or any(state != "up" for state in states.values()):
            return f"OVN's sessions: {states or 'none'}"
        silent = [replica.name for replica in replicas if not self._speaker_is_up(replica)]
        return f"sessions are not up in {', '.join(silent)}" if silent else ""

    def until(self, check: Callable[[], str], seconds: float) -> None:
        """Poll until `check` has nothing to complain of. Raises CliError with its last complaint."""
        deadline = time.monotonic() + seconds
        while reason := check():
            if time.monotonic() > deadline:
                raise CliError(f"error: not steady within {seconds:g} s: {reason}", FAILED)
            time.sleep(_POLL_SECONDS)

    def active_chassis(self) -> str:
        """The node that carries the BFD port now, "" when OVN does not tell."""
        columns = "--columns=chassis"
        text = self._lab.sbctl("--bare", columns, "find", "Port_Binding", f'logical_port="cr-bfd@{NAME}"')
        uuid = text.strip()
        return self._lab.sbctl("--bare", "--columns=name", "list", "Chassis", uuid).strip() if uuid else ""

    def _sessions(self) -> dict[str, str]:
        """Address of the replica -> status of OVN's BFD row."""
        args = ("--format=json", "--columns=dst_ip,status,external_ids", "list", "BFD")
        rows = json.loads(self._lab.nbctl(*args))["data"]
        return {dst: _plain(status) for dst, status, ids in rows if _owner(ids) == f"{NAME}/{GATEWAY}"}

    def _speaker_is_up(self, replica: Replica) -> bool:
        now = time.time()
        files = (self._where.runtime / "volumes" / replica.uid).glob("*/sessions-up")
        return any(now - file.stat().st_mtime < _FRESH_SECONDS for file in files)

    def _get(self, ref: Ref) -> Object:
        return context.run(lambda: self._store.get(ref))

    def _apply(self, obj: Object) -> None:
        async def work() -> None:
            await objects.ensure_namespace(self._store, obj, _quiet)
            await objects.apply_one(self._store, obj, objects.echo_error)

        context.run(work)


def _external(pod: Object) -> tuple[str, ...]:
    text = str(annotations_of(pod).get(f"eth1.{NAME}.kubernetes.io/ip_address", ""))
    return tuple(part for part in text.split(",") if part) if status_of(pod).get("podIP") else ()


def _owner(external_ids: Any) -> str:
    pairs = external_ids[1] if isinstance(external_ids, list) else []
    return str(dict(pairs).get("vpc-egress-gateway", ""))


def _plain(value: Any) -> str:
    """A column that may be empty, as ovn-nbctl's JSON has it."""
    return value if isinstance(value, str) else "unknown"


def _quiet(_text: str) -> None:
    return
