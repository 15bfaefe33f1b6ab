"""What can go wrong, split into what waiting or another try may cure and what only another input cures."""

from __future__ import annotations


class BfdError(Exception):
    """Base of every error that the speaker raises on purpose; its text is one line for people."""


class ConfigError(BfdError):
    """A session or setting that makes no sense (permanent)."""


class OwnerError(BfdError):
    """A session belongs to another owner (permanent until that owner gives it up)."""


class UnavailableError(BfdError):
    """The other process does not answer (retryable)."""
