"""Configurations from outside, lines between the processes, the file that outlives a restart, words of the command."""

from __future__ import annotations

import json
import random
import socket
import struct
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from veg_bfd import cli, wire
from veg_bfd.config import checked_address
from veg_bfd.control.mirror import Mirror
from veg_bfd.core.engine import Engine
from veg_bfd.core.model import Role, SessionConfig, State, Timers, checked
from veg_bfd.errors import ConfigError
from veg_bfd.io import memory, udp


def engine() -> Engine:
    return Engine(random.Random(1))  # noqa: S311 (jitter)


CONFIG = SessionConfig("10.0.0.1", "10.0.0.2", Timers(1000, 2000, 3), "eth0", 253, Role.PASSIVE)


def test_addresses_become_canonical() -> None:
    """Two ways to write an address name one session."""
    assert checked(SessionConfig("FD00:0:0::1", "fd00::0002")).key == ("fd00::1", "fd00::2")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SessionConfig("", "10.0.0.1"), "local '' is no IP address"),
        (SessionConfig("10.0.0.1", "fd00::1"), "different families"),
        (SessionConfig("10.0.0.1", "10.0.0.1"), "both 10.0.0.1"),
        (SessionConfig("10.0.0.1", "255.255.255.255"), "no unicast"),
        (SessionConfig("10.0.0.1", "239.0.0.1"), "no unicast"),
        (SessionConfig("::", "fd00::1"), "no unicast"),
        (SessionConfig("fe80::1%eth0", "fe80::2", interface="eth0"), "without a zone"),
        (SessionConfig("::ffff:10.0.0.1", "fd00::1"), "without a zone or mapping"),
        (SessionConfig("fe80::1", "fe80::2"), "needs an interface"),
        (SessionConfig("10.0.0.1", "10.0.0.2", interface="a b"), "no interface name"),
        (SessionConfig("10.0.0.1", "10.0.0.2", interface="a/b"), "no interface name"),
        (SessionConfig("10.0.0.1", "10.0.0.2", interface="0123456789abcdef"), "no interface name"),
        (SessionConfig("10.0.0.1", "10.0.0.2", Timers(0, 1000, 3)), "min_rx 0 ms"),
        (SessionConfig("10.0.0.1", "10.0.0.2", Timers(1000, 3_600_001_000, 3)), "min_tx 3600001 ms"),
        (SessionConfig("10.0.0.1", "10.0.0.2", Timers(1000, 1000, 0)), "multiplier 0"),
        (SessionConfig("10.0.0.1", "10.0.0.2", Timers(1000, 1000, 256)), "multiplier 256"),
        (SessionConfig("10.0.0.1", "10.0.0.2", min_ttl=0), "min_ttl 0"),
        (SessionConfig("10.0.0.1", "10.0.0.2", min_ttl=256), "min_ttl 256"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nonsense_is_refused_in_one_line(config: SessionConfig, message: str) -> None:
    """Every value out of its range is named."""
    with pytest.raises(ConfigError, match=message) as refused:
        checked(config)
    assert "\n" not in str(refused.value)


@given(st.text(max_size=60))
def test_any_text_as_address(text: str) -> None:
    """Whatever stands there, it is an address or refused."""
    try:
        good = checked(SessionConfig(text, "10.0.0.1"))
    except ConfigError as error:
        one_line = len(str(error).splitlines()) == 1
        assert one_line, error  # noqa: PT017 (either outcome is right)
    else:
        assert socket.inet_pton(socket.AF_INET, good.local)


def test_lines() -> None:
    """A line is one line, whatever it carries, and returns as it was."""
    line = wire.pack("put", "own\ner", wire.pack_config(CONFIG), 5)
    assert line.count(b"\n") == 1
    name, owner, fields, number = wire.unpack(line)
    assert (name, owner, wire.unpack_config(fields), number) == ("put", "own\ner", CONFIG, 5)


def test_memory_brings_everything_back(tmp_path: Path) -> None:
    """Sessions, discriminators and holds are the same after a restart."""
    held = SessionConfig("10.0.0.1", "10.0.0.3")
    kept = memory.Memory(
        (memory.Remembered("x", CONFIG, 77, None), memory.Remembered("x", held, 78, (5, "uplink"))), None
    )
    memory.write(tmp_path, kept)
    assert memory.read(tmp_path) == kept
    table = engine()
    memory.restore(table, memory.read(tmp_path), 0)
    first, second = table.sessions()
    assert (first.config, first.local_discriminator, first.admin_down) == (CONFIG, 77, False)
    told = second.view()
    assert (told.state, told.diagnostic, told.admin_reason) == (State.ADMIN_DOWN, 5, "uplink")


def test_memory_of_a_hold_of_all(tmp_path: Path) -> None:
    """What is held for sessions to come is held after a restart."""
    memory.write(tmp_path, memory.Memory((), (7, "draining")))
    table = engine()
    memory.restore(table, memory.read(tmp_path), 0)
    assert table.put(1, "x", CONFIG).view().state == State.ADMIN_DOWN


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"netns": 1, "hold": null, "sessions": []}', "\udcff", "[" * 100_000],
    ids=["empty", "broken", "list", "bare", "another namespace", "no text", "deep"],
)
def test_broken_memory_is_no_memory(tmp_path: Path, text: str) -> None:
    """A file that makes no sense, or is of another network namespace, does not keep the speaker from starting."""
    (tmp_path / "sessions.json").write_bytes(text.encode(errors="surrogateescape"))
    assert memory.read(tmp_path) == memory.Memory()


