"""`sessions.json` in the run folder: what a restarted speaker goes on with before anyone tells it anything.

Written by the control process, read once by the packet loop before it starts. The local discriminators come back with
the sessions: a peer that still names the old ones is heard at once (OVN may never let go of them), and learns by the
first answer that this side has started anew.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veg_bfd import wire
from veg_bfd.core.engine import Engine
from veg_bfd.core.model import SessionConfig, checked
from veg_bfd.errors import BfdError

_NAME = "sessions.json"
Hold = tuple[int, str]


@dataclass(frozen=True)
class Remembered:
    """One session: `hold` is (diagnostic, reason) while it is administratively down."""

    owner: str
    config: SessionConfig
    discriminator: int
    hold: Hold | None


@dataclass(frozen=True)
class Memory:
    """All sessions; `hold` is for those to come too."""

    sessions: tuple[Remembered, ...] = ()
    hold: Hold | None = None


def write(run_dir: Path, memory: Memory) -> None:
    """Replace the file. Raises OSError."""
    text = json.dumps(
        {
            "netns": _netns(),
            "hold": memory.hold,
            "sessions": [
                [entry.owner, wire.pack_config(entry.config), entry.discriminator, entry.hold]
                for entry in memory.sessions
            ],
        }
    )
    temporary = run_dir / f".{_NAME}.tmp"
    temporary.write_text(text + "\n")
    temporary.replace(run_dir / _NAME)


def read(run_dir: Path) -> Memory:
    """The file's content; nothing when there is none, it makes no sense, or is of another network namespace."""
    try:
        fields = json.loads((run_dir / _NAME).read_text())
        if fields["netns"] != _netns():
            return Memory()
        return Memory(
            tuple(
                Remembered(str(owner), checked(wire.unpack_config(config)), int(discriminator), _hold(hold))
                for owner, config, discriminator, hold in fields["sessions"]
            ),
            _hold(fields["hold"]),
        )
    except (OSError, ValueError, KeyError, TypeError, BfdError, RecursionError):
        return Memory()


def restore(engine: Engine, memory: Memory, now: int) -> None:
    """Make the sessions again."""
    if memory.hold is not None:
        diagnostic, reason = memory.hold
        engine.set_admin_down(now, (), down=True, reason=reason, diagnostic=diagnostic)
    for entry in memory.sessions:
        session = engine.put(now, entry.owner, entry.config, entry.discriminator)
        if entry.hold is not None:
            diagnostic, reason = entry.hold
            engine.set_session_admin(now, session, down=True, reason=reason, diagnostic=diagnostic)


def _hold(fields: Any) -> Hold | None:
    if fields is None:
        return None
    diagnostic, reason = fields
    return int(diagnostic) & 0x1F, str(reason)


def _netns() -> int:
    return Path("/proc/self/ns/net").stat().st_ino
