"""Rules of anybody → what they do, and the intent that does the same."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from ipaddress import ip_address, ip_network
from math import gcd, lcm
from typing import TYPE_CHECKING

from lbctl.engine.rule_files import extract
from lbctl.errors import IntentError, NoBackend
from lbctl.host import need_privilege
from lbctl.model import (
    MAX_SLOTS,
    MAX_WEIGHT,
    NAME,
    Endpoint,
    Family,
    Finding,
    Intent,
    Listener,
    Protocol,
    Reading,
    Scheduler,
    Service,
    Severity,
    SourceNat,
    brief,
    conditions,
    decimal,
    default_seed,
    slot_count,
    with_port,
    written,
)
from lbctl.spi import Reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lbctl.host import Host
    from lbctl.model import Address, Kept, Network, NotRead, ReadService
    from lbctl.spi import Backend

#: Listeners that the ports of one selector become at most.
_MOST_PORTS = 64
#: Letters of the ports in a service's name.
_MOST_LETTERS = 40
#: What draws give is off from the fraction that was meant by less than this.
ROUNDED = Fraction(1, 1 << 26)
#: Endpoints of several services are often on one host, and an address takes long to read.
_address = lru_cache(maxsize=1 << 14)(ip_address)
#: Slots times endpoints for which the order of the endpoints is worked out.
_MOST_SLOTS = 1 << 18
#: What a listener without an address is read from.
_ANYWHERE = {"any", "local"}
_EVERYBODY: Mapping[Family, Network] = {
    Family.IPV4: ip_network("0.0.0.0/0"),
    Family.IPV6: ip_network("::/0"),
}
_PROTOCOLS = frozenset(Protocol)
_BALANCING = {"nth", "random", "hash", "mixed"}
_SCHEDULERS = {
    "nth": Scheduler.ROUND_ROBIN,
    "single": Scheduler.ROUND_ROBIN,
    "random": Scheduler.RANDOM,
    "hash": Scheduler.SOURCE_HASH,
}


def read_rules(data: bytes, backends: Iterable[Backend]) -> Reading:
    """Return what the rules of a text do, by the first reader that knows its language.

    The text may also be a file in which commands for rules are kept; see `lbctl.engine.rule_files`.
    """
    text, found = decode(data)
    if found is not None:
        return Reading(format="commands", accept=False, findings=(found,))
    kept = extract(text)
    if kept is None:
        return _read(text, backends)
    refused = Reading(format="commands", accept=False)
    reading = refused if kept.refused else _read(kept.text, backends)
    findings = sorted([*kept.findings, *reading.findings], key=lambda each: each.line)
    unsupported = (*kept.unsupported, *reading.unsupported)
    return replace(reading, findings=tuple(findings), unsupported=unsupported)


def _read(text: str, backends: Iterable[Backend]) -> Reading:
    readers = [backend for backend in backends if isinstance(backend, Reader) and backend.recognizes(text)]
    readings = [reader.read(text) for reader in readers]
    if not readings:
        empty = Finding(
            code="unparsable-line",
            severity=Severity.ERROR,
            line=1,
            rule="",
            message="nothing in the text looks like a rule of a language that is known here: iptables-save, "
            "scripts of iptables or nft commands, `nft list ruleset`; `lbctl import --from STORE` reads the "
            "rules of this host",
        )
        return Reading(format="commands", accept=False, findings=(empty,))
    # A script may speak several languages: the one that most services are written in.
    return max(readings, key=lambda reading: (reading.accept, len(reading.services)))


def decode(data: bytes) -> tuple[str, Finding | None]:
    """Bytes → text; or what is wrong with them, with the line."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    at, what = data.find(b"\0"), "a byte of zero"
    if at < 0:
        try:
            return data.decode(), None
        except UnicodeDecodeError as error:
            at, what = error.start, "bytes that are not UTF-8"
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        at, what = 0, "UTF-16: save it as UTF-8"
    line = data.count(b"\n", 0, at) + 1
    return "", Finding(
        code="input-not-text",
        severity=Severity.ERROR,
        line=line,
        rule="",
        message=f"line {line} has {what}: this is no text",
    )


