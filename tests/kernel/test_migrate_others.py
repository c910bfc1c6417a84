"""Moving services out of rules that people wrote: what goes, what stays, and the way back."""

import re
import time
from collections import Counter
from fractions import Fraction

import pytest

from lbctl.conformance.network import HOST4, SERVERS4
from support.network import Network, Result
from support.waves import KNOCKERS, Storm, reported

#: As Docker leaves them, and rules of the host around them.
SURROUNDINGS = """\
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A PREROUTING -p tcp -m tcp --dport 2222 -j DNAT --to-destination 10.0.0.12:22
{rules}-A PREROUTING -p tcp -m tcp --dport 2223 -j DNAT --to-destination 10.0.0.12:22
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -j RETURN
COMMIT
"""
#: The six lines of a host with one process a port, as its tool prints them today.
ORIGIN = "".join(
    f"-A PREROUTING -p tcp -m tcp --dport {port} {turn}-j REDIRECT --to-ports {to}\n"
    for port, first in ((80, 8001), (443, 8101))
    for to, turn in (
        (first, "-m statistic --mode nth --every 3 --packet 0 "),
        (first + 1, "-m statistic --mode nth --every 2 --packet 0 "),
        (first + 2, ""),
    )
)
EVERY_THREE = "".join(
    f"-A PREROUTING -p tcp -m tcp --dport 80 -m statistic --mode nth --every 3 --packet {n} "
    f"-j REDIRECT --to-ports {8001 + n}\n"
    for n in range(3)
)
UPLINKS = """\
*mangle
-A PREROUTING -i inside -m conntrack --ctstate NEW \
-m statistic --mode nth --every 2 --packet 0 -j MARK --set-xmark 0x1/0xffffffff
-A PREROUTING -i inside -m conntrack --ctstate NEW \
-m statistic --mode nth --every 2 --packet 1 -j MARK --set-xmark 0x2/0xffffffff
COMMIT
"""
TABLE = """\
table ip lb {
	map hosts {
		typeof numgen inc mod 2 : ip daddr . tcp dport
		elements = { 0 : 10.0.0.11 . 80, 1 : 10.0.0.12 . 80, 2 : 10.0.0.13 . 80 }
	}
	chain svc {
		meta l4proto tcp dnat ip to numgen inc mod 3 map @hosts
	}
	chain pre {
		type nat hook prerouting priority -100; policy accept;
		tcp dport 2222 dnat to 10.0.0.12:22
		ip daddr 192.0.2.1 tcp dport 80 jump svc
		tcp dport 2223 dnat to 10.0.0.12:22
	}
}
"""


class Host:
    """A host with rules in one store, and what that holds."""

    def __init__(self, network: Network, flavour: str) -> None:
        self.network, self.flavour = network, flavour
        network.local_endpoints((80, 8001, 8002, 8003, 8101, 8102, 8103))

    def load(self, rules: str) -> None:
        self.network.tool(f"iptables-{self.flavour}-restore", "--noflush", stdin=rules)

    @property
    def rules(self) -> list[str]:
        saved = self.network.tool(f"iptables-{self.flavour}-save").splitlines()
        # Tables that are only looked at come into being.
        kept = [line for line in saved if line.startswith("-") or re.match(r":\S+ - ", line)]
        return [line.split(" [")[0] for line in kept]

    def migrate(self, *words: str) -> Result:
        store = f"iptables-{self.flavour}"
        return self.network.lbctl("migrate", "--to", "nftables", "--from", store, *words)

    def ask(self, port: int, count: int) -> list[str]:
        return self.network.ask(self.network.client, HOST4, port, count)


@pytest.fixture(params=["legacy", "nft"])
def host(network: Network, request: pytest.FixtureRequest) -> Host:
    return Host(network, request.param)


