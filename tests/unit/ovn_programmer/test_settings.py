"""What the command line may say."""

from __future__ import annotations

from pathlib import Path

import pytest
from veg_common.tls import TlsFiles
from veg_ovn_programmer.config import Settings
from veg_ovn_programmer.core.view import Variant

PEM = Path("/x.pem")


@pytest.mark.parametrize(
    "remotes",
    [
        "unix:/run/ovn/ovnnb_db.sock",
        "tcp:10.0.0.1:6641",
        "tcp:10.0.0.1:6641, tcp:10.0.0.2:6641,tcp:10.0.0.3:6641",
        "tcp:[fd00::1]:6641,unix:/x",
        "tcp:ovn-nb.kube-system.svc:6641",
    ],
)
def test_remotes(remotes: str) -> None:
    """Every form of one server, and lists of them, are taken for both databases."""
    assert Settings(remotes, "unix:/x", "managed").problem() is None
    assert Settings("unix:/x", "unix:/x", "managed", sb=remotes).problem() is None


@pytest.mark.parametrize(
    "remotes",
    [
        "", ",", "unix:", "unix:relative", "tcp:10.0.0.1", "tcp:10.0.0.1:", "tcp:10.0.0.1:0", "tcp:10.0.0.1:65536",
        "tcp:fd00::1:6641", "tcp::6641", "ptcp:6641", "10.0.0.1:6641", "tcp:10.0.0.1:6641,nonsense",
    ],
)  # fmt: skip
def test_bad_remotes(remotes: str) -> None:
    """The flag and the remote at fault are named in one line."""
    problem = Settings(remotes, "unix:/x", "managed").problem()
    assert problem is not None
    assert problem.startswith("--nb: ")
    assert "\n" not in problem


def test_tls() -> None:
    """An ssl: remote needs our files; a gRPC server that asks for no certificate is refused."""
    assert "needs --ovsdb-key" in (Settings("ssl:10.0.0.1:6641", "x:1", "managed").problem() or "")
    assert "--sb" in (Settings("unix:/x", "x:1", "managed", sb="ssl:10.0.0.1:6642").problem() or "")
    half = TlsFiles(PEM, PEM)
    assert "--tls-ca" in (Settings("unix:/x", "x:1", "managed", tls=half).problem() or "")


@pytest.mark.parametrize(
    ("listen", "is_open"),
    [("unix:/x", False), ("127.0.0.1:1", False), ("[::1]:1", False), ("0.0.0.0:1", True), ("[::]:1", True)],
)
def test_open_to_all(listen: str, *, is_open: bool) -> None:
    """Without TLS, who listens beyond the machine is open to everybody."""
    assert Settings("unix:/x", listen, "managed").is_open is is_open
    assert not Settings("unix:/x", listen, "managed", tls=TlsFiles(PEM, PEM, PEM)).is_open


def test_variant() -> None:
    """A forced variant counts; with --sb OVN is asked; else it follows from the topology."""
    assert Settings("unix:/x", "x", "managed").variant is Variant.S3
    assert Settings("unix:/x", "x", "kube-ovn").variant is Variant.K
    assert Settings("unix:/x", "x", "kube-ovn", sb="unix:/y").variant is None
    assert Settings("unix:/x", "x", "managed", sb="unix:/y").variant is None
    assert Settings("unix:/x", "x", "managed", sb="unix:/y", bfd_variant="k").variant is Variant.K
