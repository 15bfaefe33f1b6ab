"""The agent's life: changes, drift, broken files, kills, late interfaces."""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

import pytest
from veg_node_agent.core.model import Family, Tracking

from tests.functional.node_agent.conftest import AGENT, Lab, agent_config, eventually, steady_stream, v4, v6

OUTSIDE_V4, OUTSIDE_V6 = "172.17.0.1", "fd17::1"


def nat(lab: Lab) -> list[str]:
    """POSTROUTING of the pod, IPv4."""
    return [
        line.removeprefix("-A POSTROUTING ")
        for line in lab.pod("iptables-legacy", "-t", "nat", "-S", "POSTROUTING").splitlines()[1:]
    ]


def masquerade(*cidrs: str) -> list[str]:
    """How iptables prints the rules of masqueraded sources."""
    return [f"-s {cidr} -j MASQUERADE --random-fully" for cidr in cidrs]


def everything(lab: Lab) -> str:
    """All that the tools print of the pod's network, without counters and times."""
    return "\n".join(
        line
        for command in (
            ["ip", "route", "show", "table", "all"],
            ["ip", "-6", "route", "show", "table", "all"],
            ["ip", "rule"],
            ["ip", "-6", "rule"],
            ["iptables-legacy-save"],
            ["ip6tables-legacy-save"],
            [
                "sh",
                "-c",
                "grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf /proc/sys/net/ipv4/ip_forward",
            ],
        )
        for line in lab.pod(*command, check=False).splitlines()
        # A table appears, with policies and their counters, when somebody looks at it first.
        if not line.startswith(("#", "*", ":", "COMMIT")) and "stable_secret" not in line
    )


def test_a_change_is_live_at_once_and_keeps_connections(lab: Lab) -> None:
    """A changed list of sources is in the kernel well under a second, and a TCP connection whose source still matches
    goes on, even when its own rule is exchanged.
    """
    lab.configure(v4(), v6())
    lab.start()
    connections = [lab.connect("10.16.0.9", OUTSIDE_V4)[0], lab.connect("fd00:10:16::9", OUTSIDE_V6)[0]]
    took = []
    for sources in (
        [("10.16.0.0/16", True), ("10.99.0.0/16", True)],
        [("10.16.0.0/24", True), ("10.99.0.9/32", False)],
        [("10.16.0.8/31", True), ("10.16.0.0/16", True)],
        [("10.16.0.0/16", False)],
        [("10.16.0.0/16", True)],
    ):
        lab.configure(v4(*sources), v6())
        want = masquerade(*(cidr for cidr, snat in sources if snat))
        took.append(eventually(lambda want=want: nat(lab) == want, 10, lab.log))  # type: ignore[misc]
        for connection in connections:
            connection.sendall(b"still there")
            assert connection.recv(100) == b"still there"
    # The file is read again every three seconds: the typical change was heard of.
    assert statistics.median(took) < 1.5
    for connection in connections:
        connection.close()


def test_no_packet_is_lost_by_a_change(lab: Lab) -> None:
    """A steady stream from a source that stays goes through every change of the list around it."""
    lab.configure(v4())
    lab.start()
    with steady_stream(lab.vpc, "10.16.0.9", OUTSIDE_V4) as lost:
        for sources in (
            [("10.16.0.0/24", True)],
            [("10.16.0.9/32", True), ("10.17.0.0/16", True)],
            [("10.16.0.0/16", True), ("10.16.1.0/24", False)],
            [("10.16.0.0/16", True)],
        ):
            lab.configure(v4(*sources))
            want = {f"-s {cidr} " for cidr, _ in sources}
            eventually(
                lambda want=want: {line.split("-j")[0] for line in nat(lab)} == want,  # type: ignore[misc]
                10,
                lab.log,
            )
    assert lost == []


def test_connections_survive_a_flushed_nat_table(lab: Lab) -> None:
    """Even without a single NAT rule the kernel goes on translating what it translated: nothing leaks or breaks."""
    lab.configure(v4(), v6())
    lab.start()
    connections = [lab.connect("10.16.0.9", OUTSIDE_V4)[0], lab.connect("fd00:10:16::9", OUTSIDE_V6)[0]]
    lab.pod("iptables-legacy", "-t", "nat", "-F")
    lab.pod("ip6tables-legacy", "-t", "nat", "-F")
    for _ in range(2):
        for connection in connections:
            connection.sendall(b"still there")
            assert connection.recv(100) == b"still there"
        eventually(lambda: nat(lab) == masquerade("10.16.0.0/16"), 10, lab.log)
    for connection in connections:
        connection.close()