def test_the_origins_six_lines_go_and_their_surroundings_stay(host: Host) -> None:
    host.load(SURROUNDINGS.format(rules=ORIGIN))
    before = host.rules
    planned = host.migrate("--plan", "--rules")
    assert planned.code == 0, planned.err
    assert planned.out.count("identical") == 2
    assert f"Unchanged in iptables-{host.flavour}: 9 rules" in planned.out
    assert "+++ nftables then" in planned.out
    assert "-D PREROUTING -p tcp -m tcp --dport 443 -m statistic" in planned.out
    assert host.rules == before
    file = host.network.folder / "made.toml"
    moved = host.migrate("--yes", "--save", str(file))
    outcome, left = moved.err.splitlines()
    assert (moved.code, outcome) == (0, "Migrated."), moved.err
    assert "the removed rules" in left
    assert host.rules == [line for line in before if line not in ORIGIN.splitlines()]
    assert host.ask(80, 6) == ["8001", "8002", "8003"] * 2
    assert host.ask(443, 6) == ["8101", "8102", "8103"] * 2
    # From now on they are services like any other.
    assert host.network.lbctl("plan", "--exit-code", config=file).code == 0
    back = host.network.lbctl("rollback", "--yes", config=file)
    assert back.code == 0, back.err
    assert f"Restored in iptables-{host.flavour}: 6 rules\n    {ORIGIN.splitlines()[0]}\n" in back.out
    assert "- tcp-443  443/tcp\n    8101  1/3  →  0\n" in back.out
    assert host.rules == before
    assert "lbctl" not in host.network.tool("nft", "list", "tables")
    assert Counter(host.ask(80, 6)) == {"8001": 2, "8002": 2, "8003": 2}


def test_a_move_on_trial_brings_them_back(host: Host) -> None:
    host.load(SURROUNDINGS.format(rules=ORIGIN))
    before = host.rules
    tried = host.migrate("--yes", "--trial", "1s", "--output", "json")
    assert (tried.code, tried.json["applied"], tried.json["trial"]) == (8, True, "reverted"), tried.err
    assert host.rules == before
    assert "lbctl" not in host.network.tool("nft", "list", "tables")
    assert host.migrate("--yes").code == 0
    back = host.network.lbctl("rollback", "--yes", "--output", "json")
    assert (back.code, back.json["applied"], back.json["migration"]["to"]["backend"]) == (0, True, "iptables")
    assert host.rules == before


def test_the_steps_of_both_families_are_files_for_their_tools(host: Host) -> None:
    saved, tools = f"-{host.flavour}-save", {"iptables": "80", "ip6tables": "443"}
    for tool, port in tools.items():
        rules = "".join(line for line in ORIGIN.splitlines(True) if f"--dport {port} " in line)
        host.network.tool(f"{tool}-{host.flavour}-restore", stdin=f"*nat\n{rules}COMMIT\n")
    folder = host.network.folder
    planned = host.migrate("--plan", "--scripts", str(folder))
    assert planned.code == 0, planned.err
    come, go = ((folder / f"{n}.rules").read_text() for n in ("1-nftables", f"2-iptables-{host.flavour}"))
    again = host.migrate("--plan", "--scripts", str(folder))
    assert (again.code, "1-nftables.rules cannot be written: File exists" in again.err) == (5, True)
    host.network.tool("nft", "-f", "-", stdin=come)
    for tool in tools:
        assert "REDIRECT" in host.network.tool(tool + saved)
        host.network.tool(f"{tool}-{host.flavour}-restore", "--noflush", stdin=go)
        assert "REDIRECT" not in host.network.tool(tool + saved)
    assert sorted(host.ask(80, 3)) == ["8001", "8002", "8003"]


def test_clients_that_rules_leave_out_are_told(host: Host) -> None:
    rules = ORIGIN.replace("-A PREROUTING -p", "-A PREROUTING -s 192.0.2.0/24 -p")
    host.load(SURROUNDINGS.format(rules=rules))
    planned = host.migrate("--plan")
    assert planned.code == 0, planned.err
    assert "tcp-80: other clients than those of allow, whom the rules let pass, are refused" in planned.out


def test_who_is_excluded_stays(host: Host) -> None:
    host.load(SURROUNDINGS.format(rules=ORIGIN))
    before = host.rules
    moved = host.migrate("--yes", "--exclude", "tcp-443")
    assert moved.code == 0, moved.err
    assert "lbctl import --from nftables > lbctl.toml writes it" in moved.err
    # Those two rungs begin anew, as any of a legacy table that changes.
    restart = "iptables resets all nth counters of the table: those of 2 remaining rules"
    assert (restart in moved.out) == (host.flavour == "legacy")
    gone = [line for line in ORIGIN.splitlines() if "--dport 80 " in line]
    assert host.rules == [line for line in before if line not in gone]
    # The rest follows, beside what is there.
    assert host.migrate("--yes").code == 0
    assert host.rules == [line for line in before if line not in ORIGIN.splitlines()]
    assert sorted(host.ask(80, 3) + host.ask(443, 3)) == ["8001", "8002", "8003", "8101", "8102", "8103"]
    back = [host.network.lbctl("rollback", "--yes") for _ in range(2)]
    assert [each.code for each in back] == [0, 0]
    assert [restart in each.out for each in back] == [False, host.flavour == "legacy"]
    assert host.rules == before
    unknown = host.migrate("--yes", "--exclude", "tcp-444")
    assert (unknown.code, "one of tcp-443, tcp-80" in unknown.err) == (2, True)


