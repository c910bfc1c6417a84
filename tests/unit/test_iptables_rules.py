"""Rules as text: read quickly where they are spelled as ours, and never otherwise than word by word."""

from itertools import pairwise

from hypothesis import example, given, strategies as st

from lbctl.model import Item, Program
from lbctl_iptables import spelling
from lbctl_iptables.lift import lift
from lbctl_iptables.rules import DumpedChain, DumpedRule, parse

PLAIN = st.text("ab-/.:,[]1", min_size=1, max_size=6)
TOKENS = st.lists(PLAIN | st.text('a "\\é', max_size=6), min_size=1, max_size=6)
RULES = st.lists(TOKENS, min_size=1, max_size=4)
COUNTS = st.integers(0, 3)


@given(RULES)
@example([["a", ""], ["", "b"]])
@example([["a b", "c"]])
def test_tokens_come_back_from_text(rules: list[list[str]]) -> None:
    text = spelling.lines(rules)
    assert text == "\n".join(" ".join(map(spelling.quote, tokens)) for tokens in rules)
    assert [spelling.split(line) for line in text.split("\n")] == rules


@given(st.lists(st.tuples(PLAIN | st.text('a "\\', min_size=1, max_size=6), st.booleans()), min_size=1))
@example([("a ", True), ("b", True), (" ", True), ("c", True)])
def test_needless_quotes_are_taken_off_and_no_others(tokens: list[tuple[str, bool]]) -> None:
    """iptables-save puts them around what has a slash, for one."""
    words = ["-m", *(token for token, _ in tokens)]
    dumped = " ".join(
        ["-m", *(_dumped(token) if quoted else spelling.quote(token) for token, quoted in tokens)]
    )
    assert spelling.split(spelling.unquoted(dumped)) == words
    assert spelling.join(spelling.split(spelling.unquoted(dumped))) == spelling.join(words)
    if spelling.is_plain(spelling.join(words)):
        assert spelling.unquoted(dumped) == spelling.join(words)


def _dumped(token: str) -> str:
    escaped = token.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@given(st.lists(st.sampled_from(["-p", "tcp", "-j", "-g", "x y", "--to-ports", '"', "80"]), min_size=1))
def test_an_option_is_found_as_among_tokens(tokens: list[str]) -> None:
    rule = DumpedRule(text=spelling.join(tokens))
    for names in (("-p",), ("-j", "-g"), ("--to-ports", "--to-destination")):
        assert rule.option(*names) == next((b for a, b in pairwise(tokens) if a in names), None)


def test_where_a_rule_sends_is_no_comments_word() -> None:
    sends = DumpedRule(
        text="-p tcp -m comment --comment web/a -j DNAT --to-destination 10.0.0.1:80 --persistent"
    )
    assert sends.sent == ("DNAT", "10.0.0.1:80")
    assert DumpedRule(text="-j REDIRECT --to-ports 81").endpoint == "81"
    assert DumpedRule(text='-m comment --comment "x -j DNAT --to-destination 10.0.0.1:80"').sent is None
    assert (
        DumpedRule(text='-m comment --comment "x -j DNAT --to-ports 1" -j REDIRECT --to-ports 2').endpoint
        == "2"
    )
    assert DumpedRule(text='-m comment --comment "x -j REDIRECT --to-ports 1 " -j RETURN').endpoint is None


@given(st.lists(st.tuples(st.sampled_from(["-j A", "-p tcp -j B"]), COUNTS, COUNTS), max_size=4))
def test_a_chain_is_written_and_read_with_its_counters(rows: list[tuple[str, int, int]]) -> None:
    chain = DumpedChain.of([DumpedRule(*row) for row in rows])
    assert chain.rules == [DumpedRule(*row) for row in rows]
    script = "\n".join(chain.script("LBCTL-web"))
    assert script == "\n".join(f"[{p}:{b}] -A LBCTL-web {text}" for text, p, b in rows)
    read = parse(f"*nat\n:LBCTL-web - [0:0]\n{script}\nCOMMIT\n", "lbctl").chains["nat", "LBCTL-web"]
    assert (read.text, read.rules) == (chain.text, chain.rules)
    assert read.counted == any(p or b for _, p, b in rows)
    if not read.counted:
        assert "\n".join(read.script("LBCTL-web")) == script


def test_only_a_turn_in_a_ladder_is_a_turn() -> None:
    rung = "-m statistic --mode nth --every 2 --packet {} -j A"
    assert not DumpedChain(rung.format(0)).turned
    assert DumpedChain(f"{rung.format(0)}\n{rung.format(1)}").turned


def slots(*rules: str) -> tuple[str | None, ...]:
    """Where a service's connections go by the rules of its chain."""
    find = "-p tcp -m tcp --dport 80 -m addrtype --dst-type LOCAL -g LBCTL-web"
    chains = {"LBCTL": find, "LBCTL-web": "\n".join(rules)}
    items = [Item(("iptables", "chain", "nat", name), text, "web") for name, text in chains.items()]
    items.append(Item(("iptables", "jump", "nat", "PREROUTING"), "-j LBCTL"))
    [service] = lift(Program("lbctl", items)).services
    return service.slots


def rung(every: int, port: int, *, packet: int = 0, about: str = "") -> str:
    asks = f"-m statistic --mode nth --every {every} --packet {packet} " if every > 1 else ""
    comment = f"-m comment --comment {about} " if about else ""
    return f"-p tcp {asks}{comment}-j REDIRECT --to-ports {port}"


def test_a_whole_ladder_is_lifted_as_rule_by_rule() -> None:
    mark = "-j MARK --set-xmark 0x1000/0x3000"
    ladder = (rung(3, 1), rung(2, 2), rung(1, 3))
    assert slots(*ladder) == slots(mark, *ladder) == ("1", "2", "3")
    # An endpoint with a name of its own, and the rules of earlier versions.
    commented = (rung(3, 1, about="web/a"), rung(2, 2), rung(1, 3, about="web/c"))
    assert slots(*commented) == slots(f"-m comment --comment web {mark}", *commented) == ("1", "2", "3")
    # Rules that somebody changed, took out, or gave a comment like a target.
    assert slots(rung(3, 1, packet=1), *ladder[1:]) == ("2", "1", "3")
    assert slots(*ladder[:2]) == ("1", "2", None)
    assert slots(rung(3, 1), rung(3, 2), rung(1, 3)) == ("1", "2", "3", "1", "3", "2", "1", "3", "3")
    assert slots(rung(3, 1, about='"x -j MARK y"'), *ladder[1:]) == ("1", "2", "3")
    assert slots(rung(3, 1).replace("tcp", "udp"), *ladder[1:]) == ("2", "3")
