"""Two network namespaces with one link between them, and the ways in which that link fails.

ours: e0 10.9.0.1, fd09::1  ── veth ──  theirs: e0 10.9.0.2, fd09::2
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
DEVICE = "e0"
OURS = {"v4": "10.9.0.1", "v6": "fd09::1"}
THEIRS = {"v4": "10.9.0.2", "v6": "fd09::2"}
PREFIX = {"v4": 16, "v6": 64}
# Packets leave one end well and are lost at the other's door: what is sent into a dead link fails nowhere.
_CUT = (
    "table inet cut { chain in { type filter hook input priority 0; policy accept; udp dport 3784 drop; }; }"
)
_numbers = count()
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Pair:
    """The two namespaces. `close` removes them and all that is in them."""

    def __init__(self) -> None:
        name = f"vbi{os.getpid()}-{next(_numbers)}"
        self.ours, self.theirs = f"{name}a", f"{name}b"
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        for netns in (self.ours, self.theirs):
            _run("ip", "netns", "add", netns)
            # Nobody else is on this link: do not wait for duplicate address detection.
            self.batch(netns, ["link set lo up"])
            self.enter(netns, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        _run(
            "ip", "-n", self.ours, "link", "add", DEVICE, "type", "veth", "peer", DEVICE, "netns", self.theirs
        )
        for netns, addresses in ((self.ours, OURS), (self.theirs, THEIRS)):
            # An IPv6 address must outlive a link that is set down, as an IPv4 address does.
            self.enter(netns, "sysctl", "-qw", f"net.ipv6.conf.{DEVICE}.keep_addr_on_down=1")
            self.addresses(netns, addresses.values())
            self.batch(netns, [f"link set {DEVICE} up"])

    def addresses(self, netns: str, addresses: Iterable[str]) -> None:
        """Add addresses to the link's end in `netns`."""
        add = "addr add {0}/{1} dev {2} {3}"
        self.batch(
            netns,
            [
                add.format(ip, PREFIX["v6"], DEVICE, "nodad")
                if ":" in ip
                else add.format(ip, PREFIX["v4"], DEVICE, "")
                for ip in addresses
            ],
        )

    def batch(self, netns: str, lines: Iterable[str]) -> None:
        """Run `ip` commands in a namespace."""
        _run("ip", "-n", netns, "-batch", "-", text="\n".join(lines) + "\n")

    def enter(self, netns: str, *command: str, text: str = "") -> str:
        """Run a command in a namespace; its output."""
        return _run("ip", "netns", "exec", netns, *command, text=text)

    def mute(self, netns: str) -> None:
        """Nothing that this end says of BFD reaches the other; both links stay up."""
        self.enter(self._other(netns), "nft", "-f", "-", text=_CUT)

    def unmute(self, netns: str) -> None:
        """End `mute`."""
        self.enter(self._other(netns), "nft", "delete", "table", "inet", "cut")

    def _other(self, netns: str) -> str:
        return self.theirs if netns == self.ours else self.ours

    def cut(self) -> None:
        """Silence both ways, without either end's carrier telling so."""
        self.mute(self.ours)
        self.mute(self.theirs)

    def heal(self) -> None:
        """End `cut`."""
        self.unmute(self.ours)
        self.unmute(self.theirs)

    def carrier(self, *, up: bool) -> None:
        """Set our end of the link up or down; the other end loses its carrier with it."""
        self.batch(self.ours, [f"link set {DEVICE} {'up' if up else 'down'}"])

    def close(self) -> None:
        """Remove both namespaces."""
        for netns in (self.ours, self.theirs):
            subprocess.run(["ip", "netns", "del", netns], capture_output=True, timeout=10, check=False)


def until(
    probe: Callable[[], T], holds: Callable[[T], bool], *, within: float = 30, every: float = 0.05
) -> T:
    """Ask `probe` again and again until its answer `holds`; that answer. AssertionError after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        answer = probe()
        if holds(answer):
            return answer
        assert time.monotonic() < deadline, f"not within {within:g} s: {answer}"
        time.sleep(every)


def _run(*command: str, text: str = "") -> str:
    done = subprocess.run(list(command), input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def socket_in(netns: str, family: socket.AddressFamily) -> socket.socket:
    """A UDP socket of a namespace, with a timeout of 10 s."""

    def make() -> socket.socket:
        with Path(f"/run/netns/{netns}").open() as handle:
            assert _libc.setns(handle.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.settimeout(10)
        return made

    # A thread of its own: the namespace is a thread's, and ends with it.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(make).result(timeout=10)
