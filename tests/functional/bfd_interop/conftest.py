"""veg-bfd at one end of a link, FRR's bfdd at the other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from veg.bfd.v1 import bfd_pb2 as pb

from tests.functional.bfd_interop.frr import Frr
from tests.functional.bfd_interop.lab import DEVICE, OURS, THEIRS, Pair, until
from tests.functional.bfd_interop.speaker import ACTIVE, Speaker, session

Peer = dict[str, Any]
TX_MS, RX_MS, MULT = 100, 150, 3


@dataclass
class Ends:
    """Both ends of one family's session. What is seen at an end is a pair: (theirs, ours)."""

    family: str
    pair: Pair
    speaker: Speaker
    frr: Frr

    @property
    def local(self) -> str:
        return OURS[self.family]

    @property
    def peer(self) -> str:
        return THEIRS[self.family]

    def ask(
        self, *, tx: int = TX_MS, rx: int = RX_MS, mult: int = MULT, role: pb.SessionRole.ValueType = ACTIVE
    ) -> None:
        """Configure our end."""
        self.speaker.set(session(self.local, self.peer, tx=tx, rx=rx, mult=mult, role=role))

    def ask_frr(self, *settings: str) -> None:
        """Configure the session at FRR's end: lines below its `peer`."""
        self.frr.configure(f"peer {self.local} local-address {self.peer} interface {DEVICE}", *settings)

    def up(
        self, *, role: pb.SessionRole.ValueType = ACTIVE, settings: tuple[str, ...] = ()
    ) -> tuple[Peer, pb.Session]:
        """Configure both ends and see the session up at both."""
        self.ask(role=role)
        self.ask_frr(
            f"transmit-interval {TX_MS}", f"receive-interval {RX_MS}", f"detect-multiplier {MULT}", *settings
        )
        return self.see(is_up)

    def look(self) -> tuple[Peer, pb.Session]:
        """What vtysh and gRPC tell of the session now."""
        (theirs,) = self.frr.peers()
        (ours,) = self.speaker.list()
        return theirs, ours

    def see(
        self, holds: Callable[[tuple[Peer, pb.Session]], bool], *, within: float = 15
    ) -> tuple[Peer, pb.Session]:
        """What both tell as soon as `holds` says so."""
        return until(self.look, holds, within=within)

    def frr_downs(self) -> int:
        """How often FRR has seen the session leave Up."""
        (counters,) = self.frr.counters()
        downs: int = counters["session-down"]
        return downs


def is_up(seen: tuple[Peer, pb.Session]) -> bool:
    """Up at both ends, each knowing the other's state and discriminator."""
    theirs, ours = seen
    states = theirs["status"] == "up" and ours.state == ours.remote_state == pb.SESSION_STATE_UP
    return bool(
        states
        and theirs["id"] == ours.remote_discriminator
        and theirs["remote-id"] == ours.local_discriminator
    )


def is_down(seen: tuple[Peer, pb.Session]) -> bool:
    """Up at neither end."""
    theirs, ours = seen
    return theirs["status"] != "up" and ours.state != pb.SESSION_STATE_UP


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two namespaces and their link."""
    made = Pair()
    yield made
    made.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix=f"vbi{os.getpid()}-") as name:
        yield Path(name)


@pytest.fixture(params=["v4", "v6"])
def ends(request: pytest.FixtureRequest, pair: Pair, folder: Path) -> Iterator[Ends]:
    """Both speakers running, without a session yet."""
    speaker, frr = Speaker(pair.ours, folder / "veg"), Frr(pair.theirs, folder / "frr")
    try:
        speaker.start()
        frr.start()
        yield Ends(request.param, pair, speaker, frr)
    finally:
        speaker.close()
        frr.close()
