"""What rules of anybody do: services with the exact share of each endpoint, and what is wrong with them.

The values behind the documents of `import` and `compare`. A reader makes them from a text or a dump; nothing
that it read is dropped in silence: a rule is a part of a service, or counted as untouched, or unsupported.
"""

from __future__ import annotations

import re
from dataclasses import field
from ipaddress import ip_address, ip_network, summarize_address_range
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl.model.addresses import Family
from lbctl.model.numbers import decimal
from lbctl.model.text import brief
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from fractions import Fraction
    from ipaddress import IPv4Network, IPv6Network

    from lbctl.model.addresses import Address
    from lbctl.model.endpoints import Listener
    from lbctl.model.kinds import SourceNat
    from lbctl.model.severity import Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about rules that their reader should know. `line` counts from 1; `rule` is verbatim."""

    code: str
    severity: Severity
    line: int
    rule: str
    message: str
    #: The rules that do what was meant; empty where it is unknown.
    corrected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsupportedRule:
    """A rule that would matter and cannot be expressed, verbatim."""

    line: int
    rule: str
    what: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Affinity:
    """How clients come back to their endpoint. `kind` is `recent`, `map` or `hash`."""

    kind: str
    by: str
    seconds: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointShare:
    """An endpoint as `8001`, `10.0.0.1:80`, `10.0.0.1`, `[2001:db8::1]:80` or `mark 0x1`; and its share."""

    to: str
    share: Fraction
    #: What comments call it.
    name: str | None = None


class Step(NamedTuple):
    """A rule that connections of a service meet, and where it stands.

    `share` of them come there, and `taken` of them it takes: it ends their way, or leads them elsewhere. Both
    are None where they were not worked out.
    """

    where: str
    line: int
    rule: str
    share: Fraction | None = None
    taken: Fraction | None = None
    #: Which of the service's hooks it is at.
    hook: str = ""
    #: What a look-up by fields of the packet has for them.
    element: str | None = None


class PathEnd(NamedTuple):
    """Where a part of the connections of a service ends, and the rule that sends it there.

    `to` is an endpoint as `EndpointShare.to`; None for unmatched traffic, described by `why`. `line` is None
    if no rule of the text decides, but the end of the rules.
    """

    line: int | None
    to: str | None
    share: Fraction
    why: str = ""


#: Which of so many slots a client has, by a seed; counted from 0.
Placing: TypeAlias = "Callable[[Address, int, int], int]"


def unmatched(leak: Fraction) -> str:
    """Return in words which part of a service's connections no rule sends to an endpoint."""
    return f"{float(leak) * 100:.3g} % of its connections ({brief(leak)}) are unmatched"


#: An address in brackets with a port, or a port alone.
_PORT = re.compile(r"(?:\]|\A):[0-9]+\Z")


