"""Rings when something changes in this namespace's links, addresses, routes or rules.

Only the fact matters: the agent answers with a full read. That makes lost notifications harmless (an overflowing
socket rings as well) and costs no parsing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

# rtnetlink.h: RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE; RTNLGRP_IPV6_RULE is 19.
LINKS = 0x1
EVERYTHING = LINKS | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18


@contextlib.contextmanager
def doorbell(ring: Callable[[], None], groups: int = EVERYTHING) -> Iterator[None]:
    """Call `ring` in the running event loop for every burst of changes. Raises OSError when it can not listen."""
    loop = asyncio.get_running_loop()
    listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)

    def drain() -> None:
        while True:
            try:
                listener.recv(65536)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: notifications were lost, which is one more reason to ring
                continue
        ring()

    try:
        listener.bind((0, groups))
        loop.add_reader(listener, drain)
        yield
    finally:
        loop.remove_reader(listener)
        listener.close()
