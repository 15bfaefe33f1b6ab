"""AgentConfig in: what is accepted, made canonical, or refused with the field's name."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from veg_node_agent.core.model import BfdConfig, Config, Family, FamilyConfig, Source, Timers, UplinkConfig
from veg_node_agent.errors import ConfigError
from veg_node_agent.rpc import parse_config

GOOD: dict[str, Any] = {
    "gateway": "default/gateway1",
    "internalInterface": "eth0",
    "externalInterface": "net1",
    "families": [
        {
            "family": "IP_FAMILY_IPV6",
            "internalGateway": "fd00:10:16:0::1",
            "externalGateway": "FD17::1",
            "vpcCidrs": ["fd00:0010::/32"],
            "sources": [{"cidr": "fd00:10:16::/112", "snat": True}],
        },
        {
            "family": "IP_FAMILY_IPV4",
            "internalGateway": "10.16.0.1",
            "externalGateway": "172.17.0.1",
            "vpcCidrs": ["10.16.0.0/16", "10.16.0.0/16"],
            "sources": [{"cidr": "192.168.0.1", "snat": True}, {"cidr": "192.168.0.1/32", "snat": True}],
        },
    ],
}


def changed(path: list[str | int], value: Any) -> str:
    """GOOD as text with one value exchanged; None removes it."""
    config = copy.deepcopy(GOOD)
    at: Any = config
    for key in path[:-1]:
        at = at[key]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return json.dumps(config)


def test_a_good_file_becomes_canonical() -> None:
    """Spelling, order of families and repetition do not matter: the same meaning is the same value."""
    assert parse_config(json.dumps(GOOD)) == Config(
        "default/gateway1",
        "eth0",
        "net1",
        (
            FamilyConfig(
                Family.V4,
                "10.16.0.1",
                "172.17.0.1",
                ("10.16.0.0/16",),
                (Source("192.168.0.1/32", snat=True),),
            ),
            FamilyConfig(
                Family.V6,
                "fd00:10:16::1",
                "fd17::1",
                ("fd00:10::/32",),
                (Source("fd00:10:16::/112", snat=True),),
            ),
        ),
    )


def test_fields_of_a_newer_version_are_ignored() -> None:
    """An older agent works with a newer api: what it does not know does not stop it."""
    assert parse_config(changed(["somethingNew"], {"a": 1})) == parse_config(json.dumps(GOOD))


BFD: dict[str, Any] = {
    "peers": ["fd00:0::255", "10.255.255.255"],
    "timers": {"minRxMs": 100, "minTxMs": 200, "multiplier": 3},
    "minTtl": 253,
}
UPLINK: dict[str, Any] = {"intervalMs": 100, "multiplier": 3, "replicas": ["10.16.0.12", "10.16.0.13"]}


def test_bfd_and_uplink_are_read() -> None:
    """Peers become canonical and are sorted by family; without the sections there is neither."""
    config = parse_config(json.dumps(GOOD | {"bfd": BFD, "uplink": UPLINK}))
    assert config.bfd == BfdConfig(("10.255.255.255", "fd00::255"), Timers(100, 200, 3), 253)
    assert config.uplink == UplinkConfig(100, 3, ("10.16.0.12", "10.16.0.13"))
    assert config.untracked_ports == (3784, 18600)
    plain = parse_config(json.dumps(GOOD))
    assert plain.bfd is None
    assert plain.uplink is None
    assert plain.untracked_ports == ()


@pytest.mark.parametrize(
    ("section", "change", "reason"),
    [
        ("bfd", {"peers": []}, "bfd.peers: at least one is needed"),
        ("bfd", {"peers": ["10.1.1.1", "10.1.1.2"]}, "bfd.peers[1]: a second IPv4 peer"),
        ("bfd", {"peers": ["10.1.1.0/24"]}, "bfd.peers[0]: '10.1.1.0/24' does not"),
        ("bfd", {"timers": {"minRxMs": 0, "minTxMs": 1, "multiplier": 3}}, "bfd.timers.minRxMs: 0 is not"),
        ("bfd", {"timers": {"minRxMs": 1, "minTxMs": 1, "multiplier": 256}}, "bfd.timers.multiplier: 256"),
        ("bfd", {"minTtl": 256}, "bfd.minTtl: 256 is not within 1..255"),
        ("uplink", {"intervalMs": 49}, "uplink.intervalMs: 49 is not within 50..60000"),
        ("uplink", {"multiplier": 0}, "uplink.multiplier: 0 is not within 1..255"),
        ("uplink", {"replicas": ["10.16.0.12", "fd00::1"]}, "uplink.replicas[1]: fd00::1 is not IPv4"),
        ("uplink", {"replicas": ["224.0.0.1"]}, "uplink.replicas[0]: 224.0.0.1 can not be"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_field_of_bfd_or_uplink_is_named(section: str, change: dict[str, Any], reason: str) -> None:
    """The refusal names the field in the file's spelling."""
    good = {"bfd": BFD, "uplink": UPLINK}
    with pytest.raises(ConfigError) as caught:
        parse_config(json.dumps(GOOD | good | {section: good[section] | change}))
    assert reason in str(caught.value)


