"""The rules that the backends of `support.backends` hold: one line is one rule, for exactly one meaning.

    [lbctl/web] ipv4 local:80/tcp,local:443/tcp out nth to 8001 8002 8001
    ipv4 192.0.2.1:80/tcp from 10.0.0.0/8 keep 60 random to 10.0.0.1:80 -
    [docker] ipv4 any:8080/tcp nth to 172.17.0.2:80
    ipv4 any:22/tcp drop
    ipv4 local:80/tcp mark nth to 0x1 0x2

A word in brackets says who wrote a rule: an owner's service, or another program. Rules are passed in their
order; a connection that a rule gives to `-` goes on to the next one. `out` is for local connections too; `if
WORDS` stands for a condition that no reader understands. `#` begins a comment.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import cycle
from math import prod

from lbctl.model import (
    Affinity,
    AnalysedService,
    Analysis,
    EndpointShare,
    Family,
    Finding,
    Listener,
    Scheduler,
    Service,
    Severity,
    SourceNat,
    UnsupportedRule,
    join,
)
from lbctl.model.analysis import Placing

_RULE = re.compile(
    r"(?:\[(?P<writer>[^]]+)\] )?(?P<family>ipv4|ipv6) (?P<places>\S+) (?:from (?P<clients>\S+) )?"
    r"(?:if (?P<unclear>\S+) )?(?:keep (?P<seconds>\d+) )?(?:masquerade (?P<source_nat>\S+) )?(?P<out>out )?"
    r"(?:drop|(?P<marks>mark )?(?P<mode>nth|random|hash (?P<seed>\d+)) to (?P<slots>.+))"
)
_PLACE = re.compile(r"(?P<dst>.+):(?P<port>[0-9-]+)/(?P<proto>[a-z]+)")
_SCHEDULERS = {Scheduler.ROUND_ROBIN: "nth", Scheduler.RANDOM: "random"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule, and the number of its line."""

    line: int
    text: str
    writer: str
    family: Family
    #: Protocol, address and port.
    places: tuple[tuple[str, str, str], ...]
    slots: tuple[str | None, ...]
    mode: str
    seed: int | None
    clients: str | None
    unclear: str | None
    seconds: int | None
    source_nat: SourceNat | None
    local: bool
    marks: bool

    @property
    def service(self) -> str | None:
        """The name of the service that it is a rule of."""
        return self.writer.rpartition("/")[2] or None

    @property
    def action(self) -> str:
        """What it changes of connections."""
        remote = any(to and ("." in to or ":" in to) for to in self.slots)
        return "mark" if self.marks else "dnat" if remote else "redirect"

    def owned_by(self, owner: str) -> bool:
        """Return True for a rule that lbctl manages for an owner."""
        return self.writer.startswith(f"{owner}/")


