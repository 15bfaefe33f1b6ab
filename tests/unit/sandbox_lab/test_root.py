"""Where OVN comes from: the system when it is new enough, else a private root that is built once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from veg_sandbox.ovn import root


def fake_ovn(folder: Path, version: str) -> None:
    """Programs and schemas of an OVN that says it is `version`."""
    (folder / "usr/bin").mkdir(parents=True)
    for name in root._NEEDED:
        program = folder / "usr/bin" / name
        program.write_text(f"#!/bin/sh\necho {name} {version}\n")
        program.chmod(0o755)
    for file in root._SCHEMAS.values():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("{}")


@pytest.mark.parametrize(
    ("version", "taken"), [("25.03.0", True), ("26.03.1", True), ("24.09.2", False), ("23.03.1", False)]
)
def test_the_systems_own_ovn_is_taken_when_new_enough(tmp_path: Path, version: str, taken: bool) -> None:
    """25.03 and later; its programs are called as they are."""
    fake_ovn(tmp_path, version)
    found = root.system_root(tmp_path)
    assert (found is not None) == taken
    if found:
        assert found.version == version
        assert found.command("ovn-nbctl") == [str(tmp_path / "usr/bin/ovn-nbctl")]


def test_an_incomplete_system_ovn_is_not_taken(tmp_path: Path) -> None:
    """Only the client tools are installed, or a schema is missing."""
    fake_ovn(tmp_path, "25.03.0")
    (tmp_path / "usr/share/openvswitch/vswitch.ovsschema").unlink()
    assert root.system_root(tmp_path) is None
    (tmp_path / "usr/bin/ovn-northd").unlink()
    assert root.system_root(tmp_path) is None


def test_a_missing_mmdebstrap_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which package to install, and leaves no half-built root."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(root, "system_root", lambda: None)
    with pytest.raises(root.OvnRootError, match="mmdebstrap"):
        root.ovn_root(lambda _: None)
    left = [path.name for path in (tmp_path / "vpc-egress-gateway").iterdir() if path.suffix != ".lock"]
    assert left == []


# Stands for mmdebstrap: unpacks an OVN of scripts, slowly, and notes that it was called.
FAKE_MMDEBSTRAP = """#!/bin/sh
echo called >> "$CALLS"
echo "I: extracting archives..." >&2
for word; do case $word in *.build-*/root) target=$word;; esac; done
[ -z "$FAIL" ] || { echo "E: $FAIL" >&2; exit 1; }
sleep 0.3
mkdir -p "$target/usr/lib64" "$target/usr/lib/x86_64-linux-gnu"
cp -a "$FAKE_OVN/usr" "$target/"
printf '#!/bin/sh\\nshift 2\\nexec "$@"\\n' > "$target/usr/lib64/ld-linux-x86-64.so.2"
chmod +x "$target/usr/lib64/ld-linux-x86-64.so.2"
"""

SCRIPT = """
import sys
from veg_sandbox.ovn import apt, root
root.system_root = lambda: None
apt.debian_mirror = lambda: "http://mirror.example/debian"
try:
    found = root.ovn_root()
except root.OvnRootError as error:
    sys.exit(str(error))
print(found.version, *found.command("ovn-nbctl"))
"""


class Machine:
    """A cache folder and a PATH with the fake mmdebstrap."""

    def __init__(self, folder: Path) -> None:
        self.calls = folder / "calls"
        self.cache = folder / "cache" / "vpc-egress-gateway"
        fake_ovn(folder / "ovn", "25.03.0")
        bin_dir = folder / "bin"
        bin_dir.mkdir()
        (bin_dir / "mmdebstrap").write_text(FAKE_MMDEBSTRAP)
        (bin_dir / "mmdebstrap").chmod(0o755)
        self.env = {
            **os.environ,
            "PATH": f"{bin_dir}:{os.environ['PATH']}",
            "CALLS": str(self.calls),
            "FAKE_OVN": str(folder / "ovn"),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def start(self, **env: str) -> subprocess.Popen[str]:
        """A process that asks for the root."""
        pipe = subprocess.PIPE
        argv = [sys.executable, "-c", SCRIPT]
        return subprocess.Popen(argv, env={**self.env, **env}, stdout=pipe, stderr=pipe, text=True)


def test_two_processes_build_once(tmp_path: Path) -> None:
    """Both get the same root, progress is told, only the root and its lock are left in the cache."""
    machine = Machine(tmp_path)
    results = []
    with machine.start() as one, machine.start() as two:
        results = [process.communicate(timeout=30) for process in (one, two)]
    assert results[0][0] == results[1][0]
    assert results[0][0].startswith("25.03.0 "), results
    assert "ovn-nbctl" in results[0][0]
    assert machine.calls.read_text() == "called\n"
    assert any("fetching OVN" in errors for _, errors in results)
    assert any("waiting for another process" in errors for _, errors in results)
    assert len(list(machine.cache.iterdir())) == 2


def test_a_killed_build_is_done_again(tmp_path: Path) -> None:
    """What a killed build left is neither used nor kept."""
    machine = Machine(tmp_path)
    left = machine.cache / f".ovn-trixie-{os.uname().machine}.build-1"
    (left / "root").mkdir(parents=True)
    (machine.cache / f"ovn-trixie-{os.uname().machine}" / "root").mkdir(parents=True)
    with machine.start() as process:
        output, errors = process.communicate(timeout=30)
    assert output.startswith("25.03.0 "), errors
    assert not left.exists()


def test_a_failing_build_says_why(tmp_path: Path) -> None:
    """One line with mmdebstrap's own reason; nothing but the lock is left; a later call tries again."""
    machine = Machine(tmp_path)
    with machine.start(FAIL="no such suite") as process:
        _, errors = process.communicate(timeout=30)
    assert errors.splitlines()[-1] == "mmdebstrap could not fetch OVN: E: no such suite"
    assert [path.suffix for path in machine.cache.iterdir()] == [".lock"]
    with machine.start() as process:
        output, errors = process.communicate(timeout=30)
    assert output.startswith("25.03.0 "), errors
