"""Single OVSDB calls (RFC 7047 section 4.1) on a connection of their own, for what comes before or beside the IDL."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Any

from ovs import jsonrpc, poller, stream, timeval

from veg_ovn_programmer.errors import NorthboundUnavailableError
from veg_ovn_programmer.io import streams

CONNECT_MS = 2000
ANSWER_MS = 5000

# The database of every server that tells about its others (ovsdb-server(7), "_Server").
SERVER = "_Server"


def split(remotes: str) -> list[str]:
    """The servers of a comma list."""
    return [one.strip() for one in remotes.split(",") if one.strip()]


@contextlib.contextmanager
def opened(remotes: str, database: str) -> Iterator[jsonrpc.Connection]:
    """A connection to the server of a comma list that takes writes to a database: the only one, or a cluster's leader.

    Raises NorthboundUnavailableError, which names every server and its trouble.
    """
    for remote in split(remotes):
        rpc = _connected(remote)
        if rpc is None:
            continue
        with contextlib.closing(rpc):
            trouble = _unfit(rpc, database)
            if trouble:
                streams.note(remote, trouble)
                continue
            streams.forget(remote)
            yield rpc
            return
    raise NorthboundUnavailableError(streams.troubles(split(remotes)) or "no remote")


def call(rpc: jsonrpc.Connection, method: str, params: list[Any]) -> Any:
    """The result of one call. Raises NorthboundUnavailableError, also without an answer in ANSWER_MS."""
    request = jsonrpc.Message.create_request(method, params)
    deadline = timeval.msec() + ANSWER_MS
    error = rpc.send(request)
    while not error:
        error, reply = rpc.recv()
        if not error and reply.id == request.id:
            if reply.error:
                raise NorthboundUnavailableError(str(reply.error))
            return reply.result
        if error == errno.EAGAIN:
            error = _wait(rpc, deadline)
    raise NorthboundUnavailableError("closed the connection" if error < 0 else os.strerror(error))


def transact(rpc: jsonrpc.Connection, database: str, *operations: dict[str, Any]) -> list[Any]:
    """The results of the operations of one transaction. Raises NorthboundUnavailableError."""
    results: list[Any] = call(rpc, "transact", [database, *operations])
    for result in results:
        if isinstance(result, dict) and result.get("error"):
            raise NorthboundUnavailableError(f"{result['error']}: {result.get('details', '')}")
    return results


def _wait(rpc: jsonrpc.Connection, deadline: int) -> int:
    """Wait until there is something to read; an errno when it takes too long."""
    if timeval.msec() > deadline:
        return errno.ETIMEDOUT
    rpc.run()
    poll = poller.Poller()
    rpc.wait(poll)
    rpc.recv_wait(poll)
    poll.timer_wait_until(deadline)
    poll.block()
    return 0


def _connected(remote: str) -> jsonrpc.Connection | None:
    error, open_stream = stream.Stream.open_block(stream.Stream.open(remote), CONNECT_MS)
    if error == errno.ETIMEDOUT:
        streams.note(remote, os.strerror(error))
    return None if error else jsonrpc.Connection(open_stream)


def _unfit(rpc: jsonrpc.Connection, database: str) -> str:
    """Why a server takes no writes to a database; "" when it does."""
    query = {
        "op": "select",
        "table": "Database",
        "where": [["name", "==", database]],
        "columns": ["model", "connected", "leader"],
    }
    try:
        (found,) = transact(rpc, SERVER, query)
    except NorthboundUnavailableError as error:
        return str(error)
    return unfit(found["rows"][0] if found["rows"] else None, database)


def unfit(row: dict[str, Any] | None, database: str) -> str:
    """Why a server with this row of _Server's Database takes no writes; "" when it does."""
    if row is None:
        return f"has no database {database}"
    if row["model"] != "standalone" and not row["connected"]:
        return "has no connection to its cluster"
    if row["model"] != "standalone" and not row["leader"]:
        return "is not the leader"
    return ""
