"""Single OVSDB calls (RFC 7047 section 4.1) on a connection of their own, for what comes before or beside the IDL."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from ovs import jsonrpc, stream
from ovsdbapp.backend.ovs_idl import idlutils

from veg_ovn_programmer.errors import NorthboundUnavailableError

CONNECT_MS = 2000


@contextlib.contextmanager
def opened(remotes: str) -> Iterator[jsonrpc.Connection]:
    """A connection to the first server of a comma list that answers. Raises NorthboundUnavailableError."""
    trouble = "no remote"
    for one in idlutils.parse_connection(remotes):
        error, open_stream = stream.Stream.open_block(stream.Stream.open(one), CONNECT_MS)
        if error:
            trouble = f"{one}: {os.strerror(abs(error))}"
            continue
        rpc = jsonrpc.Connection(open_stream)
        try:
            yield rpc
        finally:
            rpc.close()
        return
    raise NorthboundUnavailableError(trouble)


def call(rpc: jsonrpc.Connection, method: str, params: list[Any]) -> Any:
    """The result of one call. Raises NorthboundUnavailableError."""
    error, reply = rpc.transact_block(jsonrpc.Message.create_request(method, params))
    if error:
        raise NorthboundUnavailableError(os.strerror(abs(error)))
    if reply.error:
        raise NorthboundUnavailableError(str(reply.error))
    return reply.result


def transact(rpc: jsonrpc.Connection, database: str, *operations: dict[str, Any]) -> list[Any]:
    """The results of the operations of one transaction. Raises NorthboundUnavailableError."""
    results: list[Any] = call(rpc, "transact", [database, *operations])
    for result in results:
        if isinstance(result, dict) and result.get("error"):
            raise NorthboundUnavailableError(f"{result['error']}: {result.get('details', '')}")
    return results
