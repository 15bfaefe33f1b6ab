"""What EgressGatewayService shows: gateways as they are, and what would become of a manifest. Writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Literal

from veg_common.objects import ManifestError, Object, Ref, parse_manifests

from veg_api.controller import Controller
from veg_api.core.gateway import Gateway, GatewayKey
from veg_api.core.names import GATEWAY_KIND
from veg_api.core.operations import Operation, operations
from veg_api.core.planner import last_good, plan_gateway
from veg_api.core.pools import Pools
from veg_api.core.problems import Problem
from veg_api.core.snapshot import Snapshot
from veg_api.core.validate import check, default_subnet
from veg_api.core.workload import DEFAULTS, Defaults
from veg_api.errors import InvalidManifestError, PermanentError, ProgrammerUnreachableError

# What a manifest says of its own metadata.
_GIVEN = ("name", "namespace", "labels", "annotations", "finalizers")

_Shown = tuple[Gateway, Object]
_Event = tuple[Literal["ADDED", "MODIFIED", "DELETED", "SYNCED"], _Shown | None]


class GatewayViews:
    """See the module; the controller's snapshot is the only source."""

    def __init__(self, controller: Controller, defaults: Defaults = DEFAULTS) -> None:
        self._controller = controller
        self._defaults = defaults

    def gateways(self, namespace: str) -> list[_Shown]:
        """Gateways of a namespace ("" for all), sorted."""
        snapshot = self._controller.snapshot
        items = sorted(snapshot.gateways.items.items(), key=lambda item: item[0])
        return [_shown(snapshot, gateway) for key, gateway in items if namespace in ("", key[0])]

    def find(self, key: GatewayKey) -> _Shown | None:
        """One gateway."""
        snapshot = self._controller.snapshot
        gateway = snapshot.gateways.get(key[1], key[0])
        return _shown(snapshot, gateway) if gateway is not None else None

    async def watch(self, namespace: str) -> AsyncIterator[_Event]:
        """Present gateways as ADDED, SYNCED, then changes until the caller stops listening.

        A slow listener gets the latest state of each gateway, not every one in between.
        """
        wake = asyncio.Event()

        def listener(touched: frozenset[Ref]) -> None:
            if any(ref.kind == GATEWAY_KIND for ref in touched):
                wake.set()

        self._controller.listeners.append(listener)
        try:
            sent: dict[GatewayKey, _Shown] = {}
            for shown in self.gateways(namespace):
                sent[shown[0].key] = shown
                yield "ADDED", shown
            yield "SYNCED", None
            while True:
                await wake.wait()
                wake.clear()
                now = {shown[0].key: shown for shown in self.gateways(namespace)}
                for event in _differences(sent, now):
                    yield event
                sent = now
        finally:
            self._controller.listeners.remove(listener)

    def validate(self, manifest: str) -> tuple[Problem, ...]:
        """All problems that applying a manifest would have now. Raises InvalidManifestError."""
        snapshot, key = _applied(self._controller.snapshot, manifest)
        gateway = snapshot.gateways.items[key]
        return check(snapshot, gateway, Pools(snapshot), last_good(snapshot, gateway)).problems

    async def plan(self, subject: str | GatewayKey) -> tuple[list[Operation], tuple[Problem, ...]] | None:
        """What applying a manifest or reconciling a gateway would change: objects, then OVN rows.

        None when there is no such gateway. Raises InvalidManifestError. While ovn-programmer is away the rows are
        missing from the answer, and a warning says so.
        """
        snapshot = self._controller.snapshot
        if isinstance(subject, str):
            snapshot, key = _applied(snapshot, subject)
        else:
            key = subject
            if snapshot.gateways.get(key[1], key[0]) is None:
                return None
        plan = plan_gateway(snapshot, key, Pools(snapshot), self._defaults)
        found, problems = operations(plan.changes), plan.problems
        if plan.intent is None and not plan.withdraw:
            return found, problems
        try:
            intents = [plan.intent] if plan.intent is not None else []
            deletes = [] if plan.intent is not None else [plan.intent_key]
            rows = await self._controller.link.client.plan(intents, deletes)
        except (ProgrammerUnreachableError, PermanentError) as error:
            message = f"rows of OVN are missing from this plan: {error}"
            return found, (*problems, Problem("", "ProgrammerUnreachable", message, warning=True))
        return [*found, *rows], problems


def _applied(snapshot: Snapshot, manifest: str) -> tuple[Snapshot, GatewayKey]:
    """The snapshot as if a manifest of one VpcEgressGateway had been applied to it."""
    try:
        objects = parse_manifests(manifest)
    except ManifestError as error:
        raise InvalidManifestError(str(error)) from error
    if len(objects) != 1 or objects[0]["kind"] != GATEWAY_KIND:
        kinds = ", ".join(obj["kind"] for obj in objects) or "nothing"
        raise InvalidManifestError(f"kind: there must be one {GATEWAY_KIND}, found {kinds}")
    obj = objects[0]
    # The rest of metadata, and the status, are the server's to fill in.
    metadata = {k: v for k, v in obj["metadata"].items() if k in _GIVEN}
    obj = {**{k: v for k, v in obj.items() if k != "status"}, "metadata": metadata}
    key = (metadata["namespace"], metadata["name"])
    existing = snapshot.gateways.get(key[1], key[0])
    if existing is not None:
        metadata = {
            **metadata,
            "uid": existing.uid,
            "generation": existing.generation + 1,
            "creationTimestamp": existing.created,
            "finalizers": list(existing.finalizers),
            "resourceVersion": existing.resource_version,
        }
        obj = {**obj, "metadata": metadata, "status": existing.status}
    changed, _ = snapshot.with_objects([(Ref(GATEWAY_KIND, *key), obj)])
    if (why := changed.refused.get(Ref(GATEWAY_KIND, *key))) is not None:
        raise InvalidManifestError(why)
    return changed, key


def _shown(snapshot: Snapshot, gateway: Gateway) -> _Shown:
    return gateway, {"internalSubnet": default_subnet(snapshot, gateway.spec.vpc)}


def _differences(before: dict[GatewayKey, _Shown], now: dict[GatewayKey, _Shown]) -> list[_Event]:
    events: list[_Event] = [("DELETED", before[key]) for key in sorted(before) if key not in now]
    for key in sorted(now):
        if key not in before:
            events.append(("ADDED", now[key]))
        elif before[key] != now[key]:
            events.append(("MODIFIED", now[key]))
    return events
