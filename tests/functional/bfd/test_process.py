"""The processes: restarts, signals, files, commands, privileges."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import datetime
from pathlib import Path

import grpc
import pytest
from veg.bfd.v1 import bfd_pb2 as pb

from tests.functional.bfd.conftest import ADMIN_DOWN, DOWN, Ends, all_up, bfdd_control
from tests.functional.bfd_interop.lab import OURS, THEIRS, Pair, until
from tests.functional.bfd_interop.speaker import PASSIVE, Speaker, session


def control_process(loop: int) -> int:
    """Process id of the control process of a packet loop."""
    children = Path(f"/proc/{loop}/task/{loop}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])


def loop_process(speaker: Speaker) -> int:
    """`ip netns exec` and `setpriv` replace themselves: the process started is the loop."""
    return speaker.pid()


def restart(speaker: Speaker, linger: float) -> None:
    """Another life, which answers for so long after SIGTERM."""
    speaker.kill()
    speaker.linger = linger
    speaker.start()


@pytest.mark.parametrize("side", ["a", "b"])
def test_killed_speaker_returns(ends: Ends, side: str) -> None:
    """After kill -9 a speaker goes on with its sessions before anyone tells it, and both ends agree again."""
    ends.up()
    speaker: Speaker = getattr(ends, side)
    before = speaker.list()[0]
    remembered = str(before.local_discriminator)
    until((speaker.folder / "sessions.json").read_text, lambda text: remembered in text)
    speaker.kill()
    speaker.start()
    ends.see(all_up(1))
    after = speaker.list()[0]
    assert after.local_discriminator == before.local_discriminator
    assert after.config == before.config


def test_hold_survives_a_restart(ends: Ends) -> None:
    """A speaker that was held when it died does not come up and attract traffic."""
    ends.up()
    ends.a.admin_down(down=True)
    until((ends.a.folder / "sessions.json").read_text, lambda text: '"hold": [7' in text)
    ends.a.kill()
    ends.a.start()
    ends.states(ADMIN_DOWN, DOWN)
    ends.a.admin_down(down=False)
    ends.see(all_up(1))


def test_stranger_after_a_restart(ends: Ends) -> None:
    """A peer that lost its memory, discriminators and all, is taken back."""
    ends.up()
    ends.b.kill()
    (ends.b.folder / "sessions.json").unlink()
    ends.b.start()
    assert not ends.b.list()
    ends.b.set(session(THEIRS["v4"], OURS["v4"], role=PASSIVE))
    ends.see(all_up(1))


def test_control_process_killed(ends: Ends) -> None:
    """Packets go on without the control process, and its successor knows the sessions."""
    before, _ = ends.up(ms=300)
    loop = loop_process(ends.a)
    victim = control_process(loop)
    os.kill(victim, signal.SIGKILL)

    def answer() -> list[pb.Session]:
        try:
            return ends.a.list(timeout=1)
        except grpc.RpcError:
            return []

    (after,) = until(answer, bool, within=20)
    assert control_process(loop) != victim
    assert (after.id, after.downs) == (before[0].id, 0)
    # Told as a duration and made a time of anew, by another process.
    apart = datetime.fromisoformat(after.since) - datetime.fromisoformat(before[0].since)
    assert abs(apart.total_seconds()) < 0.05
    assert ends.b.list()[0].downs == 0
    ends.a.set(session(OURS["v4"], THEIRS["v4"], tx=200))
    assert ends.a.list()[0].config.timers.min_tx_ms == 200


def test_control_process_paused(ends: Ends) -> None:
    """A control process that hangs stops no packet, and all it missed reaches it."""
    ends.up(ms=300)
    victim = control_process(loop_process(ends.a))
    os.kill(victim, signal.SIGSTOP)
    try:
        time.sleep(3)  # several detection times
        assert ends.b.list()[0].downs == 0
    finally:
        os.kill(victim, signal.SIGCONT)
    assert ends.a.list()[0].downs == 0


def test_packet_loop_paused(ends: Ends) -> None:
    """While the packet loop hangs nobody is told that its sessions are Up: no fresh file, no list; then all returns."""
    ends.up()
    path, loop = ends.a.folder / "sessions-up", loop_process(ends.a)
    until(path.exists, bool)
    os.kill(loop, signal.SIGSTOP)
    try:
        until(ends.b.list, lambda found: found[0].state == DOWN)
        stopped = path.stat().st_mtime
        with pytest.raises(grpc.RpcError) as refused:
            ends.a.list(timeout=20)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        assert path.stat().st_mtime - stopped < 0.5
        assert bfdd_control(ends.a.folder, "status").returncode == 1
    finally:
        os.kill(loop, signal.SIGCONT)
    ends.see(all_up(1))
    until(lambda: path.stat().st_mtime, lambda mtime: mtime > stopped)


def test_loop_killed_takes_control_process_along(ends: Ends) -> None:
    """No control process outlives its loop."""
    child = control_process(loop_process(ends.a))
    ends.a.kill()
    until(lambda: Path(f"/proc/{child}").exists(), lambda there: not there)
    ends.a.start()


def test_sigterm_until_drained(ends: Ends) -> None:
    """SIGTERM takes the peers down at once; the process answers on and ends with 0 when `drained` appears."""
    restart(ends.a, linger=60)
    ends.up()
    (ends.a.folder / "drained").touch()
    os.utime(ends.a.folder / "drained", (1, 1))  # of an earlier life: does not count
    ends.a.terminate()
    ours, _ = ends.states(ADMIN_DOWN, DOWN)
    assert ours.diagnostic == pb.DIAGNOSTIC_ADMINISTRATIVELY_DOWN
    with pytest.raises(grpc.RpcError) as refused:
        ends.a.admin_down(down=False)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    (ends.a.folder / "drained").touch()
    assert ends.a.wait(20) == 0  # and not the minute that it would answer for
    ends.a.linger = 2
    ends.a.start()
    ends.see(all_up(1))  # the end of a process is not remembered as a hold


def test_sigterm_lingers(ends: Ends) -> None:
    """Without `drained` it ends after --linger seconds (2 here), with nobody to tell at once."""
    ends.up()
    begin = time.monotonic()
    ends.a.terminate()
    assert ends.a.wait(15) == 0
    assert time.monotonic() - begin >= 2
    ends.a.linger = 60
    ends.a.start()
    ends.a.set()
    ends.a.terminate()
    assert ends.a.wait(20) == 0
    ends.a.linger = 2
    ends.a.start()


def test_sessions_up_file(ends: Ends) -> None:
    """`sessions-up` is fresh while every session is Up, and ages while one is not."""
    path = ends.a.folder / "sessions-up"
    path.unlink(missing_ok=True)
    ends.up(("v4", "v6"))
    until(lambda: path.exists() and time.time() - path.stat().st_mtime < 2, bool)
    first = path.stat().st_mtime
    until(lambda: path.stat().st_mtime, lambda mtime: mtime > first)
    ends.a.admin_down(down=True, peers=[THEIRS["v6"]])
    ends.see(lambda both: both[0][1].state == ADMIN_DOWN)
    stopped = path.stat().st_mtime
    time.sleep(1.5)
    assert path.stat().st_mtime == stopped


def test_status_prints_what_the_specification_shows(ends: Ends) -> None:
    """The specification's third example, word for word."""
    ends.up()
    folder = ends.b.folder
    number = ends.b.list()[0].id
    done = bfdd_control(folder, "status")
    assert done.returncode == 0
    assert done.stdout == (
        "There are 1 sessions:\n"
        f"Session {number}\n"
        f" id={number} local={THEIRS['v4']} (p) remote={OURS['v4']} state=Up\n"
    )
    ours = bfdd_control(ends.a.folder, "status").stdout
    assert f" local={OURS['v4']} (a) remote={THEIRS['v4']} state=Up\n" in ours
    told = json.loads(bfdd_control(folder, "status", "-o", "json").stdout)
    assert told["sessions"][0]["state"] == "up"
    assert told["scheduling"]["policy"]


