"""`import` and `compare` as their users meet them: data and talk, exit codes, live rules, hostile texts."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from lbctl.config import loads
from support.findings import GOOD, TCP, A, B, mangle, nth, table
from support.network import Network, intent, service

RULES = table(
    "-A PREROUTING -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 80 -j WEB",
    "-A OUTPUT -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 80 -j WEB",
    f"-A WEB -p tcp {nth(3)} -j REDIRECT --to-ports 8001",
    f"-A WEB -p tcp {nth(2)} -j REDIRECT --to-ports 8002",
    "-A WEB -p tcp -j REDIRECT --to-ports 8003",
    chains=("WEB",),
)
NATIVE = """table ip mine {
	chain pre {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local tcp dport 80 redirect to :numgen inc mod 3 map { 0 : 8001, 1 : 8002, 2 : 8003 }
	}
	chain out {
		type nat hook output priority -100; policy accept;
		fib daddr type local tcp dport 80 redirect to :numgen inc mod 3 map { 0 : 8001, 1 : 8002, 2 : 8003 }
	}
}
"""
LADDER = table(f"{TCP} {nth(2)} {A}", f"{TCP} {nth(2, 1)} {B}")
THIRDS = [{"to": port, "share": "1/3"} for port in ("8001", "8002", "8003")]
WEB = intent(service("web", "80/tcp", "8001", "8002", "8003"))
STORES = ("iptables-legacy", "iptables-nft", "nftables")
#: What a terminal acts on: control characters of both sets, and what turns the direction of text.
ACTING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def load(network: Network, store: str) -> None:
    """Rules by hand in a store, which do the same in each."""
    if store == "nftables":
        network.tool("nft", "-f", "-", stdin=NATIVE)
    else:
        network.tool(f"{store}-restore", stdin=RULES)


@pytest.mark.parametrize("way", ["file", "-", *STORES])
def test_import_of_right_rules(network: Network, tmp_path: Path, way: str) -> None:
    path = tmp_path / "rules"
    path.write_text(RULES)
    if way in STORES:
        load(network, way)
    words = ["--from", way] if way in STORES else [str(path) if way == "file" else "-"]
    done = network.lbctl("import", *words, stdin=RULES)
    assert done.code == 0
    assert "1 service found" in done.err
    # What is printed is a file that lbctl takes, and that renders to the same shares on each backend.
    made = tmp_path / "made.toml"
    made.write_text(done.out)
    assert network.lbctl("check", config=made).code == 0
    for backend in ("nftables", "iptables"):
        rendered = network.lbctl("render", "--backend", backend, config=made)
        assert rendered.code == 0
        again = network.lbctl("compare", str(path), "-", "--output", "json", stdin=rendered.out)
        # A listener on any address is one of both families, and the rules by hand are of one.
        mine = [pair for pair in again.json["services"] if pair["family"] == "ipv4"]
        assert [pair["verdict"] for pair in mine] == ["identical"], again.out
    told = network.lbctl("import", *words, "--output", "json", stdin=RULES)
    assert (told.code, told.err) == (0, "")
    assert told.json["format_version"] == 1
    assert told.json["accept"] is True
    [found] = told.json["services"]
    assert found["backends"] == THIRDS
    assert (found["leak"], found["hooks"], found["mode"]) == ("0/1", ["prerouting", "output"], "nth")


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_import_of_our_own_rules(network: Network, backend: str) -> None:
    assert network.lbctl("apply", "--yes", "--backend", backend, config=WEB).code == 0
    drivers = {"nftables": "nftables", "iptables": "iptables-nft"}
    stores = [drivers[backend]] if backend == "nftables" else ["iptables-nft", "iptables-legacy"]
    read = [network.lbctl("import", "--from", store) for store in stores]
    assert {done.code for done in read} == {0}
    assert loads(WEB) in [loads(done.out) for done in read if "[[service]]" in done.out]


def test_findings_are_talk_and_tell_what_is_right(network: Network) -> None:
    done = network.lbctl("import", "-", stdin=LADDER)
    assert done.code == 1
    assert "[[service]]" not in done.out
    assert "standard input:5: error: every-n-on-each-line" in done.err
    assert "50 %, 25 %" in done.err
    assert f"  suggested fix:\n    {TCP} {nth(2)} {A}\n    {TCP} {B}\n" in done.err
    found = network.lbctl("import", "-", "--output", "json", stdin=LADDER).json["findings"]
    assert [each["corrected"] for each in found if each["code"] == "every-n-on-each-line"] == [
        [f"{TCP} {nth(2)} {A}", f"{TCP} {B}"]
    ]


@pytest.mark.parametrize("text", ["", "*nat\n\0\nCOMMIT\n", RULES.replace("COMMIT\n", ""), "{\n", "\x1b[31m"])
def test_texts_that_are_not_to_be_trusted(network: Network, text: str) -> None:
    done = network.lbctl("import", "-", stdin=text)
    assert (done.code, done.out) == (2, "")
    assert "cannot be trusted" in done.err
    told = network.lbctl("import", "-", "--output", "json", stdin=text)
    assert told.code == 2
    assert told.json["accept"] is False
    assert told.json["findings"]
    both = network.lbctl("compare", "-", "-", stdin=text)
    assert both.code == 2


def test_wrong_words(network: Network) -> None:
    for words in (["import"], ["import", "x", "--from", "nftables"], ["import", "--from", "ipvs"]):
        done = network.lbctl(*words)
        assert (done.code, done.out) == (2, ""), words
    assert '"ipvs" is no store of rules' in done.err
    done = network.lbctl("explain", "80", "--from", "-", stdin=RULES)
    assert (done.code, done.err) == (2, 'lbctl: listener "80" has no protocol\n    hint: write "80/tcp"\n')
    missing = network.lbctl("import", "/nowhere/\x1b[31m\u202e")
    assert missing.code == 2
    assert not ACTING.search(missing.err)


@pytest.mark.parametrize("store", STORES)
def test_compare_of_live_rules(network: Network, tmp_path: Path, store: str) -> None:
    load(network, store)
    path = tmp_path / "rules"
    path.write_text(RULES)
    same = network.lbctl("compare", str(path), f"live:{store}")
    assert (same.code, same.err) == (0, "")
    assert "equal: 1 service" in same.out
    path.write_text(RULES.replace("--every 3", "--every 4"))
    other = network.lbctl("compare", str(path), f"live:{store}", "--output", "json")
    assert (other.code, other.err) == (1, "")
    assert other.json["equal"] is False
    [pair] = other.json["services"]
    assert pair["backends"][0] == {"to": "8001", "a": "1/4", "b": "1/3"}


#: Names and comments that would be something else to a terminal, a shell, TOML, nft or iptables-restore.
EVIL = (
    "\x1b]0;x\x07\x1b[31m",
    "\x9b31m\x85\u2028",
    "\u202egnp\u2066\ufeff",
    'a\\" -j ACCEPT #',
    "$(id) `id` ; id",
    'x"\n[[service]]\nname = "evil"',
    "} } flush ruleset",
    "COMMIT",
)


@pytest.mark.parametrize("evil", EVIL, ids=range(len(EVIL)))
def test_what_a_text_says_changes_nothing_but_words(network: Network, evil: str) -> None:
    quoted = evil.replace("\\", "\\\\").replace('"', '\\"') if "\n" not in evil else evil
    comment = f'-m comment --comment "{quoted}"'
    texts = [
        table(f"{TCP} {comment} {nth(2)} {A}", f"{TCP} {comment} {B}"),
        f"iptables -t nat {TCP} {comment} {nth(2)} {A}\niptables -t nat {TCP} {comment} {nth(2)} {B}\n",
        mangle(f"{comment} {nth(2)} -j MARK --set-mark 1"),
        NATIVE.replace("redirect", f'counter comment "{evil}" redirect'),
        f"*nat\n:{evil} - [0:0]\n-A PREROUTING -p tcp -j {evil}\nCOMMIT\n",
        evil,
        f"{evil}\n{GOOD}",
    ]
    for text in texts:
        for words in (
            ["import", "-"],
            ["import", "-", "--output", "json"],
            ["compare", "-", "/dev/null"],
            ["explain", "80/tcp", "--from", "-"],
            ["explain", "80/tcp", "--from", "-", "--graph", "mermaid"],
        ):
            done = network.lbctl(*words, stdin=text)
            assert done.code in {0, 1, 2}, done.err
            assert not ACTING.search(done.out), (words, text, done.out)
            assert not ACTING.search(done.err), (words, text, done.err)
            if "json" in words:
                json.loads(done.out)
            elif words[0] == "import" and done.out:
                names = [each["name"] for each in tomllib.loads(done.out).get("service", [])]
                assert "evil" not in names


@pytest.mark.parametrize("evil", EVIL, ids=range(len(EVIL)))
def test_an_intent_cannot_say_anything_else(network: Network, evil: str) -> None:
    """A value of an intent file is refused in inert words, or stands in rules as nothing but itself."""
    for key in ("name", "listen", "scheduler", "affinity"):
        values = {"name": "web", "listen": "80/tcp", "endpoints": ["8001"], key: evil}
        text = json.dumps({"schema": 1, "service": [values]})
        for words in (["check"], ["render", "--backend", "nftables"], ["render", "--backend", "iptables"]):
            done = network.lbctl(*words, config=text)
            assert (done.code, done.out) == (2, ""), (key, words)
            assert not ACTING.search(done.err), done.err


def test_the_exit_code_says_whether_all_that_balances_is_in_the_intent(network: Network) -> None:
    assert network.lbctl("import", "-", stdin=RULES).code == 0
    # A ladder that leaks, one of marks, and a rule that is not understood in front of a choice.
    marks = mangle(
        f"-p tcp --dport 80 {nth(2)} -j MARK --set-mark 1",
        "-p tcp --dport 80 -m mark --mark 0 -j MARK --set-mark 2",
    )
    unread = table(f"{TCP} -m u32 --u32 0=1 {nth(2)} {A}", f"{TCP} {B}")
    for text in (LADDER, marks, unread):
        done = network.lbctl("import", "-", stdin=text)
        assert done.code == 1, done.err
        assert network.lbctl("import", "-", "--output", "json", stdin=text).code == 1
    # What forwards and does not balance is no loss, whatever an intent cannot hold of it.
    forwards = table(f"-A PREROUTING ! -i eth0 -p tcp --dport 80 {A}")
    done = network.lbctl("import", "-", stdin=forwards)
    assert (done.code, "[[service]]" in done.out) == (0, False)


def test_fix_and_keep_give_an_intent_for_shares_that_were_not_meant(network: Network) -> None:
    leaking = RULES.replace("-A WEB -p tcp -j", f"-A WEB -p tcp {nth(3)} -j")
    assert network.lbctl("import", "-", stdin=leaking).code == 1
    fixed = network.lbctl("import", "-", "--fix", stdin=leaking)
    assert fixed.code == 0
    [service] = loads(fixed.out).services
    assert {endpoint.to: endpoint.weight for endpoint in service.endpoints} == {
        "8001": 1,
        "8002": 1,
        "8003": 1,
    }
    kept = network.lbctl("import", "-", "--keep", stdin=leaking)
    assert kept.code == 0
    [service] = loads(kept.out).services
    # 1/3, 1/2 of the rest, 1/3 of that rest; what is left goes to the listener itself.
    assert {endpoint.to: endpoint.weight for endpoint in service.endpoints} == {
        "8001": 3,
        "8002": 3,
        "8003": 1,
        "80": 2,
    }
    assert network.lbctl("import", "-", "--fix", "--keep", stdin=leaking).code == 2


def test_a_text_has_a_size(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.write_text(RULES)
    for command in (["import", str(path)], ["compare", str(path), str(path)]):
        assert network.lbctl(*command, "--max-size", "1M").code == 0
        done = network.lbctl(*command, "--max-size", "100")
        assert (done.code, done.out) == (2, "")
        assert f"{path} is larger than 100 bytes" in done.err
        assert network.lbctl(*command, "--max-size", "x").code == 2


def test_the_beginning_of_a_stores_name_is_enough(network: Network) -> None:
    load(network, "nftables")
    done = network.lbctl("import", "--from", "nft")
    assert done.code == 0
    assert [service.name for service in loads(done.out).services] == ["tcp-80"]
    done = network.lbctl("import", "--from", "iptables")
    assert (done.code, done.out) == (2, "")
    assert '"iptables" is the name of several stores' in done.err
    assert "one of iptables-nft, iptables-legacy" in done.err