def read_live(host: Host, store: str, backends: Iterable[Backend]) -> Reading:
    """Return what the rules in a store of the live kernel do; the beginning of one store's name is enough.

    Raises `IntentError` for an unknown store, `NoBackend` for one that nothing here can read, and
    `PermissionDenied`: without privilege, a legacy kernel shows no table instead of refusing.
    """
    readers = [backend for backend in backends if isinstance(backend, Reader)]
    drivers = [(reader, driver) for reader in readers for driver in reader.probe(host).drivers]
    stores = list(dict.fromkeys(driver.store for _, driver in drivers))
    named = [store] if store in stores else [each for each in stores if store and each.startswith(store)]
    if len(named) != 1:
        which = "the name of several stores" if named else "no store of rules"
        raise IntentError(f'"{store}" is {which}', hint=f"one of {', '.join(named or stores)}")
    reasons = []
    for reader, driver in drivers:
        if driver.store != named[0]:
            continue
        if driver.usable:
            need_privilege(host, otherwise="name a file of rules")
            return reader.read(reader.dump(host, driver.name))
        reasons.append(f"{driver.name}: {driver.reason}")
    raise NoBackend(f"the rules of {named[0]} cannot be read: {'; '.join(reasons)}")


def document(reading: Reading) -> dict[str, object]:
    """A reading as JSON."""
    return {
        "format": reading.format,
        "accept": reading.accept,
        "services": [service_document(service) for service in reading.services],
        "findings": [
            {
                "code": found.code,
                "severity": str(found.severity),
                "line": found.line,
                "rule": found.rule,
                "message": found.message,
                "corrected": list(found.corrected),
            }
            for found in reading.findings
        ],
        "unsupported": [
            {"line": lost.line, "rule": lost.rule, "what": lost.what, "reason": lost.reason}
            for lost in reading.unsupported
        ],
        "untouched_rules": reading.untouched_rules,
    }


