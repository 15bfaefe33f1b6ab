"""Names and paths of a lab; return routes as values."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from veg_sandbox.net import outside
from veg_sandbox.net.errors import LabError
from veg_sandbox.net.model import LabSpec, Layout, lab_dir, port_name


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
