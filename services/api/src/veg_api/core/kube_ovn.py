"""Addresses of a gateway where they are Kube-OVN's to give. Pure; the other half of `ledger`.

There the gateway asks: its Deployment names a pool of addresses for each network (`…/ip_pool` of the pod template), of
which Kube-OVN gives one to each pod and writes it on the pod. What is in the pool is chosen once, so that an allow-list
outside keeps working: all that the resource lists, or else as many free ones as there are replicas and one to spare for
a rollout. A pool never shrinks, and grows only with the replicas, for a new pool is a new template: pods are replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from veg_api.core import addresses, pool_record
from veg_api.core.gateway import GatewayKey
from veg_api.core.ledger import Entry, Ledger, fits, held
from veg_api.core.names import config_map_name
from veg_api.core.objects import Pod
from veg_api.core.pool_record import Record
from veg_api.core.pools import PoolExhaustedError, Pools
from veg_api.core.resolved import Resolved, Side
from veg_api.core.snapshot import Snapshot

# What Kube-OVN needs in hand to start a pod before an old one of a rollout has gone.
_SPARE = 1


def plan(
    snapshot: Snapshot, key: GatewayKey, resolved: Resolved, pods: Sequence[Pod], pools: Pools
) -> Ledger:
    """The pools as entries, and what the pods have been given of them."""
    recorded = pool_record.read(snapshot.config_maps.get(config_map_name(resolved.deployment), key[0]))
    asker = _Asker(snapshot, key, pools, resolved.replicas + _SPARE)
    internal, lack = _pool(asker, resolved.internal, recorded)
    external, short = _pool(asker, resolved.external, recorded)
    count = min(len(internal), len(external))
    entries = tuple(
        Entry(n, internal[n] if n < len(internal) else (), external[n] if n < len(external) else ())
        for n in range(max(len(internal), len(external)))
    )
    given = {}
    for number, pod in enumerate(pods):
        inside, outside = held(pod, resolved)
        if inside and outside:
            given[pod.name] = Entry(len(entries) + number, inside, outside)
    shortage = (lack or short) if count < resolved.replicas else ""
    return Ledger(entries, given, (), (), (), shortage)


@dataclass(frozen=True)
class _Asker:
    """Who chooses addresses, and how many."""

    snapshot: Snapshot
    key: GatewayKey
    pools: Pools
    wanted: int

    def is_taken(self, side: Side, texts: Sequence[str]) -> bool:
        """Whether a stranger has one of some addresses."""
        return any(self.pools.foreign_owner(side.subnet, text, self.key) for text in texts)


def _pool(asker: _Asker, side: Side, recorded: Record) -> tuple[list[tuple[str, ...]], str]:
    """The pool of one network, and why it is too small, if it is."""
    user = f"gateway {asker.key[0]}/{asker.key[1]}"
    if side.ips:
        pool = [tuple(addresses.parts(item)) for item in side.ips]
    else:
        known = recorded.get(side.subnet, ())
        pool = [texts for texts in known if fits(texts, side) and not asker.is_taken(side, texts)]
    for texts in pool:
        asker.pools.take(side.subnet, texts, user)
    subnet = asker.snapshot.subnet(side.subnet)
    while not side.ips and len(pool) < asker.wanted:
        if subnet is None:
            return pool, f"subnet {side.subnet} does not exist any more"
        try:
            texts = tuple(asker.pools.next_free(subnet, addresses.family(cidr)) for cidr in side.cidrs)
        except PoolExhaustedError as error:
            return pool, str(error)
        asker.pools.take(side.subnet, texts, user)
        pool.append(texts)
    return pool, f"subnet {side.subnet}: {len(pool)} addresses given" if len(pool) < asker.wanted else ""
