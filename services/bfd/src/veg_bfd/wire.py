"""What packet loop and control process say to each other: one JSON array a line, its first element names it.

From the loop:
- `hello scheduling_policy scheduling_problem restored`: the first line. `restored`: this control process succeeds
  another one, the sessions live on.
- `session view previous late_us`: a session was made (`previous` null) or changed its state.
- `view view`: how a session is now; no change of state.
- `ended id`
- `stats {name: number}`: counters that belong to no session, `discards` by reason among them.
- `synced`: everything that was there at the start has been told.
- `refreshed`: the answer to `refresh` is complete.
- `done number error kind`: the commands before `done number` have been carried out; `error` is "" or the first
  problem, `kind` the name of its class in veg_bfd.errors.
- `beat`: the answer to `beat`, which the control process sends every second: either end shows that it lives.
- `stopping`: what changes from now on is the end of the process.
- `log level text {fields}`

From the control process: `put owner config discriminator`, `keep owner [[local, peer], …]`, `end id`,
`admin [peer, …] down reason diagnostic`, `session id down reason diagnostic`, `allow peer owner config`,
`block peer`, `beat`, `refresh`, `done number`, `drained`.

Neither waits for the other: a line is sent when the socket takes it.
"""

from __future__ import annotations

import json
from typing import Any

from veg_bfd.core.model import Role, SessionConfig, Timers

Line = list[Any]
_encoder = json.JSONEncoder(separators=(",", ":"))
_decoder = json.JSONDecoder()
# A control process that does not read for so many lines is replaced by a new one.
BACKLOG = 100_000


def pack(*fields: Any) -> bytes:
    """One line."""
    return _encoder.encode(fields).encode() + b"\n"


def unpack(line: bytes | bytearray) -> Line:
    """Its fields. Raises ValueError."""
    fields: Line = _decoder.decode(line.decode())
    return fields


def pack_config(config: SessionConfig) -> list[Any]:
    """A configuration as JSON values."""
    timers = config.timers
    return [
        config.local,
        config.peer,
        timers.min_rx_us,
        timers.min_tx_us,
        timers.multiplier,
        config.interface,
        config.min_ttl,
        config.role.value,
    ]


def unpack_config(fields: list[Any]) -> SessionConfig:
    """The opposite of `pack_config`."""
    local, peer, min_rx, min_tx, multiplier, interface, min_ttl, role = fields
    return SessionConfig(local, peer, Timers(min_rx, min_tx, multiplier), interface, min_ttl, Role(role))