def test_a_removed_source_is_shut_out(lab: Lab) -> None:
    """Traffic of a source that is not configured any more stops, also on an established connection."""
    lab.configure(v4(("10.16.0.9/32", True), ("10.16.1.7/32", True)))
    lab.start()
    connection, _ = lab.connect("10.16.1.7", OUTSIDE_V4)
    lab.configure(v4(("10.16.0.9/32", True)))
    eventually(lambda: nat(lab) == masquerade("10.16.0.9/32"), 10, lab.log)
    connection.settimeout(0.5)
    connection.sendall(b"x")
    with pytest.raises(TimeoutError):
        connection.recv(1)
    connection.close()
    assert lab.udp("10.16.1.7", OUTSIDE_V4, timeout=0.3) == ""
    assert lab.udp("10.16.0.9", OUTSIDE_V4) == "172.17.0.11"


def test_a_configmaps_symlink_swap_is_seen(lab: Lab) -> None:
    """A mounted ConfigMap changes by the swap of `..data`; the agent sees it without an event on the file itself."""

    def publish(name: str, cidr: str) -> None:
        (lab.mount / name).mkdir()
        (lab.mount / name / "agent.json").write_text(json.dumps(agent_config(v4((cidr, True)))))
        (lab.mount / "..data_tmp").symlink_to(name)
        (lab.mount / "..data_tmp").rename(lab.mount / "..data")

    publish("..1", "10.16.0.0/16")
    lab.config_file.symlink_to("..data/agent.json")
    lab.start()
    publish("..2", "10.18.0.0/16")
    eventually(lambda: nat(lab) == masquerade("10.18.0.0/16"), 2.5, lab.log)  # without events it takes 3 s


def test_drift_of_routes_and_rules_heals_at_once(lab: Lab) -> None:
    """Whatever of ours is removed or exchanged in the routing of the pod is back, by the kernel's word of it: within a second
    as a rule, where reading everything again would take up to fifteen.
    """
    lab.configure(v4(vpc=("10.17.0.0/16",)), v6(vpc=("fd00:10:17::/112",)))
    lab.start()
    good, took = everything(lab), []
    for damage in (
        "ip route del default",
        "ip route replace default via 10.16.0.1 dev eth0",
        "ip route del 10.17.0.0/16",
        "ip route replace 10.17.0.0/16 via 10.16.0.99 dev eth0 proto 118",
        "ip rule del pref 18600 iif eth0",
        "ip rule del pref 18601 iif net1",
        "ip -6 route del default",
        "ip -6 route replace default via fd00:10:16::1 dev eth0 metric 1024",
        "ip -6 route append default via fd00:10:16::1 dev eth0 metric 1024",
        "ip -6 route add default via fd00:10:16::1 dev eth0 metric 5",
        "ip -6 rule del pref 18600 iif eth0",
        "ip -6 rule add pref 18599 iif eth0 lookup main protocol 118",
        "ip rule flush && ip rule add pref 32766 lookup main && ip rule add pref 32767 lookup default",
    ):
        lab.pod("sh", "-c", damage)
        took.append(
            eventually(
                lambda: sorted(everything(lab).splitlines()) == sorted(good.splitlines()),
                5,
                lambda damage=damage: f"{damage}\n{everything(lab)}\n{lab.log()}",  # type: ignore[misc]
            )
        )
    assert statistics.median(took) < 1.5  # the comparison itself takes a part of it
    assert lab.seen("10.16.0.9", OUTSIDE_V4) == "172.17.0.11"


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_prefixes_that_the_tools_spell_in_another_way(lab: Lab, backend: str) -> None:
    """IPv6 prefixes that the kernel's tools end with an IPv4 address are in sync and need no repair."""
    prefixes = ("::ffff:a00:0/112", "::102:300/120", "::a10:700/124")
    lab.configure(v6(*((prefix, True) for prefix in prefixes), vpc=prefixes))
    lab.start("--nat-backend", backend)
    assert "::ffff:10.0.0.0/112 via fd00:10:16::1" in lab.pod("ip", "-6", "route")
    flags = ("--config", str(lab.config_file), "--run-dir", str(lab.run_dir), "--nat-backend", backend)
    assert lab.cli("plan", *flags).stdout == ""
    lab.pod("ip", "-6", "route", "add", "2001:db8::/64", "dev", "net1")  # rings the doorbell
    eventually(lambda: lab.healthy_since() > time.time() - 1, 10, lab.log)
    assert "repairs:     0" in lab.cli("state", "--run-dir", str(lab.run_dir)).stdout


