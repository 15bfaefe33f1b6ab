"""UDP sockets of RFC 5881: one receiver a family on port 3784, and a transmit socket a session.

Section 4: control packets go to port 3784 from a source port in 49152..65535, the same for all packets of a session
and unique among the sessions of the system; section 5: with TTL or hop limit 255.

A session has a connected socket of its own, bound to its local address: the kernel then keeps the route, and holds the
port against every other process. When descriptors run out, further sessions of a local address share a socket and
thereby a port, which the section permits where uniqueness can not be had.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import random
import socket
import struct
from collections.abc import Callable

from veg_bfd.core.engine import Engine
from veg_bfd.core.model import Arrival
from veg_bfd.core.session import Session

PORT = 3784
SOURCE_PORTS = range(49152, 65536)
_DSCP_CS6 = 0xC0  # network control, as routers mark it
_IP_PKTINFO = 8  # linux/in.h; the socket module of Python 3.11 does not name these two
_IP_RECVTTL = 12
_BUFFER = 256  # more than any Length field can say
_ANCILLARY = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(20)
_RCVBUF = 4 << 20
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_CACHE = 8192
RETRY_US = 100_000


class Receiver:
    """The receiving socket of one family. Raises OSError when the port is taken or the family is missing."""

    def __init__(self, family: socket.AddressFamily, engine: Engine) -> None:
        self._engine = engine
        self._ipv4 = family == socket.AF_INET
        self._arrivals: dict[tuple[str, bytes, bytes], Arrival] = {}
        self.socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._set_options()
            self.socket.bind(("0.0.0.0" if self._ipv4 else "::", PORT))
        except OSError:
            self.socket.close()
            raise
        self._recvmsg = self.socket.recvmsg

    def _set_options(self) -> None:
        own = self.socket
        if self._ipv4:
            own.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
            own.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        else:
            own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RCVBUF)
        with contextlib.suppress(PermissionError):
            own.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RCVBUF)

    def drain(self, now: int, limit: int) -> int:
        """Hand up to `limit` packets to the engine. Returns how many there were; fewer than `limit`: no more."""
        recvmsg, receive, arrivals = self._recvmsg, self._engine.receive, self._arrivals
        for count in range(limit):
            try:
                data, ancillary, _, source = recvmsg(_BUFFER, _ANCILLARY)
            except OSError:
                # Empty; or an error report, which concerns none of the packets behind it.
                return count
            try:
                arrival = arrivals[source[0], ancillary[0][2], ancillary[1][2]]
            except (KeyError, IndexError):
                arrival = self._remember(source[0], ancillary)
            receive(now, data, arrival)
        return limit

    def forget(self) -> None:
        """Look addresses and interface names up anew: an index may have another name by now."""
        self._arrivals.clear()

    def _remember(self, source: str, ancillary: list[tuple[int, int, bytes]]) -> Arrival:
        arrival = _arrival(source, ancillary)
        if len(ancillary) == 2:
            if len(self._arrivals) >= _CACHE:
                self._arrivals.clear()
            self._arrivals[source, ancillary[0][2], ancillary[1][2]] = arrival
        return arrival


def _arrival(source: str, ancillary: list[tuple[int, int, bytes]]) -> Arrival:
    destination, ttl, index = "", 0, 0
    for level, kind, data in ancillary:
        if (level, kind) in (
            (socket.IPPROTO_IP, socket.IP_TTL),
            (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT),
        ):
            (ttl,) = struct.unpack_from("i", data)
        elif (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            (index,) = struct.unpack_from("i", data)
            destination = str(ipaddress.ip_address(data[8:12]))
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            destination = str(ipaddress.ip_address(data[:16]))
            (index,) = struct.unpack_from("i", data, 16)
    try:
        interface = socket.if_indextoname(index)
    except OSError:
        interface = ""  # it is gone
    return Arrival(str(ipaddress.ip_address(source.partition("%")[0])), destination, ttl, interface)


class Channel:
    """The way out of one session: opened when the first packet leaves, again after an error."""

    __slots__ = ("port", "problem", "retry_at", "send", "socket")

    def __init__(self) -> None:
        self.port = 0
        self.socket: socket.socket | None = None
        self.send: Callable[[bytes], int] | None = None
        self.retry_at = 0
        self.problem = ""


class Transmitter:
    """Sends what the engine puts out. Errors are counted, told once each and tried again, never raised.

    `tell(session, problem)` is called when a session can not send for a new reason, and with "" when it can again.
    """

    def __init__(self, tell: Callable[[Session, str], None]) -> None:
        self._tell = tell
        self._random = random.SystemRandom()
        self._ports: set[int] = set()
        self._shared: dict[tuple[str, str], socket.socket] = {}
        self._spare = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.errors = 0

    def flush(self, now: int, engine: Engine) -> None:
        """Send everything in the engine's outbox."""
        outbox = engine.outbox
        for session, data in outbox:
            channel = session.channel
            if channel.__class__ is not Channel or channel.send is None:
                channel = self._open(now, session)
                if channel.send is None:
                    self._lost(session)
                    continue
            try:
                channel.send(data)
            except OSError as error:
                self._failed(now, session, channel, data, error)
        outbox.clear()

    def release(self, session: Session) -> None:
        """Free what a session that is gone held."""
        channel = session.channel
        if isinstance(channel, Channel):
            self._close(channel)
            self._ports.discard(channel.port)
        session.channel = None

    def reopen(self, session: Session) -> None:
        """Its interface has changed."""
        if isinstance(session.channel, Channel):
            self._close(session.channel)
            session.channel.retry_at = 0

    def _failed(self, now: int, session: Session, channel: Channel, data: bytes, error: OSError) -> None:
        if error.errno in (errno.EAGAIN, errno.ENOBUFS, errno.EPERM):
            self._lost(session)
            self._note(session, channel, error)
            return
        # A connected socket reports what ICMP said about an earlier packet instead of sending this one.
        try:
            assert channel.send is not None  # noqa: S101 (the caller has just used it)
            channel.send(data)
        except OSError as again:
            self._lost(session)
            self._close(channel)
            channel.retry_at = now + RETRY_US
            self._note(session, channel, again)

    def _lost(self, session: Session) -> None:
        self.errors += 1
        session.tx_packets -= 1

    def _open(self, now: int, session: Session) -> Channel:
        channel = session.channel
        if not isinstance(channel, Channel):
            session.channel = channel = Channel()
        if now < channel.retry_at:
            return channel
        try:
            self._connect(session, channel)
        except OSError as error:
            channel.retry_at = now + RETRY_US
            self._note(session, channel, error)
        else:
            if channel.problem:
                channel.problem = ""
                self._tell(session, "")
        return channel

    def _connect(self, session: Session, channel: Channel) -> None:
        config = session.config
        try:
            own = _socket(config.local, config.interface)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._share(session, channel)
            return
        try:
            channel.port = self._bind(own, config.local, config.interface, channel.port)
            own.connect(_sockaddr(config.peer, PORT, config.interface))
        except OSError:
            own.close()
            raise
        channel.socket, channel.send = own, own.send

    def _bind(self, own: socket.socket, local: str, interface: str, port: int) -> int:
        """Bind to the port that the session had, else to one that no session has."""
        for _ in range(64):
            candidate = port or self._random.choice(SOURCE_PORTS)
            if candidate in self._ports and not port:
                continue
            try:
                own.bind(_sockaddr(local, candidate, interface))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                self._ports.discard(port)
                port = 0
                continue
            self._ports.add(candidate)
            return candidate
        raise OSError(errno.EADDRINUSE, "no free source port")

    def _share(self, session: Session, channel: Channel) -> None:
        config = session.config
        key = (config.local, config.interface)
        own = self._shared.get(key)
        if own is None:
            self._spare.close()  # the one descriptor kept for this moment
            own = _socket(*key)
            self._bind(own, *key, 0)
            self._shared[key] = own
        target = _sockaddr(config.peer, PORT, config.interface)
        channel.send = lambda data: own.sendto(data, target)

    def _note(self, session: Session, channel: Channel, error: OSError) -> None:
        problem = error.strerror or str(error)
        if problem != channel.problem:
            channel.problem = problem
            self._tell(session, problem)

    def _close(self, channel: Channel) -> None:
        if channel.socket is not None:
            channel.socket.close()
        channel.socket = channel.send = None


def _socket(local: str, interface: str) -> socket.socket:
    ipv4 = ":" not in local
    own = socket.socket(
        socket.AF_INET if ipv4 else socket.AF_INET6,
        socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
    )
    try:
        if ipv4:
            own.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
            own.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _DSCP_CS6)
        else:
            own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
            own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _DSCP_CS6)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # nobody answers to this port
        if interface:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
    except OSError:
        own.close()
        raise
    return own


def _sockaddr(address: str, port: int, interface: str) -> tuple[str, int] | tuple[str, int, int, int]:
    if ":" not in address:
        return address, port
    scope = 0
    if interface and ipaddress.IPv6Address(address).is_link_local:
        scope = socket.if_nametoindex(interface)
    return address, port, 0, scope
