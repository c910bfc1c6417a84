"""Program → services with exact shares: runs the rules' counters as the kernel would."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from lbctl.model import Family, Lifted, LiftedService, Listener, Protocol
from lbctl_iptables import layout
from lbctl_iptables.rules import rules_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.model import Program
    from lbctl_iptables.rules import Rule

#: Connections after which a set of counters that has not come round is given up: beyond every ladder of ours.
_LONGEST = 1 << 16


def lift(program: Program) -> Lifted:
    """See `lbctl.spi.Backend.lift`."""
    services: list[LiftedService] = []
    unsupported: list[str] = []
    for word in layout.WORD.values():
        dispatch = program.by_key.get((word, "chain", layout.prefix(program.owner)))
        for rule in rules_of("", dispatch.text) if dispatch else ():
            listener, target = _listener(rule), rule.option("-g")
            ladder = program.by_key.get((word, "chain", target)) if target else None
            if listener is None or ladder is None:
                unsupported.append(rule.text)
                continue
            services.append(
                _service(word, listener, rule.option("--comment") or "", rules_of("", ladder.text))
            )
    return Lifted(services=tuple(services), unsupported=tuple(unsupported))


def _service(word: str, listener: Listener, name: str, rules: Sequence[Rule]) -> LiftedService:
    rungs = [rule for rule in rules if rule.option("-p") == listener.protocol]
    actions = {rule.option("-j", "-g") for rule in rungs}
    slots = _sequence(rungs)
    mode = "none" if not rungs else "nth" if len(slots) > 1 else "single"
    return LiftedService(
        name=name,
        family=next(f for f in Family if layout.WORD[f] == word),
        listener=listener,
        mode=mode,
        slots=slots,
        action="redirect" if actions == {"REDIRECT"} else "dnat" if actions == {"DNAT"} else "none",
    )


def _sequence(rungs: Sequence[Rule]) -> tuple[str | None, ...]:
    """Where the 1st, 2nd, … connection goes, until all counters are back where they began."""
    every = [int(rule.option("--every") or 1) for rule in rungs]
    start = [int(rule.option("--packet") or 0) for rule in rungs]
    seen = [0] * len(rungs)
    sequence: list[str | None] = []
    while len(sequence) < _LONGEST:
        to = None
        for i, rule in enumerate(rungs):
            hit = seen[i] == start[i]
            seen[i] = (seen[i] + 1) % every[i]
            if hit:
                to = rule.endpoint
                break
        sequence.append(to)
        if not any(seen):
            break
    return tuple(sequence)


def _listener(rule: Rule) -> Listener | None:
    address = rule.option("-d")
    if address is None and rule.option("--dst-type") != "LOCAL":
        return None
    try:
        return Listener(
            protocol=Protocol(rule.option("-p") or ""),
            port=int(rule.option("--dport") or ""),
            address=ip_address(address.split("/")[0]) if address else None,
        )
    except ValueError:
        return None
