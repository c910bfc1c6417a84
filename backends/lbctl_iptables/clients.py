"""The clients of services with affinity, as they come from other rules and go to others.

The lists of `recent` are files: reading one lists its clients with the tick of their last new connection, and
a line written to it notes a client as of now. So a client that comes from elsewhere is kept for the whole
time of its service again.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from lbctl.model import Family, Remembered
from lbctl_iptables import layout, retire
from lbctl_iptables.observe import observe
from lbctl_iptables.rules import rules_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from lbctl.host import Host
    from lbctl_iptables.rules import DumpedRule

_RECENT = "-m recent "
_ENTRY = re.compile(r"src=(\S+) ttl: \d+ last_seen: (\d+)")


class _List(NamedTuple):
    """Where the clients of one endpoint are, and how long they stay there."""

    path: str
    service: str
    family: Family
    to: str
    seconds: int


def clients(host: Host, driver: str, owner: str) -> tuple[Remembered, ...]:
    """See `lbctl.spi.Migrator`."""
    return _kept(host, _lists(host, driver, owner))


def clients_of(host: Host, text: str, services: Mapping[str, Collection[int]]) -> tuple[Remembered, ...]:
    """See `lbctl.spi.Migrator`."""
    rules = (
        (rule, layout.FAMILY[word], next((s for s, lines in services.items() if number in lines), None))
        for number, (word, _, _), rule in retire.rules_of(text)
        if _RECENT in rule.text
    )
    return _kept(host, _joined(rules))


def _kept(host: Host, lists: Iterable[_List]) -> tuple[Remembered, ...]:
    """Return the clients of lists, each with its last endpoint."""
    now, second = host.ticks()
    latest: dict[tuple[str, Family, str], tuple[int, Remembered]] = {}
    for each in lists:
        for client, seen in _entries(host, each):
            left = each.seconds - int((now - seen) / second)
            key = each.service, each.family, client
            # A client that was forgotten and placed anew is still on its first list.
            if left > 0 and seen >= latest.get(key, (0,))[0]:
                kept = min(left, each.seconds)
                latest[key] = seen, Remembered(each.service, each.family, client, each.to, kept)
    return tuple(kept for _, kept in sorted(latest.values()))


def remember(host: Host, driver: str, owner: str, clients: Sequence[Remembered]) -> None:
    """See `lbctl.spi.Migrator`. While others decide, these rules place nobody."""
    lists = {(each.service, each.family, each.to): each for each in _lists(host, driver, owner)}
    held = {
        (each.service, each.family, client): each
        for each in lists.values()
        for client, _ in _entries(host, each)
    }
    # A list that is full forgets who was noted first.
    for kept in sorted(clients, key=lambda kept: kept.seconds):
        wanted = lists.get((kept.service, kept.family, kept.to))
        before = held.get(kept[:3])
        if wanted is None or wanted == before:
            continue
        if before is not None:
            host.write(before.path, f"-{kept.client}\n")
        host.write(wanted.path, f"+{kept.client}\n")


def _entries(host: Host, of: _List) -> Iterator[tuple[str, int]]:
    """Yield each client of a list, and the tick of its last new connection."""
    for client, seen in _ENTRY.findall(host.read(of.path) or ""):
        yield str(ip_address(client)), int(seen)


def _lists(host: Host, driver: str, owner: str) -> Iterator[_List]:
    chains = (item for item in observe(host, driver, owner).of_kind("chain") if _RECENT in item.text)
    return _joined(
        (rule, layout.FAMILY[item.key[0]], service)
        for item in chains
        for service in (layout.service_of(owner, item.key[3], item.text),)
        for rule in rules_of(item.text)
    )


def _joined(rules: Iterable[tuple[DumpedRule, Family, str | None]]) -> Iterator[_List]:
    """Yield the lists that some rule looks into and another one writes."""
    seconds: dict[str, int] = {}
    noting: dict[str, tuple[str, Family, str]] = {}
    for rule, family, service in rules:
        name = rule.option("--name") if _RECENT in rule.text else None
        if name is None:
            continue
        if (time := rule.option("--seconds")) is not None and time.isdecimal():
            seconds[name] = int(time)
        elif rule.endpoint is not None and service is not None:
            noting[name] = service, family, rule.endpoint
    for name, noted in noting.items():
        if name in seconds and "/" not in name:
            yield _List(f"/proc/thread-self/net/xt_recent/{name}", *noted, seconds[name])
