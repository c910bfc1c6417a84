"""What the reader of iptables rules says that they do."""

from fractions import Fraction

import pytest

from lbctl.host.fake import FakeHost
from lbctl.model import AnalysedService, Analysis, Endpoint, Family, Intent, Listener, Protocol, Service
from lbctl_iptables import backend
from lbctl_iptables.reading import read
from lbctl_iptables.reading.lines import quoted
from lbctl_iptables.recognize import recognizes

ORIGIN = """\
-A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 8001 -m statistic --mode nth --every 3
-A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 8002 -m statistic --mode nth --every 2
-A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 8003
-A PREROUTING -p tcp --dport 443 -j REDIRECT --to-ports 8101 -m statistic --mode nth --every 3
-A PREROUTING -p tcp --dport 443 -j REDIRECT --to-ports 8102 -m statistic --mode nth --every 2
-A PREROUTING -p tcp --dport 443 -j REDIRECT --to-ports 8103
"""


def shares(service: AnalysedService) -> dict[str, str]:
    """Where connections go, with the leak as `-`."""
    found = {backend.to: str(backend.share) for backend in service.backends}
    if service.leak:
        found["-"] = str(service.leak)
    total = sum((backend.share for backend in service.backends), service.leak)
    assert total == Fraction(1)
    return found


def codes(reading: Analysis) -> set[str]:
    return {found.code for found in reading.findings}


def nat(*rules: str) -> Analysis:
    """What rules of the nat table do, as iptables-save would have them."""
    head = ["*nat", ":PREROUTING ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]", ":POSTROUTING ACCEPT [0:0]"]
    return read("\n".join([*head, *rules, "COMMIT", ""]))


def test_the_rules_as_once_printed() -> None:
    reading = read(ORIGIN)
    assert recognizes(ORIGIN)
    assert (reading.format, reading.accept, reading.untouched_rules) == ("commands", True, 0)
    web, tls = reading.services
    assert (web.family, web.proto, web.dst, web.dport) == ("ipv4", "tcp", "any", "80")
    assert (web.hooks, web.action, web.mode) == (("prerouting",), "redirect", "nth")
    assert shares(web) == {"8001": "1/3", "8002": "1/3", "8003": "1/3"}
    assert web.slots == ("8001", "8002", "8003")
    assert shares(tls) == {"8101": "1/3", "8102": "1/3", "8103": "1/3"}
    assert web.exact
    assert not reading.unsupported


def test_a_script_is_read_and_never_run() -> None:
    script = r"""#!/bin/sh
IPT="sudo /sbin/iptables -w"
$IPT -t nat -N web
$IPT -tnat -A web -p TCP -m statistic --mode nth \
   --every 2 --packet=0 -j REDIRECT --to-ports 8001 # first
$IPT -t nat -A web -p tcp -j REDIRECT --to-ports '8002'
$IPT -t nat -APREROUTING -p tcp --dport=http -m addrtype --dst-type LOCAL -jweb
"""
    (service,) = read(script).services
    assert (service.dst, service.dport) == ("local", "80")
    assert shares(service) == {"8001": "1/2", "8002": "1/2"}


def test_one_of_three_on_each_line() -> None:
    every = "-m statistic --mode nth --every 3"
    lines = ORIGIN.splitlines()[:3]
    reading = read("\n".join(f"{line.partition(' -m ')[0]} {every}" for line in lines))
    (service,) = reading.services
    assert shares(service) == {"8001": "1/3", "8002": "2/9", "8003": "4/27", "-": "8/27"}
    assert {"every-n-on-each-line", "no-catch-all"} <= codes(reading)


def test_a_counter_asked_twice_with_too_long_a_period_has_no_sequence() -> None:
    asked = "-A OUTPUT -p udp -m udp --dport 7006"
    rules = [
        f"{asked} -m statistic --mode nth --every 2 --packet 0 -j REDIRECT --to-ports 9001",
        f"{asked} -m statistic --mode nth --every 2 --packet 0 -j ONE",
        f"{asked} -m mark --mark 0/3 -g TWO",
        f"{asked} -m statistic --mode nth --every 4 --packet 0 -j ONE",
        "-A ONE -m statistic --mode nth --every 5 --packet 0 -j MARK --set-xmark 1/3",
        "-A TWO -p udp -m statistic --mode nth --every 3 --packet 0 -j REDIRECT --to-ports 9001",
        "-A TWO -p udp -m statistic --mode nth --every 5 --packet 0 -j REDIRECT --to-ports 9001",
    ]
    head = ["*nat", ":OUTPUT ACCEPT [0:0]", ":ONE - [0:0]", ":TWO - [0:0]"]
    reading = read("\n".join([*head, *rules, "COMMIT", ""]))
    [service] = [each for each in reading.services if each.action == "redirect"]
    assert not service.exact
    assert service.slots == ()


