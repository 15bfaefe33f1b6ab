"""What can go wrong in the lab. Each message is one line for a user."""

from __future__ import annotations


class LabError(RuntimeError):
    """A step of the lab failed."""


class LabExistsError(LabError):
    """There is something in the lab's directory already, whole or half-made: take it down first."""


class LabNotFoundError(LabError):
    """No whole lab lives in the directory."""


class UnknownPodError(LabError):
    """The pod has no network namespace in this lab."""
