"""Runs the probe of the uplink in the event loop: one timer, the sockets, and the pure judge `core.uplink`.

Nothing here blocks, and nothing wakes for an answer: a tick reads what came since the last one, judges, and probes
again. Only carrier and notes of other replicas interrupt.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from veg_common import logs

from veg_node_agent.core.model import Config, Family, Interface
from veg_node_agent.core.packets import Note, Sight
from veg_node_agent.core.sessions import own_address
from veg_node_agent.core.uplink import Probe, Uplink
from veg_node_agent.io.carrier import Carrier
from veg_node_agent.io.doorbell import LINKS, doorbell
from veg_node_agent.io.files import write_atomically
from veg_node_agent.io.probe import ArpProbe, GatewayProbe, NdpProbe
from veg_node_agent.io.siblings import SiblingSocket


@dataclass(frozen=True)
class UplinkView:
    """What the probe says; see veg.agent.v1.UplinkState. `dead` and `withdrawn` are families."""

    alive: bool
    problem: str
    dead: tuple[Family, ...]
    withdrawn: tuple[Family, ...]
    since: str
    settled: bool

    def __str__(self) -> str:
        if not self.problem:
            return "alive"
        where = "withdrawn" if self.withdrawn else "no other replica can take over"
        return f"{self.problem} ({where if self.dead else 'alive'})"


# Errors of sending that say nothing about the way out: no route or address (the reconcile's business), a local filter.
# All others, a link that takes no packets above all, are as good as no answer.
_OUR_OWN_FAULT = {
    errno.ENETUNREACH,
    errno.EADDRNOTAVAIL,
    errno.EPERM,
    errno.EACCES,
    errno.EINVAL,
}
_REOPEN = 1.0  # s until sockets that could not be had are tried again


@dataclass(frozen=True)
class _Outer:
    """What the sockets towards the gateways were opened for: another link or gateway needs other sockets."""

    name: str
    index: int
    mac: str
    gateways: tuple[tuple[Family, str, str], ...]  # family, own address outside, gateway


@dataclass(frozen=True)
class _Inner:
    """What the socket towards the other replicas was opened for."""

    name: str
    index: int
    own: str
    others: tuple[str, ...]


class UplinkMonitor:
    """Probes while it is configured to. Use it from one event loop."""

    def __init__(self, run_dir: Path, changed: Callable[[], None], serves: Callable[[Family], bool]) -> None:
        """`changed` is called after each change of the view; `serves` tells whether other replicas may count on this
        one for a family, apart from its uplink.
        """
        self._known_file = run_dir / "gateways-seen.json"
        self._changed = changed
        self._serves = serves
        self._log = logs.get("uplink")
        self._core: Uplink | None = None
        self._config: Config | None = None
        self._outer: _Outer | None = None
        self._inner: _Inner | None = None
        self._probes: dict[Family, GatewayProbe] = {}
        self._sibling_socket: SiblingSocket | None = None
        self._carrier: Carrier | None = None
        self._events = contextlib.ExitStack()
        self._timer: asyncio.TimerHandle | None = None
        self._asker: asyncio.TimerHandle | None = None
        self._problems: dict[type, str] = {}
        self._reopen_at = 0.0
        self._since = _now()
        self._view: UplinkView | None = None
        self.leaving = False

    @property
    def view(self) -> UplinkView | None:
        """What it says; None while nothing is probed."""
        return self._view

    def configure(self, config: Config, interfaces: Mapping[str, Interface]) -> None:
        """Probe as this configuration wants on a pod with these interfaces; call it again when either changes."""
        if config.uplink is None:
            self.close()
            return
        started = self._core is None
        if started:
            self._events.enter_context(doorbell(self._on_link, LINKS))
            self._carrier = Carrier()
        self._adopt(config)
        outer, inner = _outer(config, interfaces), _inner(config, interfaces)
        if outer != self._outer:
            self._outer = outer
            self._open_outer(outer)
        if inner != self._inner:
            self._inner = inner
            self._open_inner(inner)
        if started:
            self._tick()

    def close(self) -> None:
        """Stop probing."""
        for handle in (self._timer, self._asker):
            if handle is not None:
                handle.cancel()
        self._timer = self._asker = None
        self._events.close()
        self._close_outer()
        self._close_inner()
        if self._carrier is not None:
            self._carrier.close()
        self._carrier = self._core = self._outer = self._inner = None
        self._problems = {}
        self._set_view(None)

    # What is probed ------------------------------------------------------------------------------------------

    def _adopt(self, config: Config) -> None:
        """Bring the judge to the configuration; a gateway that stays keeps what is known of it."""
        settings = config.uplink
        assert settings is not None  # noqa: S101  (for the type checker)
        old = self._core.probes if self._core else {}
        seen = self._seen_before() if self._core is None else frozenset[str]()
        probes: dict[Family, Probe] = {}
        for entry in config.families:
            interval, gateway = settings.interval_ms / 1000, entry.external_gateway
            probe = old.get(entry.family)
            if probe is None or probe.gateway != gateway:
                probe = Probe(entry.family, gateway, interval, settings.multiplier, known=gateway in seen)
            probe.interval, probe.multiplier = interval, settings.multiplier
            probes[entry.family] = probe
        if self._core is None:
            self._core = Uplink(probes, config.external)
            self._core.start_numbers_at(time.time_ns())
        self._core.probes, self._core.interface = probes, config.external
        self._core.forget_others(settings.replicas)
        self._config = config

    def _open_outer(self, wanted: _Outer) -> None:
        self._close_outer()
        problems = []
        for family, own, gateway in wanted.gateways if wanted.index and wanted.mac else ():
            mac = bytes.fromhex(wanted.mac.replace(":", ""))
            try:
                if family is Family.V6:
                    self._probes[family] = NdpProbe(wanted.name, wanted.index, mac, gateway)
                elif own:
                    self._probes[family] = ArpProbe(wanted.name, mac, own, gateway)
            except OSError as error:
                problems.append(f"{family.label} gateway {gateway} can not be probed: {error.strerror}")
        # An answer that was on its way to a closed socket is not missed.
        for judged in self._core.probes.values() if self._core else ():
            judged.not_sent()
        self._tell(_Outer, "; ".join(problems))

    def _open_inner(self, wanted: _Inner) -> None:
        self._close_inner()
        problem = ""
        if wanted.own and wanted.others:
            try:
                self._sibling_socket = SiblingSocket(wanted.name, wanted.own, wanted.others)
                asyncio.get_running_loop().add_reader(self._sibling_socket, self._on_note)
            except OSError as error:
                problem = f"the other replicas can not be asked: {error.strerror}"
        self._tell(_Inner, problem)

    def _tell(self, part: type, problem: str) -> None:
        if problem and problem != self._problems.get(part):
            self._log.warning("uplink probe is limited", problem=problem)
        self._problems[part] = problem
        self._reopen_at = asyncio.get_running_loop().time() + _REOPEN

    def _try_again(self, now: float) -> None:
        """What could not be opened may be possible now: an address that was tentative, a link that came."""
        if now < self._reopen_at:
            return
        if self._problems.get(_Outer) and self._outer is not None:
            self._open_outer(self._outer)
        if self._problems.get(_Inner) and self._inner is not None:
            self._open_inner(self._inner)

    def _close_outer(self) -> None:
        for probe in self._probes.values():
            probe.close()
        self._probes = {}

    def _close_inner(self) -> None:
        if self._sibling_socket is not None:
            asyncio.get_running_loop().remove_reader(self._sibling_socket)
            self._sibling_socket.close()
            self._sibling_socket = None

    # Events --------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        core, settings = self._core, self._config.uplink if self._config else None
        if core is None or settings is None:
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(settings.interval_ms / 1000, self._tick)
        now = loop.time()
        self._try_again(now)
        for family, probe in self._probes.items():
            if probe.answered():
                self._answered(core.probes[family], now)
        core.tick(now, self._has_carrier())
        for family, judged in core.probes.items() if core.carrier else ():
            try:
                # A gateway that leaves is quiet, so that what is still sent is somebody else's.
                if family in self._probes and not self.leaving:
                    self._probes[family].send(everyone=not judged.steady)
                else:
                    judged.not_sent()
            except OSError as error:
                if error.errno in _OUR_OWN_FAULT:
                    judged.not_sent()
        self._react(now)

    def _answered(self, probe: Probe, now: float) -> None:
        first = not probe.known
        probe.answered(now)
        if first:
            with contextlib.suppress(OSError):
                write_atomically(self._known_file, json.dumps(sorted(self._seen_before() | {probe.gateway})))

    def _has_carrier(self) -> bool:
        return self._carrier is not None and self._core is not None and self._carrier.of(self._core.interface)

    def _on_link(self) -> None:
        if self._core is not None:
            now = asyncio.get_running_loop().time()
            self._core.see_carrier(now, self._has_carrier())
            self._react(now)

    def _on_note(self) -> None:
        if self._sibling_socket is not None:
            self._sibling_socket.take(self._hear)

    def _hear(self, address: str, note: Note) -> None:
        if self._core is None or self._sibling_socket is None:
            return
        if note.question:
            self._sibling_socket.answer(address, Note(False, self._sights(), note.number))
            return
        now = asyncio.get_running_loop().time()
        self._core.hear(address, note, now)
        self._react(now)

    def _ask(self) -> None:
        self._asker = None
        core = self._core
        if core is None or not core.dead:
            return
        loop = asyncio.get_running_loop()
        if self._sibling_socket is not None:
            self._sibling_socket.ask(core.question(self._sights()))
        self._asker = loop.call_later(core.ask_every, self._ask)
        self._react(loop.time())

    def _sights(self) -> tuple[Sight, Sight]:
        """What other replicas are told."""
        probes = self._core.probes if self._core else {}

        def sight(family: Family) -> Sight:
            if family not in probes:
                return Sight.ABSENT
            return probes[family].sight if self._serves(family) and not self.leaving else Sight.DEAD

        return sight(Family.V4), sight(Family.V6)

    def _react(self, now: float) -> None:
        core = self._core
        if core is None:
            return
        if core.dead and self._asker is None:
            self._asker = asyncio.get_running_loop().call_soon(self._ask)  # type: ignore[assignment]
        problem = "; ".join(text for text in (core.problem, *self._problems.values()) if text)
        alive = core.alive
        if self._view is None or alive != self._view.alive:
            self._since = _now()
        self._set_view(
            UplinkView(alive, problem, core.dead, core.withdrawn(now), self._since, core.settled(now))
        )

    def _set_view(self, view: UplinkView | None) -> None:
        if view == self._view:
            return
        before, self._view = self._view, view
        if view is not None and (before is None or str(view) != str(before)):
            (self._log.info if view.alive and not view.problem else self._log.warning)(
                "uplink", state=str(view)
            )
        self._changed()

    def _seen_before(self) -> frozenset[str]:
        with contextlib.suppress(OSError, ValueError, TypeError):
            return frozenset(str(gateway) for gateway in json.loads(self._known_file.read_text()))
        return frozenset()


def _outer(config: Config, interfaces: Mapping[str, Interface]) -> _Outer:
    link = interfaces.get(config.external, Interface(config.external, up=False))
    gateways = tuple(
        (entry.family, _beside(link, entry.family, entry.external_gateway), entry.external_gateway)
        for entry in config.families
    )
    return _Outer(link.name, link.index, link.mac, gateways)


def _inner(config: Config, interfaces: Mapping[str, Interface]) -> _Inner:
    link = interfaces.get(config.internal, Interface(config.internal, up=False))
    replicas = config.uplink.replicas if config.uplink else ()
    own = ""
    if replicas:
        own = own_address(config, Family(ipaddress.ip_address(replicas[0]).version), interfaces)
    return _Inner(link.name, link.index, own, tuple(address for address in replicas if address != own))


def _beside(interface: Interface, family: Family, gateway: str) -> str:
    """The link's own address in the gateway's network, else its first of that family; "" when there is none."""
    own = [ipaddress.ip_interface(text) for text in interface.addresses]
    own = [address for address in own if address.version == family]
    found = [address for address in own if ipaddress.ip_address(gateway) in address.network] or own
    return str(found[0].ip) if found else ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