def test_memory_with_a_bad_session(tmp_path: Path) -> None:
    """Values that would be refused from a client are refused here too."""
    memory.write(tmp_path, memory.Memory((memory.Remembered("x", CONFIG, 77, None),)))
    fields = json.loads((tmp_path / "sessions.json").read_text())
    fields["sessions"][0][1][0] = "nonsense"
    (tmp_path / "sessions.json").write_text(json.dumps(fields))
    assert memory.read(tmp_path) == memory.Memory()


def test_mirror_all_up() -> None:
    """All Up: at least one, and every one."""
    mirror = Mirror()
    told = [mirror.all_up]
    view = engine().put(0, "x", CONFIG).view()
    for change in (view, view._replace(state=3), view._replace(id=2, state=0)):
        mirror.change(change)
        told.append(mirror.all_up)
    mirror.end(2)
    assert [*told, mirror.all_up] == [False, False, True, False, True]


def test_mirror_since_does_not_move() -> None:
    """The time of a change is told the same however often it is told."""
    mirror = Mirror()
    view = engine().put(0, "x", CONFIG).view()
    mirror.change(view)
    first = mirror.since(1)
    mirror.show(view._replace(rx_packets=5))
    assert mirror.since(1) == first


def test_mirror_slow_watcher_is_cut_off() -> None:
    """Memory is not filled for a watcher that does not read."""
    mirror = Mirror()
    view = engine().put(0, "x", CONFIG).view()
    with mirror.watching() as (_, queue):
        for _ in range(25_000):
            mirror.change(view)
        assert queue.qsize() == 1


@pytest.mark.parametrize(
    ("words", "timers"),
    [
        (("mintx", "100", "ms"), {"min_tx_us": 100_000}),
        (("minrx", "1s"), {"min_rx_us": 1_000_000}),
        (("mintx", "5000us"), {"min_tx_us": 5000}),
        (("multi", "4"), {"multiplier": 4}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_timer_words(words: tuple[str, ...], timers: dict[str, int]) -> None:
    """OpenBFDD's way to write timers."""
    assert cli._timers(words) == timers


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("mintx",),
        ("mintx", "5"),
        ("mintx", "-5", "ms"),
        ("mintx", "1", "ms", "x"),
        ("multi", "\u0663"),
        ("x", "1"),
    ],
    ids=" ".join,
)
def test_bad_timer_words(words: tuple[str, ...]) -> None:
    """Everything else is refused."""
    with pytest.raises(click.ClickException) as refused:
        cli._timers(words)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("text", ["x", "1:", ":1", "h:0", "h:65536", "h:x", "h:\u0661"])
def test_bad_metrics_address(text: str) -> None:
    """HOST:PORT, and nothing else."""
    with pytest.raises(ConfigError):
        checked_address(text)


def test_arrival_of_ipv4() -> None:
    """Addresses, TTL and interface out of what recvmsg gives; the header's destination, not the routing one."""
    lo = socket.if_nametoindex("lo")
    info = struct.pack("i4s4s", lo, socket.inet_aton("10.0.0.9"), socket.inet_aton("10.0.0.1"))
    found = udp._arrival(
        "10.0.0.2", [(socket.IPPROTO_IP, 2, struct.pack("i", 254)), (socket.IPPROTO_IP, 8, info)]
    )
    assert found == ("10.0.0.2", "10.0.0.1", 254, "lo")


def test_arrival_of_ipv6() -> None:
    """The same for IPv6; an interface that is gone has no name, a missing TTL is too small for everyone."""
    info = socket.inet_pton(socket.AF_INET6, "fd00::1") + struct.pack("i", 1 << 30)
    found = udp._arrival("fd00::2", [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)])
    assert found == ("fd00::2", "fd00::1", 0, "")
