"""The connection to OVN_Northbound: one IDL in one thread, which reconnects by itself.

Called by the worker: `commit` and `plan` block and belong in an executor. Everything else may be called from any
thread. Writes nothing on its own.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ovs.db import idl as ovs_idl
from ovsdbapp import exceptions as ovsdbapp_errors
from ovsdbapp.backend.ovs_idl import connection, idlutils, transaction
from veg_common import logs

from veg_ovn_programmer import metrics
from veg_ovn_programmer.core import bfd, rows
from veg_ovn_programmer.core.book import Job
from veg_ovn_programmer.core.intents import Key, Kind
from veg_ovn_programmer.core.view import Scene, Variant, View
from veg_ovn_programmer.errors import NorthboundError, NorthboundUnavailableError
from veg_ovn_programmer.io import json_parser, probe, schema, streams, wire
from veg_ovn_programmer.io import replica as replicas
from veg_ovn_programmer.io.changes import Changes
from veg_ovn_programmer.io.commands import ReconcileCommand, Result
from veg_ovn_programmer.io.following import FollowingIdl
from veg_ovn_programmer.io.replica import Replica
from veg_ovn_programmer.io.streams import Tls

# Seconds. A large database takes long to read; a transaction that found no server within its time is given up and
# made anew by the worker.
START_S = 300
COMMIT_S = 10
LOCK_S = 2
RETRY_S = 0.5


class Northbound:
    """Reads and writes our rows of OVN_Northbound."""

    def __init__(  # noqa: PLR0913  # keywords, named at every call
        self,
        remote: str,
        *,
        managed: bool,
        wake: Callable[[], None],
        tls: Tls | None = None,
        variant: Variant | None = Variant.S3,
        sb: str = "",
    ) -> None:
        """`variant` of None is found out with the help of the Southbound database at `sb`."""
        self.remote = remote
        self.variant = variant or Variant.S3
        self._sb = sb if variant is None else ""
        self.managed = managed
        self.schema_version = ""
        self.changes = Changes(wake)
        self._tls = tls
        self._connection: Any = None
        self.replica: Replica | None = None
        """Our copy; None before the first connection."""
        self._pending: Replica | None = None
        self._attempt: Any = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._log = logs.get("northbound", remote=remote)

    @property
    def idl(self) -> Any:
        """The IDL (ovsdbapp's commands look for it here)."""
        return self._connection.idl

    @property
    def connected(self) -> bool:
        """Whether the copy is complete and follows the server."""
        return self.replica is not None and self.idl.live()

    @property
    def server(self) -> str:
        """The server that is connected; "" for none."""
        return self.idl.server if self.connected else ""

    @property
    def trouble(self) -> str:
        """Why the database is not connected, server by server; "" when it is."""
        if self.connected:
            return ""
        return streams.troubles(wire.split(self.remote)) or f"{self.remote}: no answer yet"

    def start(self) -> None:
        """Connect in the background, for as long as it takes."""
        self._log.info("starting", json_parser=json_parser.install())
        streams.install(self._tls)
        self._thread = threading.Thread(target=self._connect, name="northbound-connect", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Disconnect. Waits a few seconds at most."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(LOCK_S)
        if self._connection is not None:
            # Not Connection.stop(), which waits without a bound for a transaction that is stuck.
            self._connection.is_running = False
            with contextlib.suppress(queue.Full):
                self._connection.txns.put(None, timeout=LOCK_S)
            thread = self._connection.thread
            if thread is not None:
                thread.join(LOCK_S)

    def abandon(self) -> None:
        """Let go of a `commit` that waits for an answer; it raises NorthboundUnavailableError."""
        if self._attempt is not None:
            given_up = idlutils.ExceptionResult(ex=NorthboundUnavailableError("given up"), tb="")
            with contextlib.suppress(queue.Full):
                self._attempt.results.put_nowait(given_up)

    def commit(self, jobs: Sequence[Job], scene: Scene) -> dict[Key, Result]:
        """Bring all jobs' owners in line in one transaction.

        Raises NorthboundUnavailableError without an answer in COMMIT_S, NorthboundError when the server refuses.
        """
        replica = self._ready()
        command = ReconcileCommand(self, replica, jobs, self._view(replica, scene), self.changes)
        attempt = transaction.Transaction(
            self, self._connection, timeout=COMMIT_S, check_error=True, log_errors=False
        )
        attempt.add(command)
        self._attempt = attempt
        self.changes.hold()
        try:
            attempt.commit()
        except ovsdbapp_errors.TimeoutException as error:
            raise NorthboundUnavailableError(f"no answer within {COMMIT_S} s") from error
        except RuntimeError as error:
            raise NorthboundError(str(error)) from error
        finally:
            self._attempt = None
            self.changes.release()
        return command.result

    def plan(self, jobs: Sequence[Job], scene: Scene) -> dict[Key, Result]:
        """What `commit` would do, and do nothing. Raises NorthboundUnavailableError."""
        replica = self._ready()
        with self._locked():
            command = ReconcileCommand(self, replica, jobs, self._view(replica, scene), None)
            attempt = ovs_idl.Transaction(self.idl)
            try:
                command.run_idl(attempt)
            finally:
                attempt.abort()
        return command.result

    def owners(self) -> set[Key]:
        """Every owner that has rows in the database. Raises NorthboundUnavailableError."""
        replica = self._ready()
        with self._locked():
            return replica.owners()

    def _ready(self) -> Replica:
        if self.replica is None or not self.connected:
            raise NorthboundUnavailableError(f"{self.remote} is not connected")
        return self.replica

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if not self._connection.lock.acquire(timeout=LOCK_S):
            raise NorthboundUnavailableError(f"{self.remote} does not answer")
        try:
            yield
        finally:
            self._connection.lock.release()

    def _view(self, replica: Replica, scene: Scene) -> View:
        return View(
            scene=scene,
            selection_fields=replica.has_selection_fields(),
            bfd_sessions=replica.has_bfd_sessions(),
            variant=self.variant,
            foreign_default=replica.foreign_default,
            port_towards=replica.port_towards,
            status=replica.status,
            carrier=replica.carrier,
            managed=self.managed,
            foreign_port=lambda name: replica.foreign(rows.ROUTER_PORT, name),
            has_port=lambda name: bool(replica.named(rows.ROUTER_PORT, name)),
        )

    def _connect(self) -> None:
        told = ""
        while not self._stopping.is_set():
            try:
                self._open()
            except Exception as error:  # noqa: BLE001  # ovs and ovsdbapp raise anything, even Exception itself
                if str(error) != told:
                    told = str(error)
                    self._log.warning("not connected yet", error=told)
                self._stopping.wait(RETRY_S)
            else:
                return

    def _open(self) -> None:
        if self._connection is None:
            version, json = _fetch_schema(self.remote)
            self.schema_version = version
            if self._sb:
                self.variant = probe.detect(self.remote, self._sb, self._stopping.is_set)
            helper = schema.register(json, managed=self.managed)
            idl = FollowingIdl(self.remote, helper, self._connection_changed, self._row_changed)
            for table, condition in schema.conditions(managed=self.managed).items():
                idl.cond_change(table, condition)
            self._pending = Replica(idl, managed=self.managed)
            self._connection = connection.Connection(idl, START_S)
        self._connection.start()
        self._connection.timeout = COMMIT_S
        self.replica = self._pending
        self._connection_changed(self.idl.live())

    def _connection_changed(self, live: bool) -> None:  # noqa: FBT001
        if self.replica is None:
            return
        if live:
            metrics.CONNECTIONS.inc()
            self._log.info("connected", server=self.idl.server, schema=self.schema_version)
            self.changes.reloaded()
        else:
            self._log.warning("disconnected", trouble=self.trouble)
        self.changes.connection()

    def _row_changed(self, event: str, row: Any, updates: Any) -> None:
        """Called for every row that changes, in the IDL's thread: must be cheap and must not raise."""
        table = row._table.name  # noqa: SLF001
        key = replicas.owner(row)
        if key is not None and event == ovs_idl.ROW_UPDATE and table == rows.BFD:
            # OVN's word may come in one update with a change of ours, which alone would be none of our business.
            if _old(updates, "status") is not None:
                self.changes.session(key)
            if _is_status(table, updates):
                return
        if key is not None:
            self.changes.owner(key)
        if event == ovs_idl.ROW_UPDATE:
            before = _old(updates, "external_ids")
            key = rows.owner_of(before) if before is not None else None
            if key is not None:
                self.changes.owner(key)
        if table == rows.ROUTER_PORT:
            self._port_changed(event, row.name)
        if table in rows.CONTAINERS:
            self.changes.holder(table, row.name)
            name = _old(updates, "name") if event == ovs_idl.ROW_UPDATE else None
            if name is not None:
                self.changes.holder(table, name)

    def _port_changed(self, event: str, name: str) -> None:
        """A BFD port that comes or goes is news to its VPC and to those whose sessions speak from it."""
        vpc = bfd.port_owner(name)
        if vpc is None or self.managed or event == ovs_idl.ROW_UPDATE:
            return
        self.changes.owner(Key(Kind.VPC, vpc))
        self.changes.holder(rows.ROUTER_PORT, name)


def _old(updates: Any, column: str) -> Any | None:
    """A column's value before an update; None when it did not change."""
    return getattr(updates, column, None) if updates is not None else None


def _is_status(table: str, updates: Any) -> bool:
    """Whether an update changed nothing but the status of a BFD row, which is OVN's to write."""
    if table != rows.BFD or _old(updates, "status") is None:
        return False
    ours = ("logical_port", "dst_ip", "min_tx", "min_rx", "detect_mult", rows.MARKS)
    return all(_old(updates, column) is None for column in ours)


def _fetch_schema(remote: str) -> tuple[str, dict[str, Any]]:
    """(version, JSON) of the Northbound schema of the server that takes writes. Raises NorthboundUnavailableError."""
    with wire.opened(remote, schema.DATABASE) as rpc:
        json: dict[str, Any] = wire.call(rpc, "get_schema", [schema.DATABASE])
    return str(json.get("version", "")), json