def test_a_hook_settles_whose_source_it_sees() -> None:
    for rules in (
        # A chain that sends this host's own connections back, and a rule that does not take them.
        ["-m addrtype --src-type LOCAL -j RETURN", "-j REDIRECT --to-ports 8001"],
        ["-m addrtype ! --src-type LOCAL -j REDIRECT --to-ports 8001"],
    ):
        reading = nat(
            ":web - [0:0]",
            *(f"-A {hook} -p tcp --dport 80 -j web" for hook in ("PREROUTING", "OUTPUT")),
            *(f"-A web -p tcp {rule}" for rule in rules),
            *(
                f"-A {hook} -p tcp --dport 81 -j REDIRECT --to-ports 8001"
                for hook in ("PREROUTING", "OUTPUT")
            ),
        )
        [web, _] = reading.services
        assert (web.hooks, web.when, web.exact, shares(web)) == (("prerouting",), None, True, {"8001": "1"})
        assert "prerouting-only" not in codes(reading)


def test_own_connections_may_have_endpoints_of_their_own() -> None:
    reading = nat(
        ":web - [0:0]",
        *(f"-A {hook} -p tcp --dport 80 -j web" for hook in ("PREROUTING", "OUTPUT")),
        "-A web -p tcp -m addrtype --src-type LOCAL -j REDIRECT --to-ports 8001",
        "-A web -p tcp -j REDIRECT --to-ports 8002",
    )
    assert {each.hooks: shares(each) for each in reading.services} == {
        ("prerouting",): {"8002": "1"},
        ("output",): {"8001": "1"},
    }


def test_hooks_that_lead_to_the_same_chains_have_one_service_and_a_path_each() -> None:
    web = (
        "-A web -p tcp --dport 80 -m statistic --mode nth --every 2 --packet 0 -j REDIRECT --to-ports 8001",
        "-A web -p tcp --dport 80 -j REDIRECT --to-ports 8002",
    )
    chains = (":web - [0:0]", ":more - [0:0]")
    for output in ("-A OUTPUT -j web", "-A OUTPUT -p tcp -j web", "-A OUTPUT -j more"):
        reading = nat(*chains, "-A PREROUTING -j web", output, "-A more -j web", *web)
        [found] = reading.services
        more = (9,) if output.endswith("more") else ()
        assert (found.hooks, found.slots, found.exact) == (("prerouting", "output"), ("8001", "8002"), True)
        assert found.lines == (7, 8, *more, 10, 11)
        assert [(step.hook, step.where.rpartition(" ")[2], step.line) for step in found.path] == [
            ("prerouting", "PREROUTING", 7),
            ("prerouting", "web", 10),
            ("prerouting", "web", 11),
            ("output", "OUTPUT", 8),
            *(("output", "more", line) for line in more),
            ("output", "web", 10),
            ("output", "web", 11),
        ]
        assert reading.untouched_rules == 1 - len(more)


def test_the_path_of_connections_that_ask_a_counter_twice() -> None:
    reading = nat(
        ":web - [0:0]",
        "-A PREROUTING -p tcp --dport 80 -j web",
        "-A PREROUTING -p tcp --dport 80 -j web",
        "-A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 8002",
        "-A web -p tcp -m statistic --mode nth --every 3 --packet 0 -j REDIRECT --to-ports 8001",
    )
    [web] = reading.services
    # 8001 takes every third question, and those that it does not take ask again.
    assert (web.slots, shares(web)) == (("8001", "8002"), {"8001": "1/2", "8002": "1/2"})
    assert [(step.line, str(step.share), str(step.taken)) for step in web.path] == [
        (6, "1", "1"),
        (9, "1", "1/2"),
        (7, "1/2", "1/2"),
        (8, "1/2", "1/2"),
    ]


def test_equal_chances_among_others_are_weights() -> None:
    # 2:1:1:2
    rules = [
        f"-m statistic --mode random --probability {p} -j REDIRECT --to-ports {i}"
        for i, p in enumerate(("0.33333333349", "0.25", "0.33333333349"), 1)
    ]
    reading = nat(
        *(f"-A PREROUTING -p tcp --dport 80 {rule}" for rule in (*rules, "-j REDIRECT --to-ports 4"))
    )
    assert codes(reading) == set()


def test_equal_chances_of_lbctl_are_weights() -> None:
    # 3:2:4
    rules = [
        f"-p tcp -m statistic --mode random --probability 0.33333333349 -j REDIRECT --to-ports {i}"
        for i in (1, 2)
    ]
    body = "".join(f"-A LBCTL-web {rule}\n" for rule in (*rules, "-p tcp -j REDIRECT --to-ports 3"))
    text = (
        "*nat\n:PREROUTING ACCEPT [0:0]\n:LBCTL-web - [0:0]\n-A PREROUTING -p tcp --dport 80 -j LBCTL-web\n"
    )
    assert codes(read(f"{text}{body}COMMIT\n")) == set()
    assert codes(read(f"{text}{body}COMMIT\n".replace("LBCTL", "OTHER"))) == {
        "equal-probability-on-each-line"
    }