def service_document(service: ReadService) -> dict[str, object]:
    """A service of a reading as JSON."""
    kept = service.affinity
    return {
        "family": str(service.family),
        "proto": service.proto,
        "dst": service.dst,
        "dport": service.dport,
        "hooks": list(service.hooks),
        "action": service.action,
        "mode": service.mode,
        "backends": [{"to": backend.to, "share": written(backend.share)} for backend in service.backends],
        "leak": written(service.leak),
        "leak_to": service.leak_to,
        "affinity": {"kind": kept.kind, "by": kept.by, "seconds": kept.seconds} if kept else None,
        "exact": service.exact,
        "depends_on": service.depends_on,
        "when": dict(service.when) if service.when else None,
        "name": service.name,
        "source_nat": None if service.source_nat is None else str(service.source_nat),
        "source_lines": list(service.source_lines),
        "lines": list(service.lines),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """An intent, what stands above each of its services, and what it cannot hold."""

    intent: Intent
    comments: Mapping[str, Sequence[str]]
    notes: tuple[str, ...]
    #: The lines that each service was read from.
    lines: Mapping[str, tuple[int, ...]]
    #: The services that are not in the intent, each with the reason.
    lost: tuple[tuple[ReadService, str], ...]
    #: The rules that may balance and are not understood.
    unread: tuple[NotRead, ...] = ()

    @property
    def complete(self) -> bool:
        """True if the intent holds every service that balances, and each rule was understood."""
        return not self.unread and not any(is_balancing(service) for service, _ in self.lost)


def is_balancing(service: ReadService) -> bool:
    """Return True for a service that spreads its connections over several endpoints, or leaves some out."""
    return service.mode in _BALANCING and len(service.backends) > (0 if service.leak else 1)


def imported(reading: Reading, source: Sequence[str] = ()) -> Imported:
    """The intent that does what was read. `source` are the lines of the text, for comments."""
    notes: list[str] = []
    made: dict[str, Service] = {}
    comments: dict[str, list[str]] = {}
    numbers: dict[str, tuple[int, ...]] = {}
    lost: list[tuple[ReadService, str]] = []
    taken: dict[tuple[Protocol, int], set[Address | None]] = {}
    last: dict[str, int] = {}
    for group in _groups(reading.services):
        try:
            service, remarks = _service(group, made, last)
        except _CannotHold as reason:
            lost += [(each, str(reason)) for each in group]
            continue
        clash = next((x for x in service.listeners if _is_taken(x, taken)), None)
        if clash is not None:
            lost += [(each, f"another service of the text listens on {clash} too") for each in group]
            continue
        for listener in service.listeners:
            taken.setdefault((listener.protocol, listener.port), set()).add(listener.address)
        made[service.name] = service
        notes += [f"{service.name}: {remark}" for remark in remarks]
        lines = tuple(dict.fromkeys(line for each in group for line in each.lines))
        numbers[service.name] = lines
        comments[service.name] = [
            f"line {line}: {source[line - 1].strip()}" for line in lines if 0 < line <= len(source)
        ]
    notes += [f"{shown(each)}: {reason}" for each, reason in lost]
    notes += [f"line {each.line}: {each.what}: {each.reason}" for each in reading.unsupported]
    return Imported(
        intent=Intent(services=tuple(made.values())),
        comments=comments,
        notes=tuple(notes),
        lines=numbers,
        lost=tuple(lost),
        unread=reading.unsupported,
    )


def _is_taken(listener: Listener, taken: Mapping[tuple[Protocol, int], set[Address | None]]) -> bool:
    """True where some connection would reach another listener as well; see `Listener.overlaps`."""
    there = taken.get((listener.protocol, listener.port), set())
    return bool(there) and (listener.address is None or not there.isdisjoint({None, listener.address}))


class _CannotHold(Exception):
    """What an intent has no words for."""


def _groups(services: Iterable[ReadService]) -> Iterable[list[ReadService]]:
    """The services that are one in an intent: of one name, or of no name and with the same turns."""
    groups: dict[object, list[ReadService]] = {}
    for service in services:
        key: object = service.name
        others = groups.get(key, ()) if key is not None else ()
        if key is None or not all(_alike(service, other) for other in others):
            key = (service.family, service.name, service.picking, service.hooks)
        groups.setdefault(key, []).append(service)
    return _of_both_families(groups.values())


def _of_both_families(groups: Iterable[list[ReadService]]) -> list[list[ReadService]]:
    """Services without a name that balance a port of every address, for IPv4 and for IPv6, as one."""
    found: list[list[ReadService]] = []
    lone: dict[object, list[ReadService]] = {}
    for group in groups:
        service = group[0]
        if service.name is None and len(group) == 1 and service.dst in _ANYWHERE:
            other = lone.setdefault((service.proto, service.dport), group)
            if len(other) == 1 and other is not group and _same_in_both(other[0], service):
                other.append(service)
                continue
        found.append(group)
    return found


def _same_in_both(one: ReadService, other: ReadService) -> bool:
    """True for services of the two families that one service of an intent can be."""
    if one.family is other.family or not _alike(one, other) or one.hash_seed != other.hash_seed:
        return False
    # Ports of this host serve both families, by the same weights.
    return one.action != "redirect" or (one.backends, one.slots) == (other.backends, other.slots)


def _alike(one: ReadService, other: ReadService) -> bool:
    """True for what one service of an intent can be: it has turns for each family and protocol."""
    if (one.hooks, _remembered(one), one.action) != (other.hooks, _remembered(other), other.action):
        return False
    if one.family is not other.family:
        return one.mode == other.mode or "single" in {one.mode, other.mode}
    return one.picking == other.picking or (
        one.proto != other.proto and (one.backends, one.slots) == (other.backends, other.slots)
    )


def _remembered(service: ReadService) -> Kept | None:
    """How clients are kept beyond what a hash does by itself."""
    return service.affinity if service.affinity and service.affinity.kind != "hash" else None


def _service(
    group: Sequence[ReadService], made: Mapping[str, Service], last: dict[str, int]
) -> tuple[Service, list[str]]:
    remarks: list[str] = []
    first = group[0]
    listeners: dict[Listener, None] = {}
    allowed: dict[Family, dict[object, set[Network]]] = {}
    local = "output" in first.hooks
    for each in group:
        listeners |= dict.fromkeys(_listeners(each, remarks))
        clients = {_EVERYBODY[each.family]}
        for condition in conditions(each):
            wanted = condition.networks() if condition.name == "src" else None
            if wanted is None:
                value = (each.when or {})[condition.name]
                raise _CannotHold(
                    f"it acts only where {condition.name} is {value}, and an intent cannot ask for that"
                )
            clients = set(wanted)
        # Rules may tell a listener's clients one by one.
        allowed.setdefault(each.family, {}).setdefault(each.selector[:4], set()).update(clients)
    if any(len({frozenset(found) for found in by.values()}) > 1 for by in allowed.values()):
        raise _CannotHold("its listeners let in different clients")
    networks = {network for by in allowed.values() for found in by.values() for network in found}
    # Everybody of each family is no condition.
    some = any(network not in _EVERYBODY.values() for network in networks)
    allow = sorted(networks, key=lambda network: (network.version, network)) if some else ()
    anywhere = {(x.protocol, x.port) for x in listeners if x.address is None}
    name = _name(first, made, last)
    scheduler, endpoints, seed = _picked(group)
    kept = _remembered(first)
    if kept and kept.by != "source address":
        raise _CannotHold(f"clients are kept by their {kept.by}")
    if kept and kept.seconds is None:
        remarks.append("clients are kept without an end; the intent says 30 days")
    seconds = min(kept.seconds or 30 * 86400, 30 * 86400) if kept else None
    service = Service(
        name=name,
        # One for every address of this host holds for each of them.
        listeners=tuple(x for x in listeners if x.address is None or (x.protocol, x.port) not in anywhere),
        endpoints=endpoints,
        scheduler=scheduler,
        local_clients=local,
        seed=None if seed is None or seed == default_seed(name) else seed,
        affinity=seconds,
        source_nat=_source_nat(group, endpoints, remarks),
        allow=tuple(allow),
    )
    _check_order(service, group, remarks)
    return service, remarks


def _source_nat(group: Sequence[ReadService], endpoints: Sequence[Endpoint], remarks: list[str]) -> SourceNat:
    """When the client's address is replaced; the default where rules do not say, or nothing needs it."""
    told = {each.source_nat: None for each in group if each.source_nat is not None}
    if len(told) > 1:
        remarks.append(f"the client's address is replaced in several ways ({', '.join(told)})")
    lines = sorted({line for each in group for line in each.source_lines})
    if lines:
        told_by = f"line{'s' if len(lines) > 1 else ''} {', '.join(map(str, lines))}"
        remarks.append(f"the client's address is replaced for some connections only ({told_by})")
    local = not any(endpoint.address for endpoint in endpoints)
    found = next(iter(told), SourceNat.HAIRPIN)
    return SourceNat.HAIRPIN if local and found is SourceNat.NEVER else found


def _check_order(service: Service, group: Sequence[ReadService], remarks: list[str]) -> None:
    """Say where the intent gives the same shares in another way."""
    for each in group:
        if not each.slots or each.mode not in {"nth", "hash"}:
            continue
        if slot_count([e.weight for e in service.endpoints if e.serves(each.family)]) > MAX_SLOTS:
            raise _CannotHold(f"more than {MAX_SLOTS} slots")
        slots = [e.to for e in service.slots(each.family)]
        count = len(slots)
        read = [with_port(slot, each) or "" for slot in each.slots]
        same = len(read) % count == 0 and all(read[i] == slots[i % count] for i in range(len(read)))
        if not same:
            what = "in another order" if each.mode == "nth" else "for other clients"
            remarks.append(f"the same shares, {what}")
            return


def _listeners(service: ReadService, remarks: list[str]) -> Iterator[Listener]:
    if service.action not in {"redirect", "dnat"}:
        raise _CannotHold(f"it chooses by {service.action}, and an intent sends connections to endpoints")
    if service.proto not in _PROTOCOLS:
        raise _CannotHold(f"protocol {service.proto}")
    if service.leak:
        raise _CannotHold(
            f"{brief(service.leak)} of its connections reach no endpoint; --fix gives each endpoint the same "
            "share, --keep these shares, with the listener itself as one more endpoint"
        )
    if service.dport == "any":
        raise _CannotHold("all ports")
    if service.dst == "any":
        remarks.append("its rules also take connections that are only forwarded; the intent does not")
    for address in _addresses(service.dst):
        for port in _ports(service.dport):
            yield Listener(protocol=Protocol(service.proto), port=port, address=address)


def _ports(text: str) -> list[int]:
    ports: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        low, high = decimal(first, 5), decimal(last or first, 5)
        if low is None or high is None:
            raise _CannotHold(f"ports {text}")
        if high - low + len(ports) >= _MOST_PORTS:
            raise _CannotHold(f"more than {_MOST_PORTS} ports")
        ports += range(low, high + 1)
    if 0 in ports:
        raise _CannotHold("port 0")
    return ports


def _addresses(text: str) -> list[Address | None]:
    """The addresses of listeners; None is any of this host."""
    if text in _ANYWHERE:
        return [None]
    if "/" in text:
        raise _CannotHold(f"a whole network, {text}")
    try:
        return [_address(part.strip()) for part in text.split(",")]
    except ValueError:
        raise _CannotHold(f"addresses {text}") from None


def _picked(
    group: Sequence[ReadService],
) -> tuple[Scheduler, tuple[Endpoint, ...], int | None]:
    endpoints: dict[str, Endpoint] = {}
    seed: int | None = None
    modes = {each.mode for each in group} - {"single"} or {"single"}
    if len(modes) > 1 or not modes <= _SCHEDULERS.keys():
        raise _CannotHold(f"endpoints are picked in more than one way ({', '.join(sorted(modes))})")
    mode = modes.pop()
    for each in group:
        if mode == "hash" and each.mode == "hash":
            if each.affinity is None or each.affinity.by != "source address" or each.hash_seed is None:
                raise _CannotHold("a hash that the intent does not have")
            seed = each.hash_seed
        weights = _weights(each)
        order = _order([slot for slot in each.slots if slot], weights)
        names = {backend.to: backend.name for backend in each.backends}
        for to in order:
            text = with_port(to, each) or ""
            made = _endpoint(text, weights[to], names.get(to))
            known = endpoints.get(text)
            if known is not None and known.weight != made.weight:
                raise _CannotHold("its listeners have different shares")
            endpoints.setdefault(text, made)
    if len({e.address is None for e in endpoints.values()}) > 1:
        raise _CannotHold("endpoints of this host and addresses in one")
    if len({e.name for e in endpoints.values()}) < len(endpoints):
        endpoints = {to: replace(e, name=e.to) for to, e in endpoints.items()}
    return _SCHEDULERS[mode], tuple(endpoints.values()), seed


def _order(slots: Sequence[str], weights: Mapping[str, int]) -> list[str]:
    """The order in which endpoints have these slots: of two that are due at once, the first is taken."""
    seen = list(dict.fromkeys(slots)) or list(weights)
    total = sum(weights.values())
    if len(seen) == total:
        # Each has one slot of them.
        return seen
    if len(slots) % total or len(slots) * len(seen) > _MOST_SLOTS:
        return seen
    before: dict[str, set[str]] = {to: set() for to in seen}
    credit = dict.fromkeys(seen, 0)
    for chosen in slots[:total]:
        for to in seen:
            credit[to] += weights[to]
        best = max(credit.values())
        if credit[chosen] != best:
            return seen
        for to in seen:
            if to != chosen and credit[to] == best:
                before[to].add(chosen)
        credit[chosen] -= total
    ordered: list[str] = []
    while len(ordered) < len(seen):
        free = next((to for to in seen if to not in ordered and before[to] <= set(ordered)), None)
        if free is None:
            return seen
        ordered.append(free)
    return ordered


def _weights(service: ReadService) -> dict[str, int]:
    shares = {backend.to: backend.share for backend in service.backends}
    if service.mode == "random":
        near = {to: _near(share) for to, share in shares.items()}
        if all(near.values()) and sum(near.values()) == 1:
            shares = near
    whole = lcm(*(share.denominator for share in shares.values()))
    numbers = {to: share.numerator * (whole // share.denominator) for to, share in shares.items()}
    divisor = gcd(*numbers.values())
    weights = {to: number // divisor for to, number in numbers.items()}
    if max(weights.values()) > MAX_WEIGHT or sum(weights.values()) > MAX_SLOTS:
        raise _CannotHold("shares that no weights give")
    return weights


@lru_cache(maxsize=1 << 12)
def _near(share: Fraction) -> Fraction:
    """The fraction that a draw stands for; 0 where there is none near."""
    near = share.limit_denominator(MAX_SLOTS)
    return near if abs(near - share) < ROUNDED else Fraction(0)


def _endpoint(text: str, weight: int, name: str | None) -> Endpoint:
    head, _, port = text.rpartition(":")
    known = decimal(port, 5)
    if known is None or not 1 <= known <= 65535:
        raise _CannotHold(f"endpoint {text} without a port of its own")
    if not head and ":" in text:
        raise _CannotHold("only the port is rewritten, and the address stays")
    address = _address(head.strip("[]")) if head else None
    given = name if name and NAME.match(name) else ""
    return Endpoint(port=known, address=address, weight=weight, name=given)


def _name(service: ReadService, made: Mapping[str, Service], last: dict[str, int]) -> str:
    """A name for the service: that of its comments as far as it can be one.

    `last` are the numbers that names have had.
    """
    tidy = re.sub(r"[^a-z0-9]+", "-", (service.name or "").lower()).strip("-")[:50].strip("-")
    base = service.name if service.name and NAME.match(service.name) else tidy
    base = base or f"{service.proto}-{_short_ports(service.dport)}"
    name = base
    while name in made:
        last[base] = number = last.get(base, 1) + 1
        name = f"{base[:55]}-{number}"
    return name


def _short_ports(text: str) -> str:
    """Ports as a part of a name: all of them, or the first and how many parts follow."""
    parts = re.findall(r"[0-9-]+", text)
    joined = "-".join(parts)
    return joined if len(joined) <= _MOST_LETTERS else f"{parts[0]}-and-{len(parts) - 1}-more"


def own_endpoint(service: ReadService) -> str:
    """The listener of a service as an endpoint of it: who is sent there goes where he went without."""
    if service.action == "redirect" or service.dst in _ANYWHERE:
        return service.dport
    return f"[{service.dst}]:{service.dport}" if ":" in service.dst else f"{service.dst}:{service.dport}"


def shown(service: ReadService) -> str:
    """A service in a sentence."""
    return f"{service.dst}:{service.dport}/{service.proto} ({service.family})"


__all__ = ["Imported", "decode", "document", "imported", "read_live", "read_rules"]
