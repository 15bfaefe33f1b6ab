"""How the kernel treats the packet loop: scheduling policy and number of descriptors.

Under normal scheduling a busy machine makes the loop late by whole detection times; under SCHED_FIFO it does not.
"""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import dataclass


@dataclass(frozen=True)
class Scheduling:
    """The policy in force, and why it is not SCHED_FIFO ("" when it is, or when nobody asked)."""

    policy: str
    problem: str = ""


def schedule(priority: int) -> Scheduling:
    """Ask for SCHED_FIFO with this priority (1..99; 0: do not ask). Children get normal scheduling."""
    if priority == 0:
        return Scheduling("SCHED_OTHER")
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except OSError as error:
        return Scheduling("SCHED_OTHER", f"{error.strerror} (SCHED_FIFO needs CAP_SYS_NICE)")
    return Scheduling("SCHED_FIFO")


def raise_descriptor_limit() -> None:
    """Every session has a socket of its own: take as many descriptors as may be had without asking."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
