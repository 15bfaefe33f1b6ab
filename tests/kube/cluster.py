"""A Kubernetes control plane of one's own: etcd, kube-apiserver, kube-controller-manager and kube-scheduler as processes.

    cluster = Cluster.start(directory)       # some seconds; needs the programs that scripts/kube.sh builds
    cluster.kubectl("get", "nodes")
    cluster.kubeconfig                       # of an administrator
    cluster.stop()                           # idempotent; ends what it started, by pid

Real in everything but kubelets: Deployments get pods and pods get nodes as soon as somebody registers Node objects.
etcd lies on tmpfs and never syncs. RBAC is on. Used by tests and benches; nothing here needs pytest.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
ADMIN = "admin"
# Users with a token of their own and no rights but those that a test grants them.
USERS = ("alice", "bob")
_POLL_SECONDS = 0.05
_CONTROLLERS, _SCHEDULER = "system:kube-controller-manager", "system:kube-scheduler"
_ETCD, _APISERVER = "etcd", "kube-apiserver"
_CONTROLLER_MANAGER, _KUBE_SCHEDULER = "kube-controller-manager", "kube-scheduler"
_PREFIX = "veg-kube-"
# Below what the kernel gives to outgoing connections: nobody takes one by accident between choice and use.
_PORTS = range(15_000, 32_000)


class ClusterError(RuntimeError):
    """The control plane did not come up, or a program of it failed; the text tells where to look."""


class KubectlError(RuntimeError):
    """A kubectl, helm or grpcurl command failed."""

    def __init__(self, argv: tuple[str, ...], done: subprocess.CompletedProcess[str]) -> None:
        """Keep the exit code and both outputs."""
        super().__init__(f"{' '.join(argv)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")
        self.code, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr


def programs() -> Path | None:
    """The folder of the control plane's programs, built if need be; None where there is no Go and none is needed.

    Raises ClusterError when the build fails, or when there is no Go and CI=true.
    """
    done = subprocess.run(
        [ROOT / "scripts" / "kube.sh"], stdout=subprocess.PIPE, text=True, check=False, timeout=3600
    )
    if done.returncode:
        raise ClusterError(f"scripts/kube.sh failed with {done.returncode}")
    return Path(done.stdout.strip()) if done.stdout.strip() else None


@dataclass
class Cluster:
    """One control plane. Make it with `start`."""

    directory: Path
    bin: Path
    data: Path
    """etcd's folder, on tmpfs where there is one."""
    ports: dict[str, int]
    tokens: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    # ---- life

    @classmethod
    def start(cls, directory: Path) -> Self:
        """Start a control plane whose files and logs lie in `directory`; returns when it answers and controllers work.

        To be called in a thread that lives as long as the cluster is to: it ends with it, whatever happens. Raises
        ClusterError.
        """
        found = programs()
        if found is None:
            raise ClusterError("there are no programs of a control plane: see scripts/kube.sh")
        directory.mkdir(parents=True, exist_ok=True)
        memory = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())  # noqa: S108
        _sweep(memory)
        cluster = cls(
            directory=directory,
            bin=found,
            data=Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=memory)),
            ports=dict(zip(("etcd", "peer", "api"), _free_ports(3), strict=True)),
            tokens={user: secrets.token_hex(16) for user in (ADMIN, _CONTROLLERS, _SCHEDULER, *USERS)},
        )
        try:
            cluster._bring_up()
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def stop(self) -> None:
        """End every process and remove etcd's data; files and logs in the directory stay. Idempotent."""
        for name in (_KUBE_SCHEDULER, _CONTROLLER_MANAGER, _APISERVER, _ETCD):
            self._end(name, signal.SIGTERM if name == _ETCD else signal.SIGKILL)
        shutil.rmtree(self.data, ignore_errors=True)

    def kill_apiserver(self, sig: int = signal.SIGKILL) -> None:
        """End the API server and leave everything else."""
        self._end(_APISERVER, sig)

    def start_apiserver(self) -> None:
        """Start the API server (again), at the same address. Returns when it is ready. Raises ClusterError."""
        port, certs = self.ports["api"], self.directory / "certs"
        self._spawn(
            _APISERVER,
            f"--etcd-servers={self._etcd}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={certs}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.directory / 'sa.pub'}",
            f"--service-account-signing-key-file={self.directory / 'sa.key'}",
            "--authorization-mode=RBAC",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--endpoint-reconciler-type=none",
            "--allow-privileged=true",
            "--profiling=false",
            # Who plays kubelet says by this address where it answers.
            "--kubelet-preferred-address-types=ExternalIP,InternalIP",
        )
        self.until(lambda: self.answers("/readyz"), what="the API server is ready", watched=_APISERVER)

    def kill_etcd(self) -> None:
        """End etcd with SIGKILL; `start_etcd` starts it again with its data."""
        self._end(_ETCD, signal.SIGKILL)

    def start_etcd(self) -> None:
        """Start etcd (again)."""
        peer = f"http://127.0.0.1:{self.ports['peer']}"
        self._spawn(
            _ETCD,
            f"--data-dir={self.data / 'etcd'}",
            f"--listen-client-urls={self._etcd}",
            f"--advertise-client-urls={self._etcd}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )

    def compact(self) -> None:
        """Have etcd forget all history: a watch that wants to go on from before gets 410 once the server forgot as well."""
        body = {"key": base64.b64encode(b"/").decode()}
        revision = int(self._etcd_call("kv/range", body)["header"]["revision"])
        self._etcd_call("kv/compaction", {"revision": str(revision), "physical": True})

    # ---- use

    @property
    def url(self) -> str:
        """Of the API server."""
        return f"https://127.0.0.1:{self.ports['api']}"

    @property
    def ca(self) -> Path:
        """What the API server's certificate is checked against."""
        return self.directory / "certs" / "apiserver.crt"

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig of an administrator (group system:masters)."""
        return self.directory / f"{ADMIN}.kubeconfig"

    def token_kubeconfig(self, user: str) -> Path:
        """A kubeconfig of one of USERS, or of a service account `system:serviceaccount:NAMESPACE:NAME`."""
        token = self.tokens.get(user)
        if token is None:
            _, _, namespace, name = user.split(":")
            token = self.kubectl("create", "token", name, "-n", namespace, "--duration", "2h").strip()
        return self._write_kubeconfig(user, token)

    def run(
        self,
        program: str,
        *args: str,
        input: str | None = None,  # noqa: A002 - as subprocess calls it
        timeout: float = 60,
        kubeconfig: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the control plane, at most `timeout` s; the caller looks at the exit code."""
        return subprocess.run(
            [self.bin / program, *args],
            env=self.environment(kubeconfig),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def kubectl(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002
        timeout: float = 60,
        kubeconfig: Path | None = None,
    ) -> str:
        """Standard output of kubectl. Raises KubectlError."""
        return self._must("kubectl", *args, input=input, timeout=timeout, kubeconfig=kubeconfig)

    def helm(self, *args: str, timeout: float = 180, kubeconfig: Path | None = None) -> str:
        """Standard output of helm. Raises KubectlError."""
        return self._must("helm", *args, input=None, timeout=timeout, kubeconfig=kubeconfig)

    def apply(self, manifests: str) -> str:
        """`kubectl apply` of YAML."""
        return self.kubectl("apply", "-f", "-", input=manifests)

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """One object. Raises KubectlError when there is none."""
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        return found

    def items(self, kind: str, *args: str) -> list[dict[str, Any]]:
        """All objects of a kind in all namespaces, or as the arguments choose."""
        where = () if "-n" in args else ("-A",)
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, *where, "-o", "json", *args))[
            "items"
        ]
        return found

    def environment(self, kubeconfig: Path | None = None) -> dict[str, str]:
        """The environment of programs that are to use this cluster and nothing of the machine's user."""
        keep = ("PATH", "LANG", "TERM", "CI", "TMPDIR")
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        return {
            **{key: os.environ[key] for key in keep if key in os.environ},
            "HOME": str(home),
            "KUBECONFIG": str(kubeconfig or self.kubeconfig),
        }

    def answers(self, path: str) -> bool:
        """Whether a GET of the path is answered with 200."""
        request = urllib.request.Request(  # noqa: S310 - our own https URL
            self.url + path, headers={"Authorization": f"Bearer {self.tokens[ADMIN]}"}
        )
        with contextlib.suppress(OSError, ValueError):
            context = ssl.create_default_context(cafile=str(self.ca))
            with urllib.request.urlopen(request, timeout=5, context=context) as reply:  # noqa: S310
                return bool(reply.status == 200)
        return False

    def until(
        self, check: Callable[[], T], *, what: str, timeout: float = START_SECONDS, watched: str = ""
    ) -> T:
        """Poll until `check` returns something true. Raises ClusterError when it does not, or `watched` ends."""
        deadline = time.monotonic() + timeout
        last = ""
        while True:
            try:
                if result := check():
                    return result
            except KubectlError as error:
                last = str(error)
            process = self.processes.get(watched)
            ended = process is not None and process.poll() is not None
            if ended or time.monotonic() > deadline:
                why = f"{watched} ended" if ended else f"not within {timeout:g} s"
                raise ClusterError(f"{what}: {why}; {last or self._tail(watched)} (logs: {self.logs})")
            time.sleep(_POLL_SECONDS)

    @property
    def logs(self) -> Path:
        """Folder of the logs."""
        return self.directory / "log"

    # ---- inside

    @property
    def _etcd(self) -> str:
        return f"http://127.0.0.1:{self.ports['etcd']}"

    def _bring_up(self) -> None:
        self.logs.mkdir(exist_ok=True)
        _keys(self.directory)
        masters = {ADMIN: '"system:masters"'}
        lines = [f"{t},{user},{user},{masters.get(user, '')}" for user, t in self.tokens.items()]
        (self.directory / "tokens.csv").write_text("".join(f"{line}\n" for line in lines))
        self.start_etcd()
        self.until(self._etcd_healthy, what="etcd is healthy", watched=_ETCD)
        self.start_apiserver()
        for user, token in self.tokens.items():
            self._write_kubeconfig(user, token)
        self._spawn(
            _CONTROLLER_MANAGER,
            f"--kubeconfig={self._kubeconfig_of(_CONTROLLERS)}",
            f"--service-account-private-key-file={self.directory / 'sa.key'}",
            f"--root-ca-file={self.ca}",
            "--leader-elect=false",
            "--secure-port=0",
            # Each controller with its own rights, as in a real cluster.
            "--use-service-account-credentials=true",
            # Without a kubelet nobody renews a node's lease; who plays kubelet says himself when a node is lost.
            "--node-monitor-grace-period=24h",
            "--node-monitor-period=1s",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        )
        self._spawn(
            _KUBE_SCHEDULER,
            f"--kubeconfig={self._kubeconfig_of(_SCHEDULER)}",
            "--leader-elect=false",
            "--secure-port=0",
        )
        self.until(
            lambda: self.run("kubectl", "get", "sa", "default", "-n", "default").returncode == 0,
            what="controllers work (namespace default has its service account)",
            watched=_CONTROLLER_MANAGER,
        )

    def _spawn(self, name: str, *flags: str) -> None:
        """Start a program of the control plane; it ends with the thread that started it."""
        with (self.logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", str(self.bin / name), *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                start_new_session=True,
            )

    def _end(self, name: str, sig: int) -> None:
        process = self.processes.pop(name, None)
        if process is None or process.poll() is not None:
            return
        process.send_signal(sig)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def _must(self, program: str, *args: str, **how: Any) -> str:
        done = self.run(program, *args, **how)
        if done.returncode:
            raise KubectlError((program, *args), done)
        return done.stdout

    def _etcd_healthy(self) -> bool:
        health = f"{self._etcd}/health"
        with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(health, timeout=2) as reply:  # noqa: S310
            return bool(json.load(reply).get("health") == "true")
        return False

    def _etcd_call(self, what: str, body: Mapping[str, Any]) -> Any:
        request = urllib.request.Request(f"{self._etcd}/v3/{what}", data=json.dumps(body).encode())  # noqa: S310
        with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310
            return json.load(reply)

    def _kubeconfig_of(self, user: str) -> Path:
        return self.directory / f"{user.replace(':', '_')}.kubeconfig"

    def _write_kubeconfig(self, user: str, token: str) -> Path:
        path = self._kubeconfig_of(user)
        authority = base64.b64encode(self.ca.read_bytes()).decode()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "test", "cluster": {"server": self.url, "certificate-authority-data": authority}}
            ],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }
        path.write_text(json.dumps(config, indent=1))
        path.chmod(0o600)
        return path

    def _tail(self, name: str) -> str:
        if not name:
            return "nothing true"
        path = self.logs / f"{name}.log"
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        return " | ".join(lines[-3:])


def _sweep(folder: Path) -> None:
    """Remove the data of control planes whose starters were killed before they could."""
    for left in folder.glob(f"{_PREFIX}*-*"):
        pid = left.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)


def _keys(directory: Path) -> None:
    """The key pair that signs service-account tokens."""
    private, public = directory / "sa.key", directory / "sa.pub"
    for argv in (
        ["openssl", "genrsa", "-out", str(private), "2048"],
        ["openssl", "rsa", "-in", str(private), "-pubout", "-out", str(public)],
    ):
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise ClusterError(f"{' '.join(argv)}: {done.stderr.strip()}")


def _free_ports(count: int) -> Iterator[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    rng = random.SystemRandom()
    found: set[int] = set()
    while len(found) < count:
        port = rng.choice(_PORTS)
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            found.add(port)
    return iter(found)
