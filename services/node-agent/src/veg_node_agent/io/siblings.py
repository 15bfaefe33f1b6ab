"""Notes between the replicas of a gateway: UDP 18600 on the internal link.

What does not come from a configured replica on this very link (TTL or hop limit 255: no router forwarded it) is not
even parsed.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Collection, Iterable

from veg_node_agent.core.model import SIBLING_PORT
from veg_node_agent.core.packets import HOPS, Note, decode_note, encode_note
from veg_node_agent.io.udp import bound

_IPV6_HOPLIMIT, _IP_TTL = 52, 2
_MOST_NOTES = 64  # read in one go, before the loop gets its turn


class SiblingSocket:
    """One socket on the internal link. Raises OSError when there is no such link, address or permission."""

    def __init__(self, interface: str, own: str, others: Iterable[str]) -> None:
        self._others: Collection[str] = frozenset(others) - {own}
        self._socket = bound(interface, own, SIBLING_PORT)

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def ask(self, note: Note) -> None:
        """Send a note to every other replica; one that can not be reached is as one that is not there."""
        data = encode_note(note)
        for other in self._others:
            with contextlib.suppress(OSError):
                self._socket.sendto(data, (other, SIBLING_PORT))

    def answer(self, address: str, note: Note) -> None:
        """Send a note to one replica."""
        with contextlib.suppress(OSError):
            self._socket.sendto(encode_note(note), (address, SIBLING_PORT))

    def take(self, hear: Callable[[str, Note], None]) -> None:
        """Hand over what came from other replicas."""
        for _ in range(_MOST_NOTES):
            try:
                data, ancillary, _, address = self._socket.recvmsg(64, 64)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error of an earlier send
                continue
            ttl = [
                struct.unpack("=i", value)[0]
                for _, kind, value in ancillary
                if kind in {_IP_TTL, _IPV6_HOPLIMIT}
            ]
            if ttl == [HOPS] and address[0] in self._others and (note := decode_note(data)) is not None:
                hear(address[0], note)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()
