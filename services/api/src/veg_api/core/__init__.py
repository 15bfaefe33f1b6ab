"""The pure part of api: a snapshot of resources in, plans (values) out. No I/O, no clock, no randomness."""
