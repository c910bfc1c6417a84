"""The intermediate representation, run one packet at a time with real counters: a witness without the engine.

Only what a packet meets, in the kernel's order. There are no sets of packets: shares come from counting.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from ipaddress import IPv4Address

from lbctl_netfilter.conditions import Selector, Spans, Values, Words
from lbctl_netfilter.ir import (
    Act,
    Branch,
    Draw,
    DrawMark,
    FamilyProgram,
    MarkIs,
    Match,
    Memory,
    Pick,
    PickKind,
    Rule,
    SetMark,
)

#: The end of a connection that no rule gives an endpoint.
UNTOUCHED, DROPPED = "untouched", "dropped"


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection that comes in."""

    dst: str
    dport: int
    src: str
    iif: str = "outside"
    proto: str = "tcp"

    def value(self, name: str) -> int | str:
        """What a condition compares."""
        match name:
            case "dst" | "src":
                return int(IPv4Address(getattr(self, name)))
            case "dport":
                return self.dport
            case "proto" | "iif":
                return str(getattr(self, name))
        raise AssertionError(name)


@dataclass(slots=True)
class Kernel:
    """The rules of a program, and what the kernel keeps for them: a counter for each pick."""

    program: FamilyProgram
    counters: dict[object, int] = field(default_factory=dict)
    #: Says whether a draw of so many parts of so many hits; None where a program has no draws.
    dice: Callable[[int, int], bool] | None = None
    mark: int = 0
    connmark: int = 0

    def connect(self, packet: Packet, hook: str = "prerouting") -> str:
        """Where a new connection ends: an endpoint, `UNTOUCHED` or `DROPPED`."""
        self.mark = self.connmark = 0
        given = UNTOUCHED
        for base in sorted(self.program.bases, key=lambda base: base.priority):
            if base.hook != hook or (base.kind == "nat" and given != UNTOUCHED):
                continue
            end = self._chain(base.chain, packet)
            chain = self.program.chains[base.chain]
            if end == DROPPED or (end is None and chain.policy is Act.DROP):
                return DROPPED
            if end is not None and end != UNTOUCHED:
                given = end
        return given

    def _chain(self, name: str, packet: Packet) -> str | None:
        """How a chain ends: None behind its last rule, `UNTOUCHED` where a rule accepts."""
        for rule in self.program.chains[name].rules:
            if not rule.first or not _meets(rule.where, packet) or not self._steps(rule, packet):
                continue
            act, to = rule.act, rule.target
            if act is Act.SWITCH:
                target = self._switched(rule)
                if target is None:
                    continue
                act, to = target.act, target.to
            elif act is Act.TO:
                [(to, _)] = rule.to
            match act:
                case Act.TO:
                    return to
                case Act.ACCEPT:
                    return UNTOUCHED
                case Act.DROP:
                    return DROPPED
                case Act.RETURN:
                    return None
                case Act.GOTO:
                    return self._chain(to, packet)
                case Act.JUMP if (end := self._chain(to, packet)) is not None:
                    return end
                case _:
                    continue
        return None

    def _steps(self, rule: Rule, packet: Packet) -> bool:
        """Take a rule's steps up to the first that does not match."""
        for number, step in enumerate(rule.steps):
            match step:
                case Draw(pick, hits):
                    if not self._hits(pick, hits, (rule.line, number)):
                        return False
                case DrawMark():
                    if not self._draw_mark(step, (rule.line, number)):
                        return False
                case MarkIs(connection, mask, values):
                    if not _within((self.connmark if connection else self.mark) & mask, values):
                        return False
                case SetMark(marking):
                    self.mark, self.connmark = _known(*marking.apply(self.mark, self.connmark))
                case Memory() if step.asks and not step.inverted:
                    # A new client is in no list.
                    return False
                case Match(where):
                    if not _meets(where, packet):
                        return False
        return True

    def _draw_mark(self, step: DrawMark, place: object) -> bool:
        picked = self._picked(step.pick, place)
        marking = next((made for spans, made in step.cases if _within(picked, spans)), None)
        if marking is None:
            return False
        self.mark, self.connmark = _known(*marking.apply(self.mark, self.connmark))
        return True

    def _hits(self, pick: Pick, hits: Spans, place: object) -> bool:
        if pick.kind is PickKind.DICE:
            assert self.dice is not None
            return self.dice(sum(high - low + 1 for low, high in hits), pick.modulus)
        return _within(self._picked(pick, place), hits)

    def _picked(self, pick: Pick, place: object) -> int:
        """The number of a counter, which moves on."""
        assert pick.kind is PickKind.COUNTER
        key = (pick.key, place) if pick.key is None else pick.key
        now = self.counters.get(key, 0)
        self.counters[key] = (now + 1) % pick.modulus
        return now

    def _switched(self, rule: Rule) -> Branch | None:
        assert rule.switch is not None
        number = self._picked(rule.switch.pick, (rule.line, "switch"))
        return next((target for spans, target in rule.switch.cases if _within(number, spans)), None)


