"""The object commands say and do what kubectl does, and end every failure in one line and exit code 2."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from veg_sandbox.cli.context import Paths
from veg_sandbox.net.lab import Lab, lab_dir

Run = Callable[..., Result]

GATEWAY = """
apiVersion: kubeovn.io/v1
kind: VpcEgressGateway
metadata: {name: gateway1, namespace: default}
spec: {vpc: ovn-cluster, replicas: 1, externalSubnet: macvlan1, policies: [{snat: true, subnets: [ovn-default]}]}
"""
VPC = "apiVersion: kubeovn.io/v1\nkind: Vpc\nmetadata: {name: vpc1}\n"


def one_line(result: Result) -> str:
    """The one line that a refused command leaves on stderr."""
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr.strip()


def test_apply_is_idempotent(run: Run) -> None:
    """The first apply creates (the namespace too, saying so), the second leaves alone, a changed one configures."""
    assert run("apply", "-f", "-", stdin=GATEWAY).stdout.splitlines() == [
        "namespace/default created",
        "vpcegressgateway.kubeovn.io/gateway1 created",
    ]
    assert run("apply", "-f", "-", stdin=GATEWAY).stdout == "vpcegressgateway.kubeovn.io/gateway1 unchanged\n"
    changed = GATEWAY.replace("externalSubnet: macvlan1, ", "")
    assert (
        run("apply", "-f", "-", stdin=changed).stdout == "vpcegressgateway.kubeovn.io/gateway1 configured\n"
    )
    spec = json.loads(run("get", "veg", "gateway1", "-o", "json").stdout)["spec"]
    assert spec == {
        "vpc": "ovn-cluster",
        "replicas": 1,
        "policies": [{"snat": True, "subnets": ["ovn-default"]}],
    }


def test_apply_takes_folders_and_several_files(run: Run, tmp_path: Path) -> None:
    """`-f` repeats, and a folder stands for the manifests in it by name."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "b.yaml").write_text(VPC.replace("vpc1", "vpc-b"))
    (folder / "a.yml").write_text(VPC.replace("vpc1", "vpc-a"))
    (folder / "notes.txt").write_text("not a manifest")
    other = tmp_path / "c.json"
    other.write_text(json.dumps(yaml.safe_load(VPC)))
    assert run("apply", "-f", str(folder), "-f", str(other)).stdout.splitlines() == [
        "vpc.kubeovn.io/vpc-a created",
        "vpc.kubeovn.io/vpc-b created",
        "vpc.kubeovn.io/vpc1 created",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "malformed YAML"),
        ("a: 1\n- b", "malformed YAML"),
        ("apiVersion: v1\nkind: Secret\nmetadata: {name: x}", 'no matches for kind "Secret"'),
        ("apiVersion: v1\nkind: Vpc\nmetadata: {name: x}", 'no matches for kind "Vpc" in version "v1"'),
        ("apiVersion: kubeovn.io/v1\nkind: Vpc\nmetadata: {}", "metadata.name"),
        ("apiVersion: kubeovn.io/v1\nkind: Vpc\nmetadata: {name: ../x}", "metadata.name"),
        ("just text", "mapping"),
        ("", "no objects"),
        (VPC + "spec: {note: " + "x" * 1_600_000 + "}", "limit is 1500000"),
        ("# " + "x" * 70_000_000, "too large"),
    ],
    ids=[
        "yaml",
        "mixed",
        "unknown kind",
        "wrong version",
        "no name",
        "bad name",
        "text",
        "empty",
        "large",
        "huge",
    ],
)
def test_bad_manifests(run: Run, tmp_path: Path, text: str, reason: str) -> None:
    """A file that can not be read in whole is refused with its name and the reason, and none of it is applied."""
    file = tmp_path / "bad.yaml"
    file.write_text(VPC + "---\n" + text if "# " not in text and text else text)
    result = run("apply", "-f", str(file))
    assert result.exit_code == 2
    if text:
        assert str(file) in one_line(result)
        assert reason in one_line(result)
        assert run("get", "vpc", "vpc1").exit_code == 2


