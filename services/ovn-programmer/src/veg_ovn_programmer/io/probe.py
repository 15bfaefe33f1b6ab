"""Finds out which OVN this is by what its northd does with a router port that is for BFD only.

A northd that knows such ports copies the option into the southbound database; a stock one does not. The port is on a
router of its own, which leads nowhere and goes again; should we die meanwhile, the next Resync removes it as an orphan.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from veg_common import logs

from veg_ovn_programmer.core import parts, rows
from veg_ovn_programmer.core.bfd import JOIN_ADDRESSES
from veg_ovn_programmer.core.intents import Key, Kind
from veg_ovn_programmer.core.view import Variant
from veg_ovn_programmer.errors import NorthboundUnavailableError
from veg_ovn_programmer.io import schema, wire

SOUTHBOUND = "OVN_Southbound"
PATIENCE_S = 5.0
POLL_S = 0.05
OPTION = "bfd-only"


def detect(nb: str, sb: str, is_stopping: Callable[[], bool]) -> Variant:
    """Which variant the OVN behind these remotes understands; S3 when it can not be told. Blocks for some seconds.

    Raises NorthboundUnavailableError when the Northbound database is not reachable.
    """
    log = logs.get("probe", sb=sb)
    name = f"bfd-probe-{uuid.uuid4().hex[:12]}"
    with wire.opened(nb) as north:
        marks = rows.marks(Key(Kind.VPC, name))
        made = wire.transact(
            north,
            schema.DATABASE,
            {
                "op": "insert",
                "table": rows.ROUTER_PORT,
                "uuid-name": "port",
                "row": {
                    "name": name,
                    "mac": parts.stable_mac(name),
                    "networks": parts.host(JOIN_ADDRESSES[0]),
                    "options": ["map", [[OPTION, "true"]]],
                },
            },
            {
                "op": "insert",
                "table": rows.ROUTER,
                "row": {
                    "name": name,
                    "ports": ["named-uuid", "port"],
                    "external_ids": ["map", [list(pair) for pair in marks.items()]],
                },
            },
        )
        try:
            variant = _copied(sb, name, is_stopping)
        except NorthboundUnavailableError as error:
            log.warning(
                "the southbound database can not be asked, taking OVN for a stock one", error=str(error)
            )
            variant = Variant.S3
        finally:
            where = [["_uuid", "==", made[1]["uuid"]]]
            wire.transact(north, schema.DATABASE, {"op": "delete", "table": rows.ROUTER, "where": where})
    log.info("variant of BFD ports", variant=variant.name)
    return variant


def _copied(sb: str, name: str, is_stopping: Callable[[], bool]) -> Variant:
    query = {
        "op": "select",
        "table": "Port_Binding",
        "where": [["logical_port", "==", name]],
        "columns": ["options"],
    }
    deadline = time.monotonic() + PATIENCE_S
    with wire.opened(sb) as south:
        while time.monotonic() < deadline and not is_stopping():
            for row in wire.transact(south, SOUTHBOUND, query)[0]["rows"]:
                return Variant.K if dict(row["options"][1]).get(OPTION) == "true" else Variant.S3
            time.sleep(POLL_S)
    raise NorthboundUnavailableError(f"northd made no port binding within {PATIENCE_S:.0f} s")
