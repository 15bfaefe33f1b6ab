"""Log lines are JSON with the service, the component and the values given."""

import json
import subprocess
import sys

# In a process of its own: logging is configured once in a process's life.
PROGRAM = """
from veg_common import logs
logs.configure("veg-test", "info", "json")
log = logs.get("part", gateway="a/b")
log.debug("unseen")
log.warning("seen", reason="why")
"""


def test_lines_are_json_that_names_service_and_component() -> None:
    """A line holds service, component, level, time and what the caller adds; lower levels are left out."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=20, check=True
    )
    (line,) = done.stderr.splitlines()
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
