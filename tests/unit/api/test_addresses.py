"""Which prefixes pods can send from."""

import pytest
from veg_api.core.addresses import unicast_problem


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        ("127.0.0.0/8", "loopback"),
        ("::1/128", "loopback"),
        ("224.0.0.0/24", "multicast"),
        ("ff02::/16", "multicast"),
        ("169.254.1.1/32", "link-local"),
        ("fe80::/64", "link-local"),
        ("0.0.0.0/32", "this network"),
        ("::ffff:a10:0/120", "IPv4 in IPv6 notation"),
        ("::a10:0/112", "IPv4 in IPv6 notation"),
        ("::/128", "IPv4 in IPv6 notation"),
    ],
)
def test_prefixes_that_nobody_sends_from_are_told(prefix: str, reason: str) -> None:
    """Each says why; the kernel would not print them as they were written."""
    assert reason in str(unicast_problem(prefix))


@pytest.mark.parametrize("prefix", ["0.0.0.0/0", "::/0", "0.0.0.0/1", "10.16.0.0/16", "fd00::/8", "2000::/3"])
def test_prefixes_of_pods_are_fine(prefix: str) -> None:
    """Nothing is said of what pods can use, the whole family included."""
    assert unicast_problem(prefix) is None
