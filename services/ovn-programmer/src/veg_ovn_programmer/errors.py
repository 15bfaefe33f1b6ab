"""Why an intent is not in the database: permanent (refused) or retryable (waiting), and database trouble."""

from __future__ import annotations


class IntentError(Exception):
    """An intent can not be committed now. `reason` is CamelCase for machines, `message` is for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class RefusedError(IntentError):
    """It can not be done as it is; only another intent helps."""


class WaitingError(IntentError):
    """Something that it stands on is missing; it is tried again when that appears.

    `until` is the (table, name) of the router or switch whose coming or going may help; None when only another intent
    or time can.
    """

    def __init__(self, reason: str, message: str, until: tuple[str, str] | None = None) -> None:
        super().__init__(reason, message)
        self.until = until


class NorthboundError(Exception):
    """The Northbound database did not take a transaction; nothing of it was written."""


class NorthboundUnavailableError(NorthboundError):
    """The Northbound database is not connected, or did not answer in time."""
