"""What the pod tells OVN about itself: BFD sessions, the uplink, the way out of service.

Joins the configuration, the BFD speaker (`bfd_rpc`) and the uplink probe (`io.uplink`). The kernel's state is the
agent's; this only takes note of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from veg_common import logs

from veg_node_agent.bfd_rpc import BfdLink
from veg_node_agent.config import Settings
from veg_node_agent.core.drain import Drain, Verdict
from veg_node_agent.core.model import Config, Family, Interface
from veg_node_agent.core.sessions import Hold, Session, Wish, sessions
from veg_node_agent.io import counters
from veg_node_agent.io.files import Flag
from veg_node_agent.io.nudge import Nudger
from veg_node_agent.io.uplink import UplinkMonitor, UplinkView

_POLL = 0.05  # s between two looks at the counters
_SYNC_GRACE = 30.0  # s; a thousand new sources take a while
_TELL = 1.0  # s: the speaker should have confirmed by then


@dataclass(frozen=True)
class AvailabilityView:
    """See veg.agent.v1.GetStateResponse."""

    bfd_error: str
    uplink: UplinkView | None
    draining: bool


class Availability:
    """In service, withdrawn, or draining."""

    def __init__(self, settings: Settings, changed: Callable[[], None]) -> None:
        """`changed` is called when `unready` may have changed."""
        self._log = logs.get("availability")
        self._changed = changed
        self._drained = Flag(settings.run_dir / "drained")
        self._config: Config | None = None
        self._interfaces: Mapping[str, Interface] | None = None
        self._missing: tuple[str, ...] = ()
        self._draining = False
        self._out_of_sync_since: float | None = float("-inf")
        self.link = BfdLink(settings.run_dir / "bfd.sock", self._on_change)
        self._nudger = Nudger()
        self._monitor = UplinkMonitor(settings.run_dir, self._on_change, self._serves)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """In service while the block runs."""
        self._drained.clear()
        job = asyncio.create_task(self.link.run())
        try:
            yield
        finally:
            self._monitor.close()
            self._nudger.close()
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)

    @property
    def view(self) -> AvailabilityView:
        """How it stands."""
        errors = [*self._missing, *([self.link.error] if self.link.error else [])]
        return AvailabilityView("; ".join(errors), self._monitor.view, self._draining)

    @property
    def families(self) -> tuple[Family, ...]:
        """Those that are configured."""
        return tuple(entry.family for entry in self._config.families) if self._config else ()

    @property
    def unready(self) -> str:
        """Why the pod should not count as ready although its kernel is; empty when it should.

        With BFD a dead uplink is told although nobody can take over, because OVN does not look at readiness. Without
        it readiness is all that takes the pod out of service, so the last one stays ready.
        """
        if self._draining:
            return "draining"
        uplink = self._monitor.view
        if uplink is None or not uplink.dead:
            return ""
        if self._config is not None and self._config.bfd is None and len(uplink.withdrawn) < len(uplink.dead):
            return ""
        return f"uplink: {uplink}"

    def update(self, config: Config, interfaces: Mapping[str, Interface]) -> None:
        """Follow a configuration on a pod with these interfaces."""
        if config == self._config and interfaces == self._interfaces:
            return
        self._config, self._interfaces = config, interfaces
        try:
            self._monitor.configure(config, interfaces)
        except OSError as error:
            self._log.error("uplink can not be probed", error=str(error))
        self._on_change()

    def kernel_is(self, *, in_sync: bool) -> None:
        """Take note of whether the kernel matches the configuration."""
        if in_sync:
            self._out_of_sync_since = None
        elif self._out_of_sync_since is None:
            self._out_of_sync_since = time.monotonic()

    async def drain(self, limit: float) -> None:
        """Have the traffic sent elsewhere, and return when it is, or after `limit` seconds.

        Without BFD there is nobody to tell: whoever ends the pod has taken it out of OVN.
        """
        if self._config is None or self._interfaces is None:
            self._drained.set()
            return
        self._draining = self._monitor.leaving = True
        self._on_change()
        started = time.monotonic()
        told = await self._told(min(_TELL, limit or _TELL))
        settle = 0.0 if told else self._detection_time()
        self._log.info("draining", limit=limit, told=told)
        verdict = await self._quiet(Drain(time.monotonic(), limit, settle), self._config.external)
        self._log.info("drained", result=verdict, seconds=round(time.monotonic() - started, 3))
        self._drained.set()

    async def _told(self, patience: float) -> bool:
        """Whether the speaker has confirmed that everything is down; True when there is no speaker."""
        if self._config is None or self._config.bfd is None:
            return True
        return await self.link.all_held(patience)

    async def _quiet(self, drain: Drain, external: str) -> Verdict:
        while True:
            try:
                verdict = drain.observe(time.monotonic(), counters.read(external))
            except (OSError, ValueError, KeyError) as error:
                self._log.warning("counters can not be read", error=str(error))
                verdict = drain.blind(time.monotonic())
            if verdict != "wait":
                return verdict
            await asyncio.sleep(_POLL)

    def _detection_time(self) -> float:
        """S after which OVN notices a silent pod, at most."""
        bfd = self._config.bfd if self._config else None
        if bfd is None:
            return 0.0
        return bfd.timers.multiplier * max(bfd.timers.min_tx_ms, bfd.timers.min_rx_ms) / 1000

    def _serves(self, family: Family) -> bool:
        """Whether other replicas may leave the traffic of a family to this one, as far as it knows."""
        config = self._config
        since = self._out_of_sync_since
        # Each change of the configuration is out of sync for a moment; that is no reason for others to come back.
        if config is None or self._draining or (since is not None and time.monotonic() > since + _SYNC_GRACE):
            return False
        if config.bfd is None:
            return True
        return any(s.up and ipaddress.ip_address(s.peer).version == family for s in self.link.sessions)

    def _on_change(self) -> None:
        config = self._config
        if config is not None and self._interfaces is not None:
            wanted, self._missing = sessions(config, self._interfaces)
            self._nudge(wanted, config)
            if config.bfd is not None or self.link.wished:
                self.link.wish(
                    Wish(
                        sessions=wanted,
                        holds=self._holds(config),
                        drain=Hold("draining") if self._draining else None,
                        settled=self._monitor.view is None or self._monitor.view.settled,
                    )
                )
        self._changed()

    def _nudge(self, wanted: tuple[Session, ...], config: Config) -> None:
        try:
            self._nudger.follow(wanted, config.bfd.nudge_ms / 1000 if config.bfd else 0)
        except OSError as error:
            # OVN notices a little later then; an address that comes later is one more reason to look.
            self._log.warning("OVN is not kept awake", error=str(error))

    def _holds(self, config: Config) -> dict[str, Hold]:
        uplink = self._monitor.view
        if config.bfd is None or uplink is None:
            return {}
        return {
            peer: Hold(f"uplink: {uplink.problem}", path_down=True)
            for peer in config.bfd.peers
            if ipaddress.ip_address(peer).version in uplink.withdrawn
        }
