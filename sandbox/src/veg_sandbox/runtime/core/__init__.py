"""Decisions of the runtime as pure functions of plain objects: no I/O, no clock, no randomness of their own."""
