"""The graph of `lbctl explain`: a text in a label is a text, whatever it says."""

import re
from dataclasses import replace
from ipaddress import ip_address

import pytest

from lbctl.cli.graph import dot, mermaid, svg
from lbctl.config.values import listener
from lbctl.engine.inspect.explain import Connection, Trace, explain
from lbctl.errors import IntentError
from lbctl.host import Completed
from lbctl.host.fake import FakeHost
from lbctl.model import Analysis, Family
from lbctl_iptables.reading import read

HOSTILE = r"""]; x [URL="javascript:0"] <script>0</script> &lt; \N \" é ' %"""
RULES = f"""*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp --dport 80 -m cluster --cluster-total-nodes 2 --cluster-local-node 1 \
--cluster-hash-seed 1 -m comment --comment "{HOSTILE.replace('"', "'")}" -j REDIRECT --to-ports 8001
-A PREROUTING -p tcp --dport 80 -m statistic --mode nth --every 2 --packet 0 -j REDIRECT --to-ports 8002
COMMIT
"""


def ways(client: str | None = None) -> tuple[Trace, ...]:
    connection = Connection(listener=listener("80/tcp"), client=ip_address(client) if client else None)
    return explain(connection, {"x": read(RULES)})


def test_both_languages_draw_the_same() -> None:
    for text in (mermaid("80/tcp", ways()), dot("80/tcp", ways())):
        assert re.findall(r"\d/\d", text) == ["1/2", "1/2", "1/4", "1/4"]
        assert all(word in text for word in ("8001", "8002", "no endpoint"))


def traced(*readings: Analysis) -> tuple[Trace, ...]:
    services = tuple(service for reading in readings for service in reading.services)
    return explain(Connection(listener=listener("80/tcp")), {"x": replace(readings[0], services=services)})


def drawn(found: tuple[Trace, ...]) -> set[tuple[str, str, str]]:
    """The edges of a graph by labels: from, share, to; a rule is called by its comment."""
    text = mermaid("80/tcp", found)
    labels = dict(re.findall(r'(\w+)\(?\[+"([^"]*)"', text))
    for name, label in labels.items():
        if comment := re.search(r"--comment (\w+)", label):
            labels[name] = comment[1]
    edges = re.findall(r'(\w+) (?:-->|==>|-\.->)(?:\|"([^"]*)"\|)? (\w+)', text)
    return {(labels[begin], share, labels[end]) for begin, share, end in edges}


def nat(*rules: str) -> Analysis:
    """Rules of `CHAIN OPTIONS` about port 80, with comments r0, r1, …"""
    lines = ["*nat", ":PREROUTING ACCEPT [0:0]", ":A - [0:0]"]
    for number, rule in enumerate(rules):
        chain, _, options = rule.partition(" ")
        lines.append(f"-A {chain} -p tcp --dport 80 -m comment --comment r{number} {options}")
    return read("\n".join([*lines, "COMMIT", ""]))


EVERY = "-m statistic --mode nth --packet 0 --every"


def test_each_endpoint_hangs_on_the_rule_that_takes_it() -> None:
    rules = nat(
        "PREROUTING -j A",
        f"A {EVERY} 3 -j REDIRECT --to-ports 8001",
        f"A {EVERY} 2 -j REDIRECT --to-ports 8002",
        "A -j REDIRECT --to-ports 8001",
    )
    assert drawn(traced(rules)) == {
        ("80/tcp", "ipv4: 1", "r0"),
        ("r0", "1", "r1"),
        ("r1", "1/3", "8001"),
        ("r1", "2/3", "r2"),
        ("r2", "1/3", "8002"),
        ("r2", "1/3", "r3"),
        ("r3", "1/3", "8001"),
    }


def test_unmatched_traffic_leaves_where_it_does() -> None:
    rules = nat(
        f"PREROUTING {EVERY} 4 -j REDIRECT --to-ports 8001",
        f"PREROUTING {EVERY} 3 -j RETURN",
        f"PREROUTING {EVERY} 2 -j REDIRECT --to-ports 8002",
    )
    assert drawn(traced(rules)) == {
        ("80/tcp", "ipv4: 1", "r0"),
        ("r0", "1/4", "8001"),
        ("r0", "3/4", "r1"),
        ("r1", "1/4", "no endpoint"),
        ("r1", "1/2", "r2"),
        ("r2", "1/4", "8002"),
        ("r2", "1/4", "no endpoint"),
    }


def test_connections_that_come_back_from_a_chain_are_not_drawn_as_unmatched_there() -> None:
    rules = nat(
        "PREROUTING -j A",
        f"PREROUTING {EVERY} 2 -j REDIRECT --to-ports 8002",
        f"A {EVERY} 4 -j REDIRECT --to-ports 8001",
        f"A {EVERY} 3 -j RETURN",
        "A -m mark --mark 0 -j RETURN",
    )
    found = drawn(traced(rules))
    assert {edge for edge in found if edge[2] == "no endpoint"} == {("r1", "3/8", "no endpoint")}
    assert {("r2", "1/4", "8001"), ("r1", "3/8", "8002")} <= found