#: Action → what of connections it changes, where that is not the destination.
_CHANGES = {"mark": "mark", "connmark": "mark", "snat": "source", "dsr": "frame"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysedService:
    """What new connections of one selector get. Shares and leak add up to 1.

    `slots` is one full period, where there is a sequence: where the 1st, 2nd, … connection goes, None for
    one that leaks; for a hash, where the clients of each slot go, by `hash_seed` and `placing`. Of the values
    of `when`, those with commas mean one of several, those with a comma and a blank mean all of several.
    """

    family: Family
    proto: str
    dst: str
    dport: str
    hooks: tuple[str, ...]
    action: str
    mode: str
    backends: tuple[EndpointShare, ...]
    leak: Fraction
    leak_to: str | None = None
    affinity: Affinity | None = None
    exact: bool = True
    depends_on: str | None = None
    when: Mapping[str, str] | None = None
    name: str | None = None
    slots: tuple[str | None, ...] = ()
    hash_seed: int | None = None
    placing: Placing | None = None
    #: The lines that it was read from, for comments in what is made of it.
    lines: tuple[int, ...] = ()
    #: Those of them that pick an endpoint: listeners with the same ones share their turns.
    picking: tuple[int, ...] = ()
    #: Each end of its connections, by the rule that they come from.
    outcomes: tuple[PathEnd, ...] = ()
    #: When the client's address is replaced; None where the rules read do not say.
    source_nat: SourceNat | None = None
    #: The lines of rules that replace it for some connections, where an intent has no word for which ones.
    source_lines: tuple[int, ...] = ()
    #: Works `path` out: of thousands of services, somebody asks for that of a few.
    way: Callable[[], tuple[Step, ...]] = field(default=tuple, repr=False, compare=False)

    @property
    def path(self) -> tuple[Step, ...]:
        """What new connections pass on their way to an endpoint, in order, hook by hook."""
        return self.way()

    @property
    def selector(self) -> tuple[str, str, str, str, tuple[tuple[str, str], ...]]:
        """What tells this service from others: family, protocol, address, port, further conditions."""
        when = tuple(sorted((self.when or {}).items()))
        return self.family, self.proto, self.dst, self.dport, when

    @property
    def changes(self) -> str:
        """What of connections it changes: `destination`, `source`, `mark`, or MAC addresses of the `frame`.

        Of two alike, the first acts.
        """
        return _CHANGES.get(self.action, "destination")


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """Everything that was read. `accept` is False where the text as a whole is no ruleset to trust."""

    format: str
    accept: bool = True
    services: tuple[AnalysedService, ...] = ()
    findings: tuple[Finding, ...] = ()
    unsupported: tuple[UnsupportedRule, ...] = ()
    untouched_rules: int = 0
    #: Facts for people who look closer, by name.
    notes: Mapping[str, str] = field(default_factory=dict)


class Condition(NamedTuple):
    """One condition of `when`: any of these values of a field, or none of them."""

    name: str
    values: tuple[str, ...]
    inverted: bool

    def networks(self) -> tuple[IPv4Network | IPv6Network, ...] | None:
        """Return the addresses that it is for; None for others than some, or values that are no addresses."""
        if self.inverted:
            return None
        found: list[IPv4Network | IPv6Network] = []
        for value in self.values:
            first, dash, last = value.partition("-")
            try:
                if dash:
                    low, high = ip_address(first), ip_address(last)
                    found += summarize_address_range(low, high)
                else:
                    found.append(ip_network(value))
            except (TypeError, ValueError):
                return None
        return tuple(found)


def conditions(service: AnalysedService) -> tuple[Condition, ...]:
    """Return the conditions of a service beside its listener, all of which hold together."""
    return tuple(
        Condition(name, tuple(each.strip() for each in text.removeprefix("! ").split(",")), text[:2] == "! ")
        for name, value in (service.when or {}).items()
        for text in value.split(", ")
    )


def with_port(to: str | None, service: AnalysedService) -> str | None:
    """Return an endpoint of a service with its port, which may be that of the listener."""
    if to is None:
        return None
    colons = to.count(":")
    if (colons == 1 and to[0] != ":") or decimal(to, 5) is not None or (colons and _PORT.search(to)):
        return to
    address = "." in to or ":" in to
    if address and decimal(service.dport, 5) is not None and service.changes == "destination":
        return f"[{to}]:{service.dport}" if ":" in to else f"{to}:{service.dport}"
    return to


def takes(service: AnalysedService, listener: Listener) -> bool:
    """Return True if connections to a listener may be a service's; further conditions are not looked at."""
    family, proto, dst, ports, _ = service.selector
    if proto != "any" and listener.protocol not in proto.split(","):
        return False
    if ports != "any" and not any(_meets(part, listener) for part in ports.split(",")):
        return False
    if listener.address is not None:
        there = dst in {"local", "any"} or among(dst, listener.address) is not False
        return family == Family.of(listener.address) and there
    return dst in {"local", "any"}


def _meets(part: str, listener: Listener) -> bool:
    """Return True if a listener has a port that is the one, or among those, of `80` or `8000-8003`."""
    if not listener.is_range:
        return within(part, listener.port)
    first, dash, last = part.partition("-")
    low, high = decimal(first, 5), decimal(last if dash else first, 5)
    return low is not None and high is not None and low <= listener.last_port and listener.port <= high


def within(part: str, port: int) -> bool:
    """Return True for a port that is the one, or among those, of `80` or `8000-8003`."""
    first, dash, last = part.partition("-")
    low, high = decimal(first, 5), decimal(last if dash else first, 5)
    return low is not None and high is not None and low <= port <= high


def among(written: str, address: Address) -> bool | None:
    """Return whether an address is among addresses, networks and ranges; None where these are not told."""
    for part in written.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            if dash:
                low, high = ip_address(first), ip_address(last)
                if low.version == address.version and int(low) <= int(address) <= int(high):
                    return True
            elif address in ip_network(first, strict=False):
                return True
        except ValueError:
            return None
    return False
