"""SPDY frames: whole, in pieces, and those that make no sense. That kubectl understands them is tests/kube's to see."""

import struct
import zlib

import pytest
from veg_sandbox.runtime.core import spdy


def control(kind: int, payload: bytes, *, version: int = 3, flags: int = 0) -> bytes:
    """A control frame as a client sends it."""
    return struct.pack("!HHI", 0x8000 | version, kind, flags << 24 | len(payload)) + payload


def opening(stream: int, **headers: str) -> bytes:
    """SYN_STREAM."""
    block = struct.pack("!I", len(headers))
    for text in (text for pair in headers.items() for text in pair):
        block += struct.pack("!I", len(text)) + text.encode()
    compressor = zlib.compressobj(zdict=spdy._DICTIONARY)
    packed = compressor.compress(block) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return control(1, struct.pack("!IIH", stream, 0, 0) + packed)


def test_the_dictionary_is_that_of_the_draft() -> None:
    """Its length, and what its Adler-32 is in every client's first compressed block (RFC 1950, DICTID)."""
    assert len(spdy._DICTIONARY) == 1423
    assert zlib.adler32(spdy._DICTIONARY) == 0xE3C6A7C2


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_frames_in_pieces(piece: int) -> None:
    """However the bytes come, the frames are the same."""
    sent = opening(3, streamtype="data", port="50053", requestid="0")
    sent += spdy.data(3, b"hello") + spdy.data(3, b"", last=True)
    sent += control(6, struct.pack("!I", 9)) + control(9, bytes(8)) + control(3, struct.pack("!II", 3, 5))
    session = spdy.Session()
    found = [
        frame for start in range(0, len(sent), piece) for frame in session.feed(sent[start : start + piece])
    ]
    assert found == [
        spdy.Opened(3, {"streamtype": "data", "port": "50053", "requestid": "0"}, last=False),
        spdy.Data(3, b"hello", last=False),
        spdy.Data(3, b"", last=True),
        spdy.Ping(9),
        spdy.Reset(3),
    ]


@pytest.mark.parametrize(
    "sent",
    [
        control(1, b"\0" * 4),
        control(1, b"\0" * 10 + b"not deflated"),
        control(6, b"", version=2),
        control(6, b""),
        struct.pack("!II", 1, (1 << 24) - 1),
    ],
)
def test_what_is_no_spdy(sent: bytes) -> None:
    """One error, whatever it was."""
    with pytest.raises(spdy.SpdyError):
        list(spdy.Session().feed(sent))


def test_answers() -> None:
    """A reply has no headers, a ping comes back as it was."""
    reply = spdy.Session().accept(5)
    assert reply[:4] == b"\x80\x03\x00\x02"
    plain = zlib.decompressobj(zdict=spdy._DICTIONARY).decompress(reply[12:])
    assert plain == bytes(4)
    assert spdy.pong(spdy.Ping(7)) == control(6, struct.pack("!I", 7))
