"""A move that fails, or is killed, at each of its steps: what holds then, and what the next command does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import pytest

from lbctl import engine
from lbctl.conformance.network import HOST6
from lbctl.errors import ApplyFailed, LbctlError, Stale
from lbctl.host import Completed, LocalHost
from support.crash import Killed, MortalHost
from support.network import Network, Result, intent, service

OWN = intent(
    service("web", ["80/tcp", "[2001:db8:1::1]:81/tcp"], "8001", "8002", "8003"),
    service("api", "82/tcp", "10.0.0.11:80", "10.0.0.12:80", affinity="1h", allow=["192.0.2.0/24"]),
)
#: Between others, and in both a hook and a chain of their own.
WRITTEN = """\
*nat
:SVC - [0:0]
-A PREROUTING -p tcp -m tcp --dport 2222 -j DNAT --to-destination 10.0.0.12:22
-A PREROUTING -d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j SVC
-A PREROUTING -p tcp -m tcp --dport 2223 -j DNAT --to-destination 10.0.0.12:22
-A SVC -p tcp -m statistic --mode nth --every 2 --packet 0 -j REDIRECT --to-ports 8001
-A SVC -p tcp -j REDIRECT --to-ports 8002
COMMIT
"""
#: Of both families, so that taking out what lbctl then has for them is several steps.
DATAGRAMS = """\
table ip lb {
	chain pre {
		type nat hook prerouting priority -100;
		fib daddr type local udp dport 53 redirect to numgen inc mod 2 map { 0 : 8001, 1 : 8002 }
	}
}
"""
DRIVERS = {"nftables": "nft", "iptables": "legacy"}


class FaultyHost(LocalHost):
    """A host on which one write fails: a program's, or that of a file."""

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__(folder)
        self.left = number

    def _fails(self) -> bool:
        self.left -= 1
        return self.left == -1

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        if stdin and "--test" not in argv and "--check" not in argv and self._fails():
            return Completed(code=1, out="", err="it does not work")
        return super().run(argv, stdin=stdin)

    def save(self, name: str, text: str | None) -> None:
        if self._fails():
            raise ApplyFailed("the disk is full")
        super().save(name, text)

    def rename(self, name: str, new: str) -> None:
        if self._fails():
            raise ApplyFailed("the disk is full")
        super().rename(name, new)


class Move:
    """A host that holds rules in one backend, and their move to the other one."""

    def __init__(self, network: Network, source: str) -> None:
        self.network, self.source = network, source
        self.to = {"iptables": "nftables", "nftables": "iptables", "written": "nftables"}[source]
        if source == "written":
            network.tool("iptables-legacy-restore", "--noflush", stdin=WRITTEN)
        else:
            done = network.lbctl("apply", "--yes", "--driver", DRIVERS[source], config=OWN)
            assert done.code == 0, done.err
        self.old = self.rules
        assert self.again().code == 0
        self.new = self.rules
        assert self.back().code == 0
        assert self.rules == self.old

    @property
    def rules(self) -> list[str]:
        tables = self.network.tool("nft", "list", "tables").splitlines()
        texts = [self.network.tool("nft", "-s", "list", *t.split()) for t in sorted(tables) if "lbctl" in t]
        texts += [self.network.tool(f"{word}-legacy-save") for word in ("iptables", "ip6tables")]
        lines = [line.split(" [")[0] for text in texts for line in text.splitlines()]
        # Tables that are looked at come into being; a chain that comes back is the last of its table.
        return [x for x in lines if not re.match(r"[#*]|COMMIT|:[A-Z]+ ACCEPT", x)]

    def again(self) -> Result:
        return self.network.lbctl("migrate", "--to", self.to, "--driver", DRIVERS[self.to], "--yes")

    def back(self) -> Result:
        return self.network.lbctl("rollback", "--yes")

    def by(self, host: LocalHost) -> None:
        """Move, on this host."""
        with self.network.host.entered():
            session = engine.open_session(host, backend=self.to, driver=DRIVERS[self.to])
            made = engine.plan_migration(session, "lbctl")
            assert made is not None
            engine.run_migration(session, made)