def test_rules_that_came_back_go_where_lbctl_does_the_same(host: Host) -> None:
    host.load(SURROUNDINGS.format(rules=ORIGIN))
    file = host.network.folder / "made.toml"
    assert host.migrate("--yes", "--save", str(file)).code == 0
    left = host.rules
    nft = host.network.tool("nft", "-s", "list", "table", "ip", "lbctl")
    host.ask(80, 1)
    host.load(f"*nat\n{ORIGIN}COMMIT\n")
    back = host.rules
    # Under another name too.
    file.write_text(file.read_text().replace('"tcp-80"', '"web"'))
    assert host.network.lbctl("apply", "--yes", config=file).code == 0
    gone = host.network.lbctl("migrate", "--to", "nftables", "--yes", config=file)
    assert gone.code == 0, gone.err
    assert "Note: web of lbctl does the same as tcp-80, whose rules are only removed\n" in gone.out
    assert ": new" not in gone.out
    assert host.rules == left
    assert host.network.tool("nft", "-s", "list", "table", "ip", "lbctl").count("8001") == nft.count("8001")
    assert host.network.lbctl("plan", "--exit-code", config=file).code == 0
    assert host.network.lbctl("rollback", "--yes", config=file).code == 0
    assert host.rules == back
    # What does something else stays, until somebody says so.
    file.write_text(file.read_text().replace('"8003"', '"8003", "8004"'))
    assert host.network.lbctl("apply", "--yes", config=file).code == 0
    refused = host.network.lbctl("migrate", "--to", "nftables", "--yes", config=file)
    assert refused.code == 2, refused.err
    assert '"web" of lbctl and the rules of tcp-80' in refused.err
    assert host.rules == back


@pytest.mark.parametrize(
    ("cure", "shares"),
    [
        ("--fix", {"8001": Fraction(1, 3), "8002": Fraction(1, 3), "8003": Fraction(1, 3)}),
        (
            "--keep",
            {"8001": Fraction(1, 3), "8002": Fraction(2, 9), "8003": Fraction(4, 27), "80": Fraction(8, 27)},
        ),
    ],
)
def test_shares_that_nobody_meant(host: Host, cure: str, shares: dict[str, Fraction]) -> None:
    host.load(SURROUNDINGS.format(rules=EVERY_THREE))
    before = host.rules
    refused = host.migrate("--yes")
    assert refused.code == 2
    assert "every-n-on-each-line" in refused.err
    assert "--fix" in refused.err
    assert "--keep" in refused.err
    assert host.rules == before
    now = Counter(host.ask(80, 27))
    assert {to: Fraction(n, 27) for to, n in now.items()}["80"] == Fraction(8, 27)
    moved = host.migrate("--yes", cure)
    assert moved.code == 0, moved.err
    assert {to: Fraction(n, 27) for to, n in Counter(host.ask(80, 27)).items()} == shares
    assert host.network.lbctl("rollback", "--yes").code == 0
    assert host.rules == before


def test_a_ladder_of_marks_is_refused_with_the_reason(host: Host) -> None:
    host.load(UPLINKS)
    before = host.rules
    refused = host.migrate("--yes")
    assert refused.code == 2
    assert "it chooses by mark; an intent sends connections to endpoints" in refused.err
    assert all(f"    {rule}\n" in refused.err for rule in before)
    host.load(SURROUNDINGS.format(rules=ORIGIN))
    [name] = re.findall(r'--exclude "(.+)"', host.migrate("--yes").err)
    assert name == "mark 0x1"
    assert host.migrate("--yes", "--exclude", name).code == 0
    assert [line for line in host.rules if "MARK" in line] == before


