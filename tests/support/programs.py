"""Random programs of the intermediate representation, and how each syntax writes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Network, summarize_address_range
from itertools import count, product

from hypothesis import strategies as st

from lbctl.model import AnalysedService, Analysis, Family
from lbctl_netfilter.conditions import EVERY_BIT, Selector, Spans, Words, exactly, of, spans_rest, words
from lbctl_netfilter.corrections import Corrections, Lines
from lbctl_netfilter.ir import (
    Act,
    Base,
    Chain,
    Draw,
    FamilyProgram,
    MarkIs,
    Pick,
    PickKind,
    Rule,
    SetMark,
    Step,
)
from lbctl_netfilter.marks import Marking
from support.field_cases import CLIENT, ONE, OTHER_CLIENT, OTHER_VIP, THREE, TWO, VIP, Ask, takes
from support.interpreter import Packet

#: 31 bits, which a draw of both syntaxes has.
DICE = 1 << 31
#: A constant second mark operation keeps these bits.
MASK = 0x3
ENDPOINTS = tuple(f"{address}:{port}" for address in (ONE, TWO, THREE) for port in (8001, 8002))
#: All connections that are asked about.
PACKETS = tuple(
    Packet(dst, port, src, link)
    for dst, port, src, link in product(
        (VIP, OTHER_VIP), (80, 81), (CLIENT, OTHER_CLIENT), ("outside", "inside")
    )
)
#: Those, and others that no rule asks for.
_OTHERS = tuple(
    Packet(dst, port, src, link)
    for dst, port, src, link in product(
        (VIP, OTHER_VIP, "203.0.113.99"),
        (80, 81, 99),
        (CLIENT, OTHER_CLIENT, "192.0.2.99"),
        ("outside", "inside", "elsewhere"),
    )
)
_MANGLE, _NAT = "mangle PREROUTING", "nat PREROUTING"
#: Chains that rules lead to, each only to later ones.
_OWN = ("nat ONE", "nat TWO")


@dataclass(frozen=True, slots=True)
class Line:
    """Where a rule stands."""

    line: int
    place: str
    text: str = "rule"
    comment: str | None = None


class NoCorrections(Corrections):
    """A front end that corrects nothing."""

    def own(self, rules: Sequence[Rule]) -> Lines:
        return ()

    equal = caught = alike = behind = apart = unmarked = remembered = outward = lambda *_, **__: ()  # type: ignore[assignment]


# -- making programs


def _address(text: str) -> Spans:
    return exactly(int(IPv4Address(text)))


@st.composite
def selectors(draw: st.DrawFn) -> Selector:
    """Some connections to the ports that are asked about."""
    found = [("proto", words("tcp"))]
    if draw(st.integers(0, 3)):
        found.append(("dport", exactly(draw(st.sampled_from((80, 80, 80, 81))))))
    if not draw(st.integers(0, 3)):
        found.append(("dst", _address(draw(st.sampled_from((VIP, OTHER_VIP))))))
    if not draw(st.integers(0, 4)):
        spans = _address(draw(st.sampled_from((CLIENT, OTHER_CLIENT))))
        found.append(("src", spans_rest(spans, EVERY_BIT) if draw(st.booleans()) else spans))
    if not draw(st.integers(0, 6)):
        found.append(("iif", draw(st.sampled_from((words("inside"), Words(None, frozenset({"inside"})))))))
    made = of(*found, bits=32)  # type: ignore[arg-type]
    assert made is not None
    return made


def counters() -> st.SearchStrategy[Step]:
    """A counter, and one of its numbers, or all but one."""
    return st.integers(1, 4).flatmap(
        lambda modulus: st.builds(
            lambda number, but: Draw(
                Pick(PickKind.COUNTER, modulus),
                spans_rest(exactly(number), modulus - 1) if but and modulus > 1 else exactly(number),
            ),
            st.integers(0, modulus - 1),
            st.booleans(),
        )
    )


def draws() -> st.SearchStrategy[Step]:
    """A part of 31 bits."""
    return st.sampled_from((1, 2, 3)).map(
        lambda part: Draw(Pick(PickKind.DICE, DICE), ((0, part * (DICE >> 2) - 1),))
    )


@st.composite
def steps(draw: st.DrawFn, picks: st.SearchStrategy[Step]) -> tuple[Step, ...]:
    found = [draw(picks)] if draw(st.booleans()) else []
    if not draw(st.integers(0, 3)):
        value = draw(st.integers(0, 3))
        values = exactly(value)
        mark = MarkIs(False, MASK, spans_rest(values, EVERY_BIT) if draw(st.booleans()) else values)
        found.insert(draw(st.integers(0, len(found))), mark)
    return tuple(found)


@st.composite
def programs(draw: st.DrawFn, picks: st.SearchStrategy[Step] | None = None) -> FamilyProgram:
    """A table that marks and one that translates, with chains that lead to each other."""
    picks = counters() if picks is None else picks
    lines = count(1)
    # Marks are known: what comes in has none.
    known = _rule(Line(next(lines), _MANGLE), of(bits=32), (SetMark(Marking.constant(0)),), Act.GO_ON)
    chains = {_MANGLE: Chain(_MANGLE, [known]), _NAT: Chain(_NAT), **{name: Chain(name) for name in _OWN}}
    for _ in range(draw(st.integers(0, 2))):
        marking = draw(_markings())
        rule = _rule(
            Line(next(lines), _MANGLE), draw(selectors()), (*draw(steps(picks)), SetMark(marking)), Act.GO_ON
        )
        chains[_MANGLE].rules.append(rule)
    for number, name in enumerate((_NAT, *_OWN)):
        for _ in range(draw(st.integers(1, 4))):
            chains[name].rules.append(_random_rule(draw, Line(next(lines), name), _OWN[number:], picks))
    bases = (
        Base("prerouting", -150, "filter", _MANGLE, "mangle"),
        Base("prerouting", -100, "nat", _NAT, "nat"),
    )
    return FamilyProgram(Family.IPV4, bases, chains, rules=next(lines) - 1)


def _random_rule(draw: st.DrawFn, line: Line, onward: Sequence[str], picks: st.SearchStrategy[Step]) -> Rule:
    where, asked = draw(selectors()), draw(steps(picks))
    kind = draw(st.sampled_from(("to", "to", "to", "jump", "goto", "return", "accept", "mark")))
    if kind in {"jump", "goto"} and onward:
        return _rule(line, where, asked, Act(kind), target=draw(st.sampled_from(onward)))
    if kind in {"return", "accept"}:
        return _rule(line, where, asked, Act(kind))
    if kind == "mark":
        return _rule(line, where, (*asked, SetMark(draw(_markings()))), Act.GO_ON)
    return _rule(line, where, asked, Act.TO, to=draw(st.sampled_from(ENDPOINTS)))


def _markings() -> st.SearchStrategy[Marking]:
    return st.one_of(
        st.integers(1, 3).map(Marking.constant),
        st.integers(1, 3).map(lambda flip: Marking.bits(EVERY_BIT & ~MASK, flip)),
        st.integers(1, 3).map(lambda flip: Marking.bits(EVERY_BIT, flip)),
    )


def _rule(
    line: Line, where: Selector | None, asked: tuple[Step, ...], act: Act, *, to: str = "", target: str = ""
) -> Rule:
    assert where is not None
    made = Rule(line, where, act, asked, target)
    made.picks = any(isinstance(step, Draw) for step in asked)
    made.asks_mark = any(isinstance(step, MarkIs) for step in asked)
    made.marks = any(isinstance(step, SetMark) for step in asked)
    if to:
        made.action, made.to = "dnat", ((to, Fraction(1)),)
    return made


# -- spelling them


def saved(program: FamilyProgram) -> str:
    """A program as iptables-save."""
    text = []
    for table in ("mangle", "nat"):
        mine = [chain for name, chain in program.chains.items() if name.split()[0] == table]
        text.append(f"*{table}")
        text += [f":{hook} ACCEPT [0:0]" for hook in _HOOKS[table]]
        text += [f":{chain.name.split()[1]} - [0:0]" for chain in mine if chain.name in _OWN]
        text += [_saved_rule(rule) for chain in mine for rule in chain.rules]
        text.append("COMMIT")
    return "\n".join([*text, ""])


_HOOKS = {
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
}


def _saved_rule(rule: Rule) -> str:
    parts = [f"-A {rule.place.split()[1]}"]
    parts += [_saved_condition(*each) for each in sorted(rule.where.conditions, key=_in_order)]
    parts += [_saved_step(step) for step in rule.steps]
    match rule.act:
        case Act.TO:
            parts.append(f"-j DNAT --to-destination {rule.to[0][0]}")
        case Act.JUMP:
            parts.append(f"-j {rule.target.split()[1]}")
        case Act.GOTO:
            parts.append(f"-g {rule.target.split()[1]}")
        case Act.ACCEPT | Act.RETURN | Act.DROP:
            parts.append(f"-j {rule.act.name}")
        case _:
            pass
    return " ".join(parts)


def _in_order(condition: tuple[str, object]) -> int:
    return ("src", "dst", "iif", "proto", "dport").index(condition[0])


def _saved_condition(name: str, values: Spans | Words) -> str:
    if isinstance(values, Words):
        negated = values.names is None
        [word] = values.but if values.names is None else values.names
    else:
        negated = len(values) > 1
        word = _number(name, values)
    option = {"src": "-s", "dst": "-d", "iif": "-i", "proto": "-p", "dport": "-m tcp --dport"}[name]
    return f"{'! ' if negated else ''}{option} {word}"


def _number(name: str, values: Spans) -> str:
    """The one number, or the one that is left out."""
    number = values[0][0] if len(values) == 1 else values[0][1] + 1
    if name == "dport":
        return str(number)
    [network] = summarize_address_range(IPv4Address(number), IPv4Address(number))
    assert isinstance(network, IPv4Network)
    return str(network)


def _saved_step(step: Step) -> str:
    match step:
        case Draw(pick, hits) if pick.kind is PickKind.DICE:
            return f"-m statistic --mode random --probability {(hits[0][1] + 1) / DICE:.11f}"
        case Draw(pick, hits):
            number, negated = _one_of(hits, pick.modulus)
            sign = "! " if negated else ""
            return f"-m statistic --mode nth {sign}--every {pick.modulus} --packet {number}"
        case MarkIs(_, mask, values):
            number, negated = _one_of(values, EVERY_BIT + 1)
            return f"-m mark {'! ' if negated else ''}--mark {number:#x}/{mask:#x}"
        case SetMark(marking):
            keep = marking.packet
            return f"-j MARK --set-xmark {marking.flip:#x}/{EVERY_BIT & ~keep:#x}"
    raise AssertionError(step)


def _one_of(hits: Spans, count: int) -> tuple[int, bool]:
    """The only number that hits; or the only one that does not, and True."""
    if len(hits) == 1 and hits[0][0] == hits[0][1]:
        return hits[0][0], False
    [(low, _)] = spans_rest(hits, count - 1)
    return low, True


def native(program: FamilyProgram) -> str:
    """A program as nft."""
    text = []
    for table, base in (
        ("mangle", "type filter hook prerouting priority -150"),
        ("nat", "type nat hook prerouting priority -100"),
    ):
        text.append(f"table ip {table} {{")
        # Chains that are led to stand before what leads to them.
        mine = [chain for name, chain in program.chains.items() if name.split()[0] == table]
        for chain in reversed(mine):
            text.append(f"chain {chain.name.split()[1]} {{")
            text += [] if chain.name in _OWN else [f"{base}; policy accept;"]
            text += [_native_rule(rule) for rule in chain.rules]
            text.append("}")
        if table == "nat":
            for hook, priority in (("INPUT", 100), ("OUTPUT", -100), ("POSTROUTING", 100)):
                text.append(
                    f"chain {hook} {{\ntype nat hook {hook.lower()} priority {priority}; policy accept;\n}}"
                )
        text.append("}")
    return "\n".join([*text, ""])


def _native_rule(rule: Rule) -> str:
    parts = [_native_condition(*each) for each in sorted(rule.where.conditions, key=_in_order)]
    if any("tcp dport" in part for part in parts):
        parts.remove("meta l4proto tcp")
    parts += [_native_step(step) for step in rule.steps]
    match rule.act:
        case Act.TO:
            parts.append(f"dnat to {rule.to[0][0]}")
        case Act.JUMP | Act.GOTO:
            parts.append(f"{rule.act.value} {rule.target.split()[1]}")
        case Act.ACCEPT | Act.RETURN | Act.DROP:
            parts.append(rule.act.value)
        case _:
            pass
    return " ".join(parts)


def _native_condition(name: str, values: Spans | Words) -> str:
    if isinstance(values, Words):
        negated = values.names is None
        [word] = values.but if values.names is None else values.names
    else:
        negated = len(values) > 1
        word = _number(name, values).removesuffix("/32")
    option = {
        "src": "ip saddr",
        "dst": "ip daddr",
        "iif": "iifname",
        "proto": "meta l4proto",
        "dport": "tcp dport",
    }[name]
    return f"{option} {'!= ' if negated else ''}{word}"


def _native_step(step: Step) -> str:
    match step:
        case Draw(pick, hits) if pick.kind is PickKind.DICE:
            return f"numgen random mod {DICE} < {hits[0][1] + 1}"
        case Draw(pick, hits):
            number, negated = _one_of(hits, pick.modulus)
            return f"numgen inc mod {pick.modulus} {'!= ' if negated else ''}{number}"
        case MarkIs(_, mask, values):
            number, negated = _one_of(values, EVERY_BIT + 1)
            return f"meta mark & {mask:#x} {'!=' if negated else '=='} {number:#x}"
        case SetMark(Marking(packet=0, flip=flip)):
            return f"meta mark set {flip:#x}"
        case SetMark(Marking(packet=keep, flip=flip)):
            return f"meta mark set meta mark & {keep:#x} ^ {flip:#x}"
    raise AssertionError(step)


# -- asking a reading


def answer(reading: Analysis, packet: Packet) -> dict[str, Fraction] | None:
    """The share of each endpoint for a connection, and what is left ("none"); None if that is not told.

    A reading tells it by exact services. Of several that take it, that of the narrowest listener is asked; of
    several of one listener, that which takes the fewest.
    """
    asked = _ask(packet)
    taken = [each for each in reading.services if each.changes == "destination" and takes(each, asked)]
    if not taken:
        return {"none": Fraction(1)}
    narrowest = _narrowest(_narrowest(taken, lambda each: replace(each, when=None)), lambda each: each)
    if len(narrowest) != 1 or not narrowest[0].exact:
        return None
    return _shares(narrowest[0])


def _narrowest(
    services: Sequence[AnalysedService], of: Callable[[AnalysedService], AnalysedService]
) -> list[AnalysedService]:
    """Those that take no more than any other does."""
    sizes = [frozenset(other for other in _OTHERS if takes(of(each), _ask(other))) for each in services]
    return [each for each, mine in zip(services, sizes, strict=True) if all(mine <= other for other in sizes)]


def _ask(packet: Packet) -> Ask:
    return Ask(packet.dst, packet.dport, {}, source=packet.src, link=packet.iif)


def _shares(service: AnalysedService) -> dict[str, Fraction]:
    found = {each.to: each.share for each in service.backends if each.share}
    return found | ({"none": service.leak} if service.leak else {})
