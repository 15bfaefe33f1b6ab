"""A Northbound database of three servers, as on a cluster: real ovsdb-servers that vote for their leader (RAFT)."""

from __future__ import annotations

import re
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from veg_sandbox.ovn.root import OvnRoot

from tests.functional.ovn_programmer.certificates import Files
from tests.functional.ovn_programmer.conftest import Ovsdb, until

DATABASE = "OVN_Northbound"
# ms; the shortest that the server takes is 100, which a busy machine does not keep.
ELECTION_MS = 1000


@dataclass
class Member(Ovsdb):
    """One server of the cluster; its remote for clients is that of `listen`."""

    listen: str = "unix"
    port: int = 0
    files: Files | None = None

    @property
    def remote(self) -> str:
        return f"unix:{self.socket}" if self.listen == "unix" else f"{self.listen}:127.0.0.1:{self.port}"

    @property
    def raft(self) -> str:
        return f"unix:{self.folder}/{self.name}.raft"

    def create(self, first: Member | None = None) -> None:
        """Make the database: of a new cluster, or one that joins."""
        if first is None:
            schema = str(self.root.schema("ovn-nb"))
            timer = f"--election-timer={ELECTION_MS}"
            self.tool("ovsdb-tool", timer, "create-cluster", str(self.file), schema, self.raft)
        else:
            self.tool("ovsdb-tool", "join-cluster", str(self.file), DATABASE, self.raft, first.raft)

    def start(self) -> None:
        flags = [f"--remote=punix:{self.socket}"]
        if self.listen != "unix":
            self.port = self.port or _free_port()
            flags.append(f"--remote=p{self.listen}:{self.port}:127.0.0.1")
        if self.files is not None:
            flags += [
                f"--private-key={self.files.key}",
                f"--certificate={self.files.certificate}",
                f"--ca-cert={self.files.authority}",
            ]
        self.process = subprocess.Popen(
            [
                *self.root.command("ovsdb-server"),
                *flags,
                f"--unixctl={self.folder / self.name}.ctl",
                "--no-chdir",
                str(self.file),
            ],
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self._answers)

    def nbctl(self, *args: str) -> str:
        return self.tool("ovn-nbctl", f"--db=unix:{self.socket}", *args)

    def control(self, *words: str) -> str:
        return self.tool("ovs-appctl", "--timeout=10", "-t", f"{self.folder / self.name}.ctl", *words)

    def role(self) -> str:
        """leader, follower or candidate; "" while it is not a member."""
        if self.process is None:
            return ""
        found = re.search(r"^Role: (\w+)$", self.control("cluster/status", DATABASE), re.MULTILINE)
        return found[1] if found else ""


@dataclass
class Cluster:
    """Looks like one Ovsdb to a programmer and to assertions: what is read comes from the leader."""

    root: OvnRoot
    folder: Path
    listen: str = "unix"
    files: Files | None = None
    members: list[Member] = field(default_factory=list)

    @property
    def process(self) -> object:
        return self.members[0]

    @property
    def remote(self) -> str:
        return ",".join(member.remote for member in self.members)

    def start(self) -> None:
        """A cluster of three with a leader, and OVN's global row."""
        for number in (1, 2, 3):
            member = Member(self.root, self.folder, f"nb{number}", None, self.listen, 0, self.files)
            member.create(self.members[0] if self.members else None)
            self.members.append(member)
            member.start()
        until(lambda: sorted(m.role() for m in self.members) == ["follower", "follower", "leader"], 60)
        self.leader().nbctl("init")

    def leader(self, seconds: float = 60) -> Member:
        """Who leads, once somebody does."""
        found: list[Member] = []

        def leading() -> bool:
            found[:] = self._leaders()
            return bool(found)

        until(leading, seconds)
        return found[0]

    def followers(self) -> list[Member]:
        return [member for member in self.members if member.process and member.role() == "follower"]

    def routes(self, router: str) -> list[str]:
        return self.leader().routes(router)

    def nbctl(self, *args: str) -> str:
        return self.leader().nbctl(*args)

    def stop(self) -> None:
        for member in self.members:
            member.kill()

    def _leaders(self) -> list[Member]:
        return [member for member in self.members if member.role() == "leader"]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