def test_a_table_of_nft_goes_to_iptables_and_returns(network: Network) -> None:
    network.remote_endpoints(80)
    network.tool("nft", "-f", "-", stdin=TABLE)
    before = network.tool("nft", "list", "table", "ip", "lb")
    moved = network.lbctl("migrate", "--to", "iptables", "--driver", "legacy", "--yes")
    assert moved.code == 0, moved.err
    left = network.tool("nft", "list", "table", "ip", "lb")
    assert "svc" not in left
    assert "hosts" not in left
    assert re.findall(r"dport (\d+)", left) == ["2222", "2223"]
    assert sorted(network.ask(network.client, HOST4, 80, 3)) == list(SERVERS4)
    back = network.lbctl("rollback", "--yes")
    assert back.code == 0, back.err
    assert "Restored in nftables: 2 rules\n    meta l4proto tcp dnat ip to numgen" in back.out
    after = network.tool("nft", "list", "table", "ip", "lb")
    # A chain that comes back is the last of its table.
    assert sorted(after.splitlines()) == sorted(before.splitlines())
    assert re.findall(r"dport (\d+)", after) == ["2222", "80", "2223"]
    assert sorted(network.ask(network.client, HOST4, 80, 3)) == list(SERVERS4)


def test_a_table_that_is_left_empty_goes_and_returns(network: Network) -> None:
    network.remote_endpoints(80)
    network.tool("nft", "-f", "-", stdin="".join(x for x in TABLE.splitlines(True) if "dport 22" not in x))
    before = network.tool("nft", "list", "table", "ip", "lb")
    assert network.lbctl("migrate", "--to", "iptables", "--driver", "legacy", "--yes").code == 0
    assert network.tool("nft", "list", "tables") == ""
    assert network.lbctl("rollback", "--yes").code == 0
    assert sorted(network.tool("nft", "list", "table", "ip", "lb").splitlines()) == sorted(
        before.splitlines()
    )
    assert sorted(network.ask(network.client, HOST4, 80, 3)) == list(SERVERS4)


def test_rules_of_others_move_under_load(host: Host) -> None:
    network = host.network
    host.load(SURROUNDINGS.format(rules=ORIGIN.replace("--to-ports 8", "--to-ports 9")))
    ports = [port for first in (9001, 9101) for port in range(first, first + 3)]
    waves = Storm(
        network, [(network.host, [f"{HOST4}:{p}" for p in ports])], [f"{HOST4}:80", f"{HOST4}:443"], clients=4
    )
    try:
        waves.begin()
        for number, words in enumerate((("migrate", "--to", "nftables"), ("rollback",)), 1):
            while waves.count() < number * 1000:
                time.sleep(0.002)
            assert network.lbctl(*words, "--yes").code == 0
        reports = waves.end()
    finally:
        waves.close()
    answers = Counter(knock.answer for knock in reported(reports))
    assert set(answers) == {f"{HOST4}:{port}" for port in ports}
    assert [report["broken"] for report in reports] == [[]] * KNOCKERS


def test_clients_on_lists_of_their_own_keep_their_endpoints(host: Host) -> None:
    host.network.remote_endpoints(80)
    sources = [f"192.0.2.{n}" for n in range(100, 106)]
    host.network.client.address("uplink", *(f"{source}/24" for source in sources))
    lists = {f"EP{n}": address for n, address in enumerate(SERVERS4)}
    look = "-m recent --rcheck --seconds 3600 --reap --rsource --name"
    rules = [
        "*nat",
        *(f":{name} -" for name in ("SVC", *lists)),
        "-A PREROUTING -d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j SVC",
        *(f"-A SVC {look} {name} -j {name}" for name in lists),
        "-A SVC -m statistic --mode nth --every 3 --packet 0 -j EP0",
        "-A SVC -m statistic --mode nth --every 2 --packet 0 -j EP1",
        "-A SVC -j EP2",
        *(
            f"-A {name} -p tcp -m recent --set --rsource --name {name} -j DNAT --to-destination {address}:80"
            for name, address in lists.items()
        ),
        "COMMIT",
    ]
    host.load("\n".join(rules) + "\n")

    def answers() -> list[str]:
        return [host.network.ask(host.network.client, HOST4, 80, source=source)[0] for source in sources]

    # Not by chance: a fresh ladder would give it to the first endpoint.
    first = [*answers()[1:], host.network.ask(host.network.client, HOST4, 80, source=sources[0])[0]]
    moved = host.migrate("--yes")
    assert moved.code == 0, moved.err
    assert not host.rules
    sources = [*sources[1:], sources[0]]
    assert answers() == first
    assert first[0] != SERVERS4[0]
