"""Ages and tables as kubectl prints them."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from veg_sandbox.cli.table import age, crd_cell, human_duration, render

NOW = dt.datetime(2026, 3, 1, 12, 0, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (13, "13s"),
        (64, "64s"),
        (82, "82s"),
        (119, "119s"),
        (120, "2m"),
        (138, "2m18s"),
        (280, "4m40s"),
        (599, "9m59s"),
        (600, "10m"),
        (39 * 60 + 59, "39m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (7 * 3600 + 59 * 60, "7h59m"),
        (8 * 3600 + 59 * 60, "8h"),
        (48 * 3600 - 1, "47h"),
        (2 * 86400, "2d"),
        (2 * 86400 + 3600, "2d1h"),
        (8 * 86400 + 3600, "8d"),
        (729 * 86400, "729d"),
        (731 * 86400, "2y1d"),
        (3000 * 86400, "8y"),
        (-1, "0s"),
        (-5, "<invalid>"),
    ],
)
def test_durations(seconds: int, text: str) -> None:
    """Ages are those of Kubernetes' HumanDuration, the specification's among them."""
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    ("since", "text"),
    [
        ("2026-03-01T11:59:47Z", "13s"),
        ("2026-03-01T11:59:47.25Z", "12s"),
        ("2026-03-01T13:59:47+02:00", "13s"),
        ("2026-03-01T11:59:47", "13s"),
        (None, "<unknown>"),
        ("", "<unknown>"),
        ("yesterday", "<invalid>"),
    ],
)
def test_age(since: str | None, text: str) -> None:
    """An age is the time since an RFC 3339 stamp, whatever its zone, and says so when it is none."""
    assert age(since, NOW) == text


def test_columns_are_three_blanks_apart_and_at_least_six_wide() -> None:
    """kubectl's tabwriter pads all but the last column to the widest cell and three blanks."""
    assert render(["A", "NAME", "AGE"], [["x", "longest-name", "1s"], ["y", "b", "2s"]]) == (
        "A     NAME           AGE\nx     longest-name   1s\ny     b              2s\n"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (False, "false"),
        (3, "3"),
        ("x", "x"),
        (["10.16.0.12", "10.16.0.13"], '["10.16.0.12","10.16.0.13"]'),
        ([], "[]"),
        ({"a": 1}, '{"a":1}'),
    ],
)
def test_cells_of_custom_resources(value: object, text: str) -> None:
    """Lists appear as JSON without blanks, booleans in lower case, absent values as nothing."""
    assert crd_cell(value) == text


@given(st.integers(min_value=0, max_value=10**10))
def test_durations_have_at_most_two_units(seconds: int) -> None:
    """Whatever the age, the cell stays short."""
    assert len(human_duration(seconds)) <= 7
