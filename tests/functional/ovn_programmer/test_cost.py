"""What a change costs when the tables are large."""

from __future__ import annotations

import time
from typing import Any

from veg_ovn_programmer.core.intents import Key, Kind
from veg_ovn_programmer.io.northbound import Northbound

ROWS = 3000


async def test_large_tables_cost_nothing(nb: Any, client: Any, make: Any, wait: Any) -> None:
    """With thousands of rows of others, and of ours, on one router, an owner is found in microseconds."""
    await client.commit(make.vpc("ovn-cluster", default_vpc=True))
    router = next(iter(nb.select("Logical_Router")))
    inserts = []
    for n in range(ROWS):
        ids = ["map", [["vpc-egress-gateway", f"other/g{n}"]]] if n % 2 else ["map", [["n", str(n)]]]
        row = {"priority": 1, "match": f"ip4.src == {n}", "action": "drop", "external_ids": ids}
        inserts.append({"op": "insert", "table": "Logical_Router_Policy", "row": row, "uuid-name": f"u{n}"})
    references = ["set", [["named-uuid", f"u{n}"] for n in range(ROWS)]]
    mutation = {
        "op": "mutate",
        "table": "Logical_Router",
        "where": [["_uuid", "==", ["uuid", router]]],
        "mutations": [["policies", "insert", references]],
    }
    nb.transact(*inserts, mutation)
    northbound = Northbound(nb.remote, managed=True, wake=lambda: None)
    northbound.start()
    try:
        await wait(lambda: northbound.connected, 10)
        replica = northbound.replica
        assert replica is not None
        assert len(replica.owners()) == ROWS // 2 + 2
        started = time.perf_counter()
        for n in range(1, 1000, 2):
            assert len(replica.owned(Key(Kind.GATEWAY, f"other/g{n}"))) == 1
        assert (time.perf_counter() - started) / 500 < 0.001
        # The routers' long columns are not copied.
        idl_row = replica.named("Logical_Router", "ovn-cluster")[0]
        assert idl_row.policies == []
    finally:
        northbound.stop()
