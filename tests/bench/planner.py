"""Speed of the planner of api: how long a plan takes with 1,000 gateways, new and settled. `make bench` prints the table."""

import gc
import statistics
import time
from collections.abc import Callable

import click
from veg_api.core.gateway import GatewayKey
from veg_api.core.planner import plan_gateway
from veg_api.core.pools import Pools
from veg_api.core.topology import plan_topology
from veg_common.objects import Object

from tests.unit.api.conftest import World, cluster, gateway

GATEWAYS = 1_000
ROUNDS = 5


def run() -> None:
    """Measure and print; about half a minute."""
    fresh = World(*_big_cluster(), *(_gateway(i) for i in range(GATEWAYS)))
    settled = World(*_big_cluster(), *(_gateway(i) for i in range(GATEWAYS)))
    settled.settle()
    keys = sorted(settled.snapshot.gateways.items)
    rows = [
        ("1,000 new gateways, all at once", _measure(lambda: _all(fresh, keys))),
        ("1,000 settled gateways, nothing to do", _measure(lambda: _all(settled, keys))),
        ("1 of 1,000 settled gateways", _measure(lambda: _all(settled, keys[500:501]))),
        ("topology of 2,000 pods, nothing to do", _measure(lambda: plan_topology(settled.view()))),
    ]
    click.echo(f"api planner ({GATEWAYS:,} gateways of 2 replicas in the snapshot)")
    click.echo(f"  {'':42} {'median ms':>10} {'max ms':>8}")
    for name, times in rows:
        click.echo(f"  {name:42} {statistics.median(times):10.1f} {max(times):8.1f}")


def _big_cluster() -> list[Object]:
    return [
        {**o, "spec": {**o["spec"], "cidrBlock": "172.16.0.0/12"}}
        if o["metadata"]["name"] == "macvlan1"
        else o
        for o in cluster()
    ]


def _gateway(number: int) -> Object:
    source = f"10.16.{number // 256}.{number % 256}"
    return gateway(f"gw-{number:04}", replicas=2, policies=[{"snat": True, "ipBlocks": [source]}])


def _all(world: World, keys: list[GatewayKey]) -> None:
    snapshot = world.view()
    pools = Pools(snapshot)
    for key in keys:
        plan_gateway(snapshot, key, pools)


def _measure(act: Callable[[], object]) -> list[float]:
    times = []
    for _ in range(ROUNDS):
        gc.collect()
        begun = time.perf_counter()
        act()
        times.append((time.perf_counter() - begun) * 1000)
    return times


if __name__ == "__main__":
    run()