def test_unmatched_traffic_has_its_own_colour() -> None:
    rules = nat(f"PREROUTING {EVERY} 2 -j REDIRECT --to-ports 8001")
    found = traced(rules)
    text = mermaid("80/tcp", found)
    assert re.findall(r'\(\["([^"]*)"\]\):::unmatched', text) == ["no endpoint"]
    [number] = re.findall(r"linkStyle (\d+) stroke:#cc0000", text)
    edges = [line for line in text.splitlines() if re.search(r"-->|-\.->", line)]
    assert "-.->" in edges[int(number)]
    [node, edge] = [line for line in dot("80/tcp", found).splitlines() if "#cc0000" in line]
    assert "no endpoint" in node
    assert "->" in edge
    # Where all is balanced, there is none.
    whole = nat("PREROUTING -j REDIRECT --to-ports 8001")
    assert "unmatched" not in mermaid("80/tcp", traced(whole))


def of_ipv6(reading: Analysis) -> Analysis:
    services = tuple(replace(service, family=Family.IPV6) for service in reading.services)
    return replace(reading, services=services)


def test_equal_families_are_drawn_once() -> None:
    half, third = (
        nat(f"PREROUTING {EVERY} {every} -j REDIRECT --to-ports 1", "PREROUTING -j REDIRECT --to-ports 2")
        for every in (2, 3)
    )
    both = drawn(traced(half, of_ipv6(half)))
    assert {share for begin, share, _ in both if begin == "80/tcp"} == {"ipv4, ipv6: 1"}
    assert len(both) == 4
    apart = drawn(traced(half, of_ipv6(third)))
    assert {share for begin, share, _ in apart if begin == "80/tcp"} == {"ipv4: 1", "ipv6: 1"}
    assert {("r0", "1/2", "1"), ("r0", "1/3", "1")} <= apart


def test_endpoints_of_rules_that_are_not_drawn_hang_on_their_number() -> None:
    many = [f"PREROUTING {EVERY} {30 - n} -j REDIRECT --to-ports {8000 + n}" for n in range(29)]
    found = drawn(traced(nat(*many, "PREROUTING -j REDIRECT --to-ports 8029")))
    assert ("r23", "", "and 6 more rules") in found
    assert ("and 6 more rules", "1/30", "8029") in found
    assert ("r0", "1/30", "8000") in found
    assert {to for _, _, to in found if to.startswith("80")} == {str(8000 + n) for n in range(30)}


@pytest.mark.parametrize("draw", [mermaid, dot])
def test_labels_are_inert(draw: object) -> None:
    made = draw("80/tcp", ways())  # type: ignore[operator]
    [line] = [
        line for line in made.splitlines() if "--dport 80 -m cluster" in line or "cluster-total" in line
    ]
    [label] = re.findall(r'"([^"]*)"', line)
    assert re.fullmatch(r"(?:[A-Za-z0-9 .:/@,_-]|&?#\d+;|\\n)*", label)
    assert "script" in label


def test_a_picture_is_what_dot_draws() -> None:
    host = FakeHost()
    with pytest.raises(IntentError, match="graphviz") as missing:
        svg(host, "80/tcp", ways())
    assert "mermaid" in (missing.value.hint or "")


class Drawing(FakeHost):
    """A host that has graphviz."""

    def __init__(self, done: Completed) -> None:
        super().__init__()
        self.done = done
        self.asked: list[tuple[list[str], str]] = []

    def which(self, program: str) -> str | None:
        return f"/usr/bin/{program}"

    def run(self, argv: object, *, stdin: str = "") -> Completed:
        self.asked.append((list(argv), stdin))  # type: ignore[call-overload]
        return self.done


def test_a_picture_is_drawn_without_a_shell_and_names_no_other_document() -> None:
    host = Drawing(Completed(code=0, out='<?xml?>\n<!DOCTYPE svg "http://x">\n<svg>\n</svg>\n', err=""))
    assert svg(host, "80/tcp", ways()) == "<svg>\n</svg>"
    assert host.asked == [(["dot", "-Tsvg"], dot("80/tcp", ways()))]
    for done in (Completed(code=1, out="<svg", err="syntax error"), Completed(code=0, out="", err="")):
        with pytest.raises(IntentError, match="drew nothing"):
            svg(Drawing(done), "80/tcp", ways())


def test_the_way_of_a_client_is_bold() -> None:
    for client in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"):
        [way] = ways(client)
        assert ("==>" in mermaid("80/tcp", [way])) is (way.chosen is not None)
