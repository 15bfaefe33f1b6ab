"""Values of the speaker: what a session is asked to be, how it is, and what happened to it.

Times are integers in microseconds of one monotonic clock; the caller chooses its zero.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple

from veg_bfd.errors import ConfigError

# RFC 5880 section 6.8.3: "When bfd.SessionState is not Up, the system MUST set bfd.DesiredMinTxInterval to a value of
# not less than one second".
SLOW_TX_US = 1_000_000
MAX_INTERVAL_US = 3_600_000_000


class State(IntEnum):
    """RFC 5880 section 4.1, field Sta."""

    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3


class Diagnostic(IntEnum):
    """RFC 5880 section 4.1, field Diag. Five bits: a peer may send values up to 31 that have no name here."""

    NONE = 0
    CONTROL_DETECTION_TIME_EXPIRED = 1
    ECHO_FUNCTION_FAILED = 2
    NEIGHBOR_SIGNALED_SESSION_DOWN = 3
    FORWARDING_PLANE_RESET = 4
    PATH_DOWN = 5
    CONCATENATED_PATH_DOWN = 6
    ADMINISTRATIVELY_DOWN = 7
    REVERSE_CONCATENATED_PATH_DOWN = 8


class Role(Enum):
    """RFC 5880 section 6.1: who speaks first.

    A passive session leaves its peer the first second. It does not wait for ever: OVN's thread may sleep for a minute
    until a packet wakes it.
    """

    ACTIVE = "active"
    PASSIVE = "passive"


@dataclass(frozen=True, slots=True)
class Timers:
    """What this side asks for: intervals in microseconds (1000..3600000000), multiplier 1..255."""

    min_rx_us: int = 1_000_000
    min_tx_us: int = 1_000_000
    multiplier: int = 3


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """A session as it is asked for. Its name is (local, peer): canonical addresses of one family.

    `interface`: packets are taken from and sent to this interface only; "" is any. `min_ttl` (RFC 5881 section 5):
    1..255. Use `checked` for values that come from outside.
    """

    local: str
    peer: str
    timers: Timers = Timers()
    interface: str = ""
    min_ttl: int = 255
    role: Role = Role.ACTIVE

    @property
    def key(self) -> tuple[str, str]:
        """(local, peer)."""
        return self.local, self.peer


def checked(config: SessionConfig) -> SessionConfig:
    """The same session with canonical addresses. Raises ConfigError (one line) for values that make no sense."""
    local, peer = _address(config.local, "local"), _address(config.peer, "peer")
    if local.version != peer.version:
        raise ConfigError(f"local {local} and peer {peer} are of different families")
    if local == peer:
        raise ConfigError(f"local and peer are both {local}")
    if peer.is_link_local and peer.version == 6 and not config.interface:
        raise ConfigError(f"peer {peer} is link-local and needs an interface")
    if (
        len(config.interface.encode()) > 15
        or "/" in config.interface
        or config.interface.split()
        not in (
            [],
            [config.interface],
        )
    ):
        raise ConfigError(f"interface {config.interface!r} is no interface name")
    timers = config.timers
    for name, value in (("min_rx", timers.min_rx_us), ("min_tx", timers.min_tx_us)):
        if not 1000 <= value <= MAX_INTERVAL_US:
            raise ConfigError(f"{name} {value // 1000} ms is not in 1..3600000 ms")
    if not 1 <= timers.multiplier <= 255:
        raise ConfigError(f"multiplier {timers.multiplier} is not in 1..255")
    if not 1 <= config.min_ttl <= 255:
        raise ConfigError(f"min_ttl {config.min_ttl} is not in 1..255")
    return SessionConfig(str(local), str(peer), timers, config.interface, config.min_ttl, config.role)


def canonical(text: str, what: str) -> str:
    """A unicast address as sessions are named by it. Raises ConfigError, which begins with `what`."""
    return str(_address(text, what))


def _address(text: str, what: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ConfigError(f"{what} {text!r} is no IP address") from None
    if isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address.ipv4_mapped):
        raise ConfigError(f"{what} {text!r}: give the address without a zone or mapping")
    if address.is_multicast or address.is_unspecified or address == ipaddress.IPv4Address("255.255.255.255"):
        raise ConfigError(f"{what} {address} is no unicast address")
    return address


class Arrival(NamedTuple):
    """What the socket tells about a received packet: addresses as text, TTL or hop limit, interface name."""

    source: str
    destination: str
    ttl: int
    interface: str


class View(NamedTuple):
    """A session as it is, at one moment: plain values only, so that it can be sent to another process.

    Names follow the contract `veg.bfd.v1.Session`. `since_us` is the time of the last change of state; intervals are
    in microseconds; states and diagnostics are wire values. `detection_time_us` is 0 while the peer is not heard.
    """

    id: int
    owner: str
    local: str
    peer: str
    interface: str
    min_rx_us: int
    min_tx_us: int
    multiplier: int
    min_ttl: int
    role: str
    state: int
    remote_state: int
    diagnostic: int
    remote_diagnostic: int
    local_discriminator: int
    remote_discriminator: int
    tx_interval_us: int
    detection_time_us: int
    since_us: int
    downs: int
    tx_packets: int
    rx_packets: int
    rx_discarded: int
    admin_down: bool
    admin_reason: str


class Changed(NamedTuple):
    """A session was made or changed its state. `previous` is the state before, None for a new session.

    `late_us`: when the detection time expired, how long after its end that was noticed; else 0.
    """

    view: View
    previous: int | None
    late_us: int


class Ended(NamedTuple):
    """A session is no longer there. It says goodbye (AdminDown) for a detection time, unseen by `views`."""

    id: int


Event = Changed | Ended
