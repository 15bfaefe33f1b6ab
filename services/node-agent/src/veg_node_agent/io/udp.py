"""UDP sockets of one link."""

from __future__ import annotations

import ipaddress
import socket

from veg_node_agent.core.packets import HOPS

_IPV6_RECVHOPLIMIT, _IP_RECVTTL = 51, 12


def bound(interface: str, own: str, port: int = 0) -> socket.socket:
    """A socket on a link with one of its addresses, whose packets tell that no router forwarded them; it tells the TTL or
    hop limit of those that come. Raises OSError when there is no such link, address or permission.
    """
    six = ipaddress.ip_address(own).version == 6
    made = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if six:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, HOPS)
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVHOPLIMIT, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, HOPS)
            made.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
        made.bind((own, port))
    except OSError:
        made.close()
        raise
    return made
