"""Whether a link has carrier.

The flags are read without the kernel's big lock (SIOCGIFFLAGS), so that asking ten times a second costs nothing and
never waits behind somebody who adds a thousand routes.
"""

from __future__ import annotations

import fcntl
import socket
import struct

_SIOCGIFFLAGS = 0x8913
_IFREQ = struct.Struct("16sH22x")
_IFF_UP, _IFF_RUNNING = (
    0x1,
    0x40,
)  # netdevice(7); RUNNING is the operational state, which carrier is a part of


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
