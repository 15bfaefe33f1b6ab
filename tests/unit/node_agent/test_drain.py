"""When a leaving gateway may go."""

from __future__ import annotations

import pytest
from veg_node_agent.core.drain import Counters, Drain, Verdict


def run(flow: list[tuple[int, int]], limit: float = 20.0, settle: float = 0.0) -> tuple[Verdict, float]:
    """The verdict and its time (s) for packets (forwarded, sent) a second, second by second, the last for ever."""
    drain = Drain(100.0, limit, settle)
    forwarded = sent = 0.0
    for step in range(20 * 60):
        rate = flow[min(step // 20, len(flow) - 1)]
        forwarded, sent = forwarded + rate[0] / 20, sent + rate[1] / 20
        now = 100.0 + step / 20
        verdict = drain.observe(now, Counters(int(forwarded), int(sent)))
        if verdict != "wait":
            return verdict, now - 100.0
    raise AssertionError("no end")


@pytest.mark.parametrize(
    ("flow", "limit", "settle", "verdict", "seconds"),
    [
        pytest.param([(0, 0)], 20, 0, "quiet", 1.0, id="no traffic"),
        pytest.param([(0, 2)], 20, 0, "quiet", 1.0, id="the kernel's own packets"),
        pytest.param([(100, 100), (0, 0)], 20, 0, "quiet", 2.0, id="traffic that goes"),
        pytest.param([(100, 100)], 20, 0, "late", 20.0, id="traffic that stays"),
        pytest.param([(100, 100)], 0, 0, "late", 0.0, id="no patience"),
        pytest.param([(50, 100), (50, 0)], 20, 0, "quiet", 2.0, id="only answers from outside"),
        pytest.param([(0, 0)], 20, 3, "quiet", 4.0, id="nobody could be told"),
        pytest.param([(0, 0), (100, 100), (0, 0)], 20, 1.5, "quiet", 3.0, id="traffic that comes back"),
    ],
)
def test_it_goes_when_nobody_sends(
    flow: list[tuple[int, int]], limit: float, settle: float, verdict: Verdict, seconds: float
) -> None:
    """A second without traffic of the VPC, counted from when OVN can know, or the limit."""
    found, took = run(flow, limit, settle)
    assert found == verdict
    assert seconds - 0.1 <= took <= seconds + 0.2


def test_without_counters_it_waits_for_the_limit() -> None:
    """Not knowing is not quiet."""
    drain = Drain(0.0, 5.0)
    assert drain.blind(4.9) == "wait"
    assert drain.blind(5.0) == "late"
