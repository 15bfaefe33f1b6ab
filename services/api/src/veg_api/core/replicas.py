"""Which pods of a gateway serve, and where the VPC's traffic is sent. Pure.

A pod is a nexthop from when it was Ready once until it is terminating, gone, or its node is not Ready. An agent that
crashes and restarts does not lose its pod the traffic: the kernel of the pod's namespace forwards on without it.

Without BFD a nexthop serves. With BFD it takes the agent's readiness to become a nexthop, for the session needs OVN's
row first; then OVN decides by the session, and the replica serves while OVN says so.

What a restarted api must know of the past is in the status: `pods[].nexthop` and `pods[].bfd` by uid, and `nexthops`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veg_common.objects import Object

from veg_api.core import addresses, pod_events
from veg_api.core.addresses import AddressError
from veg_api.core.gateway import Gateway, GatewayKey
from veg_api.core.intents import BfdIntent, GatewayFamilyIntent, GatewayIntent
from veg_api.core.ledger import Entry
from veg_api.core.names import BFD_CONTAINER, GATEWAY_CONTAINER, OVN_PREFIX, bfd_port_name
from veg_api.core.objects import Pod
from veg_api.core.resolved import Resolved
from veg_api.core.snapshot import Snapshot


@dataclass(frozen=True)
class BfdState:
    """A replica's sessions as one: the state of the one that is worst off; `serving` when OVN sends traffic."""

    state: str
    serving: bool
    since: str
    message: str

    def to_status(self) -> Object:
        """status.pods[].bfd."""
        return {"state": self.state, "since": self.since, "message": self.message}


@dataclass(frozen=True)
class Replica:
    """One pod of a gateway. Addresses are () until they are given; `message` is what there is to say beyond `reason`.

    `nexthop`: OVN is asked to send traffic there. `bfd` is None without BFD. `silent`: with BFD, but the pod is of
    before and has no speaker.
    """

    pod: Pod
    internal: tuple[str, ...]
    external: tuple[str, ...]
    nexthop: bool
    serving: bool
    reason: str
    since: str
    message: str = ""
    bfd: BfdState | None = None
    silent: bool = False

    @property
    def is_dark(self) -> bool:
        """Whether BFD keeps it from serving."""
        return self.bfd is not None and not self.serving

    @property
    def told(self) -> str:
        """Name, reason and message in one, for people."""
        return f"{self.pod.name}: {self.reason}{f' ({self.message})' if self.message else ''}"

    def to_status(self) -> Object:
        """An entry of status.pods."""
        return {
            "pod": self.pod.name,
            "uid": self.pod.uid,
            "node": self.pod.node,
            "internalIPs": addresses.joined(self.internal),
            "externalIPs": addresses.joined(self.external),
            "ready": self.pod.ready,
            "nexthop": self.nexthop,
            "serving": self.serving,
            "reason": self.reason,
            "message": self.message,
            "since": self.since,
            **({"bfd": self.bfd.to_status()} if self.bfd is not None else {}),
        }


def observe(
    snapshot: Snapshot, gateway: Gateway, resolved: Resolved, pods: Sequence[Pod], given: Mapping[str, Entry]
) -> tuple[Replica, ...]:
    """The gateway's pods, in the order of their internal addresses."""
    before = {str(entry.get("uid")): entry for entry in _entries(gateway.status.get("pods"))}
    view = _View(snapshot, gateway.key, resolved)
    found = [_replica(view, pod, given.get(pod.name), before.get(pod.uid, {})) for pod in pods]
    return tuple(sorted(found, key=_order))


def suspects(
    snapshot: Snapshot, key: GatewayKey, resolved: Resolved, replicas: Sequence[Replica]
) -> tuple[tuple[str, ...], ...]:
    """Nexthops, as the addresses of each, that OVN says are Up although the kubelet says that the speaker's sessions are not.

    OVN keeps a stale Up when its port moved while the replica died, and sends traffic there. Where OVN knows of one
    family's session that it is not Up, the two agree: the speaker is ready when all of its sessions are Up.
    """
    if resolved.bfd is None or snapshot.programmer.link != "connected":
        return ()
    sessions = snapshot.programmer.sessions.get("/".join(key), {})
    believed = [r for r in replicas if r.nexthop and r.bfd is not None and r.bfd.state == "Up"]
    mute = [r for r in believed if r.pod.container_ready(BFD_CONTAINER) is False]
    # All of a replica's addresses: once one family's session is known to be down, the other's would be believed.
    found = (tuple(text for text in r.internal if text in sessions) for r in mute)
    return tuple(sorted(filter(None, found), key=lambda texts: addresses.numeric_key(texts[0])))