def test_lost_notifications_are_no_loss(lab: Lab) -> None:
    """More changes than the netlink socket can hold while the agent could not listen: it reads all again."""
    lab.configure(v4())
    lab.start()
    assert lab.agent is not None
    lab.agent.send_signal(signal.SIGSTOP)
    flood = [
        f"route {verb} 198.18.{n // 250}.{n % 250}/32 dev net1"
        for verb in ("add", "del")
        for n in range(5000)
    ]
    lab.pod("ip", "-batch", "-", stdin="\n".join([*flood, "route del default"]))
    lab.agent.send_signal(signal.SIGCONT)
    eventually(lambda: lab.pod("ip", "route").startswith("default via 172.17.0.1 dev net1"), 5, lab.log)


def test_drift_of_nat_and_sysctls_heals(lab: Lab) -> None:
    """NAT rules that were removed, doubled or moved, and parameters that were changed, are right again in 5 s."""
    lab.configure(v4(("10.16.0.0/16", True), ("10.16.1.0/24", False)), v6())
    lab.start()
    good = everything(lab)
    for damage in (
        "iptables-legacy -t nat -F; iptables-legacy -t mangle -F; ip6tables-legacy -t nat -F",
        "iptables-legacy -t nat -A POSTROUTING -s 10.16.0.0/16 -j MASQUERADE --random-fully",
        "iptables-legacy -t nat -D POSTROUTING 1; iptables-legacy -t nat -A POSTROUTING -s 10.16.1.0/24 -j RETURN",
        "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0 net.ipv4.conf.net1.rp_filter=1",
    ):
        lab.pod("sh", "-c", damage)
        eventually(lambda: everything(lab) == good, 10, lambda: everything(lab) + lab.log())


def test_a_link_that_goes_down_and_up_comes_back_whole(lab: Lab) -> None:
    """The kernel flushes routes, and IPv6 addresses, of a link that goes down; all is back soon after it is up."""
    lab.configure(v4(vpc=("10.17.0.0/16",)), v6(vpc=("fd00:10:17::/112",)))
    lab.start()
    for link in ("net1", "eth0"):
        lab.pod("ip", "link", "set", link, "down")
        lab.pod("ip", "link", "set", link, "up")
        eventually(
            lambda: (
                lab.pod("ip", "route").startswith("default via 172.17.0.1 dev net1 \n")
                and "10.17.0.0/16 via 10.16.0.1 dev eth0" in lab.pod("ip", "route")
                and "default via fd17::1 dev net1" in lab.pod("ip", "-6", "route")
                and "fd00:10:17::/112 via fd00:10:16::1" in lab.pod("ip", "-6", "route")
            ),
            5,
            lambda: lab.pod("ip", "-6", "route") + lab.log(),
        )
    eventually(lambda: lab.udp("10.16.0.9", OUTSIDE_V4) == "172.17.0.11", 15)
    eventually(lambda: lab.udp("fd00:10:16::9", OUTSIDE_V6) == "fd17::b", 15)


