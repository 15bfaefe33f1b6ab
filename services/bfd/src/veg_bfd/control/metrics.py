"""Prometheus metrics, read from the mirror when they are asked for."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Iterator

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector

from veg_bfd.control.loop import Loop
from veg_bfd.control.mirror import Mirror
from veg_bfd.errors import UnavailableError

_LABELS = ("id", "owner", "local", "peer")
_OVERSHOOT = Histogram(
    "veg_bfd_detection_overshoot_seconds",
    "Time between the end of a detection time and the session being declared down.",
    buckets=(0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0),
)


class Sessions(Collector):
    """Called by the metrics server's thread."""

    def __init__(self, mirror: Mirror, loop: Loop) -> None:
        self._mirror = mirror
        self._loop = loop
        self._asyncio = asyncio.get_running_loop()
        loop.overshoot = _OVERSHOOT.observe

    def register(self) -> None:
        """Show them in the process's registry."""
        REGISTRY.register(self)

    def describe(self) -> Iterator[Metric]:
        """Nothing that would have to be asked for."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Every session's figures and those of the loop."""
        with contextlib.suppress(concurrent.futures.TimeoutError, UnavailableError):
            asyncio.run_coroutine_threadsafe(self._loop.refresh(), self._asyncio).result(5)
        mirror = self._mirror
        views = list(mirror.sessions.values())
        state = GaugeMetricFamily(
            "veg_bfd_session_state", "0 AdminDown, 1 Down, 2 Init, 3 Up.", labels=_LABELS
        )
        counters = {
            "downs": CounterMetricFamily("veg_bfd_session_downs", "Times it left Up.", labels=_LABELS),
            "tx_packets": CounterMetricFamily("veg_bfd_session_tx_packets", "Packets sent.", labels=_LABELS),
            "rx_packets": CounterMetricFamily("veg_bfd_session_rx_packets", "Packets taken.", labels=_LABELS),
            "rx_discarded": CounterMetricFamily(
                "veg_bfd_session_rx_discarded", "Packets that named it and were discarded.", labels=_LABELS
            ),
        }
        for view in views:
            labels = (str(view.id), view.owner, view.local, view.peer)
            state.add_metric(labels, view.state)
            for name, family in counters.items():
                family.add_metric(labels, getattr(view, name))
        yield state
        yield from counters.values()
        yield from self._process_figures()

    def _process_figures(self) -> Iterator[Metric]:
        stats = self._mirror.stats
        discards = CounterMetricFamily("veg_bfd_rx_discarded", "Packets discarded.", labels=("reason",))
        for reason, count in stats.discards.items():
            discards.add_metric((reason,), count)
        yield discards
        yield CounterMetricFamily("veg_bfd_rx_unknown", "Discarded, of no session.", value=stats.unknown)
        yield CounterMetricFamily(
            "veg_bfd_send_errors", "Packets that could not be sent.", value=stats.send_errors
        )
        yield CounterMetricFamily(
            "veg_bfd_stalls",
            "Times that packets had to wait for the loop for 10 ms or more.",
            value=stats.stalls,
        )
        yield GaugeMetricFamily(
            "veg_bfd_realtime", "1 under SCHED_FIFO.", value=float(self._mirror.policy == "SCHED_FIFO")
        )