def test_good_files_beside_a_bad_one_are_applied(run: Run, tmp_path: Path) -> None:
    """One bad file spoils the exit code, not the other files."""
    (tmp_path / "bad.yaml").write_text("a: [")
    (tmp_path / "good.yaml").write_text(VPC)
    result = run("apply", "-f", str(tmp_path / "bad.yaml"), "-f", str(tmp_path / "good.yaml"))
    assert (result.exit_code, result.stdout) == (2, "vpc.kubeovn.io/vpc1 created\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["apply"], "error: must specify -f FILE"),
        (["apply", "-f", "/nonexistent.yaml"], "error: /nonexistent.yaml: No such file or directory"),
        (["get"], "error: a kind must be given, for example: veg, pod, subnet"),
        (["get", "secret"], 'error: the server doesn\'t have a resource type "secret"'),
        (
            ["get", "veg", "x"],
            'Error from server (NotFound): vpc-egress-gateways.kubeovn.io "x" not found',
        ),
        (["get", "deploy", "x"], 'Error from server (NotFound): deployments.apps "x" not found'),
        (["delete", "pod", "x"], 'Error from server (NotFound): pods "x" not found'),
        (["delete", "pod"], "error: resource(s) were provided, but no name was specified"),
        (["delete"], "error: give either -f FILE or KIND NAME"),
        (["describe", "pod", "x"], 'Error from server (NotFound): pods "x" not found'),
        (
            ["scale", "veg", "x", "--replicas=2"],
            'Error from server (NotFound): vpc-egress-gateways.kubeovn.io "x" not found',
        ),
        (["scale", "pod", "x", "--replicas=2"], "error: pods can not be scaled"),
        (["scale", "veg", "x"], "error: Missing option '--replicas'."),
        (["wait", "veg", "x"], 'Error from server (NotFound): vpc-egress-gateways.kubeovn.io "x" not found'),
        (["wait", "veg"], "error: exactly one KIND NAME must be given"),
        (["get", "pod", "-l", "a in ("], "error: unbalanced parentheses in selector 'a in ('"),
        (["get", "pod", "-o", "xml"], "error: Invalid value for '-o' / '--output'"),
        (["frobnicate"], "error: No such command 'frobnicate'."),
        (["up", "--nodes", "0"], "error: Invalid value for '--nodes'"),
        (["up", "--ip-family", "ipv5"], "error: Invalid value for '--ip-family'"),
        (["--name", "a/b", "get", "pod"], "error: bad lab name 'a/b'"),
    ],
)
def test_bad_usage(run: Run, args: list[str], message: str) -> None:
    """Bad usage and missing objects: exit 2, one line."""
    result = run(*args)
    assert result.exit_code == 2
    assert one_line(result).startswith(message)


@pytest.mark.parametrize(
    "args", [["get", "veg"], ["apply", "-f", "-"], ["status"], ["host", "true"], ["restart", "api"]]
)
def test_not_up(run: Run, sandbox: Paths, args: list[str]) -> None:
    """Without a sandbox every command says how to get one."""
    sandbox.settings.unlink()
    result = run(*args, stdin=VPC)
    assert result.exit_code == 2
    assert one_line(result) == "the sandbox is not up: run veg-sandbox up"


def test_nothing_found(run: Run) -> None:
    """An empty listing is a remark, not an error."""
    for args, text in (
        (["pod"], "No resources found in default namespace."),
        (["pod", "-n", "a"], "No resources found in a namespace."),
        (["pod", "-A"], "No resources found"),
        (["vpc"], "No resources found"),
    ):
        result = run("get", *args)
        assert (result.exit_code, result.stdout, result.stderr.strip()) == (0, "", text)


def test_get_chooses(run: Run) -> None:
    """Selectors, namespaces, several names, several kinds and output formats choose as kubectl's do."""
    pods = "---\n".join(
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {ns}, labels: {{app: {app}}}}}\n"
        for name, ns, app in (("a", "default", "x"), ("b", "default", "y"), ("c", "other", "x"))
    )
    assert run("apply", "-f", "-", stdin=pods + "---\n" + VPC).exit_code == 0
    assert run("get", "pod", "-l", "app=x", "-o", "name").stdout == "pod/a\n"
    assert run("get", "pod", "-l", "app=x", "-A", "-o", "name").stdout == "pod/a\npod/c\n"
    assert run("get", "po", "-n", "other", "-o", "name").stdout == "pod/c\n"
    assert run("get", "pod/a", "vpc/vpc1", "-o", "name").stdout == "pod/a\nvpc.kubeovn.io/vpc1\n"
    assert [line.split()[0] for line in run("get", "pod,vpc").stdout.split("\n") if line] == [
        "NAME",
        "pod/a",
        "pod/b",
        "NAME",
        "vpc.kubeovn.io/vpc1",
    ]
    assert len(json.loads(run("get", "pod", "-A", "-o", "json").stdout)["items"]) == 3
    assert yaml.safe_load(run("get", "pod", "b", "-o", "yaml").stdout)["metadata"]["name"] == "b"
    assert run("get", "pod", "-A").stdout.splitlines()[3].startswith("other ")


