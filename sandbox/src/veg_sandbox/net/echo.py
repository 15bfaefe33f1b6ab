"""The echo server of the outside host: it tells each client the source address that it sees.

TCP: the line `ADDRESS PORT` at once, then every byte back until the client closes. UDP: one datagram of
that line followed by the datagram received. IPv4 and IPv6, on all of the host's addresses; a UDP answer
leaves from the address that was asked. Runs as `python -m veg_sandbox.net.echo` in the outside namespace.
"""

from __future__ import annotations

import argparse
import contextlib
import selectors
import socket
from pathlib import Path

ECHO_PORT = 7
_DATAGRAM = 65536
# Not in Python 3.11's socket module: ip(7), linux/in.h.
_IP_PKTINFO = 8


class _Conn:
    """One TCP client: what is still to be sent to it."""

    def __init__(self, sock: socket.socket, greeting: bytes) -> None:
        self.sock = sock
        self.pending = bytearray(greeting)
        self.finished = False

    def read(self) -> bool:
        """Take what came; False when the connection is to be closed."""
        data = self.sock.recv(_DATAGRAM)
        self.pending += data
        self.finished = not data
        return True

    def write(self) -> bool:
        """Send what can be sent; False when all is sent and the client has closed."""
        if self.pending:
            del self.pending[: self.sock.send(self.pending)]
        return not (self.finished and not self.pending)

    @property
    def events(self) -> int:
        """What to wait for: a client that does not read its echoes is not read from either."""
        if self.pending:
            return selectors.EVENT_WRITE
        return selectors.EVENT_READ


class Server:
    """The listening sockets and their clients, served by one thread."""

    def __init__(self, port: int) -> None:
        self._selector = selectors.DefaultSelector()
        for family, any_address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            self._listen_tcp(family, any_address, port)
            self._listen_udp(family, any_address, port)

    def serve_forever(self) -> None:
        """Serve until the process is ended."""
        while True:
            for key, _ in self._selector.select():
                if isinstance(key.data, _Conn):
                    self._serve(key.data)
                else:
                    with contextlib.suppress(OSError):  # a client that is gone is no fault of the server
                        key.data(key.fileobj)

    def _listen_tcp(self, family: int, address: str, port: int) -> None:
        sock = _socket(family, socket.SOCK_STREAM)
        sock.bind((address, port))
        sock.listen(1024)
        self._selector.register(sock, selectors.EVENT_READ, self._accept)

    def _listen_udp(self, family: int, address: str, port: int) -> None:
        sock = _socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.bind((address, port))
        self._selector.register(sock, selectors.EVENT_READ, _answer_datagram)

    def _accept(self, listener: socket.socket) -> None:
        sock, peer = listener.accept()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Clients whose path is gone for good end after some minutes.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        conn = _Conn(sock, line(peer))
        self._selector.register(sock, conn.events, conn)

    def _serve(self, conn: _Conn) -> None:
        try:
            going_on = conn.write() if conn.pending else conn.read() and conn.write()
        except BlockingIOError:
            going_on = True
        except OSError:
            going_on = False
        if going_on:
            self._selector.modify(conn.sock, conn.events, conn)
        else:
            self._selector.unregister(conn.sock)
            conn.sock.close()


def line(peer: tuple[str | int, ...]) -> bytes:
    r"""`ADDRESS PORT\\n` of a socket address, without an IPv6 scope."""
    return f"{str(peer[0]).partition('%')[0]} {peer[1]}\n".encode()


def _socket(family: int, kind: int) -> socket.socket:
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _answer_datagram(sock: socket.socket) -> None:
    data, ancillary, _, peer = sock.recvmsg(_DATAGRAM, 1024)
    # Sent back as it came: in_pktinfo's interface index, then the address to answer from. For IPv4 the
    # received ipi_spec_dst is the local address of the packet, which is what sendmsg takes as the source.
    sock.sendmsg([line(peer), data], ancillary, 0, peer)


def main() -> None:
    """Run the server; `--ready-file` is made when it listens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=ECHO_PORT)
    parser.add_argument("--ready-file", type=Path)
    options = parser.parse_args()
    server = Server(options.port)
    if options.ready_file:
        options.ready_file.touch()
    server.serve_forever()


if __name__ == "__main__":
    main()
