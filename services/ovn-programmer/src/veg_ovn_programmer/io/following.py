"""An IDL that follows the leader of a cluster, in its own thread, and tells when it comes and goes.

ovs's IDL goes from server to server until one leads, and leaves one that no longer does; transactions under way come
back as TRY_AGAIN then. This adds what it lacks: a reason for every server that is of no use, a way on after a cluster
was made anew, and a shorter wait between attempts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ovs.db import idl as ovs_idl
from ovsdbapp.backend.ovs_idl import connection

from veg_ovn_programmer.io import schema, streams, wire

# ms between attempts to reconnect; ovs goes up to 8 s by itself.
_BACKOFF_MS = (100, 1000)


class FollowingIdl(connection.OvsdbIdl):  # type: ignore[misc]  # ovsdbapp ships no types
    """`went` is told when the copy starts or ends to follow the server, `changed` of every row that changes."""

    def __init__(
        self,
        remotes: str,
        helper: Any,
        went: Callable[[bool], None],
        changed: Callable[[str, Any, Any], None],
    ) -> None:
        super().__init__(",".join(wire.split(remotes)), helper)
        self._session.reconnect.set_backoff(*_BACKOFF_MS)
        self._went = went
        self._changed = changed
        self._live = False
        self._served_by = ""
        self._cluster: Any = None

    @property
    def server(self) -> str:
        """The remote that is in use or tried now."""
        return str(self._session.get_name())

    def cooperative_yield(self) -> None:
        """Nothing: this IDL has a thread of its own, and yielding a row costs more than the row."""

    def run(self) -> Any:
        """See ovs."""
        changed = super().run()
        self._recognise()
        live = self.live()
        if live != self._live:
            self._live = live
            if live:
                self._served_by = self.server
                streams.forget(self.server)
            else:
                streams.note_first(self._served_by, "closed the connection")
            self._went(live)
        return changed

    def wait(self, poller: Any) -> None:
        """See ovs, which does not see what a TLS connection has read but not given out."""
        super().wait(poller)
        if streams.pending(self._session.rpc):
            poller.immediate_wake()

    def live(self) -> bool:
        """Whether the copy is complete and follows the server."""
        session = self._session
        return bool(
            self.state == ovs_idl.Idl.IDL_S_MONITORING
            and session.is_connected()
            and session.get_seqno() == self._last_seqno
        )

    def force_reconnect(self) -> None:
        """See ovs: called for a server that does not lead, or not any more."""
        streams.note(self.server, wire.unfit(self._about(), schema.DATABASE) or "has old data")
        super().force_reconnect()

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        """See ovs: a row has changed."""
        self._changed(event, row, updates)

    def _about(self) -> dict[str, Any] | None:
        """What the server says of its copy of our database."""
        tables = self.server_tables or {}
        for row in tables["Database"].rows.values() if "Database" in tables else ():
            if row.name == schema.DATABASE:
                return {name: getattr(row, name) for name in ("model", "connected", "leader", "cid")}
        return None

    def _recognise(self) -> None:
        """A cluster that was made anew starts to count again: what it has is not old."""
        about = self._about()
        cluster = about["cid"] if about is not None else None
        if cluster and cluster != self._cluster:
            if self._cluster is not None:
                self._min_index = 0
            self._cluster = cluster
