"""The control protocol of OVS and OVN daemons, JSON-RPC over a unix socket: ovs-appctl(8) without a fork."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from veg_sandbox.net.errors import LabError


def answers(path: Path) -> bool:
    """Whether something listens on the socket (a file left by a killed daemon refuses)."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2)
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


def call(path: Path, method: str, *params: str, timeout: float = 10) -> str:
    """Call a control command and return what it prints. Raises LabError, with the daemon's own words."""
    request = json.dumps({"id": 0, "method": method, "params": list(params)}).encode()
    decoder = json.JSONDecoder()
    received = ""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout)
        try:
            client.connect(str(path))
            client.sendall(request)
            while True:
                data = client.recv(65536)
                received += data.decode(errors="replace")
                try:
                    reply, _ = decoder.raw_decode(received)
                    break
                except ValueError:
                    if not data:
                        raise LabError(f"{path.name}: no answer to {method}") from None
        except OSError as error:
            raise LabError(f"{path.name}: {method}: {error}") from error
    if reply.get("error") is not None:
        raise LabError(f"{path.name}: {method}: {str(reply['error']).strip()}")
    return str(reply.get("result") or "")
