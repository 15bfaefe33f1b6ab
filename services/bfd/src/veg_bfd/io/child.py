"""The control process as the packet loop sees it: a process that is there, and a socket that never blocks.

It is started again when it ends, and replaced when it does not read. It ends by itself when the socket closes, so it
can not outlive the loop.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections import deque
from dataclasses import asdict

from veg_bfd.config import Settings

_CHUNK = 65536
_RESTART_US = 500_000
_SHORT_LIFE_US = 10_000_000
_MAX_PAUSE_US = 8_000_000
_SILENCE_US = 60_000_000  # it says something every second, once it has started


class Child:
    """Starts the control process and carries lines. `lines` holds what it sent; `replaced` counts restarts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._partial = b""
        self._out = bytearray()
        self._start_at = self._started_at = 0
        self._pause_us = _RESTART_US
        self._silent_since = 0
        self.socket: socket.socket | None = None
        self.lines: deque[bytes] = deque()
        self.starts = 0

    def start(self, now: int) -> bool:
        """Start it when it is not there and it is time to. True when a new one has been started."""
        if self.socket is not None or self._process is not None or now < self._start_at:
            return False
        # One that ends again and again must not eat a processor.
        quick = self.starts > 1 and now - self._started_at < _SHORT_LIFE_US
        self._pause_us = min(2 * self._pause_us, _MAX_PAUSE_US) if quick else _RESTART_US
        self._started_at, self._start_at = now, now + self._pause_us
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        settings = {
            key: str(value) if key == "run_dir" else value for key, value in asdict(self._settings).items()
        }
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "veg_bfd.control", str(theirs.fileno()), json.dumps(settings)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            ours.close()
            sys.stderr.write(f"veg-bfd: no control process: {error.strerror}\n")
            return False
        finally:
            theirs.close()
        self.socket = ours
        self._silent_since = now
        self.starts += 1
        return True

    @property
    def writable(self) -> bool:
        """Whether more lines should be given: a socket is there and little waits for it."""
        return self.socket is not None and len(self._out) < _CHUNK

    @property
    def waiting(self) -> bool:
        """Whether bytes wait for the socket to take them."""
        return bool(self._out)

    def send(self, line: bytes) -> None:
        """Queue a line."""
        self._out += line

    def flush(self) -> None:
        """Write as much as the socket takes."""
        if self.socket is None or not self._out:
            return
        try:
            sent = self.socket.send(self._out)
        except BlockingIOError:
            return
        except OSError:
            self.drop()
            return
        del self._out[:sent]

    def read(self) -> None:
        """Read what is there into `lines`."""
        if self.socket is None:
            return
        try:
            data = self.socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.drop()
            return
        *complete, self._partial = (self._partial + data).split(b"\n")
        self.lines.extend(complete)
        self._silent_since = 0

    def drop(self) -> None:
        """Part with this control process; `start` makes another."""
        if self.socket is not None:
            self.socket.close()
        self.socket = None
        self._partial = b""
        self._out.clear()
        self.lines.clear()

    def reap(self, now: int) -> None:
        """Collect a process that has ended, and end one that was parted with and stays, or hangs."""
        self._silent_since = self._silent_since or now
        if now - self._silent_since > _SILENCE_US:
            self.drop()
        if self._process is None:
            return
        if self._process.poll() is not None:
            self._process = None
            self.drop()
        elif self.socket is None:
            self._process.kill()

    def close(self, timeout: float = 2.0) -> None:
        """Let it end and wait for that."""
        with contextlib.suppress(OSError):
            if self.socket is not None:
                self.socket.setblocking(True)
                self.socket.settimeout(timeout)
                self.socket.sendall(self._out)
        self.drop()
        if self._process is not None:
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
