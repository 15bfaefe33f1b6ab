"""Building a whole lab, as much at the same time as its order allows."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from veg_sandbox.net import fabric, teardown
from veg_sandbox.net.errors import LabError, LabExistsError
from veg_sandbox.net.model import LabSpec, Layout, Node
from veg_sandbox.net.shell import complete, netns_enter, run
from veg_sandbox.ovn.daemons import Daemons
from veg_sandbox.ovn.root import OvnRoot, Progress
from veg_sandbox.proc import ProcessTable

CHASSIS_SECONDS = 30

_TOOLS = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
    "ethtool": "ethtool",
    "iptables": "iptables",
}


def bring_up(layout: Layout, spec: LabSpec, ovn: OvnRoot, progress: Progress) -> None:
    """Build the lab; on any failure take down what was built. Raises LabExistsError, LabError."""
    missing = sorted({package for tool, package in _TOOLS.items() if shutil.which(tool) is None})
    if missing:
        raise LabError(f"missing: install the Debian packages {' '.join(missing)}")
    layout.directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        layout.directory.mkdir()
    except FileExistsError:
        raise LabExistsError(f"{layout.directory} is there already: take it down first") from None
    started = time.monotonic()
    try:
        # Namespaces of a lab whose directory was removed by hand.
        teardown.sweep(layout)
        _build(layout, spec, ovn)
    except BaseException:
        teardown.down(layout)
        raise
    nodes = ", ".join(node.name for node in layout.nodes(spec))
    progress(f"OVN {ovn.version} on {nodes} ({time.monotonic() - started:.1f} s)")


def _build(layout: Layout, spec: LabSpec, ovn: OvnRoot) -> None:
    for folder in (layout.processes, layout.logs, layout.pods):
        folder.mkdir()
    daemons = Daemons(layout, spec, ovn, ProcessTable(layout.processes))
    nodes = layout.nodes(spec)
    with ThreadPoolExecutor(max_workers=len(nodes) + 2) as pool:
        central = pool.submit(_central, daemons)
        fabric.build(layout, spec)
        tasks: list[Future[Any]] = [central]
        tasks += [pool.submit(daemons.start, "echo"), pool.submit(_pod_bin, layout)]
        tasks += [pool.submit(_node, daemons, node) for node in nodes]
        for task in tasks:
            task.result()
    _wait_chassis(layout, ovn, nodes)
    state = {"spec": asdict(spec), "ovn": ovn.version}
    new = layout.state_file.with_suffix(".new")
    new.write_text(json.dumps(state, indent=1) + "\n")
    new.replace(layout.state_file)


def _central(daemons: Daemons) -> None:
    daemons.create_central()
    for database, tool, socket in (
        ("ovsdb-nb", "ovn-nbctl", daemons.layout.nb_socket),
        ("ovsdb-sb", "ovn-sbctl", daemons.layout.sb_socket),
    ):
        daemons.start(database)
        run([*daemons.ovn.command(tool), f"--db=unix:{socket}", "--timeout=20", "init"])
    daemons.start("ovn-northd")


def _node(daemons: Daemons, node: Node) -> None:
    daemons.create_node(node)
    server, switch, controller = daemons.node_names(node)
    daemons.start(server)
    daemons.configure_node(node)
    daemons.start(switch)
    daemons.start(controller)


def _wait_chassis(layout: Layout, ovn: OvnRoot, nodes: list[Node]) -> None:
    argv = [*ovn.command("ovn-sbctl"), f"--db=unix:{layout.sb_socket}", f"--timeout={CHASSIS_SECONDS}"]
    for node in nodes:
        argv += ["--", "wait-until", "Chassis", node.name, f"name={node.name}"]
    run(argv, timeout=CHASSIS_SECONDS + 5)


def _pod_bin(layout: Layout) -> None:
    """A PATH folder for pods in which `iptables` is the variant that programs the legacy tables.

    python-iptables writes those, and `iptables -t nat -S` must show what it wrote. A kernel without them
    leaves the folder empty: the machine's own choice holds.
    """
    layout.bin.mkdir()
    legacy = shutil.which("iptables-legacy")
    probe = netns_enter(layout.netns("outside"), ["iptables-legacy", "-t", "nat", "-S"])
    if legacy is None or complete(probe).returncode:
        return
    program = Path(legacy).resolve()  # one program that looks at the name it is called by
    for family in ("iptables", "ip6tables"):
        for name in (family, f"{family}-save", f"{family}-restore"):
            (layout.bin / name).symlink_to(program)
