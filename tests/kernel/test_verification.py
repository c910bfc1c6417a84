"""A tool that writes something else than it is told, or dies: what lbctl then reports, undoes and leaves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.faulty import FaultyTool
from support.network import Network, Result, intent, service

WEB = service("web", "80/tcp", "8001", "8002", "8003")
API = service("api", "192.0.2.1:443/tcp", "10.0.0.1:80", "10.0.0.2:80", affinity="1h")
FIRST = intent(WEB, API)
#: A new slot sequence, whose elements a delta writes.
SECOND = intent(service("web", "80/tcp", "8001", "8002", "8003", "8004"), API)
#: An endpoint of a service that is new: elements beside untouched ones.
THIRD = intent(WEB, API, service("more", "81/tcp", "8001", "8005"))
TOOLS = {
    "nft": ("nft", "--file"),
    "legacy": ("iptables-legacy-restore", "--noflush"),
    "nf_tables": ("iptables-nft-restore", "--noflush"),
}


@dataclass
class Bench:
    """A host with a tool that does what it is told, until it does not."""

    network: Network
    tool: FaultyTool
    driver: str

    def lbctl(self, *words: str, config: str = FIRST) -> Result:
        backend = "nftables" if self.driver == "nft" else "iptables"
        way = ("--backend", backend, "--driver", self.driver)
        return self.network.lbctl(*words, *way, config=config, env=self.tool.env)

    def apply(self, config: str = FIRST) -> Result:
        return self.lbctl("apply", "--yes", config=config)

    def holds(self, config: str) -> bool:
        """True if a plan has nothing to change."""
        return self.lbctl("plan", "--exit-code", config=config).code == 0


@pytest.fixture(params=list(TOOLS))
def bench(request: pytest.FixtureRequest, network: Network, tmp_path: Path) -> Iterator[Bench]:
    return Bench(network, FaultyTool(tmp_path, *TOOLS[request.param]), request.param)


def is_undone(done: Result) -> None:
    assert (done.code, done.out.endswith("Applied.\n")) == (5, False), done
    assert "what was written differs when read back" in done.err
    assert "the state before is restored and verified" in done.err


@pytest.mark.parametrize("mode", ["swap", "swap always"])
def test_a_first_apply_that_comes_back_wrong_is_undone(bench: Bench, mode: str) -> None:
    before = bench.network.rules()
    bench.tool.behave(mode)
    # What swaps the keys of a probe is used in the classic dialect, which has no such keys, and no affinity.
    config = intent(WEB) if mode == "swap always" else FIRST
    if (mode, bench.driver) == ("swap always", "nft"):
        assert bench.apply(config).code == 0
        assert bench.holds(config)
        assert "vmap" in bench.network.rules()
        return
    for _ in range(2):
        # The second one finds what the first one found: nothing of it counts as applied.
        is_undone(bench.apply(config))
        # Legacy tables stay once they were made, empty.
        assert "8001" not in bench.network.rules().replace(before, "")
        status = bench.lbctl("status", "--exit-code")
        assert status.code == 1
        assert ", in sync" not in status.out
    bench.tool.behave("right")
    assert bench.apply().code == 0
    assert bench.holds(FIRST)
    assert bench.lbctl("status", "--exit-code").code == 0


@pytest.mark.parametrize("second", [SECOND, THIRD], ids=["another-sequence", "another-service"])
def test_a_delta_that_comes_back_wrong_is_undone_or_reported(bench: Bench, second: str) -> None:
    assert bench.apply().code == 0
    assert bench.apply(THIRD).code == 0
    assert bench.apply().code == 0
    before = bench.network.rules()
    bench.tool.behave("swap")
    for _ in range(2):
        done = bench.apply(second)
        assert done.code in {5, 6}, done
        if done.code == 5:
            is_undone(done)
            assert bench.network.rules() == before
        else:
            assert "the state before could not be restored" in done.err or "was interrupted" in done.err
        assert bench.lbctl("status", "--exit-code", config=second).code == 1
    bench.tool.behave("right")
    assert bench.apply(second).code == 0
    assert bench.holds(second)
    assert bench.apply().code == 0
    assert bench.network.rules() == before


def test_a_tool_that_dies_before_it_wrote_changes_nothing(bench: Bench) -> None:
    assert bench.apply().code == 0
    before = bench.network.rules()
    bench.tool.behave("die before")
    done = bench.apply(SECOND)
    assert done.code == 5, done
    assert "signal 11 (SIGSEGV)" in done.err
    assert bench.network.rules() == before
    bench.tool.behave("right")
    assert bench.apply(SECOND).code == 0


def test_a_tool_that_dies_once_it_wrote_has_applied_or_is_undone(bench: Bench) -> None:
    """What the kernel holds counts, whatever became of the tool."""
    assert bench.apply().code == 0
    before = bench.network.rules()
    bench.tool.behave("die after")
    done = bench.apply(SECOND)
    assert "signal 11 (SIGSEGV)" in done.err + done.out
    bench.tool.behave("right")
    if done.code == 0:
        assert bench.holds(SECOND)
    else:
        assert done.code in {5, 6}, done
        if done.code == 5:
            assert bench.network.rules() == before
    assert bench.apply(SECOND).code == 0
    assert bench.holds(SECOND)


@pytest.fixture
def wrong(network: Network) -> Network:
    """A host as 0.1 left it with nft 1.1.7: applied, and the keys of all slots in the other byte order."""
    config = intent(WEB)
    assert network.lbctl("apply", "--yes", "--backend", "nftables", config=config).code == 0
    for word in ("ip", "ip6"):
        [page] = {
            line.split()[1]
            for line in network.tool("nft", "list", "table", word, "lbctl").splitlines()
            if line.startswith("\tmap ports-")
        }
        listed = network.tool("nft", "list", "map", word, "lbctl", page)
        slots = re.findall(r"(\d+) counter packets \d+ bytes \d+ comment (\S+) : (\d+)", listed)
        assert len(slots) == 3
        turned = [(int.from_bytes(int(key).to_bytes(4, "little"), "big"), *rest) for key, *rest in slots]
        old = ", ".join(key for key, *_ in slots)
        new = ", ".join(f"{key} comment {comment} : {port}" for key, comment, port in turned)
        network.tool("nft", "delete", "element", word, "lbctl", page, f"{{ {old} }}")
        network.tool("nft", "add", "element", word, "lbctl", page, f"{{ {new} }}")
    return network


def test_what_the_kernel_holds_otherwise_is_seen_and_repaired(wrong: Network) -> None:
    config = intent(WEB)
    status = wrong.lbctl("status", "--exit-code", config=config)
    assert (status.code, ", in sync" in status.out) == (1, False)
    assert "8001 has 0, not 1/3" in status.out
    assert wrong.lbctl("plan", "--exit-code", config=config).code == 1
    repaired = wrong.lbctl("apply", "--yes", config=config)
    assert (repaired.code, "Nothing to change" in repaired.out) == (0, False)
    assert wrong.lbctl("status", "--exit-code", config=config).code == 0


@pytest.mark.parametrize("named", [True, False], ids=["with-the-file", "by-the-history"])
def test_migrate_leads_away_from_what_the_kernel_holds_otherwise(wrong: Network, named: bool) -> None:
    config = intent(WEB) if named else None
    planned = wrong.lbctl("migrate", "--to", "iptables", "--plan", config=config)
    assert planned.code in {0, 1}, planned
    assert "restored as applied" in planned.out
    assert "nftables does not hold web as applied" in planned.out + planned.err
    moved = wrong.lbctl("migrate", "--to", "iptables", "--yes", config=config)
    assert moved.code == 0, moved
    assert "lbctl" not in wrong.tool("nft", "list", "tables")
    assert wrong.lbctl("status", "--exit-code", "--backend", "iptables", config=intent(WEB)).code == 0