def test_delete(run: Run) -> None:
    """Delete prints kubectl's line and waits; by file as well; absent objects only matter if asked."""
    run("apply", "-f", "-", stdin=GATEWAY + "---\n" + VPC)
    assert run("delete", "veg", "gateway1").stdout == 'vpcegressgateway.kubeovn.io "gateway1" deleted\n'
    assert run("delete", "veg", "gateway1", "--ignore-not-found").exit_code == 0
    result = run("delete", "-f", "-", stdin=GATEWAY + "---\n" + VPC)
    assert (result.exit_code, result.stdout) == (2, 'vpc.kubeovn.io "vpc1" deleted\n')
    assert run("get", "vpc", "vpc1").exit_code == 2


def test_delete_waits_for_finalizers(run: Run, sandbox: Paths) -> None:
    """An object that a finalizer holds is waited for, and not for ever."""
    run("apply", "-f", "-", stdin=GATEWAY.replace("{name:", "{finalizers: [kubeovn.io/x], name:"))
    result = run("delete", "veg", "gateway1", "--timeout", "0.2")
    assert result.exit_code == 1
    assert "timed out waiting for VpcEgressGateway default/gateway1" in result.stderr
    assert run("get", "veg", "gateway1").exit_code == 0
    assert run("delete", "veg", "gateway1", "--no-wait").exit_code == 0


@pytest.mark.parametrize(
    ("kind", "replicas", "allowed"),
    [("veg", -1, "from 0 to 10"), ("veg", 11, "from 0 to 10"), ("deployment", -1, "0 or more")],
)
def test_scale_refuses_numbers_that_can_not_be(run: Run, kind: str, replicas: int, allowed: str) -> None:
    """A number of replicas outside what the kind takes is told in one line, and nothing changes."""
    run("apply", "-f", "-", stdin=GATEWAY)
    result = run("scale", kind, "gateway1", f"--replicas={replicas}")
    assert result.exit_code == 2
    assert one_line(result) == f"error: --replicas={replicas}: must be {allowed}"
    assert json.loads(run("get", "veg", "gateway1", "-o", "json").stdout)["spec"]["replicas"] == 1


@pytest.mark.parametrize("command", ["apply", "delete"])
def test_a_folder_without_manifests_is_refused(run: Run, tmp_path: Path, command: str) -> None:
    """Applying nothing is a mistake: said in one line with exit code 2."""
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("not a manifest")
    result = run(command, "-f", str(empty))
    assert result.exit_code == 2
    assert one_line(result) == f"error: {empty}: no manifest (*.yaml, *.yml, *.json) in the folder"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fault", "kill-pod"], "error: kill-pod: POD is missing"),
        (["fault", "kill-pod", "x"], 'Error from server (NotFound): pods "x" not found'),
        (["fault", "kill-service", "bfdd@x"], 'Error from server (NotFound): pods "x" not found'),
        (["fault", "restart-ovn", "x"], "error: restart-ovn takes no target"),
        (["fault", "kill-pod", "x", "--how", "path"], "error: --how means nothing to kill-pod"),
        (["fault", "flood", "x"], "'flood' is not one of"),
    ],
)
def test_bad_faults(run: Run, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str) -> None:
    """A fault that can not be done is refused in one line, before anything is broken."""
    monkeypatch.setattr("veg_sandbox.cli.context.lab", lambda _: Lab(lab_dir("t")))
    result = run(*args)
    assert result.exit_code == 2
    assert message in one_line(result)


def test_help_without_arguments(run: Run) -> None:
    """The bare command tells every command on a line of its own."""
    result = run()
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert {"up", "get", "exec"} <= {words[0] for words in lines if words}


