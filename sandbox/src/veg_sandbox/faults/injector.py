"""Does faults to a sandbox and heals them. Blocking; every call is bounded and can be repeated."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from veg_sandbox.cli import services
from veg_sandbox.cli.context import Paths
from veg_sandbox.cli.errors import CliError
from veg_sandbox.faults.book import Book
from veg_sandbox.faults.kinds import Fault, Kind, pod_service
from veg_sandbox.net.lab import Lab, LabError
from veg_sandbox.net.model import Node
from veg_sandbox.net.outage import CARRIER, PATH, freeze, is_stopped, thaw
from veg_sandbox.ovn.daemons import Daemons
from veg_sandbox.proc import Record

# As `status` and `restart` name them, in the order of starting.
OVN_CENTRAL = ("ovsdb-nb", "ovsdb-sb", "ovn-northd")
_INTERFACES = {Kind.CUT_UPLINK: ("net1", PATH), Kind.CUT_INTERNAL: ("eth0", CARRIER)}


class Injector:
    """Faults of one sandbox. Pods are given with their uid; `stop-pod` is not its business, being a deletion."""

    def __init__(self, lab: Lab, where: Paths) -> None:
        self._lab = lab
        self._where = where
        self._book = Book(lab.directory)

    def active(self) -> list[Fault]:
        """What is broken now; what somebody mended otherwise, or went with its pod, is forgotten."""
        found = self._book.all()
        over = [fault for fault in found if self._is_over(fault)]
        for fault in over:
            self._book.remove(fault)
        return [fault for fault in found if fault not in over]

    def inject(self, fault: Fault) -> None:
        """Do it. Raises CliError for a target that is not there, LabError, ProcessError."""
        self._check(fault)
        fault = Fault(**{**fault.__dict__, "since": time.time()})
        if self._lasts(fault):
            self._book.add(fault)
        try:
            self._does[fault.kind](fault)
        except (CliError, LabError):
            # What could not be done, or only by half, is not to be healed later.
            self._book.remove(fault)
            raise

    def heal(self, fault: Fault) -> None:
        """Undo it; nothing happens to what is whole. Raises CliError, LabError, ProcessError."""
        self._check(fault)
        self._heals[fault.kind](fault)
        self._book.remove(fault)

    # ---- what they do

    @property
    def _does(self) -> dict[Kind, Callable[[Fault], None]]:
        return {
            Kind.KILL_POD: lambda f: self._lab.outage.crash_pod(f.uid),
            Kind.CUT_UPLINK: self._cut,
            Kind.CUT_INTERNAL: self._cut,
            Kind.KILL_CHASSIS: self._power_off,
            Kind.KILL_SERVICE: self._kill,
            Kind.PAUSE_SERVICE: lambda f: freeze(self._pid(f)),
            Kind.RESTART_OVN: self._restart_ovn,
        }

    @property
    def _heals(self) -> dict[Kind, Callable[[Fault], None]]:
        return {
            Kind.KILL_POD: lambda f: self._lab.outage.release_pod(f.uid),
            Kind.CUT_UPLINK: self._mend,
            Kind.CUT_INTERNAL: self._mend,
            Kind.KILL_CHASSIS: self._power_on,
            Kind.KILL_SERVICE: self._start,
            Kind.PAUSE_SERVICE: self._thaw,
            Kind.RESTART_OVN: lambda _f: self._start_ovn(),
        }

    def _cut(self, fault: Fault) -> None:
        ifname, usual = _INTERFACES[fault.kind]
        self._lab.outage.cut(fault.uid, ifname, fault.detail or usual)

    def _mend(self, fault: Fault) -> None:
        self._lab.outage.mend(fault.uid, _INTERFACES[fault.kind][0])

    def _power_off(self, fault: Fault) -> None:
        node = self._lab.node(fault.target)
        self._lab.outage.power_off(node, self._daemons_of(node))

    def _power_on(self, fault: Fault) -> None:
        node = self._lab.node(fault.target)
        self._lab.outage.cables_up(node)
        for daemon in Daemons.node_names(node):
            self._lab.start_daemon(daemon)
        self._lab.outage.power_on(node)

    def _kill(self, fault: Fault) -> None:
        name = self._process(fault)
        in_pod = pod_service(fault.target) is not None
        self._lab.processes.kill(name, signal.SIGKILL, forget=not in_pod)

    def _start(self, fault: Fault) -> None:
        """A pod's container is the runtime's business."""
        listed = services.services(self._lab, self._where)
        if fault.target in listed:
            services.start(self._lab, listed[fault.target])
            services.until_healthy(self._lab, self._where, listed[fault.target])
        elif fault.target in self._lab.daemons():
            self._lab.start_daemon(fault.target)

    def _thaw(self, fault: Fault) -> None:
        pid = self._lab.processes.pid(self._process(fault))
        if pid is not None:
            thaw(pid)

    def _restart_ovn(self, _fault: Fault) -> None:
        for daemon in reversed(OVN_CENTRAL):
            self._lab.kill_daemon(daemon, signal.SIGKILL)
        self._start_ovn()

    def _start_ovn(self) -> None:
        for daemon in OVN_CENTRAL:
            self._lab.start_daemon(daemon)

    # ---- facts

    def _lasts(self, fault: Fault) -> bool:
        if fault.kind is Kind.KILL_SERVICE:
            return pod_service(fault.target) is None
        return fault.kind is not Kind.RESTART_OVN

    def _is_over(self, fault: Fault) -> bool:
        outage = self._lab.outage
        match fault.kind:
            case Kind.KILL_POD:
                return not outage.is_held(fault.uid)
            case Kind.CUT_UPLINK | Kind.CUT_INTERNAL:
                return fault.uid not in self._lab.pod_ids()
            case Kind.KILL_CHASSIS:
                return outage.lost_since(self._lab.node(fault.target)) is None
            case Kind.KILL_SERVICE:
                return self._lab.processes.pid(self._process(fault)) is not None
            case Kind.PAUSE_SERVICE:
                pid = self._lab.processes.pid(self._process(fault))
                return pid is None or not is_stopped(pid)
            case _:
                return True

    def _check(self, fault: Fault) -> None:
        """Raise CliError or LabError for a service or node that this sandbox has not; pods are checked by who acts."""
        if fault.kind is Kind.KILL_CHASSIS:
            self._lab.node(fault.target)
        if fault.kind not in (Kind.KILL_SERVICE, Kind.PAUSE_SERVICE) or pod_service(fault.target):
            return
        known = [*services.services(self._lab, self._where), *self._lab.daemons()]
        if fault.target not in known:
            listed = ", ".join([*known, "node-agent@POD", "bfdd@POD"])
            raise CliError(f'error: no service "{fault.target}"; there are: {listed}')

    def _process(self, fault: Fault) -> str:
        """Its name in the process table."""
        inside = pod_service(fault.target)
        return self._lab.layout.container_name(fault.uid, inside[1]) if inside else fault.target

    def _pid(self, fault: Fault) -> int:
        pid = self._lab.processes.pid(self._process(fault))
        if pid is None:
            raise CliError(f"error: {fault.target} does not run", 1)
        return pid

    def _daemons_of(self, node: Node) -> list[Record]:
        names = Daemons.node_names(node)
        return [record for name in names if (record := self._lab.processes.record(name)) is not None]
