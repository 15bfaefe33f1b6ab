"""Log lines are JSON with the service, the component and the values given."""

import json

import pytest
from veg_common import logs


def test_lines_are_json_that_names_service_and_component(capsys: pytest.CaptureFixture[str]) -> None:
    """A line holds service, component, level, time and what the caller adds; lower levels are left out."""
    logs.configure("veg-test", "info", "json")
    log = logs.get("part", gateway="a/b")
    log.debug("unseen")
    log.warning("seen", reason="why")
    (line,) = capsys.readouterr().err.splitlines()
    fields = json.loads(line)
    assert fields.pop("timestamp")
    assert fields == {
        "service": "veg-test",
        "component": "part",
        "level": "warning",
        "event": "seen",
        "gateway": "a/b",
        "reason": "why",
    }