def test_what_others_put_there_stays(lab: Lab) -> None:
    """Rules, routes and NAT rules of others are byte for byte as before, through changes and removal of a family."""
    foreign = """
        ip route add 192.0.2.0/24 via 172.17.0.9 proto static
        ip route add 198.51.100.0/24 dev eth0 table 77
        ip route add default via 10.16.0.1 metric 700
        ip rule add pref 500 from 192.0.2.7 lookup 77
        ip rule add pref 18600 iif eth0 from 192.0.2.8 lookup 77
        ip -6 rule add pref 18601 from fd42::/64 lookup 77
        iptables-legacy -t nat -N MINE
        iptables-legacy -t nat -A MINE -p tcp --dport 80 -j RETURN
        iptables-legacy -t nat -A POSTROUTING -o lo -m comment --comment "a b" -j MINE
        iptables-legacy -t nat -A POSTROUTING -s 10.50.0.0/16 -j MASQUERADE --random-fully
        iptables-legacy -t nat -A POSTROUTING -s 10.16.0.0/16 -j MASQUERADE
        iptables-legacy -t nat -A PREROUTING -p udp --dport 9 -j REDIRECT --to-ports 10
        iptables-legacy -A FORWARD -s 10.51.0.0/16 -j DROP
        ip6tables-legacy -t nat -A POSTROUTING -s fd42::/64 -o net1 -j MASQUERADE
    """
    lab.pod("sh", "-ec", foreign)
    commands = [
        "ip route show table all proto static; ip route show table 77; ip route show metric 700",
        "ip rule | grep -v 'proto 118'; ip -6 rule | grep -v 'proto 118'",
        "iptables-legacy-save | grep -v '^#'",
        "ip6tables-legacy-save | grep -v '^#'",
    ]

    def theirs() -> list[str]:
        return [
            "\n".join(
                line
                for line in lab.pod("sh", "-c", command).splitlines()
                # The policies' packet counters move with the traffic.
                if line not in ours and not line.startswith((":", "*", "COMMIT"))
            )
            for command in commands
        ]

    ours = {
        f"-A POSTROUTING {line}" for line in masquerade("10.16.0.0/16", "10.16.1.0/24", "fd00:10:16::/112")
    }
    ours.add(str(Tracking(Family.V4, "net1")))
    before = theirs()
    lab.configure(v4(), v6())
    lab.start()
    assert theirs() == before
    lab.configure(v4(("10.16.1.0/24", True)))
    eventually(lambda: nat(lab)[-1:] == masquerade("10.16.1.0/24"), 10, lab.log)
    eventually(lambda: len(lab.logged("in sync")) == 2, 10, lab.log)
    assert "proto 118" not in lab.pod("ip", "-6", "rule")
    assert theirs() == before
    assert "fd00" not in lab.pod("ip6tables-legacy", "-t", "nat", "-S")
    assert "-A" not in lab.pod("ip6tables-legacy", "-t", "mangle", "-S")
    assert lab.pod("cat", "/proc/sys/net/ipv6/conf/all/forwarding").strip() == "0"


def test_kill_and_restart_lose_nothing_and_change_nothing(lab: Lab) -> None:
    """Killed with -9 and started again, the agent finds all in place: no operation, no lost packet, nothing doubled."""
    lab.configure(v4(("10.16.0.0/16", True), ("10.16.1.0/24", False)), v6())
    lab.start()
    before = everything(lab)
    with (
        steady_stream(lab.vpc, "10.16.0.9", OUTSIDE_V4) as lost,
        steady_stream(lab.vpc, "fd00:10:16::9", OUTSIDE_V6) as lost_v6,
    ):
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            lab.stop(number)
            assert everything(lab) == before
            lab.start()
    assert lost == []
    assert lost_v6 == []
    assert everything(lab) == before
    assert [entry["operations"] for entry in lab.logged("in sync")][1:] == [0, 0, 0]


def test_killed_in_the_middle_of_changes_it_converges(lab: Lab) -> None:
    """Killed at any moment of a change, the next agent ends with the last configuration, without leftovers."""
    lab.configure(v4(("10.16.0.0/16", True)))
    lab.start()
    for number in range(4):
        many = [(f"10.{number + 20}.{n}.0/24", n % 2 == 0) for n in range(60)]
        lab.configure(v4(("10.16.0.0/16", True), *many), v6())
        Event().wait(0.03 + 0.015 * number)
        lab.stop(signal.SIGKILL)
        lab.configure(v4(("10.16.0.0/16", True), (f"10.9.{number}.0/24", True)))
        lab.start()
        assert nat(lab) == masquerade(f"10.9.{number}.0/24", "10.16.0.0/16")
        assert lab.pod("ip", "rule").count("proto 118") == 6
        assert "proto 118" not in lab.pod("ip", "-6", "rule") + lab.pod("ip", "-6", "route")
        assert "MASQUERADE" not in lab.pod("ip6tables-legacy", "-t", "nat", "-S")


