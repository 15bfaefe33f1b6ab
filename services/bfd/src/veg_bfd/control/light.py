"""The light socket `<run-dir>/bfd-control.sock`: one JSON object in, one out, so that `bfdd-control` starts quickly."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

from veg_bfd.control.mirror import describe
from veg_bfd.control.sessions import Sessions
from veg_bfd.core.model import canonical
from veg_bfd.errors import BfdError, ConfigError, OwnerError

_TIMEOUT = 15.0
_LIMIT = 1 << 16


class Light:
    """Serves the socket. An answer is `{"error": …}` (with `"bad_input": true` for the caller's fault) or a result."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._server: asyncio.Server | None = None

    async def start(self, path: Path) -> None:
        """Listen. Raises OSError."""
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, path, limit=_LIMIT)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_TIMEOUT):
                answer = await self._answer(await _read(reader))
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def _answer(self, request: Any) -> dict[str, Any]:
        try:
            return await self._do(request)
        except (ConfigError, OwnerError) as error:
            return {"error": str(error), "bad_input": True}
        except BfdError as error:
            return {"error": str(error)}
        except (KeyError, TypeError, ValueError) as error:
            return {"error": f"bad request: {error!r}", "bad_input": True}

    async def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        sessions = self._sessions
        match request["command"]:
            case "status":
                mirror = sessions.mirror
                views = await sessions.fresh()
                return {
                    "sessions": [describe(view, mirror.since(view.id)) for view in views],
                    "scheduling": {"policy": mirror.policy, "problem": mirror.problem},
                    "rx_unknown": mirror.stats.unknown,
                    "discards": mirror.stats.discards,
                }
            case "allow":
                await sessions.allow([canonical(peer, "peer") for peer in request["peers"]])
            case "block":
                await sessions.block([canonical(peer, "peer") for peer in request["peers"]])
            case "admin":
                peers = [str(peer) for peer in request["peers"]]
                await sessions.admin(peers, down=bool(request["down"]), reason=str(request["reason"]))
            case "session-admin":
                await sessions.admin_one(int(request["id"]), down=bool(request["down"]))
            case "session-kill":
                await sessions.kill(int(request["id"]))
            case "session-set":
                number = request["id"]
                timers = {str(key): int(value) for key, value in request["timers"].items()}
                await sessions.retune(None if number is None else int(number), **timers)
            case other:
                raise ConfigError(f"unknown command {other!r}")
        return {}


async def _read(reader: asyncio.StreamReader) -> Any:
    try:
        return json.loads(await reader.readline())
    except (ValueError, RecursionError):
        return {"command": "nonsense"}
