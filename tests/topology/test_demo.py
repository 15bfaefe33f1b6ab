"""The demo, as a newcomer runs it."""

import os
import re
import subprocess

from veg_sandbox.harness import CLI


def test_every_step_of_the_demo_holds() -> None:
    """The demo exits 0, proves every step, and leaves no namespace of its own behind."""
    name = f"demo{os.getpid()}"
    done = subprocess.run(
        [CLI, "demo", "--name", name], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert (held := re.search(r"^(\d+) of (\d+) steps held$", done.stdout, re.MULTILINE))
    assert held[1] == held[2]
    status = subprocess.run(
        [CLI, "status"],
        env={**os.environ, "VEG_SANDBOX": name},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert status.returncode == 2
    assert "not up" in status.stderr
