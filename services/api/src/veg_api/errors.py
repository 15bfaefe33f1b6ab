"""Typed errors of api, split in those that heal by waiting and those that do not."""

from __future__ import annotations


class ApiError(Exception):
    """Any error of this service; the text is one line for people."""


class RetryableError(ApiError):
    """Nothing is wrong with the input: the same call may succeed later (a neighbour is away, an object changed)."""


class PermanentError(ApiError):
    """The input is at fault: the same call fails again until somebody changes it."""


class ProgrammerUnreachableError(RetryableError):
    """ovn-programmer does not answer."""


class InvalidManifestError(PermanentError):
    """A manifest that is no VpcEgressGateway at all."""
