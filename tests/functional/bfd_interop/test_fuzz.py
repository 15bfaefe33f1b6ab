"""A million hostile packets, and a longer walk through bad networks than the unit tests take."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from veg_bfd.core.packet import Discard

from tests.unit.bfd_conformance.fuzz import Attack
from tests.unit.bfd_conformance.test_network import TwoEnds


def test_a_million_hostile_packets() -> None:
    """No packet raises, and none changes a session that it does not belong to."""
    sent = 0
    for seed in range(100, 110):
        seen = Attack(seed).run(100_000)
        assert set(seen.outcomes) == {*Discard, None}
        sent += sum(seen.outcomes.values())
    assert sent == 1_000_000


def test_bad_networks() -> None:
    """What tests/unit/bfd_conformance/test_network.py says, over more examples, not the same ones each time."""
    run_state_machine_as_test(
        TwoEnds,
        settings=settings(
            TwoEnds.TestCase.settings, max_examples=60, stateful_step_count=12, derandomize=False
        ),
    )
