"""Two veg-bfd processes at the two ends of a link: ours (a) and theirs (b)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from veg.bfd.v1 import bfd_pb2 as pb

from tests.functional.bfd_interop.lab import OURS, THEIRS, Pair, until
from tests.functional.bfd_interop.speaker import ACTIVE, PASSIVE, Speaker, session

UP = pb.SESSION_STATE_UP
DOWN = pb.SESSION_STATE_DOWN
ADMIN_DOWN = pb.SESSION_STATE_ADMIN_DOWN
CONTROL = str(Path(sys.executable).with_name("bfdd-control"))
Sessions = list[pb.Session]


@dataclass
class Ends:
    """Both speakers and the link between them."""

    pair: Pair
    a: Speaker
    b: Speaker

    def ask(
        self,
        families: tuple[str, ...] = ("v4",),
        *,
        ms: int = 100,
        a: pb.SessionRole.ValueType = ACTIVE,
        b: pb.SessionRole.ValueType = PASSIVE,
    ) -> None:
        """One session a family at both ends."""
        self.a.set(*(session(OURS[f], THEIRS[f], tx=ms, rx=ms, role=a) for f in families))
        self.b.set(*(session(THEIRS[f], OURS[f], tx=ms, rx=ms, role=b) for f in families))

    def up(self, families: tuple[str, ...] = ("v4",), *, ms: int = 100) -> tuple[Sessions, Sessions]:
        """The same, and wait until they are up at both ends."""
        self.ask(families, ms=ms)
        return self.see(all_up(len(families)), within=15)

    def see(
        self, holds: Callable[[tuple[Sessions, Sessions]], bool], *, within: float = 10
    ) -> tuple[Sessions, Sessions]:
        """Wait until what both ends list `holds`."""
        return until(lambda: (self.a.list(), self.b.list()), holds, within=within)

    def states(self, a: int, b: int, *, within: float = 10) -> tuple[pb.Session, pb.Session]:
        """Wait until the only session is in these states."""
        first, second = self.see(
            lambda ends: [s.state for s in ends[0]] == [a] and [s.state for s in ends[1]] == [b],
            within=within,
        )
        return first[0], second[0]


def all_up(count: int) -> Callable[[tuple[Sessions, Sessions]], bool]:
    """Whether both ends have so many sessions, all Up, and know it of each other."""
    return lambda ends: all(
        len(sessions) == count and all(s.state == UP == s.remote_state for s in sessions) for sessions in ends
    )


def bfdd_control(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `bfdd-control` against the speaker with this run folder."""
    return subprocess.run(
        [CONTROL, "--run-dir", str(folder), *words], capture_output=True, text=True, timeout=30, check=False
    )


def runs(speaker: Speaker) -> bool:
    """Whether it answers."""
    try:
        speaker.list(timeout=10)
    except grpc.RpcError:
        return False
    return True


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    link = Pair()
    yield link
    link.close()


@pytest.fixture(scope="module")
def running(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ends]:
    """Both speakers run as long as the module; a test that ends one starts it again."""
    folder = tmp_path_factory.mktemp("bfd")
    both = Ends(pair, Speaker(pair.ours, folder / "a"), Speaker(pair.theirs, folder / "b"))
    try:
        both.a.start()
        both.b.start()
        yield both
    finally:
        both.a.close()
        both.b.close()


@pytest.fixture
def ends(running: Ends) -> Ends:
    """Both speakers, without sessions and holds; one that a failed test left dead is started again."""
    for speaker in (running.a, running.b):
        if not runs(speaker):
            speaker.start()
        for owner in ("test", "other", "bfdd-control"):
            speaker.set(owner=owner)
        speaker.admin_down(down=False)
    return running
