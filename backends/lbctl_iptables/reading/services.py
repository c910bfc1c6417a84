"""What becomes of the connections of a selector → the service that they are of."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import lcm
from typing import TYPE_CHECKING

from lbctl.model import MAX_SLOTS, Family, Kept, ReadService, ReadShare, jenkins
from lbctl_iptables import bytecode
from lbctl_iptables.reading import where as w
from lbctl_iptables.reading.meaning import Act
from lbctl_iptables.reading.stream import ratio
from lbctl_iptables.reading.where import LOCAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.model import SourceNat
    from lbctl_iptables.reading.flow import Walk
    from lbctl_iptables.reading.hook import Hook
    from lbctl_iptables.reading.meaning import Meaning
    from lbctl_iptables.reading.selectors import Selector
    from lbctl_iptables.reading.stream import Odds, State, Stream
    from lbctl_iptables.reading.where import Where

_SNAT = frozenset({"snat"})
#: Match and family → how it places a client.
_PLACINGS = {
    ("cluster", Family.IPV4): jenkins.slot_of,
    ("cluster", Family.IPV6): jenkins.slot_of_first_word,
    ("bpf", Family.IPV4): bytecode.slot_of,
    ("bpf", Family.IPV6): bytecode.slot_of,
}


@dataclass(slots=True)
class Found:
    """A service with all that was seen on the way of its connections."""

    service: ReadService
    walk: Walk
    selector: Selector
    family: Family
    hook: Hook
    walks: list[Walk]
    #: True where rules say by themselves that some connections are not to be balanced.
    explicit_leak: bool = False
    per_packet: bool = False
    #: True where rules say by themselves that this host's own connections are not to be balanced.
    left_out: bool = False


def service_of(
    family: Family,
    hook: Hook,
    selector: Selector,
    walk: Walk,
    stream: Stream,
    kind: str,
    source: tuple[SourceNat | None, tuple[int, ...]],
) -> ReadService | None:
    label = _marked if kind == "mark" else _mapped
    length = stream.length
    shares: dict[str, Odds] = {}
    leaks: dict[str, Odds] = {}
    actions: dict[str, None] = {}
    names: dict[str, str | None] = {}
    order: dict[str, int] = {}
    ends: dict[State, str | None] = {}
    for state, chances in stream.states.items():
        found, action, words, meaning = label(state)
        part: Odds = 0
        for chance, places in chances.items():
            part += chance * places.bit_count()
        to = ends[state] = _endpoint(found, selector)
        if to is None:
            leaks[words] = leaks.get(words, 0) + part
            continue
        shares[to] = shares.get(to, 0) + part
        actions[action] = None
        if meaning is not None and meaning.rule.line < order.get(to, meaning.rule.line + 1):
            # Of several rules for one endpoint, the first one names it.
            order[to], names[to] = meaning.rule.line, meaning.rule.spec.comment
    if kind == "mark" and not walk.modes:
        return None
    if not shares and kind != "nothing":
        return None
    if kind == "nat" and set(actions) <= _SNAT and not walk.modes:
        return None
    mode = _mode(walk, shares)
    seed = None
    placing = None
    made: tuple[str | None, ...] = ()
    if not walk.twice:
        # What is only right on average, since its period is too long to follow, has no sequence.
        made = tuple([ends[state] for state in stream.sequence()])
    if mode == "hash" and len(walk.seeds) == 1:
        (key, total), *_ = walk.seeds.items()
        made = tuple([_endpoint(to, selector) for to in _hash_slots(stream, key, total, label)])
        seed = key[1]
        placing = _PLACINGS[key[0].partition(" ")[0], family]
    where = selector.where
    backends = tuple(
        ReadShare(to=to, share=ratio(part, length), name=_endpoint_name(names.get(to), selector.name))
        for to, part in sorted(shares.items(), key=lambda pair: order.get(pair[0], 0))
    )
    leak = ratio(sum(leaks.values()), length)
    lines: set[int] = set()
    picking: set[int] = set()
    for visit in walk.visits:
        act = visit.meaning.act
        part = visit.took and act is not Act.GO_ON and (act is not Act.MARK or kind == "mark")
        if part or (visit.came and act is Act.TO):
            lines.add(visit.meaning.rule.line)
        if visit.took and (visit.meaning.picks or act is Act.TO):
            picking.add(visit.meaning.rule.line)
    when = _when(where, walk)
    action = next(iter(actions)) if len(actions) == 1 else ("mixed" if actions else _nothing(selector))
    return ReadService(
        family=family,
        proto=where.protocol or "any",
        dst=w.show_net(where.dst, family)
        if where.dst is not None
        else "local"
        if LOCAL in where.extra
        else "any",
        dport=w.show_ports(where.dport) if where.dport is not None else "any",
        hooks=hook.names,
        action=action,
        mode=mode,
        backends=backends,
        leak=leak,
        leak_to="; ".join(leaks) or None,
        affinity=_kept(walk, mode),
        when=when or None,
        name=selector.name,
        slots=_from_start(made, [_endpoint(label(state)[0], selector) for state in walk.starts]),
        hash_seed=seed,
        placing=placing,
        source_nat=source[0] if kind == "nat" else None,
        source_lines=source[1] if kind == "nat" else (),
        way=partial(hook.way, where),
        lines=tuple(sorted(lines)),
        picking=tuple(sorted(picking)),
    )


def _mapped(state: State) -> tuple[str | None, str, str, Meaning | None]:
    """Endpoint, action, where it leaks to, and who decided."""
    out = state.out
    if out is None:
        return None, "", "policy ACCEPT: the original destination", None
    if out.kind == "to":
        return out.text, out.meaning.action if out.meaning else "", "", out.meaning
    return None, "", out.text, out.meaning


def _marked(state: State) -> tuple[str | None, str, str, Meaning | None]:
    out = state.out
    if out is not None and out.kind == "leak" and not out.text.startswith("ACCEPT "):
        return None, "", out.text, out.meaning
    if state.by is not None and state.mark:
        return f"mark {state.mark:#x}", "mark", "", state.by
    if state.connection_by is not None and state.connmark:
        return f"mark {state.connmark:#x}", "connmark", "", state.connection_by
    return None, "", "no mark", None


def falls_through(stream: Stream, kind: str) -> bool:
    """True where some connections come to the end of the rules."""
    if kind == "mark":
        return any(_marked(state)[0] is None and state.out is None for state in stream.states)
    return any(state.out is None for state in stream.states)


def _nothing(selector: Selector) -> str:
    return selector.leaves[0].action or "none"


def _mode(walk: Walk, shares: dict[str, Fraction | int]) -> str:
    if not shares:
        return "none"
    if not walk.modes:
        return "single"
    return walk.modes.copy().pop() if len(walk.modes) == 1 else "mixed"


def _kept(walk: Walk, mode: str) -> Kept | None:
    for recent, meaning in walk.recent:
        if not recent.inverted and meaning.act in {Act.TO, Act.JUMP, Act.GOTO}:
            return Kept(kind="recent", by=recent.by, seconds=recent.seconds)
    if mode == "hash":
        by = next((v.meaning.by for v in walk.visits if v.meaning.by), "source address")
        return Kept(kind="hash", by=by, seconds=None)
    return None


def _when(where: Where, walk: Walk) -> dict[str, str]:
    when: dict[str, list[str]] = {}
    for name, value in where.extra:
        if (name, value) != LOCAL or where.dst is not None:
            when.setdefault(name, []).append(value)
    for name, value in sorted(walk.except_):
        when.setdefault(name, []).append(value)
    return {name: ", ".join(dict.fromkeys(values)) for name, values in when.items()}


def _hash_slots(stream: Stream, key: tuple[str, int], total: int, label: object) -> tuple[str | None, ...]:
    """Where the clients of each slot go; empty where they do not all go to one place."""
    spans: list[tuple[Fraction, Fraction, str | None]] = []
    for state in stream.states:
        to = label(state)[0]  # type: ignore[operator]
        span = next(((low, high) for k, low, high in state.nodes if k == key), None)
        if span is None:
            span = (Fraction(0), Fraction(1))
        spans.append((*span, to))
    size = total
    for low, high, _ in spans:
        size = lcm(size, low.denominator, high.denominator)
        if size > MAX_SLOTS:
            return ()
    slots: list[str | None] = [None] * size
    taken = [0] * size
    for low, high, to in spans:
        for i in range(int(low * size), int(high * size)):
            taken[i] += 1
            slots[i] = to
    return tuple(slots) if max(taken) == 1 else ()


def _from_start(slots: tuple[str | None, ...], starts: Sequence[str | None]) -> tuple[str | None, ...]:
    """A period as it is for the very first connection; empty where what comes before it is no part of it."""
    if not starts or not slots:
        return slots
    count = len(slots)
    first = -len(starts) % count
    whole = (*slots[first:], *slots[:first])
    return whole if all(each == whole[i % count] for i, each in enumerate(starts)) else ()


def _endpoint(to: str | None, selector: Selector) -> str | None:
    """An endpoint as it is shown: where only the address is rewritten, the port is that of the listener."""
    if to == "local" and selector.where.dport is not None:
        return w.show_ports(selector.where.dport)
    return to


def _endpoint_name(comment: str | None, service: str | None) -> str | None:
    if comment and service and comment.startswith(f"{service}/"):
        return comment[len(service) + 1 :]
    return None