def nexthops(resolved: Resolved, replicas: Sequence[Replica], status: Object) -> tuple[str, ...]:
    """Canonical addresses that the VPC's traffic is sent to, sorted numerically.

    When there is nobody any more, the last ones stay: traffic then ends at a dead nexthop and nothing leaks. Nobody at
    all (a gateway that never served, or is scaled to 0): () and OVN drops it.
    """
    serving = [text for replica in replicas if replica.nexthop for text in replica.internal]
    if not serving and resolved.replicas > 0:
        serving = [
            text
            for text in _addresses(status.get("nexthops"))
            if any(addresses.contains(cidr, text) for cidr in resolved.internal.cidrs)
        ]
    families = {family.family for family in resolved.families}
    kept = {text for text in serving if addresses.family(text) in families}
    return tuple(sorted(kept, key=addresses.numeric_key))


def intent(
    key: GatewayKey, resolved: Resolved, hops: Sequence[str], replicas: Sequence[Replica]
) -> GatewayIntent:
    """The gateway's share of OVN."""
    bfd = None
    if (asked := resolved.bfd) is not None:
        mute = {text for replica in replicas if replica.silent for text in replica.internal}
        silent = tuple(hop for hop in hops if hop in mute)
        port = bfd_port_name(resolved.vpc)
        on = {text: r.pod.node for r in replicas if r.pod.node for text in r.internal if text in hops}
        nodes = tuple(sorted(on.items()))
        bfd = BfdIntent(asked.min_rx, asked.min_tx, asked.multiplier, port, silent, nodes)
    return GatewayIntent(
        namespace=key[0],
        name=key[1],
        vpc=resolved.vpc,
        default_vpc=resolved.default_vpc,
        families=tuple(
            GatewayFamilyIntent(
                family=family.family,
                sources=tuple(source.cidr for source in family.sources),
                nexthops=tuple(hop for hop in hops if addresses.family(hop) == family.family),
                local_cidrs=family.local_cidrs,
            )
            for family in resolved.families
        ),
        bfd=bfd,
    )


@dataclass(frozen=True)
class _View:
    """What the replicas of one gateway are seen with."""

    snapshot: Snapshot
    key: GatewayKey
    resolved: Resolved


def _replica(view: _View, pod: Pod, entry: Entry | None, before: Object) -> Replica:
    holding = pod.holding(OVN_PREFIX)
    if holding is not None:
        internal, there = holding.addresses, _in_vpc(view.snapshot, view.resolved, holding.subnet)
    else:
        # What this very plan gives it counts as given.
        internal, there = (entry.internal if entry is not None else ()), True
    with_bfd = view.resolved.bfd is not None
    alive = pod.ready or (with_bfd and pod.container_ready(GATEWAY_CONTAINER) is True)
    served = bool(before.get("nexthop", before.get("serving")))
    reason = _reason(view.snapshot, pod, (bool(internal), there, alive, served))
    nexthop = reason in ("Ready", "WasReady")
    silent = with_bfd and bool(pod.wanted) and BFD_CONTAINER not in pod.wanted
    bfd = None
    if silent:
        message = "the pod is of before BFD was switched on: it is replaced"
        bfd = BfdState("None", serving=nexthop, since=_since(view, before, "None"), message=message)
    elif with_bfd:
        bfd = _bfd_state(view, pod, internal if nexthop else (), before)
    serving = nexthop and (bfd is None or bfd.serving)
    if nexthop and not serving:
        reason = "SessionDown"
    shown = (entry.internal, entry.external) if entry is not None else (internal, _external(pod))
    unchanged = before.get("serving") == serving and before.get("reason") == reason
    now = view.snapshot.now
    since = str(before.get("since") or now) if unchanged else now
    message = _trouble(view, pod)
    return Replica(pod, *shown, nexthop, serving, reason, since, message, bfd, silent)


