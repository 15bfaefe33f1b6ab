"""Malformed and hostile packets. `tests/functional/bfd_interop/test_fuzz.py` sends a million more."""

from __future__ import annotations

import pytest
from veg_bfd.core.model import State
from veg_bfd.core.packet import Discard

from tests.unit.bfd_conformance.fuzz import Attack


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hostile_packets(seed: int) -> None:
    """No packet raises, none changes a session that it does not belong to, and what is sent meanwhile is valid."""
    seen = Attack(seed).run(10_000)
    assert set(seen.outcomes) == {*Discard, None}, "the attacker reached every rule"
    assert {State.DOWN, State.INIT, State.UP} <= set(seen.states)
    assert seen.outcomes[None] > 500
