"""Finds out which OVN this is by what its northd does with a router port that is for BFD only.

A northd that knows such ports copies the option into the southbound database; a stock one does not. A port that is
there already, Kube-OVN's or ours, tells it. Else one is made on a router of its own, which leads nowhere and goes again;
should we die meanwhile, the next Resync removes it as an orphan.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator

from ovs import jsonrpc
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


class SouthboundError(Exception):
    """The Southbound database can not be asked, or does not tell."""


def detect(nb: str, sb: str, is_stopping: Callable[[], bool]) -> Variant:
    """Which variant the OVN behind these remotes understands; S3 when it can not be told. Blocks for some seconds.

    Raises NorthboundUnavailableError when the Northbound database is not reachable.
    """
    log = logs.get("probe", sb=sb)
    with wire.opened(nb, schema.DATABASE) as north:
        try:
            variant = _of_present_ports(north, sb)
            if variant is None:
                variant = _of_own_port(north, sb, is_stopping)
        except SouthboundError as error:
            log.warning(
                "the southbound database can not be asked, taking OVN for a stock one", error=str(error)
            )
            variant = Variant.S3
    log.info("variant of BFD ports", variant=variant.name)
    return variant


def _of_present_ports(north: jsonrpc.Connection, sb: str) -> Variant | None:
    """What becomes of the ports for BFD that there are; None when northd knows of none."""
    wanted = [["options", "includes", ["map", [[OPTION, "true"]]]]]
    query = {"op": "select", "table": rows.ROUTER_PORT, "where": wanted, "columns": ["name"]}
    names = [row["name"] for row in wire.transact(north, schema.DATABASE, query)[0]["rows"]]
    if not names:
        return None
    with _southbound(sb) as south:
        found = {_option(south, name) for name in names} - {None}
    return (Variant.K if True in found else Variant.S3) if found else None


def _of_own_port(north: jsonrpc.Connection, sb: str, is_stopping: Callable[[], bool]) -> Variant:
    """What becomes of a port that is made for a moment."""
    name = f"bfd-probe-{uuid.uuid4().hex[:12]}"
    marks = rows.marks(Key(Kind.VPC, name), word=rows.BFD_PORT_WORD)
    external_ids = ["map", [list(pair) for pair in marks.items()]]
    port = {
        "name": name,
        "mac": parts.stable_mac(name),
        "networks": parts.host(JOIN_ADDRESSES[0]),
        "options": ["map", [[OPTION, "true"]]],
        "external_ids": external_ids,
    }
    router = {"name": name, "ports": ["named-uuid", "port"], "external_ids": external_ids}
    made = wire.transact(
        north,
        schema.DATABASE,
        {"op": "insert", "table": rows.ROUTER_PORT, "uuid-name": "port", "row": port},
        {"op": "insert", "table": rows.ROUTER, "row": router},
    )
    try:
        return _awaited(sb, name, is_stopping)
    finally:
        where = [["_uuid", "==", made[1]["uuid"]]]
        wire.transact(north, schema.DATABASE, {"op": "delete", "table": rows.ROUTER, "where": where})


def _awaited(sb: str, name: str, is_stopping: Callable[[], bool]) -> Variant:
    deadline = time.monotonic() + PATIENCE_S
    with _southbound(sb) as south:
        while time.monotonic() < deadline and not is_stopping():
            copied = _option(south, name)
            if copied is not None:
                return Variant.K if copied else Variant.S3
            time.sleep(POLL_S)
    raise SouthboundError(f"northd made no port binding within {PATIENCE_S:.0f} s")


@contextlib.contextmanager
def _southbound(sb: str) -> Iterator[jsonrpc.Connection]:
    try:
        with wire.opened(sb, SOUTHBOUND) as south:
            yield south
    except NorthboundUnavailableError as error:
        raise SouthboundError(str(error)) from error


def _option(south: jsonrpc.Connection, name: str) -> bool | None:
    """Whether a port's binding bears the option; None when there is no binding yet."""
    query = {
        "op": "select",
        "table": "Port_Binding",
        "where": [["logical_port", "==", name]],
        "columns": ["options"],
    }
    for row in wire.transact(south, SOUTHBOUND, query)[0]["rows"]:
        return dict(row["options"][1]).get(OPTION) == "true"
    return None