@pytest.mark.parametrize("name", ["web", "w" * 40])
def test_chains_of_lbctl_name_their_services(name: str) -> None:
    endpoints = (Endpoint(port=8001), Endpoint(port=8002, name="b"))
    listener = Listener(protocol=Protocol.TCP, port=80)
    service = Service(name=name, listeners=(listener,), endpoints=endpoints)
    program = backend.compile(Intent(services=(service,)), backend.probe(FakeHost()).capabilities)
    found = read(backend.render(program, family=Family.IPV4))
    assert {each.name for each in found.services} == {name}
    assert {(end.to, end.name) for each in found.services for end in each.backends} == {
        ("8001", None),
        ("8002", "b"),
    }


def test_a_document_in_a_script_has_its_variables_replaced() -> None:
    rules = "*nat\n-A PREROUTING -p tcp --dport $PORT -j REDIRECT --to-ports 8001\nCOMMIT\n"
    for call in ("iptables-restore -n <<EOF", "cat << EOF | sudo iptables-restore"):
        reading = read(f"PORT=80\n{call}\n{rules}EOF\n")
        assert [service.dport for service in reading.services] == ["80"], call
        assert codes(reading) == set(), call
    assert "unexpanded-variable" in codes(read(f"PORT=80\niptables-restore <<'EOF'\n{rules}EOF\n"))
    inside = read(f"PORT=80\nif true; then iptables-restore <<EOF\n{rules}EOF\nfi\n")
    assert (inside.services, codes(inside)) == ((), {"shell-construct"})


NTH = "-m statistic --mode nth --every 2 --packet 0"
UNPRINTED = f"""\
# Generated by iptables-save v1.8.9 on Mon Nov 30 00:00:00 2026
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 80 {NTH} -j DNAT --to-destination 10.0.0.1:80
-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2:80
-A PREROUTING -p tcp -m tcp --dport 81 {NTH} -j DNAT [unsupported revision]
-A PREROUTING -p tcp -m tcp --dport 81 -j DNAT --to-destination 10.0.0.2:81
-A PREROUTING -p tcp -m tcp --dport 82 -m statistic [unsupported revision] -j REDIRECT --to-ports 8
-A PREROUTING -p tcp -m tcp --dport 82 -j DNAT --to-destination 10.0.0.3:82
COMMIT
"""


def test_what_another_release_wrote_is_unknown_and_the_rest_is_read() -> None:
    found = read(UNPRINTED)
    assert found.accept
    assert [(lost.line, "another release of iptables" in lost.reason) for lost in found.unsupported] == [
        (6, True),
        (8, True),
    ]
    [whole] = [service for service in found.services if service.selector[3] == "80"]
    assert shares(whole) == {"10.0.0.1:80": "1/2", "10.0.0.2:80": "1/2"}
    assert codes(found) == {"unsupported-target", "unsupported-match"}


def test_what_stands_behind_no_match_is_no_missing_option() -> None:
    assert "unparsable-line" in codes(nat("-A PREROUTING [unsupported revision] -j RETURN"))


def test_a_text_that_was_rendered_for_one_family_says_which() -> None:
    rule = "-A PREROUTING -p tcp -j REDIRECT --to-ports 1"
    text = f"# Load with: ip6tables-restore --noflush FILE\n*nat\n{rule}\nCOMMIT\n"
    assert {service.selector[0] for service in read(text).services} == {"ipv6"}


MARKED = """*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -i lan -m conntrack --ctstate NEW -j MARK --set-xmark 0x2/0xffffffff
-A PREROUTING -i lan -m conntrack --ctstate NEW -m statistic --mode nth --every 2 --packet 0 -j MARK --set-xmark 0x1/0xffffffff
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 80 -m statistic --mode nth --every 3 --packet 0 -j REDIRECT --to-ports 8001
-A PREROUTING -p tcp -m tcp --dport 80 -m statistic --mode nth --every 2 --packet 0 -j REDIRECT --to-ports 8002
-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8003
COMMIT
"""  # noqa: E501 (rules)


def test_marks_that_no_rule_asks_for_leave_a_ladder_whole() -> None:
    reading = read(MARKED)
    assert [(each.action, each.when and dict(each.when), each.exact) for each in reading.services] == [
        ("mark", {"iif": "lan"}, True),
        ("redirect", None, True),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('-A C "a b"', ["-A", "C", "a b"]),
        (r'-A "a \"b\" \\"', ["-A", 'a "b" \\']),
        # As iptables-restore 1.8.9: a closing quote ends a word, and no other quotes are known.
        ('x"y z"w', ["xy z", "w"]),
        ('"a""b"', ["a", "b"]),
        ('"" -m', ["", "-m"]),
        (r"it's 'a' a\b", ["it's", "'a'", r"a\b"]),
    ],
)
def test_the_words_of_a_line_of_restore(text: str, words: list[str]) -> None:
    assert quoted(text) == words


def test_rules_of_both_families_in_one_text_are_kept_apart() -> None:
    rule = "-A PREROUTING -p tcp --dport {} -j DNAT --to-destination {}"
    own = rule.format(80, "10.0.0.1")
    other = rule.format(80, "[2001:db8::1]")
    reading = read(f"*nat\n{own}\n-6 {other}\nCOMMIT\n")
    assert {(each.family, each.backends[0].to) for each in reading.services} == {
        (Family.IPV4, "10.0.0.1"),
        (Family.IPV6, "2001:db8::1"),
    }
    assert not reading.unsupported