def test_a_surprise_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw ends in one line and exit code 1; its traceback is there for the asking."""
    monkeypatch.setattr("veg_sandbox.cli.context.store", lambda _: dict[str, str]()["surprise"])
    result = run("get", "veg")
    assert result.exit_code == 1
    assert one_line(result) == "error: KeyError: 'surprise' (--debug tells where)"
    monkeypatch.setenv("VEG_SANDBOX_DEBUG", "")
    with pytest.raises(KeyError):
        run("--debug", "get", "veg")


def test_scale(run: Run) -> None:
    """Scale changes spec.replicas and says so."""
    run("apply", "-f", "-", stdin=GATEWAY)
    assert (
        run("scale", "veg", "gateway1", "--replicas=2").stdout
        == "vpcegressgateway.kubeovn.io/gateway1 scaled\n"
    )
    found = json.loads(run("get", "veg/gateway1", "-o", "json").stdout)
    assert (found["spec"]["replicas"], found["metadata"]["generation"]) == (2, 2)


def write_status(sandbox: Paths, status: dict[str, object]) -> None:
    """What api would write."""
    import asyncio

    from veg_common.folder import FolderStore
    from veg_common.objects import Ref

    store = FolderStore(sandbox.objects)
    asyncio.run(store.update_status(Ref("VpcEgressGateway", "default", "gateway1"), {"status": status}))


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({}, "generation 1 is not observed yet (last: none)"),
        ({"observedGeneration": 1, "ready": False, "phase": "Processing"}, "phase Processing"),
        (
            {
                "observedGeneration": 1,
                "ready": False,
                "conditions": [
                    {
                        "type": "Ready",
                        "status": "False",
                        "reason": "SubnetNotFound",
                        "message": "spec.externalSubnet: no",
                    },
                    {"type": "Validated", "status": "True"},
                ],
            },
            "Ready=False SubnetNotFound: spec.externalSubnet: no",
        ),
        ({"observedGeneration": 1, "ready": True, "internalIPs": []}, "0 of 1 replicas serve"),
    ],
    ids=["unseen", "processing", "refused", "too few"],
)
def test_wait_tells_why_not(run: Run, sandbox: Paths, status: dict[str, object], reason: str) -> None:
    """After the timeout: exit 1 with what the conditions say."""
    run("apply", "-f", "-", stdin=GATEWAY)
    write_status(sandbox, status)
    result = run("wait", "veg", "gateway1", "--timeout", "0.1")
    assert result.exit_code == 1
    assert one_line(result).startswith(
        "error: vpcegressgateway.kubeovn.io/gateway1 is not ready after 0.1 s: "
    )
    assert reason in one_line(result)


def test_wait_returns_when_ready(run: Run, sandbox: Paths) -> None:
    """Wait returns soon after the gateway has become ready for its present generation."""
    run("apply", "-f", "-", stdin=GATEWAY)
    ready = {"observedGeneration": 1, "ready": True, "phase": "Completed", "internalIPs": ["10.16.0.2"]}
    timer = threading.Timer(0.3, write_status, (sandbox, ready))
    timer.start()
    begun = time.monotonic()
    result = run("wait", "veg", "gateway1", "--timeout", "20")
    timer.join()
    assert (result.exit_code, result.stdout) == (0, "vpcegressgateway.kubeovn.io/gateway1 condition met\n")
    assert time.monotonic() - begun < 10


def test_describe(run: Run, sandbox: Paths) -> None:
    """Describe shows spec, conditions and the events about the object."""
    event = """
apiVersion: v1
kind: Event
metadata: {name: gateway1.1}
type: Warning
reason: SubnetNotFound
message: spec.externalSubnet names no Subnet
involvedObject: {kind: VpcEgressGateway, name: gateway1, namespace: default}
"""
    run("apply", "-f", "-", stdin=GATEWAY + "---" + event + "---" + event.replace("gateway1", "other"))
    write_status(
        sandbox, {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False", "reason": "Why"}]}
    )
    text = run("describe", "veg", "gateway1").stdout
    assert "Name:         gateway1\n" in text
    assert "  externalSubnet: macvlan1\n" in text
    assert "  Ready   False" in text
    assert text.count("SubnetNotFound") == 1
    assert "last-applied" not in text
