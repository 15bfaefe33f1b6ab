"""Whether a link has carrier, and a ring when any link changes.

The flags are read without the kernel's big lock (SIOCGIFFLAGS), so that asking ten times a second costs nothing and
never waits behind somebody who adds a thousand routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
from collections.abc import Callable, Iterator

_SIOCGIFFLAGS = 0x8913
_IFREQ = struct.Struct("16sH22x")
_IFF_UP, _IFF_RUNNING = (
    0x1,
    0x40,
)  # netdevice(7); RUNNING is the operational state, which carrier is a part of
_RTMGRP_LINK = 0x1


class Carrier:
    """Asks the kernel of the namespace in which it was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def of(self, interface: str) -> bool:
        """Whether the link is there, up and running."""
        request = _IFREQ.pack(interface.encode(), 0)
        try:
            _, flags = _IFREQ.unpack(fcntl.ioctl(self._socket, _SIOCGIFFLAGS, request))
        except OSError:  # ENODEV
            return False
        return bool(flags & _IFF_UP and flags & _IFF_RUNNING)


@contextlib.contextmanager
def link_events(ring: Callable[[], None]) -> Iterator[None]:
    """Call `ring` in the running event loop at once when a link changes. Raises OSError when it can not listen."""
    loop = asyncio.get_running_loop()
    listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)

    def drain() -> None:
        while True:
            try:
                listener.recv(65536)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: one more reason to look
                continue
        ring()

    try:
        listener.bind((0, _RTMGRP_LINK))
        loop.add_reader(listener, drain)
        yield
    finally:
        loop.remove_reader(listener)
        listener.close()
