"""Servers of a cluster: which takes writes, and what is said of those that do not."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from veg_ovn_programmer.io import streams, wire

STANDALONE = {"model": "standalone", "connected": True, "leader": True}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (None, "has no database OVN_Northbound"),
        (STANDALONE, ""),
        (STANDALONE | {"model": "clustered"}, ""),
        (STANDALONE | {"model": "clustered", "leader": False}, "is not the leader"),
        (STANDALONE | {"model": "clustered", "connected": False}, "has no connection to its cluster"),
        (STANDALONE | {"model": "relay", "leader": False}, "is not the leader"),
    ],
)
def test_who_takes_writes(row: dict[str, Any] | None, words: str) -> None:
    """The only server of a database or the leader of a cluster, by what it says in _Server."""
    assert wire.unfit(row, "OVN_Northbound") == words


def test_lists_of_remotes() -> None:
    """Commas and spaces part them; what is empty is none."""
    assert wire.split("tcp:a:1, tcp:b:1,,unix:/x ") == ["tcp:a:1", "tcp:b:1", "unix:/x"]


def test_troubles_by_remote() -> None:
    """The last word on each counts, in the list's order; a server that serves has none."""
    streams.note("tcp:a:1", "Connection refused")
    streams.note("tcp:b:1", "is not the leader")
    streams.note_first("tcp:b:1", "closed the connection")
    assert streams.troubles(["tcp:b:1", "tcp:a:1", "tcp:c:1"]) == (
        "tcp:b:1: is not the leader; tcp:a:1: Connection refused"
    )
    streams.forget("tcp:a:1")
    streams.forget("tcp:b:1")
    assert streams.troubles(["tcp:a:1", "tcp:b:1"]) == ""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, "No such file or directory"), "TLS: a certificate file is not there"),
        (ssl.SSLError(1, "[X509: KEY_VALUES_MISMATCH] key values mismatch"), "TLS: "),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
    ],
)
def test_why_tls_failed(error: OSError, words: str) -> None:
    """A file, the handshake and the network are told apart; ovs hears an errno, and goes on."""
    number, nothing = streams._failed("ssl:a:1", error)
    assert number > 0
    assert nothing is None
    assert streams.troubles(["ssl:a:1"]).startswith(f"ssl:a:1: {words}")
    streams.forget("ssl:a:1")
