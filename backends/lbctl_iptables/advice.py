"""Plan → notes: what a change does beyond its own rules, and what the kernel keeps too little of.

What is so whether something changes or not is a problem, which `diagnose` tells too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.host import has_ipv6
from lbctl.model import Family, Intent, Severity
from lbctl.spi import Problem, sole
from lbctl_iptables import drivers, layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl.host import Host
    from lbctl.model import Plan

#: Clients of an endpoint that nobody should have to think about; nftables keeps as many of a service.
ENOUGH_CLIENTS = 65_536
#: How many clients the kernel keeps in one list, 100 unless its module is told otherwise. Only root reads it.
LIST_SIZE = "/sys/module/xt_recent/parameters/ip_list_tot"
_DEFAULT_SIZE = 100


def notes(host: Host, plan: Plan) -> tuple[str, ...]:
    """See `lbctl.spi.Backend`."""
    intent = plan.intent or Intent()
    return (*_restarts(plan), *_forgotten(host, plan, intent), *_left_out(host, plan, intent))


def _restarts(plan: Plan) -> Iterator[str]:
    """Ladders of others lose their turn: a legacy table is replaced as a whole. Ours are carried over."""
    if not drivers.ALL[plan.driver].restarts:
        return
    for word in layout.WORD.values():
        tables = {change.key[2] for change in plan.changes if change.key[0] == word}
        count = sum(plan.before.beside.get((word, table), 0) for table in tables)
        if count:
            whose = f"those of lbctl are carried over, those of {counted(count, 'foreign rule')}"
            yield started_anew(word, whose)


def _left_out(host: Host, plan: Plan, intent: Intent) -> Iterator[str]:
    """Yield a listener on any address is balanced for the families that there is a tool for."""
    names = [service.name for service in intent.services if service.listeners_of(Family.IPV6)]
    six = any(item.key[0] == layout.WORD[Family.IPV6] for item in plan.after.items)
    if names and not six and has_ipv6(host):
        yield f"IPv6 connections to {', '.join(names)} are not balanced: ip6tables is not installed."


def counted(number: int, noun: str) -> str:
    """`1 foreign rule`, `2 foreign rules`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def started_anew(word: str, whose: str) -> str:
    """Return the note that a legacy table is replaced."""
    return f"any change of {word} resets all nth counters of the table: {whose} start over."


def _forgotten(host: Host, plan: Plan, intent: Intent) -> Iterator[str]:
    changed = {service.name for service in plan.services}
    names = [s.name for s in intent.services if s.name in changed and s.affinity is not None]
    for problem in short_lists(host, names):
        yield f"{problem.message}. For more: {problem.fix}."


def short_lists(host: Host, names: Sequence[str]) -> Iterator[Problem]:
    """Yield a list that is full forgets the client whose last new connection is longest ago.

    `names` are services with affinity.
    """
    text = host.read(LIST_SIZE)
    size = int(text) if text is not None else _DEFAULT_SIZE
    if not names or size >= ENOUGH_CLIENTS:
        return
    # The options of a module that is not loaded yet are unknown.
    unless = " (unless the options of the module say otherwise)" if text is None else ""
    yield Problem(
        code="affinity-list-short",
        severity=Severity.WARNING,
        service=sole(names),
        message=f"affinity of {', '.join(names)}: the kernel stores {size:,} clients of each "
        f"endpoint{unless}, other clients are balanced as new ones",
        evidence=f"{LIST_SIZE}: {'not readable' if text is None else text.strip()}",
        fix=f"`options xt_recent ip_list_tot={ENOUGH_CLIENTS}` in a file of /etc/modprobe.d, then reload "
        "the module xt_recent while no rule uses it; or the kernel parameter "
        f"xt_recent.ip_list_tot={ENOUGH_CLIENTS}",
    )
