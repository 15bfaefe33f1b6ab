"""Which OVN it is, asked of a real northd, and of one that is played."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from veg_ovn_programmer.core.view import Variant
from veg_ovn_programmer.io import probe

from tests.functional.ovn_programmer import kube_ovn_nb


def insert(sb: Any, rpc_to: Any, name: str, options: list[list[str]]) -> None:
    """A port binding, as northd makes it."""
    binding = {
        "logical_port": name,
        "tunnel_key": 1,
        "options": ["map", options],
        "datapath": ["named-uuid", "d"],
    }
    with rpc_to(sb.socket) as rpc:
        rpc.call(
            "transact",
            [
                "OVN_Southbound",
                {"op": "insert", "table": "Datapath_Binding", "uuid-name": "d", "row": {"tunnel_key": 1}},
                {"op": "insert", "table": "Port_Binding", "row": binding},
            ],
        )


async def test_stock_ovn(nb: Any, northd: Any) -> None:
    """A stock northd copies no such option; nothing is left of the question."""
    found = await asyncio.to_thread(probe.detect, nb.remote, northd.sb.remote, lambda: False)
    assert found is Variant.S3
    assert nb.select("Logical_Router") == nb.select("Logical_Router_Port") == {}


async def test_kube_ovns_ovn(nb: Any, other: Any, rpc_to: Any) -> None:
    """A northd that copies the option knows such ports. Here the test plays it."""
    other.kill()
    sb = type(other)(other.root, other.folder, "sb")
    sb.start()

    def play() -> None:
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            for row in nb.select("Logical_Router_Port").values():
                insert(sb, rpc_to, row["name"], row["options"][1])
                return
            time.sleep(0.01)

    player = threading.Thread(target=play)
    player.start()
    try:
        found = await asyncio.to_thread(probe.detect, nb.remote, sb.remote, lambda: False)
    finally:
        player.join(5)
        sb.kill()
    assert found is Variant.K
    assert nb.select("Logical_Router") == {}


@pytest.mark.parametrize(("copied", "expected"), [(True, Variant.K), (False, Variant.S3)])
async def test_a_port_that_is_there(
    copied: bool, expected: Variant, nb: Any, other: Any, rpc_to: Any
) -> None:
    """Kube-OVN's own port tells it by what its northd made of it, and nothing is written to find out."""
    nb.transact(*kube_ovn_nb.operations())
    other.kill()
    sb = type(other)(other.root, other.folder, "sb")
    sb.start()
    try:
        insert(sb, rpc_to, "bfd@vpc1", [["bfd-only", "true"]] if copied else [])
        counted = nb.transactions()
        found = await asyncio.to_thread(probe.detect, nb.remote, sb.remote, lambda: False)
    finally:
        sb.kill()
    assert found is expected
    assert nb.transactions() == counted


async def test_it_can_not_be_told(nb: Any) -> None:
    """Without a Southbound database OVN counts as a stock one, and nothing is left behind."""
    assert await asyncio.to_thread(probe.detect, nb.remote, "unix:/nowhere", lambda: False) is Variant.S3
    assert nb.select("Logical_Router") == {}
