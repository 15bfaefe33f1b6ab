"""The files of the run folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from veg_node_agent.core.model import BOOT_PROTOCOL, Family, NatRule, Record, Route
from veg_node_agent.errors import ConfigError
from veg_node_agent.io.files import LastGood, RecordFile
from veg_node_agent.io.watch import MAX_BYTES, read_config

RECORD = Record(
    nat=frozenset(
        {NatRule(Family.V4, "10.16.0.0/16", masquerade=True), NatRule(Family.V6, "fd00::/64", False)}
    ),
    defaults=frozenset({Route(Family.V6, "::/0", "fd17::1", "net1", 1024, BOOT_PROTOCOL)}),
    tracked=frozenset({Family.V4}),
    exempt=frozenset({Family.V6}),
    sysctls={"net/ipv4/ip_forward": "0"},
)


def test_the_record_survives_a_restart(tmp_path: Path) -> None:
    """What was saved is what a successor loads."""
    assert RecordFile(tmp_path).load() == Record()
    RecordFile(tmp_path).save(RECORD)
    assert RecordFile(tmp_path).load() == RECORD


@pytest.mark.parametrize("content", ["", "{", "[]", '{"netns": 1}', "\x00\xff"], ids=repr)
def test_an_unreadable_record_is_empty(tmp_path: Path, content: str) -> None:
    """A damaged record makes nothing ours and stops nothing."""
    (tmp_path / "applied.json").write_text(content)
    assert RecordFile(tmp_path).load() == Record()


def test_the_record_of_another_namespace_is_not_ours(tmp_path: Path) -> None:
    """A run folder that outlived its network namespace tells nothing about the present one."""
    RecordFile(tmp_path).save(RECORD)
    path = tmp_path / "applied.json"
    path.write_text(path.read_text().replace('"netns": ', '"netns": 1'))
    assert RecordFile(tmp_path).load() == Record()


def test_last_good(tmp_path: Path) -> None:
    """The last good configuration is kept word for word."""
    assert LastGood(tmp_path).load() is None
    LastGood(tmp_path).save('{"gateway": "a/ü"}\n')
    assert LastGood(tmp_path).load() == '{"gateway": "a/ü"}\n'


def test_a_configuration_file_that_can_not_be_read_is_explained(tmp_path: Path) -> None:
    """Missing, a folder, too large, not text: each is an error that says so."""
    path = tmp_path / "agent.json"
    with pytest.raises(ConfigError, match="No such file"):
        read_config(path)
    with pytest.raises(ConfigError, match="Is a directory"):
        read_config(tmp_path)
    path.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than"):
        read_config(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_config(path)