def test_sigterm_leaves_the_data_path(lab: Lab) -> None:
    """A clean exit: code 0, and traffic goes on."""
    lab.configure(v4())
    lab.start()
    assert lab.stop() == 0
    assert lab.seen("10.16.0.9", OUTSIDE_V4) == "172.17.0.11"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        (json.dumps(agent_config(v4(("10.16.0.1/16", True)))), "10.16.0.1/16 has host bits set"),
    ],
    ids=["malformed", "host bits"],
)
def test_a_broken_file_keeps_the_last_good_state(lab: Lab, text: str, reason: str) -> None:
    """A broken file is reported; the last good configuration stays, is repaired, and survives a restart."""
    lab.configure(v4())
    lab.start()
    lab.configure(text=text)
    eventually(lambda: lab.logged("configuration refused"), 10, lab.log)
    assert reason in lab.logged("configuration refused")[0]["error"]
    lab.pod("ip", "route", "del", "default")
    eventually(lambda: lab.pod("ip", "route").startswith("default via 172.17.0.1 dev net1"), 5, lab.log)
    lab.stop(signal.SIGKILL)
    lab.pod("ip", "route", "del", "default")
    lab.start()
    shown = lab.cli("state", "--run-dir", str(lab.run_dir)).stdout
    assert reason in shown
    assert "in sync:     yes" in shown
    assert lab.seen("10.16.0.9", OUTSIDE_V4) == "172.17.0.11"
    lab.configure(v4(("10.16.0.9/32", True)))
    eventually(lambda: nat(lab) == masquerade("10.16.0.9/32"), 10, lab.log)


def test_it_waits_for_the_file(lab: Lab) -> None:
    """Without a file, or even its folder, the agent waits, touches nothing, and starts when the file comes."""
    before = everything(lab)
    os.rmdir(lab.mount)  # noqa: PTH106
    lab.start(wait=False)
    eventually(lambda: lab.logged("configuration refused"), 60, lab.log)
    assert everything(lab) == before
    assert lab.healthy_since() == 0
    lab.mount.mkdir()
    lab.configure(v4())
    eventually(lab.healthy_since, 15, lab.log)


def test_it_waits_for_interfaces(lab: Lab) -> None:
    """An interface that comes later is waited for and named; the agent is not healthy until all is done."""
    lab.pod("ip", "link", "del", "net1")
    lab.configure(v4(), v6())
    lab.start(wait=False)
    eventually(lambda: lab.logged("not in sync"), 60, lab.log)
    assert lab.logged("not in sync")[0]["reason"] == "waiting: interface net1 does not exist"
    assert lab.healthy_since() == 0
    assert "interface net1 does not exist" in lab.cli("state", "--run-dir", str(lab.run_dir)).stdout
    lab.plug_net1()
    eventually(lab.healthy_since, 10, lab.log)
    # The kernel may need a second to notice that the link is up.
    eventually(lambda: lab.seen("10.16.0.9", OUTSIDE_V4) == "172.17.0.11", 10, lab.log)
    lab.pod("ip", "link", "del", "net1")
    eventually(lambda: len(lab.logged("not in sync")) > 1, 10, lab.log)
    lab.plug_net1()
    eventually(lambda: "default via fd17::1" in lab.pod("ip", "-6", "route"), 10, lab.log)
    eventually(lambda: lab.seen("fd00:10:16::9", OUTSIDE_V6) == "fd17::b", 10, lab.log)


def test_health_follows_the_truth(lab: Lab) -> None:
    """The health file is refreshed each second while all is well, and not by an agent that is stopped."""
    lab.configure(v4())
    lab.start()
    first = lab.healthy_since()
    eventually(lambda: lab.healthy_since() > first, 10)
    probe = f"find {lab.run_dir}/healthy -newermt '-5 seconds' | grep -q ."
    lab.pod("sh", "-c", probe)
    assert lab.agent is not None
    lab.agent.send_signal(signal.SIGSTOP)
    stopped = lab.healthy_since()
    Event().wait(1.5)  # nothing can be polled for: it must not happen
    assert lab.healthy_since() == stopped
    lab.agent.send_signal(signal.SIGCONT)
    eventually(lambda: lab.healthy_since() > stopped, 10)


