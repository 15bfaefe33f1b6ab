"""Asks the external gateways whether they are there: ARP for IPv4, neighbour solicitation for IPv6.

The kernel's own neighbour probing knows nothing under a second, and only on demand. Answers wait in the socket, behind
a filter that lets nothing else in, until the next tick looks: nothing wakes the process for them.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
from collections.abc import Sequence
from typing import Protocol

from veg_node_agent.core.packets import (
    ADVERTISEMENT,
    HOPS,
    arp_answer,
    arp_request,
    is_advertisement,
    solicitation,
    solicited_node,
)

_BROADCAST = b"\xff" * 6
_ETH_P_ARP = 0x0806
_SO_ATTACH_FILTER = 26
_IPV6_RECVHOPLIMIT, _IPV6_HOPLIMIT = 51, 52
_ICMP6_FILTER = 1
_MOST_ANSWERS = 64  # read at one tick; the filter lets through hardly more than one
# Classic BPF: load word/half/byte at an absolute offset, jump if equal, return.
_LD_W, _LD_H, _LD_B, _JEQ, _RET = 0x20, 0x28, 0x30, 0x15, 0x06
_Check = tuple[int, int, int]  # load, offset, value that must be there


class GatewayProbe(Protocol):
    """One family's probe on one link. Never blocks."""

    def send(self, *, everyone: bool) -> None:
        """Ask; `everyone`: all of the link, and not only whom the gateway was last. Raises OSError."""

    def answered(self) -> bool:
        """Whether an answer came since the last call."""

    def close(self) -> None:
        """Give the socket back."""


class ArpProbe:
    """Raises OSError when there is no such link, or no permission."""

    def __init__(self, interface: str, mac: bytes, own: str, gateway: str) -> None:
        self._interface, self._mac, self._own, self._gateway = interface, mac, own, gateway
        self._gateway_mac = _BROADCAST
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        try:
            # Opcode reply, from the gateway's address.
            _let_in(self._socket, [(_LD_H, 6, 2), (_LD_W, 14, int(ipaddress.IPv4Address(gateway)))])
            self._socket.bind((interface, _ETH_P_ARP))
        except OSError:
            self._socket.close()
            raise

    def send(self, *, everyone: bool) -> None:
        """See GatewayProbe."""
        target = _BROADCAST if everyone else self._gateway_mac
        self._socket.sendto(
            arp_request(self._mac, self._own, self._gateway), (self._interface, _ETH_P_ARP, 0, 1, target)
        )

    def answered(self) -> bool:
        """See GatewayProbe."""
        found = False
        for _ in range(_MOST_ANSWERS):
            try:
                data = self._socket.recv(64)
            except BlockingIOError:
                break
            except OSError:  # ENETDOWN is told once
                continue
            if mac := arp_answer(data, self._own, self._gateway):
                self._gateway_mac = mac
                found = True
        return found

    def close(self) -> None:
        """See GatewayProbe."""
        self._socket.close()


class NdpProbe:
    """Raises OSError when there is no such link, or no permission."""

    def __init__(self, interface: str, index: int, mac: bytes, gateway: str) -> None:
        self._index, self._mac, self._gateway = index, mac, gateway
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        self._socket = raw = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
        try:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
            for option in (socket.IPV6_UNICAST_HOPS, socket.IPV6_MULTICAST_HOPS):
                raw.setsockopt(socket.IPPROTO_IPV6, option, HOPS)
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            raw.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVHOPLIMIT, 1)
            # struct icmp6_filter: a set bit blocks a type.
            blocked = ((1 << 256) - 1) ^ (1 << ADVERTISEMENT)
            raw.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _words(blocked))
            address = ipaddress.IPv6Address(gateway).packed
            target = [(_LD_W, 8 + at, int.from_bytes(address[at : at + 4], "big")) for at in range(0, 16, 4)]
            _let_in(raw, [(_LD_B, 0, ADVERTISEMENT), *target])
        except OSError:
            raw.close()
            raise

    def send(self, *, everyone: bool) -> None:
        """See GatewayProbe."""
        target = solicited_node(self._gateway) if everyone else self._gateway
        self._socket.sendto(solicitation(self._mac, self._gateway), (target, 0, 0, self._index))

    def answered(self) -> bool:
        """See GatewayProbe."""
        found = False
        for _ in range(_MOST_ANSWERS):
            try:
                data, ancillary, _, _ = self._socket.recvmsg(256, 64)
            except BlockingIOError:
                break
            except OSError:
                continue
            hops = [struct.unpack("=i", value)[0] for _, kind, value in ancillary if kind == _IPV6_HOPLIMIT]
            found |= is_advertisement(data, hops[0] if hops else 0, self._gateway)
        return found

    def close(self) -> None:
        """See GatewayProbe."""
        self._socket.close()


def _words(bits: int) -> bytes:
    return struct.pack("=8I", *((bits >> shift) & 0xFFFFFFFF for shift in range(0, 256, 32)))


def _let_in(target: socket.socket, checks: Sequence[_Check]) -> None:
    """Attach a filter that drops every packet which fails a check."""
    steps: list[tuple[int, int, int, int]] = []
    for at, (load, offset, value) in enumerate(checks):
        to_drop = 2 * (len(checks) - at - 1) + 1
        steps += [(load, 0, 0, offset), (_JEQ, 0, to_drop, value)]
    steps += [(_RET, 0, 0, 0xFFFF), (_RET, 0, 0, 0)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    descriptor = struct.pack("@HP", len(steps), ctypes.addressof(program))
    target.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, descriptor)
