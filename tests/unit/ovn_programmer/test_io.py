"""The parts of io that need no database: the JSON parser and the index."""

from __future__ import annotations

import json
import time
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from veg_ovn_programmer.io.index import HashIndex
from veg_ovn_programmer.io.json_parser import MessageParser

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='{}[]",\\ aé\n', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('{"\\', max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
MESSAGES = st.dictionaries(st.text('ab"{', max_size=3), VALUES, max_size=3)


@given(
    st.lists(MESSAGES, max_size=4),
    st.lists(st.integers(1, 9), min_size=1),
    st.booleans(),
    st.sampled_from(["", "\n"]),
)
def test_messages_in_pieces(messages: list[Any], sizes: list[int], ascii_only: bool, between: str) -> None:
    """However the stream is cut, the same messages come out, each ending where it ends."""
    text = between.join(json.dumps(message, ensure_ascii=ascii_only) for message in messages)
    got = []
    parser = MessageParser()
    place = turn = 0
    while place < len(text):
        piece = text[place : place + sizes[turn % len(sizes)]]
        turn += 1
        place += parser.feed(piece)
        if parser.is_done():
            got.append(parser.finish())
            parser = MessageParser()
    assert got == messages


def test_long_strings_take_linear_time() -> None:
    """A schema comes as one string full of escaped quotes, in many pieces."""
    message = {"schema": json.dumps({f"column{n}": {"type": "string"} for n in range(20_000)})}
    text = json.dumps(message)
    parser = MessageParser()
    started = time.process_time()
    for place in range(0, len(text), 4096):
        parser.feed(text[place : place + 4096])
    assert time.process_time() - started < 1
    assert parser.finish() == message


@pytest.mark.parametrize("text", ["}", '{"a":]}', "[}", "{]"])
def test_nonsense_is_reported(text: str) -> None:
    """A broken stream ends in a string, which ovs takes for an error."""
    parser = MessageParser()
    parser.feed(text)
    assert parser.is_done()
    assert isinstance(parser.finish(), str)


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "remove"]), st.integers(0, 3), st.sampled_from(["", "a", "b"]))
    )
)
def test_index_follows_the_rows(steps: list[tuple[str, int, str]]) -> None:
    """It finds exactly the rows whose last added value has the key, also when a value changed without a remove."""
    index = HashIndex("name", lambda row: row.name or None)
    rows = [SimpleNamespace(uuid=uuid.UUID(int=number), name="") for number in range(4)]
    model: dict[int, str] = {}
    for step, number, name in steps:
        rows[number].name = name
        if step == "add":
            index.add(rows[number])
            model[number] = name
        else:
            index.remove(rows[number])
            model.pop(number, None)
    for name in ("a", "b"):
        assert {row.uuid.int for row in index.find(name)} == {
            n for n, value in model.items() if value == name
        }
    assert {key for key, _ in index.items()} == {value for value in model.values() if value}
    index.clear()
    assert index.find("a") == []
