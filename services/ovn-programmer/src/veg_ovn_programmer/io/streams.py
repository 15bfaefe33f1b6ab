"""The byte streams under OVSDB connections: ovs's own, which say why a server can not be reached and bear bad files.

ovs's SSL stream lets an exception out when a certificate file can not be read, and its loop would try again without a
pause; it keeps no word of what a handshake failed for; and it knows no host names without a library of its own. Every
connection reads the certificate files anew, so rotated ones are used from the next connection on.

Streams are classes that ovs finds by the prefix of a remote, so all of this is per process: `install` once.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovs import poller, socket_util, stream


@dataclass(frozen=True)
class Tls:
    """PEM files for `ssl:` remotes."""

    key: Path
    certificate: Path
    authority: Path


# Why each remote could not be used the last time, by remote.
_troubles: dict[str, str] = {}
_files: list[Tls] = []


def install(tls: Tls | None = None) -> None:
    """Have ovs use the streams of this module, `ssl:` ones with these files."""
    for method, kind in (("unix", _Unix), ("tcp", _Tcp), ("ssl", _Ssl)):
        stream.Stream.register_method(method, kind)
    _files[:] = [tls] if tls is not None else []


def client_context(tls: Tls) -> ssl.SSLContext:
    """TLS as OVN's own clients do it: who bears a certificate of the authority is trusted, whatever its name.

    Raises OSError for files that can not be read, that are no PEM, or whose key is not the certificate's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(tls.authority)
    context.load_cert_chain(tls.certificate, tls.key)
    return context


def note(remote: str, trouble: str) -> None:
    """Remember why a remote is of no use now."""
    _troubles[remote] = trouble


def note_first(remote: str, trouble: str) -> None:
    """The same, if nothing is known since it served."""
    _troubles.setdefault(remote, trouble)


def forget(remote: str) -> None:
    """A remote serves."""
    _troubles.pop(remote, None)


def troubles(remotes: list[str]) -> str:
    """Why these remotes can not be used, in one line; "" when nothing is known."""
    return "; ".join(f"{one}: {_troubles[one]}" for one in remotes if one in _troubles)


def pending(connection: Any) -> bool:
    """Whether a JSON-RPC connection has decrypted bytes that no poll on its socket will tell of."""
    inner = getattr(getattr(connection, "stream", None), "socket", None)
    return isinstance(inner, ssl.SSLSocket) and inner.pending() > 0


class _Telling:
    """Mixed into a stream: its failures are remembered."""

    name: str

    def connect(self) -> int:
        error: int = super().connect()  # type: ignore[misc]  # of the stream
        if error not in (0, errno.EAGAIN):
            note(self.name, os.strerror(abs(error)))
        return error


class _Unix(_Telling, stream.UnixStream):  # type: ignore[misc]  # ovs ships no types
    @staticmethod
    def _open(suffix: str, dscp: int) -> tuple[int, Any]:
        return _opened(f"unix:{suffix}", stream.UnixStream._open(suffix, dscp))  # noqa: SLF001


class _Tcp(_Telling, stream.TCPStream):  # type: ignore[misc]  # ovs ships no types
    @staticmethod
    def _open(suffix: str, dscp: int) -> tuple[int, Any]:
        name = f"tcp:{suffix}"
        try:
            address = _resolved(suffix)
        except OSError as error:
            return _failed(name, error)
        return _opened(name, stream.TCPStream._open(address, dscp))  # noqa: SLF001


class _Ssl(stream.SSLStream):  # type: ignore[misc]  # ovs ships no types
    _reading = False
    """The handshake waits for the server."""
    _shaken = False
    """The handshake is done."""

    @staticmethod
    def _open(suffix: str, dscp: int) -> tuple[int, Any]:
        name = f"ssl:{suffix}"
        try:
            # Files may be away, half replaced, or no PEM.
            context = client_context(_tls())
            address = socket_util.inet_parse_active(_resolved(suffix), 0)
        except (OSError, ValueError) as error:
            return _failed(name, error)
        family, plain = socket_util.inet_create_socket_active(socket.SOCK_STREAM, address)
        if plain is None:
            return _opened(name, (family, None))
        wrapped = context.wrap_socket(plain, do_handshake_on_connect=False)
        return _opened(name, (socket_util.inet_connect_active(wrapped, address, family, dscp), wrapped))

    def connect(self) -> int:
        """See ovs; tells certificates that do not verify from a network that does not work."""
        if self._shaken:
            # ovs asks before every read, and a handshake on a connection that was reset hides what is left to read.
            return 0
        self._reading = False
        error: int = stream.Stream.connect(self)
        if not error:
            try:
                self.socket.do_handshake()
            except ssl.SSLWantReadError:
                self._reading = True
                return errno.EAGAIN
            except ssl.SSLWantWriteError:
                return errno.EAGAIN
            except OSError as trouble:
                return _failed(self.name, trouble)[0]
            self._shaken = True
        if error not in (0, errno.EAGAIN):
            note(self.name, os.strerror(abs(error)))
        return error

    def send(self, buf: Any) -> int:
        """See ovs; a server that has hung up may have said why before."""
        sent: int = super().send(buf)
        if sent < 0 and sent != -errno.EAGAIN and self._shaken:
            self.recv(1)
        return sent

    def recv(self, size: int) -> tuple[int, Any]:
        """See ovs; by TLS 1.3 a server that does not accept our certificate says so only now."""
        try:
            return self._recv(size)  # type: ignore[no-any-return]  # of ovs
        except ssl.SSLWantReadError:
            return errno.EAGAIN, ""
        except ssl.SSLZeroReturnError:
            return 0, ""
        except OSError as trouble:
            return _failed(self.name, trouble)[0], ""

    def wait(self, poll: Any, wait: int) -> None:
        """See ovs, which would spin through a handshake whose turn is the server's."""
        if self._reading:
            poll.fd_wait(self.socket, poller.POLLIN)
        else:
            super().wait(poll, wait)


def _tls() -> Tls:
    if not _files:
        raise ValueError("no certificate files are set")
    return _files[0]


def _opened(name: str, result: tuple[int, Any]) -> tuple[int, Any]:
    if result[0]:
        note(name, os.strerror(abs(result[0])))
    return result


def _failed(name: str, error: Exception) -> tuple[int, Any]:
    """The way ovs wants to hear that it did not work; the words are kept."""
    if isinstance(error, ssl.SSLCertVerificationError):
        words = f"certificate not accepted: {error.verify_message}"
    elif isinstance(error, ssl.SSLError):
        words = f"TLS: {getattr(error, 'reason', None) or error}"
    elif isinstance(error, FileNotFoundError):
        words = "TLS: a certificate file is not there"
    else:
        words = getattr(error, "strerror", None) or str(error)
    note(name, words)
    return errno.EPROTO, None


def _resolved(suffix: str) -> str:
    """`host:port` with an address for a name. Raises OSError."""
    host, _, port = suffix.rpartition(":")
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][4][0]
        return f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"
    return suffix
