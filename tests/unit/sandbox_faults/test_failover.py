"""What the figures of a failover are made of: gaps and losses of flows, shares of runs, percentiles."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest
from veg_sandbox.failover.gaps import Answer, FlowLog
from veg_sandbox.failover.prober import open_flow
from veg_sandbox.failover.results import Run, Share, figures, percentile, share, split, summary

PERIOD = 0.01
DELAY = 0.001


def flow(
    *, packets: int = 100, away: tuple[float, float] = (0.0, 0.0), sources: tuple[str, str] = ("a", "a")
) -> FlowLog:
    """A packet each period from time 0; those sent within `away` are lost, after it the second source answers."""
    log = FlowLog()
    for index in range(packets):
        sent = index * PERIOD
        number = log.sending(sent)
        if not away[0] <= sent < away[1]:
            log.answered(Answer(number, sent + DELAY, sources[sent >= away[1]] if away[1] else sources[0]))
    return log


def test_an_undisturbed_flow_has_the_period_as_its_gap() -> None:
    """Nothing lost, and the largest gap is one sending period."""
    report = flow().report(0.2, 0.8)
    assert (report["source"], report["lost"]) == ("a", 0)
    assert report["gap_ms"] == pytest.approx(10, abs=0.1)


def test_an_outage_is_the_gap_and_its_packets() -> None:
    """From the last answer before to the first after; the source is the one that carried the flow before."""
    report = flow(away=(0.3, 0.6), sources=("a", "b")).report(0.25, 0.9)
    assert report["source"] == "a"
    assert report["gap_ms"] == pytest.approx(310, abs=0.1)
    assert report["gap_at"] == pytest.approx(0.29 + DELAY)
    assert report["lost"] == 30


def test_an_outage_that_does_not_end_counts_to_the_end() -> None:
    """A flow that never comes back is away until the end of the window, and what it sent is lost."""
    report = flow(away=(0.3, 9)).report(0.25, 0.9)
    assert report["gap_ms"] == pytest.approx((0.9 - 0.29 - DELAY) * 1000, abs=0.1)
    assert report["lost"] == 61


def test_an_outage_outside_the_window_does_not_count() -> None:
    """What happened before the fault is not its doing."""
    report = flow(away=(0.1, 0.2), sources=("a", "b")).report(0.5, 0.9)
    assert (report["source"], report["lost"]) == ("b", 0)
    assert report["gap_ms"] == pytest.approx(10, abs=0.1)


def test_late_and_repeated_answers() -> None:
    """An answer after more than a second is as good as lost; a second copy of one changes nothing."""
    log = flow(packets=3)
    number = log.sending(0.03)
    log.answered(Answer(number, 1.5, "a"))
    log.answered(Answer(0, 9.0, "b"))
    assert log.report(0.0, 0.05)["lost"] == 1
    assert log.answers[0].source == "a"


def test_a_silent_flow() -> None:
    """Without any answer there is no source, and the whole window is one gap."""
    log = FlowLog()
    log.sending(0.5)
    assert log.report(0.0, 1.0) == {"source": None, "gap_ms": 1000, "gap_at": 0.0, "sent": 1, "lost": 1}
    assert log.peek(1.0) == {"silent_ms": None, "source": None}


def test_forgetting_keeps_the_numbers() -> None:
    """Old packets go, the others keep their numbers and answers."""
    log = flow(away=(0.3, 0.6), sources=("a", "b"))
    log.forget(0.2)
    assert (log.first, len(log.sent), len(log.answers)) == (20, 80, 50)
    assert log.sending(1.0) == 100
    assert log.report(0.25, 0.9)["lost"] == 30
    assert log.peek(0.991 + DELAY) == {"silent_ms": 1.0, "source": "b"}


def seen(source: str | None, gap_ms: float, lost: int = 0) -> dict[str, Any]:
    """A flow's report."""
    return {"source": source, "gap_ms": gap_ms, "lost": lost}


def test_flows_are_told_apart_by_their_source() -> None:
    """A dying flow is one that left by an address of the victim; gaps are less the period, never below 0."""
    flows = [seen("v4", 310.0, 30), seen("v6", 200.0, 20), seen("other", 9.5), seen("other", 12.25, 1)]
    dying, surviving = split(flows, ["v4", "v6"], 10)
    assert dying == Share(flows=2, gap_ms=300.0, lost=50)
    assert surviving == Share(flows=2, gap_ms=2.2, lost=1)
    assert share([seen("x", 9.0)], 10) == Share(1, 0.0, 0)
    assert share([], 10) == Share(0, 0.0, 0)


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (50, 10), (51, 11), (95, 19), (99, 20), (100, 20)])
def test_percentiles_are_nearest_ranks(percent: float, value: float) -> None:
    """The smallest value that so many per cent do not exceed: one that was measured, never a mean."""
    assert percentile(list(range(20, 0, -1)), percent) == value


def test_no_values_have_no_percentile() -> None:
    """There is nothing to say about nothing."""
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_the_summary_is_what_json_prints() -> None:
    """Its keys are a contract with those who read it; a group without flows in a run does not count as 0."""
    runs = [
        Run("p1", Share(8, 300.0, 240), Share(8, 5.0, 0)),
        Run("p2", Share(9, 320.5, 260), Share(7, 0.0, 1)),
        Run("p1", Share(0, 0.0, 0), Share(16, 2.0, 0)),
    ]
    assert summary(100, runs, 2) == {
        "interval_ms": 100,
        "runs": 3,
        "dying": {"p50_ms": 300.0, "p99_ms": 320.5, "max_ms": 320.5, "lost": 500},
        "surviving": {"p50_ms": 2.0, "p99_ms": 5.0, "max_ms": 5.0, "lost": 1},
        "repeated": 2,
    }
    assert figures([]) == {"p50_ms": 0.0, "p99_ms": 0.0, "max_ms": 0.0, "lost": 0}


def test_a_renewed_flow_is_another_one_to_the_same_target() -> None:
    """Another source port, the same peer, and none of what was seen before."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as echo:
        echo.bind(("127.0.0.1", 0))
        echo.settimeout(10)
        one = open_flow(*echo.getsockname())
        one.send()
        _, first = echo.recvfrom(512)
        one.renew()
        one.send()
        _, second = echo.recvfrom(512)
        one.sock.close()
    assert first != second
    assert one.log.report(0, time.time() + 10)["sent"] == 1
