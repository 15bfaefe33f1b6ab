"""AgentConfig in: what is accepted, made canonical, or refused with the field's name."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from veg_node_agent.core.model import Config, Family, FamilyConfig, Source
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


def test_bfd_settings_are_not_in_the_way() -> None:
    """The BFD section belongs to another container and is accepted as it is."""
    text = changed(["bfd"], {"peers": ["10.255.255.255"], "timers": {"minRxMs": 1000}, "minTtl": 254})
    assert parse_config(text) == parse_config(json.dumps(GOOD))


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
        (["families", 1, "externalGateway"], "224.0.0.1", "224.0.0.1 can not be a gateway"),
        (["families", 0, "externalGateway"], "fe80::1%eth0", "fe80::1%eth0 can not be a gateway"),
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
