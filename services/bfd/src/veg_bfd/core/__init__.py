"""Pure: codec, state machine, table of sessions. Bytes and time come in as arguments, bytes and events go out."""