def test_a_peer_of_an_absent_family_is_refused() -> None:
    """A session needs an address of its family, which a gateway without that family has not."""
    with pytest.raises(ConfigError, match="is IPv6, which the gateway has not"):
        parse_config(json.dumps(GOOD | {"bfd": BFD, "families": GOOD["families"][1:]}))


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (["internalInterface"], None, "internalInterface: is missing"),
        (["externalInterface"], "", "externalInterface: is missing"),
        (["externalInterface"], "eth0", "externalInterface: eth0 is the internal interface already"),
        (["externalInterface"], "a/b", "externalInterface: 'a/b' is not a possible name"),
        (["externalInterface"], "abcdefghijklmnop", "is not a possible name"),
        (["families"], [], "families: at least one is needed"),
        (
            ["families", 1, "family"],
            "IP_FAMILY_IPV6",
            "families[1].family: a second entry for the same family",
        ),
        (["families", 1, "family"], None, "families[1].family: is missing or unknown"),
        (["families", 1, "family"], "IP_FAMILY_IPV5", "families[1].family: is missing or unknown"),
        (["families", 1, "internalGateway"], None, "families[1].internalGateway: is missing"),
        (["families", 1, "externalGateway"], "fd17::1", "families[1].externalGateway: fd17::1 is not IPv4"),
        (["families", 1, "externalGateway"], "224.0.0.1", "224.0.0.1 can not be a neighbour's address"),
        (["families", 0, "externalGateway"], "fe80::1%eth0", "fe80::1%eth0 can not be a neighbour's address"),
        (["families", 1, "externalGateway"], "gateway", "families[1].externalGateway: 'gateway' does not"),
        (
            ["families", 1, "vpcCidrs", 0],
            "10.16.0.1/16",
            "families[1].vpcCidrs[0]: 10.16.0.1/16 has host bits",
        ),
        (["families", 1, "vpcCidrs", 0], "", "families[1].vpcCidrs[0]: is missing"),
        (
            ["families", 1, "sources", 1, "cidr"],
            "10.0.0.1/8",
            "families[1].sources[1].cidr: 10.0.0.1/8 has host",
        ),
        (
            ["families", 1, "sources", 1, "cidr"],
            "fd00::/64",
            "families[1].sources[1].cidr: fd00::/64 is not IPv4",
        ),
        (
            ["families", 1, "sources", 1, "snat"],
            False,
            "families[1].sources[1]: 192.168.0.1/32 is given both",
        ),
        (["families", 1, "sources", 1, "snat"], "maybe", "snat"),
        (["families"], {"family": 4}, "families"),
        (["gateway"], 7, "gateway"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_field_is_named(path: list[str | int], value: Any, reason: str) -> None:
    """What can not be used is refused whole, in one line that names the field and the reason."""
    with pytest.raises(ConfigError) as caught:
        parse_config(changed(path, value))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"x"', "{}", "\x00", "{'a': 1}", "[" * 99999],
    ids=lambda text: repr(text[:9]),
)
def test_what_is_no_configuration_is_refused(text: str) -> None:
    """Truncated, empty or foreign content is an error, never an empty configuration that would close everything."""
    with pytest.raises(ConfigError):
        parse_config(text)
