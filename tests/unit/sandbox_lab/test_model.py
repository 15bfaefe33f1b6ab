"""Names and paths of a lab; return routes as values; the root's choice of OVN."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from veg_sandbox.net import outside
from veg_sandbox.net.errors import LabError
from veg_sandbox.net.model import LabSpec, Layout, lab_dir, port_name
from veg_sandbox.ovn import root


@given(st.text(max_size=80))
def test_pod_names_fit_the_kernel(pod_id: str) -> None:
    """Any text is a pod id: the interface name fits IFNAMSIZ, the namespace name is a plain file name."""
    layout = Layout(Path("/run/veg-sandbox/default"))
    assert len(port_name(pod_id)) <= 15
    assert layout.pod_netns(pod_id).replace("-", "").isalnum()


def test_labs_have_names_of_their_own() -> None:
    """Different names or places give different namespaces; the same gives the same."""
    layouts = [Layout(Path(path)) for path in ("/run/a/x", "/run/a/y", "/run/b/x")]
    assert len({layout.netns("outside") for layout in layouts}) == 3
    assert Layout(Path("/run/a/x")).netns("outside") == layouts[0].netns("outside")


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "-x", "x" * 41])
def test_bad_lab_names(name: str) -> None:
    """A name that is no plain file name is refused."""
    with pytest.raises(LabError, match="bad lab name"):
        lab_dir(name)


def test_a_path_too_long_for_sockets_is_refused() -> None:
    """Better one clear line than daemons that cannot listen."""
    with pytest.raises(LabError, match="too long"):
        Layout(Path("/run") / ("x" * 80))


@pytest.mark.parametrize("nodes", [0, 17])
def test_bad_node_counts(nodes: int) -> None:
    """One to sixteen nodes."""
    with pytest.raises(LabError, match="nodes"):
        LabSpec(nodes=nodes)


def test_nodes_are_named_as_in_the_specification() -> None:
    """kube-ovn-worker, kube-ovn-worker2, … on 172.18.0.2, .3, …"""
    nodes = Layout(Path("/run/x")).nodes(LabSpec(nodes=3))
    assert [node.name for node in nodes] == ["kube-ovn-worker", "kube-ovn-worker2", "kube-ovn-worker3"]
    assert [node.underlay_ip for node in nodes] == ["172.18.0.2", "172.18.0.3", "172.18.0.4"]


def test_return_routes_are_canonical() -> None:
    """Text forms and order do not matter; a network without nexthops is no route."""
    assert outside.parse(
        {"fd00:0:0::/64": ["fd17::B", "fd17::2", "fd17::b"], "10.0.0.0/8": ["172.17.0.11"], "10.1.0.0/16": []}
    ) == {"fd00::/64": ("fd17::2", "fd17::b"), "10.0.0.0/8": ("172.17.0.11",)}


@pytest.mark.parametrize(
    "routes", [{"10.0.0.1/8": ["172.17.0.1"]}, {"10.0.0.0/8": ["fd17::1"]}, {"10.0.0.0/8": ["x"]}]
)
def test_bad_return_routes(routes: dict[str, list[str]]) -> None:
    """Host bits, the other family and nonsense are refused before anything is changed."""
    with pytest.raises(LabError, match="return route 10"):
        outside.parse(routes)


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
