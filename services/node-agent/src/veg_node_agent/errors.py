"""What can go wrong, split into what waiting or another try may cure and what only another input cures."""

from __future__ import annotations


class AgentError(Exception):
    """Base of every error that the agent raises on purpose; its text is one line for people."""


class ConfigError(AgentError):
    """The configuration can not be used as it is (permanent): the last good one stays in force."""


class KernelError(AgentError):
    """The kernel refused to be read or changed (retryable): the state stays dirty and is tried again."""
