"""veg-bfd at one end of a link, FRR's bfdd at the other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from veg.bfd.v1 import bfd_pb2 as pb

from tests.functional.bfd_interop.frr import Frr
from tests.functional.bfd_interop.lab import DEVICE, OURS, THEIRS, Pair, until
from tests.functional.bfd_interop.speaker import ACTIVE, Speaker, session

# FRR has no mercy with a machine that stood still: a detection time of 1.5 s sees no failure in that.
TX_MS, RX_MS, MULT = 100, 150, 10
FAMILIES = ("v4", "v6")


class Seen(NamedTuple):
    """One family's session: what vtysh tells of FRR's end, and gRPC of ours."""

    theirs: dict[str, Any]
    ours: pb.Session


@dataclass
class Ends:
    """Both speakers, with a session of each family between them: what a test does and sees, it does and sees in both."""

    pair: Pair
    speaker: Speaker
    frr: Frr

    def ask(
        self, *, tx: int = TX_MS, rx: int = RX_MS, mult: int = MULT, role: pb.SessionRole.ValueType = ACTIVE
    ) -> None:
        """Configure our end."""
        self.speaker.set(*(session(OURS[f], THEIRS[f], tx=tx, rx=rx, mult=mult, role=role) for f in FAMILIES))

    def ask_frr(self, *settings: str, families: Sequence[str] = FAMILIES) -> None:
        """Configure FRR's end: lines below `peer`."""
        lines = [(frr_peer(family), *settings, "exit") for family in families]
        self.frr.configure(*(line for block in lines for line in block))

    def up(self, *, role: pb.SessionRole.ValueType = ACTIVE, settings: tuple[str, ...] = ()) -> list[Seen]:
        """Configure both ends and see the sessions up at both."""
        self.ask(role=role)
        timers = (f"transmit-interval {TX_MS}", f"receive-interval {RX_MS}", f"detect-multiplier {MULT}")
        self.ask_frr(*timers, *settings)
        return self.see(is_up)

    def remembered(self) -> None:
        """Wait until our end's file has the sessions that it has now."""
        file = self.speaker.folder / "sessions.json"
        wanted = [str(one.local_discriminator) for one in self.speaker.list()]
        until(lambda: file.read_text() if file.exists() else "", lambda text: all(w in text for w in wanted))

    def look(self) -> list[Seen]:
        """What is told of the two sessions now: IPv4, then IPv6."""
        theirs = {peer["peer"]: peer for peer in self.frr.peers()}
        ours = {one.config.peer: one for one in self.speaker.list()}
        return [Seen(theirs[OURS[f]], ours[THEIRS[f]]) for f in FAMILIES]

    def see(self, holds: Callable[[Seen], bool], *, within: float = 30) -> list[Seen]:
        """What is told as soon as `holds` says so of both sessions."""
        return until(self.look, lambda seen: all(map(holds, seen)), within=within)

    def ours(self, holds: Callable[[pb.Session], bool], *, within: float = 30) -> list[pb.Session]:
        """The same while FRR cannot be asked."""
        return until(self.speaker.list, lambda seen: all(map(holds, seen)), within=within)

    def frr_downs(self) -> int:
        """How often FRR has seen a session leave Up."""
        return sum(counters["session-down"] for counters in self.frr.counters())


def frr_peer(family: str) -> str:
    """What FRR calls the session of a family."""
    return f"peer {OURS[family]} local-address {THEIRS[family]} interface {DEVICE}"


def is_up(seen: Seen) -> bool:
    """Up at both ends, each knowing the other's state and discriminator."""
    theirs, ours = seen
    states = theirs["status"] == "up" and ours.state == ours.remote_state == pb.SESSION_STATE_UP
    known = theirs["id"] == ours.remote_discriminator, theirs["remote-id"] == ours.local_discriminator
    return states and all(known)


def is_down(seen: Seen) -> bool:
    """Up at neither end."""
    return seen.theirs["status"] != "up" and seen.ours.state != pb.SESSION_STATE_UP


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


@pytest.fixture
def ends(pair: Pair, folder: Path) -> Iterator[Ends]:
    """Both speakers running, without a session yet."""
    speaker, frr = Speaker(pair.ours, folder / "veg", linger=0.5), Frr(pair.theirs, folder / "frr")
    try:
        speaker.start()
        frr.start()
        yield Ends(pair, speaker, frr)
    finally:
        speaker.close()
        frr.close()
