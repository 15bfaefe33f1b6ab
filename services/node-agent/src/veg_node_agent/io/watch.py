"""The mounted configuration file: its content, and a ring when it may have changed.

Kubernetes replaces a mounted ConfigMap by swapping the symbolic link `..data` in the mount folder; people and tests
rename or rewrite the file. So the folder is watched, and every event means no more than "read again".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from asyncinotify import Inotify, Mask
from veg_common import logs

from veg_node_agent.errors import ConfigError

_EVENTS = Mask.MOVED_TO | Mask.MOVED_FROM | Mask.CLOSE_WRITE | Mask.CREATE | Mask.DELETE | Mask.DELETE_SELF
_SETTLE = 0.02  # s of quiet that end a burst of events
_RETRY = 1.0  # s until a folder that is not there is looked for again
MAX_BYTES = 1 << 20  # a ConfigMap can not be larger (Kubernetes' limit)


def read_config(path: Path) -> str:
    """The file's text. Raises ConfigError when it can not be read or is larger than a ConfigMap can be."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None


async def watch_config(path: Path, ring: Callable[[], None]) -> None:
    """Call `ring` after every burst of changes in the file's folder, until cancelled."""
    log = logs.get("watch")
    while True:
        try:
            with Inotify() as inotify:
                inotify.add_watch(path.parent, _EVENTS)
                # What changed before the watch stood.
                ring()
                await _bursts(inotify, ring)
        except OSError as error:
            log.debug("folder can not be watched", folder=str(path.parent), error=str(error))
        await asyncio.sleep(_RETRY)


async def _bursts(inotify: Inotify, ring: Callable[[], None]) -> None:
    """Ring for each burst; return when the folder itself is gone."""
    while True:
        event = await inotify.get()
        gone = bool(event.mask & (Mask.DELETE_SELF | Mask.IGNORED))
        while not gone:
            # Not wait_for: before Python 3.12 it swallows a cancellation that comes together with the event.
            try:
                async with asyncio.timeout(_SETTLE):
                    event = await inotify.get()
            except TimeoutError:
                break
            gone = bool(event.mask & (Mask.DELETE_SELF | Mask.IGNORED))
        ring()
        if gone:
            return