def test_status_without_sessions(ends: Ends) -> None:
    """None is a number too."""
    assert bfdd_control(ends.a.folder, "status").stdout == "There are 0 sessions:\n"


def test_allow(ends: Ends) -> None:
    """A peer that is allowed makes a session by its first packet, with the timers set for new ones."""
    for words in (
        ("session", "new", "set", "mintx", "150", "ms"),
        ("session", "new", "set", "minrx", "150ms"),
        ("session", "new", "set", "multi", "5"),
        ("allow", OURS["v4"]),
    ):
        done = bfdd_control(ends.b.folder, *words)
        assert done.returncode == 0, done.stderr
    ends.a.set(session(OURS["v4"], THEIRS["v4"]))
    _, theirs = ends.see(all_up(1))
    timers = theirs[0].config.timers
    assert (timers.min_tx_ms, timers.min_rx_ms, timers.multiplier) == (150, 150, 5)
    assert theirs[0].config.role == PASSIVE
    assert bfdd_control(ends.b.folder, "block", OURS["v4"]).returncode == 0
    ends.b.set(owner="bfdd-control")
    until(ends.a.list, lambda found: found[0].state == DOWN)
    assert not ends.b.list()


def test_session_commands(ends: Ends) -> None:
    """One session: shown, retuned, taken down and up, ended."""
    ends.up()
    folder, number = ends.a.folder, str(ends.a.list()[0].id)
    assert "state=up" in bfdd_control(folder, "session", number).stdout
    assert bfdd_control(folder, "session", number, "set", "mintx", "60", "ms").returncode == 0
    assert ends.a.list()[0].config.timers.min_tx_ms == 60
    assert bfdd_control(folder, "session", number, "state", "admin").returncode == 0
    ends.states(ADMIN_DOWN, DOWN)
    assert bfdd_control(folder, "session", number, "state", "up").returncode == 0
    ends.see(all_up(1))
    assert bfdd_control(folder, "admin-down", THEIRS["v4"]).returncode == 0
    ends.states(ADMIN_DOWN, DOWN)
    assert bfdd_control(folder, "admin-up").returncode == 0
    ends.see(all_up(1))
    assert bfdd_control(folder, "session", number, "kill").returncode == 0
    assert not ends.a.list()