def _known(mark: int | None, connmark: int | None) -> tuple[int, int]:
    assert mark is not None
    assert connmark is not None
    return mark, connmark


def _within(number: int, spans: Spans) -> bool:
    return any(low <= number <= high for low, high in spans)


def _meets(where: Selector, packet: Packet) -> bool:
    return all(_holds(values, packet.value(name)) for name, values in where.conditions)


def _holds(values: Values, value: int | str) -> bool:
    if isinstance(values, Words):
        assert isinstance(value, str)
        return (values.names is None or value in values.names) and value not in values.but
    assert isinstance(value, int)
    return _within(value, values)


def sequence(program: FamilyProgram, packet: Packet, most: int = 5000) -> tuple[list[str], int]:
    """Where like connections end, one after the other, and how many of them come before the period.

    The counters are those of rules that were just loaded, and nobody else connects.
    """
    kernel = Kernel(program)
    seen: dict[frozenset[tuple[object, int]], int] = {}
    ends: list[str] = []
    while len(ends) < most:
        # A counter that was never asked stands at 0.
        state = frozenset((key, value) for key, value in kernel.counters.items() if value)
        if state in seen:
            return ends, seen[state]
        seen[state] = len(ends)
        ends.append(kernel.connect(packet))
    raise AssertionError("the counters do not come round")


def shares(program: FamilyProgram, packet: Packet) -> dict[str, Fraction]:
    """The part of like connections that ends at each place, in the long run."""
    ends, first = sequence(program, packet)
    period = ends[first:]
    return {end: Fraction(period.count(end), len(period)) for end in dict.fromkeys(period)}


def chances(program: FamilyProgram, packet: Packet) -> dict[str, Fraction]:
    """As `shares`, for a program with draws and no counters: each outcome of the draws has its chance."""
    found: dict[str, Fraction] = {}
    for end, chance in _outcomes(program, packet):
        found[end] = found.get(end, Fraction(0)) + chance
    return found


def _outcomes(program: FamilyProgram, packet: Packet) -> Iterator[tuple[str, Fraction]]:
    pending: list[list[bool]] = [[]]
    while pending:
        script = pending.pop()
        asked: list[Fraction] = []

        def dice(hits: int, modulus: int, script: list[bool] = script, asked: list[Fraction] = asked) -> bool:
            asked.append(Fraction(hits, modulus))
            return script[len(asked) - 1] if len(asked) <= len(script) else False

        end = Kernel(program, dice=dice).connect(packet)
        # What was not in the script missed; that it hits is another outcome.
        pending += [
            [*script, *[False] * (i - len(script)), True] for i in range(len(script), len(asked)) if asked[i]
        ]
        chance = Fraction(1)
        for place, part in enumerate(asked):
            chance *= part if place < len(script) and script[place] else 1 - part
        if chance:
            yield end, chance
