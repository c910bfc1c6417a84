"""A host that 0.1 has worked on, with its state, its live tables and a plan file, under load.

tests/fixtures/0.1 is what lbctl 0.1.0 wrote with nft 1.0.6 and iptables 1.8.9; in its records, `@NAMESPACE@`
stands for the network namespace, and `@INTENT@` for the path of an intent file.
"""

import json
from pathlib import Path

import pytest

from lbctl.conformance.network import HOST4, HOST6, SERVERS4
from lbctl.host import LocalHost
from support.network import Network
from support.waves import KNOCKERS, Storm, reported, size

WRITTEN = Path(__file__).parents[1] / "fixtures" / "0.1"
STORM = size(3000)
PORTS = (8001, 8002, 8003, 8004)
#: Each file of rules, and the program that loads it.
RULES = {
    "nft": {"rules.nft": ("nft", "-f", "-")},
    "legacy": {
        "rules.ip": ("iptables-legacy-restore", "--noflush"),
        "rules.ip6": ("ip6tables-legacy-restore", "--noflush"),
    },
}

#: The exit code for a plan of what the kernel does not hold.
STALE = 7


class Upgraded:
    """The middle host as 0.1 left it."""

    def __init__(self, network: Network, driver: str) -> None:
        self.network, self.driver = network, driver
        written = WRITTEN / driver
        for name, program in RULES[driver].items():
            network.tool(*program, stdin=(written / name).read_text())
        self.intents = {name: self._file(WRITTEN / f"{name}.toml") for name in ("lbctl", "next")}
        with network.host.entered():
            host = LocalHost(network.folder)
            self.namespace = host.namespace() or ""
            for name in ("lbctl.000001", "lbctl.000002"):
                host.save(name, self._filled(written / name))
            if driver == "nft":
                host.remember("lbctl.nftables", self._filled(written / "known"))
        self.plan = self._file(written / "plan")

    def _file(self, source: Path) -> Path:
        path = self.network.folder / source.name
        path.write_text(self._filled(source) if source.name == "plan" else source.read_text())
        return path

    def _filled(self, source: Path) -> str:
        values = {
            "@NAMESPACE@": self.namespace,
            "@GENERATION@": f"{self.namespace}/3",
            "@INTENT@": str(self.network.folder / "next.toml"),
        }
        text = source.read_text()
        for mark, value in values.items():
            text = text.replace(mark, value)
        return text

    def lbctl(self, *words: str, config: str = "", code: int = 0) -> str:
        """Run the program; it ends with `code`."""
        done = self.network.lbctl(*words, config=self.intents[config] if config else None)
        assert done.code == code, done.out + done.err
        return done.out

    @property
    def actions(self) -> list[tuple[int, str]]:
        listed = self.network.lbctl("history", "--output", "json").json["history"]
        return [(entry["number"], entry["action"]) for entry in listed]

    def in_sync(self, config: str) -> bool:
        words = ("--driver", self.driver, "--output", "json")
        return self.network.lbctl("status", *words, config=self.intents[config]).json["in_sync"]


