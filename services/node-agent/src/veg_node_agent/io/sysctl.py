"""Kernel parameters of this network namespace, through /proc/sys."""

from __future__ import annotations

from pathlib import Path

from veg_node_agent.core.operations import SysctlOp
from veg_node_agent.errors import KernelError

_ROOT = Path("/proc/sys")


def read(path: str) -> str | None:
    """The value of a parameter ("net/ipv4/ip_forward"); None when it does not exist or can not be read."""
    try:
        return (_ROOT / path).read_text().strip()
    except OSError:
        return None


def write(op: SysctlOp) -> None:
    """Set a parameter. Raises KernelError that tells the value it has and the one it should have."""
    try:
        (_ROOT / op.path).write_text(op.value)
    except FileNotFoundError:
        raise KernelError(f"sysctl {op.path} should be {op.value}, but does not exist") from None
    except OSError as error:
        raise KernelError(
            f"sysctl {op.path} is {op.was}, should be {op.value} and can not be written: {error.strerror}"
        ) from error