@pytest.fixture(params=["iptables", "nftables", "written"])
def move(network: Network, request: pytest.FixtureRequest) -> Move:
    return Move(network, request.param)


def test_whatever_fails_everything_is_as_it_was(move: Move) -> None:
    failures = 0
    for number in count():
        host = FaultyHost(move.network.folder, number)
        caught = None
        try:
            move.by(host)
        except LbctlError as error:
            caught = error
        if caught is not None:
            assert (caught.exit_code, move.rules) == (5, move.old), caught.message
            failures += 1
            continue
        assert move.rules == move.new
        if host.left >= 0:
            break
        # What could not be noted is noted by the next command.
        assert move.back().code == 0
        assert move.rules == move.old
    assert failures >= 3


def test_a_killed_move_is_finished_or_taken_back(move: Move) -> None:
    said = ""
    for effects in count():
        try:
            move.by(MortalHost(move.network.folder, effects))
        except Killed:
            again = move.again()
            assert (again.code, move.rules) == (0, move.new), again.err
            said += again.err
            back = move.back()
            assert (back.code, move.rules) == (0, move.old), back.err
        else:
            break
    assert effects >= 4
    assert "Interrupted, reverted now" in said
    assert re.search("Interrupted, (completed now|already complete)", said)


def test_a_killed_way_back_is_finished_or_taken_back(move: Move) -> None:
    for effects in count():
        assert move.again().code == 0
        try:
            with move.network.host.entered():
                host = MortalHost(move.network.folder, effects)
                session = engine.open_session(host, backend=move.to, driver=DRIVERS[move.to])
                way, target = engine.roll_back(session, "lbctl")
                engine.go_back(session, way, target)
        except Killed:
            again = move.again()
            assert (again.code, move.rules) == (0, move.new), again.err
        else:
            break
    assert effects >= 4
    assert move.rules == move.old


def test_a_killed_way_back_ends_no_flow(network: Network) -> None:
    """The rules that come back are for the flows of those that go."""
    network.local_endpoints((8001, 8002), "udp")
    network.tool("nft", "-f", "-", stdin=DATAGRAMS + DATAGRAMS.replace("ip lb", "ip6 lb"))
    finished = 0
    for effects in count():
        moved = network.lbctl("migrate", "--to", "iptables", "--driver", "legacy", "--yes")
        assert moved.code == 0, moved.err
        flows = [network.flow(network.client, HOST6, 53) for _ in range(2)]
        assert [flow.say() for flow in flows] == ["8001", "8002"]
        with network.host.entered():
            session = engine.open_session(MortalHost(network.folder, effects), driver="legacy")
            way, target = engine.roll_back(session, "lbctl")
            try:
                engine.go_back(session, way, target)
            except Killed:
                notes = engine.recover(engine.open_session(LocalHost(network.folder)), "lbctl")
                finished += any("completed now" in note for note in notes)
            else:
                break
        # Whoever were placed anew would both be the first of the rules that came back.
        assert [flow.say() for flow in flows] == ["8001", "8002"]
    assert finished >= 2


class Meddler(LocalHost):
    """A host on which somebody else adds a rule once the new ones are in."""

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        done = super().run(argv, stdin=stdin)
        if argv[0].endswith("nft") and stdin:
            super().run(["iptables-legacy", *_added(9)])
        return done


def test_rules_that_somebody_adds_meanwhile_stay(network: Network) -> None:
    move = Move(network, "written")
    with pytest.raises(Stale, match="foreign rules in iptables-legacy changed since the plan"):
        move.by(Meddler(network.folder))
    assert [line for line in move.rules if "--dport 9 " not in line] == move.old
    assert any("--dport 9 " in line for line in move.rules)
    assert move.again().code == 0
    assert [line for line in move.rules if "--dport 9 " not in line] == move.new
    # The rules of before come back to their places among those of now.
    network.tool("iptables-legacy", *_added(7))
    assert move.back().code == 0
    assert [line for line in move.rules if not re.search("--dport [79] ", line)] == move.old


def _added(port: int) -> list[str]:
    return f"-t nat -I PREROUTING -p tcp --dport {port} -j ACCEPT".split()
