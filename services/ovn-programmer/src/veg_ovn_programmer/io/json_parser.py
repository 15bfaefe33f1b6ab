"""A JSON parser for the ovs library at the speed of C, where its own compiled one is missing.

The `ovs` wheel falls back to a parser that looks at every character in Python; reading a large database with it takes so
long that the server may take us for dead. This one only finds where a message ends and leaves the rest to `json`.
"""

from __future__ import annotations

import json
import re
from typing import Any

import ovs.json

# A whole string, or the rest of the text from a quote on whose string goes on behind it. Possessive: it must not look for
# another way to match, for a string may be as long as a schema.
_STRINGS = re.compile(r'"(?:[^"\\]++|\\.)*+"|(")(?:[^"\\]++|\\.)*+\\?\Z', re.DOTALL)
# Inside one JSON value an object never follows another one without a comma.
_NEXT_MESSAGE = re.compile(r"\}\s*\{")
_DECODER = json.JSONDecoder()


class MessageParser:
    """Takes text in pieces until one object is complete: the interface of ovs.json.Parser, without its trailer check."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._open = ""
        """What the text so far leaves open: nothing, a string, or a string that ends in half an escape."""
        self._depth = 0
        self._value: Any = None
        self._done = False

    def feed(self, text: str) -> int:
        """Take a piece; returns how many of its characters belong to this message."""
        self._parts.append(text)
        scanned = self._open + text
        bare = _STRINGS.sub(r"\1", scanned)
        self._open = ""
        if bare.endswith('"'):
            backslashes = len(scanned) - len(scanned.rstrip("\\"))
            self._open = '"\\' if backslashes % 2 else '"'
        self._depth += bare.count("{") + bare.count("[") - bare.count("}") - bare.count("]")
        if self._depth > 0 and not _NEXT_MESSAGE.search(bare):
            return len(text)
        return self._decode(text)

    def is_done(self) -> bool:
        """Whether the message is complete, or can not become one."""
        return self._done

    def finish(self) -> Any:
        """The message, or a string that tells what is wrong with it."""
        return self._value if self._done else "unexpected end of input"

    def _decode(self, text: str) -> int:
        whole = "".join(self._parts)
        start = len(whole) - len(whole.lstrip())
        if start == len(whole):
            return len(text)
        self._done = True
        try:
            self._value, end = _DECODER.raw_decode(whole, start)
        except json.JSONDecodeError as error:
            self._value = f"line {error.lineno}, column {error.colno}: {error.msg}"
            return len(text)
        return end - (len(whole) - len(text))


def install() -> str:
    """Make ovs use the fastest parser that there is; returns its name for the log."""
    if ovs.json.PARSER == ovs.json.PARSER_C:
        return "ovs C extension"
    ovs.json.Parser = MessageParser
    return "stdlib json"