@pytest.mark.parametrize(
    "words",
    [
        ("allow", "10.0.0"),
        ("allow",),
        ("admin-down", "nobody"),
        ("session", "0"),
        ("session", "x"),
        ("session", "99999"),
        ("session", "99999", "kill"),
        ("session", "1", "dance"),
        ("session", "1", "set", "mintx", "5", "h"),
        ("session", "1", "set", "multi", "0"),
        ("session", "new", "set", "multi", "256"),
        ("nonsense",),
        ("status", "-o", "xml"),
    ],
    ids=" ".join,
)
def test_bad_command(ends: Ends, words: tuple[str, ...]) -> None:
    """Exit code 2 and one line that says what is wrong."""
    done = bfdd_control(ends.a.folder, *words)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if not line.startswith(("Usage:", "Try "))]
    assert len([line for line in errors if line]) == 1


def test_nobody_there(tmp_path: Path) -> None:
    """Without a speaker: exit code 1 and one line."""
    done = bfdd_control(tmp_path, "status")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_without_privilege(tmp_path: Path, pair: Pair) -> None:
    """Without CAP_SYS_NICE it runs under normal scheduling and says so, to gRPC clients and in its log."""
    other = Pair()
    speaker = Speaker(other.ours, tmp_path / "plain", prefix=["setpriv", "--bounding-set", "-sys_nice"])
    try:
        speaker.start()
        told = speaker.scheduling()
        assert told.policy == "SCHED_OTHER"
        assert "CAP_SYS_NICE" in told.problem
        assert "SCHED_FIFO" in (tmp_path / "plain" / "log").read_text()
    finally:
        speaker.close()
        other.close()


def test_with_privilege(ends: Ends) -> None:
    """As root the loop runs under SCHED_FIFO and its control process does not."""
    assert ends.a.scheduling() == pb.Scheduling(policy="SCHED_FIFO")
    loop = loop_process(ends.a)
    assert os.sched_getscheduler(loop) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO
    assert os.sched_getscheduler(control_process(loop)) == os.SCHED_OTHER


def test_port_taken(ends: Ends, tmp_path: Path) -> None:
    """A second speaker in the same namespace ends with one line."""
    second = Speaker(ends.pair.ours, tmp_path / "second")
    with pytest.raises(AssertionError, match="UDP port 3784: Address already in use"):
        second.start()
    second.close()


def test_few_descriptors(tmp_path: Path) -> None:
    """When descriptors run out, sessions share a socket and come up all the same."""
    other = Pair()
    many = [f"10.9.1.{n}" for n in range(1, 61)]
    other.addresses(other.theirs, many)
    a = Speaker(other.ours, tmp_path / "a", prefix=["prlimit", "--nofile=40:40"])
    b = Speaker(other.theirs, tmp_path / "b")
    try:
        a.start()
        b.start()
        a.set(*(session(OURS["v4"], peer) for peer in many))
        b.set(*(session(peer, OURS["v4"], role=PASSIVE) for peer in many))
        until(lambda: (a.list(), b.list()), all_up(len(many)), within=20)
    finally:
        a.close()
        b.close()
        other.close()


def test_metrics(tmp_path: Path) -> None:
    """Prometheus figures of sessions and of the loop."""
    other = Pair()
    speaker = Speaker(other.ours, tmp_path / "m")
    old = os.environ.get("VEG_BFD_METRICS")
    os.environ["VEG_BFD_METRICS"] = "127.0.0.1:9400"
    try:
        speaker.start()
        speaker.set(session(OURS["v4"], THEIRS["v4"]))
        text = other.enter(
            other.ours,
            "python3",
            "-c",
            "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9400/metrics', timeout=5).read().decode())",
        )
        assert (
            f'veg_bfd_session_state{{id="1",local="{OURS["v4"]}",owner="test",peer="{THEIRS["v4"]}"}} 1.0'
            in text
        )
        assert "veg_bfd_realtime 1.0" in text
        assert 'veg_bfd_rx_discarded_total{reason="ttl"} 0.0' in text
    finally:
        os.environ.pop("VEG_BFD_METRICS")
        if old is not None:
            os.environ["VEG_BFD_METRICS"] = old
        speaker.close()
        other.close()
