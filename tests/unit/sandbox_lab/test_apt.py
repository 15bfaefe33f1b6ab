"""Reading the machine's Debian archive out of apt's sources."""

from __future__ import annotations

from pathlib import Path

import pytest
from veg_sandbox.ovn import apt

ONE_LINE = """
# deb http://commented.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib # comment
deb-src http://mirror.example/debian bookworm main
deb http://mirror.example/other bookworm contrib
deb http://security.example/debian-security bookworm-security main
"""

DEB822 = """
Types: deb deb-src
# a comment inside a stanza
URIs: http://one.example/debian
 http://two.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF: x

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main
"""


def test_one_line_sources() -> None:
    """`deb` lines with component main; options, comments and other components are passed over."""
    assert list(apt.parse_one_line(ONE_LINE)) == [
        ("http://mirror.example/debian", "bookworm"),
        ("http://security.example/debian-security", "bookworm-security"),
    ]


def test_deb822_sources() -> None:
    """Every URI with every suite of the enabled binary stanzas, also over several lines."""
    assert list(apt.parse_deb822(DEB822)) == [
        ("http://one.example/debian", "bookworm"),
        ("http://one.example/debian", "bookworm-updates"),
        ("http://two.example/debian", "bookworm"),
        ("http://two.example/debian", "bookworm-updates"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        pytest.param("sources.list", ONE_LINE, "http://mirror.example/debian", id="one-line"),
        pytest.param("sources.list.d/debian.sources", DEB822, "http://one.example/debian", id="deb822"),
        pytest.param("sources.list.d/other.list", "deb http://x.example/apt any main\n", None, id="none"),
    ],
)
def test_the_archive_is_found_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, expected: str | None
) -> None:
    """Where apt-get cannot list its sources, the files are read; a repository of another kind is not taken."""
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / name).write_text(text)
    monkeypatch.setattr(apt, "ETC_APT", tmp_path)
    monkeypatch.setattr(apt, "OS_RELEASE", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert apt.debian_mirror() == expected
