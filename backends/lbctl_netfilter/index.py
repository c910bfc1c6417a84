"""The rules of one chain, found by what they ask for, so that a service meets few rules of all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl_netfilter.conditions import LOCAL_SOURCE, NONE, REMOTE_SOURCE, Words, covers, single, size
from lbctl_netfilter.ir import Act

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lbctl_netfilter.conditions import Selector, Spans, Values
    from lbctl_netfilter.ir import Chain, Rule

#: What the bits of a connection's mark are multiplied by, to stand above those of the packet's.
CONNECTION = 1 << 32
_IDLE = frozenset({Act.GO_ON, Act.JUMP, Act.GOTO, Act.SWITCH, Act.RETURN})
_MAPPING = frozenset({Act.TO, Act.JUMP, Act.RETURN, Act.GO_ON})
#: Rules of a chain that are asked one by one.
_FEW = 24
#: Values of one field for which a rule is noted one by one.
_MANY = 32
#: A span of 2^n numbers that begins at a multiple of it: its first number, and how many there are.
_Block: TypeAlias = tuple[int, int]
#: What a rule asks for: addresses, a port, and one more thing.
_Key: TypeAlias = "tuple[_Block | None, int | None, tuple[str, str | _Block] | None]"


class _Shape(NamedTuple):
    """Which of these rules ask for: how many addresses, whether a port, and what else."""

    dst: int | None
    port: bool
    #: The name of one more field, and how many numbers.
    extra: tuple[str, int] | None


class ChainIndex:
    """A chain at one hook, of whose rules a connection may meet some."""

    def __init__(self, chain: Chain, rules: Sequence[Rule]) -> None:
        self.chain = chain
        self.rules = rules
        #: True where nothing that it leads to gives an endpoint, ends a path or sets a mark.
        self.idle = False
        #: True where all that it and the chains it leads to do is to give endpoints, and to return.
        self.maps_only = False
        #: True where a rule asks whether the source is one of this host.
        self.asks_source = any(
            LOCAL_SOURCE in rule.where.extra or REMOTE_SOURCE in rule.where.extra
            for rule in rules
            if rule.where.extra
        )
        #: The bits of both marks that it may set, or a chain that it leads to.
        self.written = 0
        self._index: dict[_Key, list[int]] = {}
        #: Rules for some addresses, and for some ports, that send connections past others or give them an
        #: endpoint: of more addresses or ports, they are for a part.
        self._by_address: list[int] = []
        self._by_port: list[int] = []
        #: Each with what rules of this shape narrow services by, or None for what they are for.
        self._shapes: dict[tuple[_Shape, str | None], None] = {}
        if len(rules) > _FEW:
            noted: dict[tuple[int, bool], list[list[int]]] = {}
            for number, rule in enumerate(rules):
                narrows = rule.act is not Act.GO_ON or rule.marks
                # Rules of a ladder have one selector, and hold it: its identity stays its own.
                lists = noted.get(key := (id(rule.where), narrows))
                if lists is None:
                    lists = noted[key] = list(self._lists(rule.where, narrows=narrows))
                for each in lists:
                    each.append(number)

    def _lists(self, where: Selector, *, narrows: bool) -> Iterator[list[int]]:
        """Yield the lists of rules among which one with a selector is looked for."""
        if narrows and where.dst is not None:
            yield self._by_address
        if narrows and where.dport is not None:
            yield self._by_port
        blocks = list(_blocks(where.dst))
        ports = list(_ports(where.dport))
        shapes = {(block[1] if block else None): None for block in blocks}
        extra = next(filter(None, (exact(field, values) for field, values in where.extra)), None)
        notes: list[tuple[str | None, tuple[str, str | _Block] | None, tuple[str, int] | None]] = []
        if extra is None:
            notes.append((None, None, None))
        else:
            name, value = extra
            if narrows:
                # Those that it does not tell apart ask it as well.
                notes.append((name, (name, ""), None))
            notes.append((None, extra, (name, 0 if isinstance(value, str) else value[1])))
        for narrowing, asked, shaped in notes:
            for addresses in shapes:
                self._shapes[_Shape(addresses, ports[0] is not None, shaped), narrowing] = None
            for block in blocks:
                for port in ports:
                    yield self._index.setdefault((block, port, asked), [])

    def candidates(self, given: Selector) -> Sequence[Rule]:
        """Return the rules that can be for these connections, or narrow them, in their order, and others."""
        if not self._index:
            return self.rules
        extras = dict(filter(None, (exact(field, values) for field, values in given.extra)))
        one_address, one_port = single(given.dst) is not None, single(given.dport) is not None
        found: set[int] = set()
        for numbers, alone in ((self._by_address, one_address), (self._by_port, one_port)):
            if not alone:
                found.update([n for n in numbers if covers(self.rules[n].where, given) is not NONE])
        for shape, narrowing in self._shapes:
            block = _around(given.dst, shape.dst)
            if shape.dst is not None and block is None:
                continue
            if shape.port and given.dport is None:
                continue
            port = given.dport[0][0] if shape.port and given.dport else None
            extra: tuple[str, str | _Block] | None = None
            if narrowing is not None:
                if _is_alone(extras.get(narrowing)):
                    continue
                extra = (narrowing, "")
            elif shape.extra is not None:
                name, count = shape.extra
                value = extras.get(name)
                if isinstance(value, tuple):
                    value = _block(value[0], value[0] + value[1] - 1, count)
                if value is None:
                    continue
                extra = (name, value)
            found.update(self._index.get((block, port, extra), ()))
        return [self.rules[number] for number in sorted(found)]


def index(chains: Mapping[str, Sequence[Rule]], of: Mapping[str, Chain]) -> dict[str, ChainIndex]:
    """Chains with these rules, by name."""
    made = {name: ChainIndex(of[name], rules) for name, rules in chains.items()}
    callers: dict[str, set[str]] = {}
    acting: list[str] = []
    more: list[str] = []
    marking: list[str] = []
    for name, rules in chains.items():
        acts = marks = others = False
        for rule in rules:
            if rule.act is Act.JUMP or rule.act is Act.GOTO or rule.switch is not None:
                for target in rule.targets:
                    callers.setdefault(target, set()).add(name)
                    acts |= target not in made
            acts |= rule.marks or rule.act not in _IDLE
            others |= rule.marks or rule.opaque is not None or not _maps_only(rule)
            if rule.marks and (written := written_by(rule)):
                made[name].written |= written
                marks = True
        if acts:
            acting.append(name)
        if others:
            more.append(name)
        if marks:
            marking.append(name)
    for name in made.keys() - reach(acting, callers):
        made[name].idle = True
    for name in made.keys() - reach(more, callers):
        made[name].maps_only = True
    _spread_marks(made, marking, callers)
    return made


def _spread_marks(
    made: Mapping[str, ChainIndex], marking: list[str], callers: Mapping[str, Iterable[str]]
) -> None:
    """Have each chain know what marks the chains that it leads to write; `marking` is consumed."""
    while marking:
        name = marking.pop()
        for caller in callers.get(name, ()):
            before = made[caller].written
            made[caller].written |= made[name].written
            if made[caller].written != before:
                marking.append(caller)


def matters(rule: Rule, chains: Mapping[str, ChainIndex]) -> bool:
    """Return True if it makes a difference whether a rule matches."""
    if rule.act is Act.JUMP or rule.act is Act.GOTO:
        return rule.act is Act.GOTO or rule.target not in chains or not chains[rule.target].idle
    return rule.act is not Act.GO_ON or rule.marks


def reach(names: Iterable[str], ways: Mapping[str, Iterable[str]]) -> set[str]:
    """These and all that they lead to."""
    found = set(names)
    waiting = list(found)
    while waiting:
        for name in ways.get(waiting.pop(), ()):
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found


def written_by(rule: Rule) -> int:
    """Return the bits that a rule may set: of the packet's mark, and above them of the connection's."""
    written = 0
    for marking in rule.markings if rule.marks else ():
        written |= marking.written * (CONNECTION if marking.connection else 1)
    return written


def _maps_only(rule: Rule) -> bool:
    """Return True for a rule that gives an endpoint, leads to another chain or returns from its own."""
    if rule.switch is None:
        return rule.act in _MAPPING
    return all(case.act in _MAPPING for _, case in rule.switch.cases)


def exact(field: str, values: Values) -> tuple[str, str | _Block] | None:
    """Return a condition that only those meet who have the very same word, or a block inside.

    None for others.
    """
    if isinstance(values, Words):
        word = single(values)
        return (field, word) if isinstance(word, str) else None
    if len(values) != 1:
        return None
    [(low, high)] = values
    count = high - low + 1
    return None if count & (count - 1) or low % count else (field, (low, count))


def _blocks(spans: Spans | None) -> Iterator[_Block | None]:
    """Yield the blocks by which a rule for these addresses is found; None where all ask it."""
    if spans is None or len(spans) > _MANY:
        yield None
        return
    found = []
    for low, high in spans:
        count = high - low + 1
        if count & (count - 1) or low % count:
            if count > _MANY:
                yield None
                return
            found += [(number, 1) for number in range(low, high + 1)]
        else:
            found.append((low, count))
    yield from found[: _MANY * _MANY]


def _ports(spans: Spans | None) -> Iterator[int | None]:
    """Yield the ports by which a rule is found; a rule for many is asked by those of all ports."""
    if spans is None or size(spans) > _MANY:
        yield None
        return
    yield from (port for low, high in spans for port in range(low, high + 1))


def _around(spans: Spans | None, count: int | None) -> _Block | None:
    """Return the block of so many numbers that all of these are in."""
    if spans is None or count is None:
        return None
    return _block(spans[0][0], spans[-1][1], count)


def _block(low: int, high: int, count: int) -> _Block | None:
    first = low // count * count if count else low
    return (first, count) if count and high < first + count else None


def _is_alone(value: str | _Block | None) -> bool:
    """Return True if connections with this value can have no part that has another."""
    if isinstance(value, tuple):
        return value[1] == 1
    return value is not None
