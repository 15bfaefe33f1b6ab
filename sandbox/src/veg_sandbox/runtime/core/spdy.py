"""SPDY/3.1 framing, as far as `kubectl port-forward` uses it inside a WebSocket. Pure.

Source: the SPDY draft 3.1. Kubernetes' ends neither send nor honour flow control, priorities and SETTINGS, so that
frames of those kinds are passed over.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

_VERSION = 3
_CONTROL = 1 << 15
_FIN = 1
_HEAD = struct.Struct("!IBBH")  # flags and length share a word: 8 and 24 bits
_WORD = struct.Struct("!I")
# Longer frames than this are no port-forward: a peer that claims one is wrong or hostile.
_MAX_FRAME = 1 << 20
_MAX_HEADERS = 64

# The dictionary that both ends' compression begins with (draft 3.1, section 2.6.10.1): words with their lengths, then a
# text.
_WORDS = """options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age
allow authorization cache-control connection content-base content-encoding content-language content-length
content-location content-md5 content-range content-type date etag expect expires from host if-match if-modified-since
if-none-match if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate
proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning
www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin"""
_TEXT = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
_DICTIONARY = (
    b"".join(_WORD.pack(len(word)) + word.replace("_", " ").encode() for word in _WORDS.split())
    + _TEXT.encode()
)


class SpdyError(Exception):
    """What came is no SPDY/3.1."""


class _Type(IntEnum):
    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    PING = 6


@dataclass(frozen=True)
class Opened:
    """The peer opened a stream; header names are in lower case."""

    stream: int
    headers: Mapping[str, str]
    last: bool
    """Whether nothing more will come on it."""


@dataclass(frozen=True)
class Data:
    """Bytes on a stream."""

    stream: int
    data: bytes
    last: bool


@dataclass(frozen=True)
class Reset:
    """The peer gave a stream up."""

    stream: int


@dataclass(frozen=True)
class Ping:
    """To be answered by the same."""

    number: int


Frame = Opened | Data | Reset | Ping


@dataclass
class Session:
    """Both directions of one connection, at the end that streams are opened towards."""

    _buffer: bytearray = field(default_factory=bytearray)
    _inflate: zlib._Decompress = field(default_factory=lambda: zlib.decompressobj(zdict=_DICTIONARY))
    _deflate: zlib._Compress = field(default_factory=lambda: zlib.compressobj(zdict=_DICTIONARY))

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now, those of no interest left out. Raises SpdyError."""
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            first, flags, high, low = _HEAD.unpack_from(self._buffer)
            length = high << 16 | low
            if length > _MAX_FRAME:
                raise SpdyError(f"a frame of {length} bytes")
            if len(self._buffer) < _HEAD.size + length:
                return
            payload = bytes(self._buffer[_HEAD.size : _HEAD.size + length])
            del self._buffer[: _HEAD.size + length]
            frame = self._frame(first, flags, payload)
            if frame is not None:
                yield frame

    def accept(self, stream: int) -> bytes:
        """The answer to an opened stream, without headers."""
        block = self._deflate.compress(_WORD.pack(0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return _control(_Type.SYN_REPLY, _WORD.pack(stream) + block)

    def _frame(self, first: int, flags: int, payload: bytes) -> Frame | None:
        last = bool(flags & _FIN)
        if not first >> 16 & _CONTROL:
            return Data(first, payload, last)
        if first >> 16 != _CONTROL | _VERSION:
            raise SpdyError(f"version {first >> 16 & ~_CONTROL}")
        try:
            match first & 0xFFFF:
                case _Type.SYN_STREAM:
                    (stream,) = _WORD.unpack_from(payload)
                    return Opened(stream, self._headers(payload[10:]), last)
                case _Type.RST_STREAM:
                    return Reset(_WORD.unpack_from(payload)[0])
                case _Type.PING:
                    return Ping(_WORD.unpack_from(payload)[0])
        except (struct.error, zlib.error, UnicodeDecodeError) as error:
            raise SpdyError(str(error)) from error
        return None

    def _headers(self, block: bytes) -> dict[str, str]:
        plain = self._inflate.decompress(block, _MAX_FRAME)
        texts, place = list[str](), _WORD.size
        (count,) = _WORD.unpack_from(plain)
        if count > _MAX_HEADERS:
            raise SpdyError(f"{count} headers")
        for _ in range(2 * count):
            (length,) = _WORD.unpack_from(plain, place)
            place += _WORD.size
            texts.append(plain[place : place + length].decode())
            place += length
        return dict(zip(texts[::2], texts[1::2], strict=True))


def data(stream: int, content: bytes, *, last: bool = False) -> bytes:
    """Bytes for a stream, and whether they are its end."""
    return _HEAD.pack(stream, _FIN * last, len(content) >> 16, len(content) & 0xFFFF) + content


def pong(ping: Ping) -> bytes:
    """The answer to a ping."""
    return _control(_Type.PING, _WORD.pack(ping.number))


def _control(kind: _Type, payload: bytes) -> bytes:
    first = (_CONTROL | _VERSION) << 16 | kind
    return _HEAD.pack(first, 0, len(payload) >> 16, len(payload) & 0xFFFF) + payload
