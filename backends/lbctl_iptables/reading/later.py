"""What connections meet behind the hook that gave them an endpoint: refusals by mark, and another source.

Their destination is the endpoint's now, and their marks are those that they got on the way; all else of them
is not known. So a rule is for all of them, for none, or for those that meet some condition more.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl.model import SourceNat, decimal
from lbctl_iptables.reading import where as w
from lbctl_iptables.reading.flow import Budget, TooMuch
from lbctl_iptables.reading.meaning import LEADING, Act, Asked, Marked, marked
from lbctl_iptables.reading.stream import Out, Stream
from lbctl_iptables.reading.where import LOCAL_SOURCE, Where

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl.model import Family
    from lbctl_iptables.reading.meaning import Marking, Meaning
    from lbctl_iptables.reading.program import Program
    from lbctl_iptables.reading.stream import State

#: Conditions under which a rule is for connections, beyond what is known of them.
Conditions: TypeAlias = frozenset[tuple[str, str]]
#: The packet's mark and the connection's; None where some have another one.
_Marks: TypeAlias = tuple[int | None, int | None]
_REFUSING = frozenset({"DROP", "REJECT"})
_BEHIND = (("mangle", "POSTROUTING"), ("nat", "POSTROUTING"))
#: Not through the loopback interface, as a condition of connections that this host makes.
_OUTWARD = ("oif", w.NOT + "lo")
#: What connections have whose destination was replaced.
_REPLACED = ("ctstate", "DNAT")
#: What is no condition on a field: chance, a memory, or what other rules left.
_MORE = ("and", "more")
#: Networks in rules, up to which endpoints are sorted by them.
_MANY = 64
#: Chains that lead from one to the next, up to which they are followed.
_DEEPEST = 100
#: Rules asked for all services of a text, for each rule of it, and at least.
_WORK, _LEAST_WORK = 20, 500_000


class Met(NamedTuple):
    """A rule that ends the way of connections or replaces their source, and for which ones it does."""

    meaning: Meaning
    conditions: Conditions


class Later:
    """The chains of one family behind the hooks that map connections."""

    def __init__(
        self, family: Family, programs: Mapping[str, Mapping[str, Program]], rules: int, *, whole: bool
    ) -> None:
        self._family = family
        self._bits = w.BITS[family]
        self._programs = programs
        self._budget = Budget(max(_LEAST_WORK, _WORK * rules))
        #: True where the text has all rules of table nat.
        self._whole = whole
        self._known: dict[object, Sequence[Met]] = {}
        behind = [meaning for table, chain in _BEHIND for meaning in self._reach(table, chain)]
        self._replaces = any(meaning.action == "snat" for meaning in behind)
        told = {chain: list(self._reach("filter", chain)) for chain in ("INPUT", "FORWARD", "OUTPUT")}
        self._refuses = {
            chain: any(meaning.asks_mark for meaning in meanings) for chain, meanings in told.items()
        }
        for chain, refuses in self._refuses.items():
            behind += told[chain] if refuses else ()
        #: True where what becomes of connections depends on the chain of table filter that they pass.
        self.refuses = any(self._refuses.values())
        wheres = [where for meaning in behind for where in _wheres(meaning)]
        extra = {pair for where in wheres for pair in where.extra}
        self._nets = {where.dst for where in wheres if where.dst is not None}
        self._nets |= {net for name, value in extra if (net := _network(name, value, family)) is not None}
        names = {name for name, _ in extra}
        self._ports = "dport" in names or any(where.dport for where in wheres)
        #: Rules tell endpoints apart by more than the networks that these are in.
        self._told_apart = (
            len(self._nets) > _MANY
            or bool(names & {"ctorigdst", "ctorigdstport"})
            or any(name == "dst" and "-" in value for name, value in extra)
        )

    def _reach(self, table: str, chain: str) -> Iterator[Meaning]:
        """The rules of a chain and of those that it leads to."""
        programs = self._programs.get(table, {})
        seen = {chain}
        waiting = [chain] if chain in programs else []
        while waiting:
            for meaning in programs[waiting.pop()].meanings:
                yield meaning
                if meaning.act in LEADING and meaning.target not in seen:
                    seen.add(meaning.target)
                    waiting.append(meaning.target)

    # -- refusals

    def refused(self, stream: Stream, given: Where, hook: str) -> Stream:
        """The stream, in which those that table filter refuses for their mark have no endpoint.

        Raises `TooMuch`.
        """
        if not self.refuses:
            return stream
        made = Stream(stream.length)
        for state, chance, places in stream.parts():
            by = self._refusal(state, given, hook)
            left = (
                state
                if by is None
                else state._replace(out=Out("leak", f"{by.target} in line {by.rule.line}", by))
            )
            made.put(left, chance, places)
        return made

    def _refusal(self, state: State, given: Where, hook: str) -> Meaning | None:
        if state.out is None or state.out.kind != "to" or state.out.meaning is None:
            return None
        action = state.out.meaning.action
        chain = "OUTPUT" if hook == "output" else {"dnat": "FORWARD", "redirect": "INPUT"}.get(action, "")
        if not self._refuses.get(chain):
            return None
        for met in self._met(state, given, (("filter", chain),)):
            if not met.conditions:
                return met.meaning if met.meaning.target in _REFUSING and met.meaning.asks_mark else None
        return None

    # -- another source

    def source_nat(
        self, stream: Stream, given: Where, *, ours: bool
    ) -> tuple[SourceNat | None, tuple[int, ...]]:
        """When the client's address is replaced; None where rules do not say, or there is no word for it.

        The lines are of the rules for which there is none. `ours` are lbctl's rules.
        """
        answers: set[SourceNat | None] = set()
        lines: set[int] = set()
        told: set[object] = set()
        for state in stream.states:
            out = state.out
            if out is None or out.meaning is None or out.kind != "to" or out.meaning.action != "dnat":
                continue
            key = state.mark, state.connmark, self._sort(out.text, given)
            if key not in told:
                told.add(key)
                try:
                    met = self._met(state, given, _BEHIND) if self._replaces else ()
                except TooMuch:
                    return None, ()
                lines |= {each.meaning.rule.line for each in met if each.meaning.act is not Act.END}
                answers.add(self._answer(met, out.text, given) if met else SourceNat.NEVER)
        if answers == {SourceNat.NEVER}:
            return SourceNat.NEVER if ours or self._whole else None, ()
        if SourceNat.HAIRPIN in answers:
            answers.discard(SourceNat.NEVER)
        answer = answers.pop() if len(answers) == 1 else None
        return answer, () if answer else tuple(sorted(lines))

    def _answer(self, met: Sequence[Met], to: str, given: Where) -> SourceNat | None:
        endpoint = _endpoint(to, given, self._family)
        kinds = {self._kind(each.conditions, endpoint) for each in met if each.meaning.act is not Act.END}
        if SourceNat.ALWAYS in kinds or not kinds:
            return SourceNat.ALWAYS if kinds else SourceNat.NEVER
        return kinds.pop() if len(kinds) == 1 else None

    def _kind(self, conditions: Conditions, endpoint: Where) -> SourceNat | None:
        if not conditions:
            return SourceNat.ALWAYS
        if LOCAL_SOURCE in conditions and conditions <= {LOCAL_SOURCE, _OUTWARD}:
            return SourceNat.HAIRPIN
        [(name, value), *more] = conditions
        if name != "src" or more or endpoint.dst is None or value.startswith(w.NOT) or "-" in value:
            return None
        # A client in the endpoint's network, to which the endpoint would answer without us.
        network = w.net(value, self._family)
        near = network is None or w.inside(endpoint.dst, network, self._bits)
        return SourceNat.HAIRPIN if near else None

    # -- rules

    def _met(self, state: State, given: Where, passed: tuple[tuple[str, str], ...]) -> Sequence[Met]:
        """The rules that matter to connections with an endpoint, in some chains one after another."""
        to = state.out.text if state.out else ""
        key = passed, state.mark, state.connmark, given.protocol, given.extra, self._sort(to, given)
        known = self._known.get(key)
        if known is None:
            endpoint = _endpoint(to, given, self._family)
            walk = _Walk(endpoint, self._bits, self._budget, (state.mark, state.connmark))
            for table, chain in passed:
                programs = self._programs.get(table, {})
                if chain in programs:
                    walk.chain(programs, chain, frozenset())
            known = self._known[key] = walk.met
        return known

    def _sort(self, to: str, given: Where) -> object:
        """What endpoints have in common that meet the same rules."""
        if not self._nets and not self._ports:
            return None
        dst, dport = _place(to, self._family)
        if self._told_apart or dst is None:
            return to, given.dst, given.dport
        nets = tuple([net for net in self._nets if w.inside(dst, net, self._bits)])
        return nets, (dport or given.dport) if self._ports else None


class _Walk:
    """Connections with one endpoint on their way through chains."""

    def __init__(self, given: Where, bits: int, budget: Budget, marks: tuple[int, int]) -> None:
        self._given = given
        self._bits = bits
        self._budget = budget
        self._marks: _Marks = marks
        #: True where table nat let some go with the source that they have.
        self._spared = False
        self._depth = 0
        self.met: list[Met] = []

    def chain(self, programs: Mapping[str, Program], name: str, under: Conditions) -> bool:
        """Follow connections through a chain; False where none of them come back from it."""
        self._depth += 1
        back = self._rules(programs, name, under)
        self._depth -= 1
        return back

    def _rules(self, programs: Mapping[str, Program], name: str, under: Conditions) -> bool:
        back = False
        # All of them: an index leaves out those that are for some of the connections.
        for meaning in programs[name].meanings:
            self._budget.spend()
            asked = self._asked(meaning)
            if asked is None:
                continue
            here, before, act = under | asked, self._marks, meaning.act
            leads = act in LEADING
            if act is Act.UNKNOWN or (leads and self._depth >= _DEEPEST):
                # It may do anything.
                self.met.append(Met(meaning, here | {_MORE}))
                under |= {_MORE}
                continue
            came = self.chain(programs, meaning.target, here) if leads else act is Act.RETURN
            if act is Act.TO:
                self.met.append(Met(meaning, here | {_MORE} if self._spared else here))
            elif act is Act.END:
                self.met.append(Met(meaning, here))
                self._spared |= bool(here) and meaning.rule.table == "nat"
            elif act is Act.MARK and meaning.marking is not None:
                self._marks = _set(meaning.marking, before)
            if asked and act is not Act.GOTO:
                # What some have met is not known of the others.
                same = zip(self._marks, before, strict=True)
                packet, connection = (mark if mark == other else None for mark, other in same)
                self._marks = packet, connection
            if act in {Act.GO_ON, Act.MARK} or (act is Act.JUMP and came):
                continue
            back |= came and act is not Act.JUMP
            if not asked:
                return back
            self._marks = before
            if act not in {Act.TO, Act.JUMP, Act.GOTO}:
                under |= {_MORE}
        return True

    def _asked(self, meaning: Meaning) -> Conditions | None:
        """What a rule asks that is not known of the connections; None where it is not for them."""
        found: set[tuple[str, str]] = {_MORE} if meaning.unclear else set()
        for step in meaning.steps:
            match step:
                case Marked():
                    mark = self._marks[step.connection]
                    if mark is None:
                        found.add(_MORE)
                    elif ((mark & step.mask) == step.value) == step.inverted:
                        return None
                case Asked():
                    pass
                case _:
                    found.add(_MORE)
        for where in _wheres(meaning):
            seen = w.covers(where, self._given, self._bits)
            if seen is False:
                return None
            if seen is None:
                one_by_one = ((pair, Where(extra=(pair,))) for pair in where.extra)
                found.update(pair for pair, one in one_by_one if not w.covers(one, self._given, self._bits))
                if not w.covers(where._replace(extra=()), self._given, self._bits):
                    found.add(_MORE)
        return frozenset(found)


def _set(marking: Marking, marks: _Marks) -> _Marks:
    """The marks behind a rule that sets one of them."""
    of_connection, operation, *_ = marking
    copies = operation in {"save", "restore"}
    packet, connection = marks
    known = None not in (marks if copies else (marks[of_connection],))
    after = marked(marking, packet or 0, connection or 0) if known else (None, None)
    if operation == "save" or (of_connection and not copies):
        return packet, after[1]
    return after[0], connection


def _wheres(meaning: Meaning) -> Iterator[Where]:
    yield meaning.where
    yield from (step.where for step in meaning.steps if isinstance(step, Asked))


def _network(name: str, value: str, family: Family) -> w.Net | None:
    """The network that a condition on an address names."""
    return w.net(value.removeprefix(w.NOT), family) if name in {"src", "dst"} and "-" not in value else None


@lru_cache(maxsize=1 << 16)
def _place(to: str, family: Family) -> tuple[w.Net | None, w.Ports | None]:
    """The address and the port of an endpoint, where it has them."""
    if decimal(to, 5) is not None:
        return None, w.ports(to)
    host, colon, port = to.rpartition(":") if to.count(":") == 1 or to.startswith("[") else (to, "", "")
    return w.net(host.strip("[]"), family) if host not in {"", "local"} else None, w.ports(
        port
    ) if colon else None


def _endpoint(to: str, given: Where, family: Family) -> Where:
    """What is known of connections of a selector once they have an endpoint."""
    dst, dport = _place(to, family)
    dst = given.dst if to.startswith(":") else dst
    dport = dport or given.dport
    extra = {(name, value) for name, value in given.extra if name in {"src", "sport", "mac"}} | {_REPLACED}
    # As conditions ask for them that are negated, or for what was there before.
    extra |= {
        (name, w.show_net(net, family)) for name, net in (("dst", dst), ("ctorigdst", given.dst)) if net
    }
    extra |= {
        (name, w.show_ports(ports))
        for name, ports in (("dport", dport), ("ctorigdstport", given.dport))
        if ports
    }
    return Where(given.protocol, dst, dport, w.extras(extra))