@pytest.mark.parametrize("driver", RULES)
def test_what_0_1_wrote_is_taken_over_under_load(network: Network, driver: str) -> None:
    host = Upgraded(network, driver)
    local = [f"{address}:{port}" for address in (HOST4, f"[{HOST6}]") for port in PORTS]
    serving = [(network.host, local), (network.server, [f"{address}:80" for address in SERVERS4])]
    targets = [f"{HOST4}:80", f"[{HOST6}]:80", f"[{HOST6}]:443", f"{HOST4}:81", f"{HOST4}:82"]
    waves = Storm(network, serving, targets, clients=8)

    def more() -> None:
        waves.wait(waves.count() + STORM // 6)

    try:
        waves.begin()
        more()
        assert host.actions == [(1, "apply"), (2, "apply")]
        # Since 0.2, nftables has other rules for what services share, and iptables has other rules for all.
        assert not host.in_sync("lbctl")
        planned = host.lbctl("plan", "--driver", driver, config="lbctl")
        rewritten = 0 if driver == "nft" else 3
        assert planned.count("\n~ ") == planned.count("same shares, other rules") == rewritten
        if driver == "nft":
            host.lbctl("apply", "--yes", str(host.plan), code=STALE)
            host.lbctl("apply", "--yes", "--driver", driver, config="next")
        else:
            host.lbctl("apply", "--yes", str(host.plan))
        assert host.in_sync("next")
        assert host.actions[-1] == (3, "apply")
        more()
        host.lbctl("rollback", "--yes")
        assert host.in_sync("lbctl")
        more()
        host.lbctl("rollback", "--yes")
        assert not host.in_sync("lbctl")
        more()
        host.lbctl("apply", "--yes", "--driver", driver, config="lbctl")
        assert host.in_sync("lbctl")
        more()
        reports = waves.end()
    finally:
        waves.close()
    found = reported(reports)
    failed = [knock for knock in found if knock.failed]
    print(f"{driver}: {len(found)} connections, {len(failed)} failed")
    assert len(found) >= STORM * 5 // 6
    assert not failed
    assert [report["broken"] for report in reports] == [[]] * KNOCKERS


@pytest.mark.parametrize("driver", RULES)
def test_what_is_written_today_has_the_form_that_0_1_reads(network: Network, driver: str) -> None:
    host = Upgraded(network, driver)
    host.lbctl("apply", "--yes", "--driver", driver, config="next")
    with network.host.entered():
        kept = LocalHost(network.folder)
        old, new = (kept.saved(f"lbctl.00000{number}") or "" for number in (2, 3))
    heads = [set(json.loads(text.partition("\n")[0])) for text in (old, new)]
    assert heads[0] == heads[1]
    assert new.startswith('{"format_version": 1, "number": 3, ')


#: Drivers that have listeners with a range of ports.
RANGED = ("nft", "legacy")
FIRST, LAST, EXACT = 3000, 3100, 3050
RANGE = f"""

[[service]]
name = "range"
listen = "{FIRST}-{LAST}/tcp"
endpoints = {list(SERVERS4)}
"""
SINGLE = RANGE.replace(f"{FIRST}-{LAST}", str(EXACT))
INSIDE = f"""

[[service]]
name = "inside"
listen = "{EXACT}/tcp"
endpoints = ["{SERVERS4[1]}"]
"""


@pytest.mark.parametrize("driver", RANGED)
def test_ranges_come_and_go_in_what_0_1_wrote_under_load(network: Network, driver: str) -> None:
    """Also the port of a single listener that becomes one of a range, and back: it is served throughout."""
    host = Upgraded(network, driver)
    written = host.intents["lbctl"].read_text()
    for name, more in (("single", SINGLE), ("range", RANGE), ("both", RANGE + INSIDE)):
        host.intents[name] = network.folder / f"{name}.toml"
        host.intents[name].write_text(written + more)
    local = [f"{address}:{port}" for address in (HOST4, f"[{HOST6}]") for port in PORTS]
    remote = [f"{address}:{port}" for address in SERVERS4 for port in (80, EXACT)]
    words = ("apply", "--yes", "--driver", driver)
    host.lbctl(*words, config="single")
    targets = [f"{HOST4}:80", f"[{HOST6}]:80", f"{HOST4}:82", f"{HOST4}:{EXACT}"]
    waves = Storm(network, [(network.host, local), (network.server, remote)], targets, clients=8)
    steps = ("range", "both", "range", "single", "both", "single") * 2
    try:
        waves.begin()
        for config in steps:
            host.lbctl(*words, config=config)
            assert host.in_sync(config)
            waves.wait(waves.count() + STORM // len(steps))
        reports = waves.end()
    finally:
        waves.close()
    found = reported(reports)
    failed = [knock for knock in found if knock.failed]
    print(f"{driver}: {len(found)} connections, {len(failed)} failed")
    assert len(found) >= STORM
    assert not failed
    assert [report["broken"] for report in reports] == [[]] * KNOCKERS