def _bfd_state(view: _View, pod: Pod, internal: Sequence[str], before: Object) -> BfdState:
    """The sessions of a replica's addresses; those of no nexthop are none."""
    programmer = view.snapshot.programmer
    sessions = programmer.sessions.get("/".join(view.key), {})
    families = {family.family for family in view.resolved.families}
    watched = [text for text in internal if addresses.family(text) in families]
    known = {text: sessions[text] for text in watched if text in sessions}
    old = before.get("bfd")
    old = old if isinstance(old, dict) else {}
    unsaid = programmer.link != "connected" or programmer.settling
    if (
        watched
        and len(known) < len(watched)
        and unsaid
        and old.get("state") == "Up"
        and before.get("serving")
    ):
        # The sessions live on without the programmer; what it does not say now is as it was.
        return BfdState("Up", serving=True, since=str(old.get("since") or ""), message="")
    states = {text: known[text].state if text in known else "Unknown" for text in watched}
    state = min(states.values(), key=_WORST.index, default="None")
    serving = bool(watched) and len(known) == len(watched) and all(s.serving for s in known.values())
    since = _since(view, before, state)
    message = "" if state == "Up" and serving else _why_down(view, pod, states)
    return BfdState(state, serving and state == "Up", since, message)


def _since(view: _View, before: Object, state: str) -> str:
    """Since when a replica's sessions are in a state."""
    old = before.get("bfd")
    if isinstance(old, dict) and old.get("state") == state and old.get("since"):
        return str(old["since"])
    return view.snapshot.now


# Worst first. "None": there is no session to speak of, "Unknown": OVN has not told of one.
_WORST = ("None", "Unknown", "AdminDown", "Down", "Init", "Up")


def _why_down(view: _View, pod: Pod, states: Mapping[str, str]) -> str:
    """Which sessions are not Up, and what the kubelet says of the pod."""
    peers = view.resolved.bfd.peers if view.resolved.bfd is not None else ()
    told = []
    for text, state in states.items():
        peer = next((p for p in peers if addresses.family(p) == addresses.family(text)), "")
        told.append(f"session {peer} - {text} is {_STATES.get(state, state)}")
    trouble = _trouble(view, pod)
    return "; ".join([*told, *([trouble] if trouble else [])])


def _trouble(view: _View, pod: Pod) -> str:
    return pod_events.trouble(pod, view.snapshot.pod_events.derived(pod_events.by_pod).get(pod.uid))


_STATES = {"Unknown": "not known to OVN", "Up": "Up, and OVN does not send traffic yet"}


def _in_vpc(snapshot: Snapshot, resolved: Resolved, name: str) -> bool:
    """Whether the gateway's router reaches a subnet: after a change of internalSubnet old pods still serve."""
    subnet = snapshot.subnet(name)
    return name == resolved.internal.subnet or (subnet is not None and subnet.vpc == resolved.vpc)


def _reason(snapshot: Snapshot, pod: Pod, facts: tuple[bool, bool, bool, bool]) -> str:
    """Why a pod is a nexthop (Ready, WasReady) or not: the first that applies. Facts: plugged, there, alive, served."""
    plugged, there, alive, served = facts
    obstacles = (
        (pod.deleting, "Terminating"),
        (not pod.node, "Unscheduled"),
        (not snapshot.node_ready(pod.node), "NodeNotReady"),
        (not plugged, "NoAddress"),
        (not there, "OtherVpc"),
        (not alive and not served, "NotReadyYet"),
        (not alive, "WasReady"),
    )
    return next((reason for applies, reason in obstacles if applies), "Ready")


def _external(pod: Pod) -> tuple[str, ...]:
    return next((h.addresses for h in pod.holdings if h.prefix != OVN_PREFIX), ())


def _order(replica: Replica) -> tuple[Any, ...]:
    key = addresses.numeric_key(replica.internal[0]) if replica.internal else (9, 0)
    return (*key, replica.pod.created, replica.pod.name)


def _entries(value: Any) -> list[Object]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _addresses(value: Any) -> list[str]:
    """The addresses of a list that somebody may have written by hand."""
    texts = [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
    found = []
    for text in texts:
        with contextlib.suppress(AddressError):
            found.append(str(addresses.address(text)))
    return found