def test_a_sysctl_that_can_not_be_set(lab: Lab) -> None:
    """Read-only parameters: an error that names the parameter and both values, and none when they are right."""
    lab.configure(v4())
    lab.start()
    lab.stop()
    command = (
        "mount -t proc proc /proc; mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys; "
        f"exec '{AGENT}' run "
        f"--config {lab.config_file} --run-dir {lab.run_dir} 2>> {lab.folder}/agent.log"
    )

    def locked() -> Iterator[None]:
        import subprocess

        agent = subprocess.Popen(
            ["ip", "netns", "exec", lab.pod.name, "unshare", "-m", "sh", "-c", command],
            stderr=subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            agent.terminate()
            agent.wait(10)

    started = time.time()
    with contextmanager(locked)():
        eventually(lambda: lab.healthy_since() >= started, 60, lab.log)
    lab.pod("sysctl", "-qw", "net.ipv4.conf.net1.arp_ignore=0")
    with contextmanager(locked)():
        eventually(lambda: lab.logged("not in sync"), 60, lab.log)
    assert lab.logged("not in sync")[0]["reason"] == (
        "sysctl net/ipv4/conf/net1/arp_ignore is 0, should be 1 and can not be written: Read-only file system"
    )


def test_it_fails_closed(lab: Lab) -> None:
    """When NAT rules can not be written, an old source is shut out and a new one is not let out unmasqueraded."""
    import fcntl

    lab.configure(v4(("10.16.1.7/32", True)))
    with (lab.folder / "lock").open("w") as lock:
        os.environ["XTABLES_LOCKFILE"] = lock.name
        try:
            lab.start()
            fcntl.flock(lock, fcntl.LOCK_EX)
            lab.configure(v4(("10.16.0.9/32", True)))
            eventually(lambda: lab.logged("not in sync"), 15, lab.log)
            assert "is held by another program" in lab.logged("not in sync")[0]["reason"]
            assert lab.udp("10.16.1.7", OUTSIDE_V4, timeout=0.3) == ""
            assert lab.udp("10.16.0.9", OUTSIDE_V4, timeout=0.3) == ""
            fcntl.flock(lock, fcntl.LOCK_UN)
            eventually(lambda: lab.udp("10.16.0.9", OUTSIDE_V4, timeout=0.3) == "172.17.0.11", 15, lab.log)
        finally:
            del os.environ["XTABLES_LOCKFILE"]


def test_a_thousand_sources(lab: Lab) -> None:
    """Many sources are set in one commit a family, and one less is live after them; the kernel has each once."""
    many = [(f"10.{a}.{b}.0/24", True) for a in (20, 22, 24, 26) for b in range(250)]
    lab.configure(v4(("10.16.0.0/16", True)))
    lab.start()
    lab.configure(v4(("10.16.0.0/16", True), *many))
    eventually(lambda: len(nat(lab)) == 1001, 30, lab.log)
    assert lab.seen("10.16.0.9", OUTSIDE_V4) == "172.17.0.11"
    lab.configure(v4(("10.16.0.0/16", True), *many[1:]))
    eventually(lambda: len(nat(lab)) == 1000, 20, lab.log)


def test_plan_and_state_commands(lab: Lab) -> None:
    """`plan` prints what would be done and does nothing; after it is done there is nothing; bad input exits with 2."""
    lab.configure(v4())
    flags = ("--config", str(lab.config_file), "--run-dir", str(lab.run_dir))
    before = everything(lab)
    planned = lab.cli("plan", *flags)
    assert planned.returncode == 0
    assert planned.stdout.splitlines()[:5] == [
        "ip -4 rule add pref 18601 from all iif eth0 blackhole proto 118",
        "ip -4 rule add pref 18601 from all iif net1 blackhole proto 118",
        "ip -4 route replace default via 172.17.0.1 dev net1",
        f"iptables -t mangle {Tracking(Family.V4, 'net1')}",
        "iptables -t nat -I POSTROUTING 1 -s 10.16.0.0/16 -j MASQUERADE --random-fully",
    ]
    assert everything(lab) == before
    lab.start()
    assert lab.cli("plan", *flags).stdout == ""
    shown = lab.cli("state", "--run-dir", str(lab.run_dir))
    assert shown.returncode == 0
    assert "-A POSTROUTING -s 10.16.0.0/16 -j MASQUERADE --random-fully" in shown.stdout
    lab.configure(text="{")
    refused = lab.cli("plan", *flags)
    assert refused.returncode == 2
    assert "not JSON" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    silent = lab.cli("state", "--run-dir", str(lab.folder))
    assert silent.returncode == 1
    assert "does not answer" in silent.stderr