def parse(text: str) -> Iterator[Rule | UnsupportedRule]:
    """Yield the rules of a text, and the lines that are none."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.startswith("#"):
            yield _parse(number, line)


def _parse(number: int, line: str) -> Rule | UnsupportedRule:
    found = _RULE.fullmatch(line)
    places = [_PLACE.fullmatch(place) for place in found["places"].split(",")] if found else []
    if found is None or None in places:
        return UnsupportedRule(line=number, rule=line, what="a line", reason="it is no rule on paper")
    return Rule(
        line=number,
        text=line,
        writer=found["writer"] or "",
        family=Family(found["family"]),
        places=tuple((at["proto"], at["dst"].strip("[]"), at["port"]) for at in places if at),
        slots=tuple(None if to == "-" else to for to in (found["slots"] or "").split()),
        mode=(found["mode"] or "").partition(" ")[0],
        seed=int(found["seed"]) if found["seed"] else None,
        clients=found["clients"],
        unclear=found["unclear"],
        seconds=int(found["seconds"]) if found["seconds"] else None,
        source_nat=SourceNat(found["source_nat"]) if found["source_nat"] else None,
        local=found["out"] is not None,
        marks=found["marks"] is not None,
    )


def rules(text: str) -> tuple[Rule, ...]:
    """Return the rules of a text."""
    return tuple(rule for rule in parse(text) if isinstance(rule, Rule))


def write(owner: str, service: Service, family: Family) -> str:
    """Return the rule of a service in a family."""
    places = ",".join(_place(listener) for listener in service.listeners_of(family))
    words = [f"[{owner}/{service.name}]", family, places]
    if clients := [str(network) for network in service.allow if Family.of(network) is family]:
        words += ["from", ",".join(clients)]
    if service.affinity is not None:
        words += ["keep", str(service.affinity)]
    if service.source_nat is not SourceNat.HAIRPIN:
        words += ["masquerade", service.source_nat]
    if service.local_clients:
        words.append("out")
    mode = _SCHEDULERS.get(service.scheduler, f"hash {service.hash_seed}")
    slots = [endpoint.to for endpoint in service.slots(family)]
    return " ".join([*words, mode, "to", *(slots or "-")])


def _place(listener: Listener) -> str:
    where = join(listener.address, listener.port) if listener.address else f"local:{listener.port}"
    return f"{where}/{listener.protocol}"


@dataclass(slots=True)
class _Passed:
    """The rules that connections of one selector pass, in order."""

    every: list[Rule] = field(default_factory=list)
    #: Those of them that pick: none behind one that takes all.
    picking: list[Rule] = field(default_factory=list)


def read(text: str, placing: Placing) -> Analysis:
    """Return what the rules of a text do."""
    passed: dict[tuple[object, ...], _Passed] = {}
    unread: list[UnsupportedRule] = []
    findings: dict[int, Finding] = {}
    untouched = 0
    for rule in parse(text):
        if isinstance(rule, UnsupportedRule):
            unread.append(rule)
            continue
        untouched += not rule.slots
        for place in rule.places if rule.slots else ():
            here = passed.setdefault((rule.family, *place, rule.clients, rule.marks), _Passed())
            here.every.append(rule)
            if not here.picking or None in here.picking[-1].slots:
                here.picking.append(rule)
            else:
                findings[rule.line] = _never_reached(rule, here.picking[-1])
    services = [
        _service(place, here, placing) for (_, *place, _, _), here in passed.items() if len(here.picking)
    ]
    return Analysis(
        format="paper",
        services=tuple(services),
        findings=tuple(findings.values()),
        unsupported=tuple(unread),
        untouched_rules=untouched,
    )


def _never_reached(rule: Rule, before: Rule) -> Finding:
    return Finding(
        code="never-reached",
        severity=Severity.ERROR,
        line=rule.line,
        rule=rule.text,
        message=f"line {before.line} takes all connections before this rule",
    )


def _service(place: Sequence[object], here: _Passed, placing: Placing) -> AnalysedService:
    proto, dst, port = map(str, place)
    first = here.picking[0]
    shares = _shares(here.picking)
    leak = shares.pop(None, Fraction(0))
    modes = {rule.mode for rule in here.picking}
    mode = modes.pop() if len(modes) == 1 and (len(here.picking) == 1 or modes != {"hash"}) else "mixed"
    if len(shares) == 1 and not leak:
        mode = "single"
    unclear = next((rule.unclear for rule in here.picking if rule.unclear), None)
    kept = Affinity(kind="map", by="source address", seconds=first.seconds) if first.seconds else None
    hashed = mode == "hash"
    return AnalysedService(
        family=first.family,
        proto=proto,
        dst=dst,
        dport=port,
        hooks=("prerouting", "output") if first.local else ("prerouting",),
        action=first.action,
        mode=mode,
        backends=tuple(EndpointShare(to=to, share=share) for to, share in shares.items() if to is not None),
        leak=leak,
        affinity=Affinity(kind="hash", by="source address", seconds=None) if hashed else kept,
        exact=unclear is None,
        depends_on=unclear,
        when={"src": first.clients} if first.clients else None,
        name=first.service if "/" in first.writer else None,
        slots=first.slots if hashed else tuple(_sequence(here.picking)) if mode in {"nth", "single"} else (),
        hash_seed=first.seed if hashed else None,
        placing=placing if hashed else None,
        lines=tuple(rule.line for rule in here.every),
        picking=tuple(rule.line for rule in here.picking),
        source_nat=first.source_nat,
    )


def _shares(picking: Sequence[Rule]) -> dict[str | None, Fraction]:
    """Return endpoint → share, None for what no rule takes."""
    found: dict[str | None, Fraction] = {}
    left = Fraction(1)
    for rule in picking:
        for to in rule.slots:
            if to is not None:
                found[to] = found.get(to, Fraction(0)) + left / len(rule.slots)
        left *= Fraction(rule.slots.count(None), len(rule.slots))
    return {**found, None: left} if left else found


def _sequence(picking: Sequence[Rule]) -> Iterator[str | None]:
    """Yield where the connections of one period go: one at a time, with the counter of each rule."""
    counters = [cycle(rule.slots) for rule in picking]
    for _ in range(prod(len(rule.slots) for rule in picking)):
        yield next((to for counter in counters if (to := next(counter)) is not None), None)


def without(text: str, lines: Collection[int]) -> str:
    """Return a text without some of its lines."""
    return "\n".join(line for number, line in enumerate(text.split("\n"), 1) if number not in lines)


def restore_rules(now: Iterable[str], before: Sequence[str], gone: Collection[str]) -> list[str]:
    """Return lines with those that are `gone` from `before`, each behind those that were before it."""
    lines = list(now)
    for number, line in enumerate(before):
        if line in gone and line not in lines:
            known = [at for at, each in enumerate(lines) if each in before[:number]]
            lines.insert(known[-1] + 1 if known else 0, line)
    return lines
