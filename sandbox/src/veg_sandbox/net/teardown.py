"""Taking a lab down, whatever is left of it: derives all names from the directory and needs no record."""

from __future__ import annotations

import contextlib
import shutil
import signal

from veg_sandbox.net.model import Layout
from veg_sandbox.net.shell import NETNS_DIR, ip, netns_names
from veg_sandbox.proc import ProcessTable, end, pids_in_netns

_ROUNDS = 5


def down(layout: Layout) -> None:
    """Remove processes, namespaces (with the links in them) and files of the lab. Idempotent.

    Raises ProcessError when a process cannot be ended, OSError when files cannot be removed.
    """
    sweep(layout)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(layout.directory)
    with contextlib.suppress(OSError):
        layout.directory.parent.rmdir()  # only when no other lab is left


def sweep(layout: Layout) -> None:
    """End all processes of the lab and remove its namespaces; leaves the files."""
    table = ProcessTable(layout.processes)
    for _ in range(_ROUNDS):  # again while something that is being ended starts something new
        ended = table.kill_all(signal.SIGKILL)
        ended += remove_netns(netns_names(layout.netns_prefix))
        if not ended:
            return


def remove_netns(names: list[str]) -> int:
    """End what runs in the namespaces and delete them. Returns how many processes ended."""
    records = pids_in_netns([NETNS_DIR / name for name in names])
    ended = end(records, signal.SIGKILL, wait=5)
    ip(None, [f"netns del {name}" for name in names], force=True)
    return ended
