"""An nft that crashes on some tables: rules managed by lbctl are read without it, others are still listed.

nft 1.0.6 ends by signal 11 when it lists what nft 1.1.3 wrote of the rules of lbctl, and of others like them.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from lbctl.conformance.network import HOST4
from lbctl.host import LocalHost
from lbctl_nftables import drivers
from support.network import intent, service

if TYPE_CHECKING:
    from pathlib import Path

    from support.network import Network, Result

#: Crashes as soon as it lists what has one of these names, or everything.
_PROGRAM = """#!{python} -S
import os, signal, sys

words = sys.argv[1:]
if "list" in words and ("ruleset" in words or set(words) & {{"lbctl", "crashes"}}):
    os.kill(os.getpid(), signal.SIGSEGV)
os.execv({nft!r}, [{nft!r}, *words])
"""
WEB = intent(service("web", "80/tcp", "8001", "8002"), service("api", f"{HOST4}:443/tcp", "10.0.0.1:80"))
FOREIGN = """
table ip crashes {
    chain c { type nat hook prerouting priority 0; tcp dport 81 redirect to :8001; }
}
table ip works {
    chain c { type nat hook prerouting priority 0; tcp dport 82 redirect to :8002; }
}
"""


class Bench:
    """A host whose nft crashes, and what lbctl does there."""

    def __init__(self, network: Network, folder: Path, driver: str) -> None:
        self.network = network
        self.driver = driver
        real = shutil.which("nft")
        assert real is not None
        (folder / "crashing").mkdir()
        path = folder / "crashing" / "nft"
        path.write_text(_PROGRAM.format(python=sys.executable, nft=real))
        path.chmod(0o755)
        self.env = {"PATH": f"{path.parent}:{os.environ['PATH']}"}

    def lbctl(self, *words: str, config: str | None = WEB) -> Result:
        return self.network.lbctl(*words, config=config, env=self.env)

    def way(self) -> tuple[str, ...]:
        return ("--backend", "nftables", "--driver", self.driver)


@pytest.fixture(params=["nft", "libnftables"])
def bench(network: Network, tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    made = Bench(network, tmp_path, request.param)
    made.network.tool("nft", "-f", "-", stdin=FOREIGN)
    return made


def test_rules_managed_by_lbctl_need_no_listing(bench: Bench) -> None:
    done = bench.lbctl("apply", "--yes", *bench.way())
    assert done.code == 0, done.err
    status = bench.lbctl("status", "--exit-code", "--output", "json", *bench.way())
    assert (status.code, status.json["in_sync"]) == (0, True), status.err
    assert bench.lbctl("plan", "--exit-code", *bench.way()).code == 0
    bench.network.tool("nft", "flush", "chain", "ip", "lbctl", "service-web")
    assert bench.lbctl("status", "--exit-code", *bench.way()).code == 1
    assert bench.lbctl("apply", "--yes", *bench.way()).code == 0
    assert bench.lbctl("doctor", *bench.way()).code in {0, 1}
    assert bench.lbctl("remove", "--yes", *bench.way()).code == 0
    assert "lbctl" not in bench.network.rules()


def test_a_table_that_cannot_be_listed_is_named_and_the_others_are_read(bench: Bench) -> None:
    assert bench.lbctl("apply", "--yes", *bench.way()).code == 0
    done = bench.lbctl("import", "--from", "nftables", "--output", "json", config=None)
    assert done.code in {0, 1}, done.err
    assert {each["dport"] for each in done.json["services"]} == {"80", "443", "82"}
    [finding] = [each for each in done.json["findings"] if each["code"] == "partial-dump"]
    assert finding["rule"] == "list table ip crashes"
    compared = bench.lbctl("compare", "live:nftables", "live:nftables", config=None)
    assert "EQUAL" in compared.out.upper()


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("handles", [False, True])
def test_both_drivers_list_the_same(folder: Path, handles: bool) -> None:
    host = LocalHost(folder)
    host.run(["nft", "-f", "-"], stdin=FOREIGN)
    words = ("list", "table", "ip", "works")
    by_nft, by_library = (each.read(host, *words, handles=handles) for each in drivers.ALL.values())
    assert by_nft == by_library
    assert ("# handle" in by_nft.out) is handles
    assert "redirect to :8002" in by_nft.out
    refused = [each.read(host, "list", "table", "ip", "nothing") for each in drivers.ALL.values()]
    assert [done.code for done in refused] == [1, 1]
    assert all("No such file" in done.err for done in refused)
