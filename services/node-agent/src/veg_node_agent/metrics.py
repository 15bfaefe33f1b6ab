"""The agent's state for Prometheus, read when it is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from veg_common import logs, metrics

from veg_node_agent.agent import Agent


class AgentCollector(Collector):
    """Reads frozen values only, so any thread may ask."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def collect(self) -> Iterable[Metric]:
        """The metrics of this moment."""
        status, view = self._agent.status, self._agent.availability.view
        yield _gauge("in_sync", "1 while the kernel matches the configuration", float(status.in_sync))
        yield _gauge("config_valid", "1 while the file at hand is in force", float(not status.config_error))
        yield CounterMetricFamily(
            "veg_node_agent_repairs", "Operations that repaired what others had changed", value=status.repairs
        )
        yield _gauge("draining", "1 from SIGTERM on", float(view.draining))
        yield _gauge(
            "bfd_reachable", "1 while the BFD speaker does what is wished", float(not view.bfd_error)
        )
        sessions = GaugeMetricFamily(
            "veg_node_agent_session_up", "1 while a BFD session is Up", labels=["peer"]
        )
        for session in self._agent.availability.link.sessions:
            sessions.add_metric([session.peer], float(session.up))
        yield sessions
        if (uplink := view.uplink) is not None:
            yield _gauge("uplink_alive", "1 while the way out works", float(uplink.alive))
            dead = GaugeMetricFamily(
                "veg_node_agent_uplink_dead", "1 while the way out of a family is dead", labels=["family"]
            )
            withdrawn = GaugeMetricFamily(
                "veg_node_agent_withdrawn", "1 while traffic is left to other replicas", labels=["family"]
            )
            for family in self._agent.availability.families:
                dead.add_metric([family.label], float(family in uplink.dead))
                withdrawn.add_metric([family.label], float(family in uplink.withdrawn))
            yield dead
            yield withdrawn


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"veg_node_agent_{name}", text, value=value)


@contextlib.contextmanager
def served(listen: str, agent: Agent) -> Iterator[None]:
    """Serve an agent's metrics on `host:port` while the block runs; "" serves nothing.

    An address that can not be had is logged: the data path does not depend on who looks at it.
    """
    collector = AgentCollector(agent)
    REGISTRY.register(collector)
    with contextlib.ExitStack() as stack:
        stack.callback(REGISTRY.unregister, collector)
        try:
            stack.enter_context(metrics.serving(listen))
        except (OSError, ValueError) as error:
            logs.get("metrics").error("metrics are not served", listen=listen, error=str(error))
        yield
