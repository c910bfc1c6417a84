"""Affinity: a client keeps its endpoint this long after its last new connection.

    map affinity-…        client : address . port     endpoints elsewhere, one entry per client; IPv6: address
    map local-affinity-…  client : port               endpoints on this host
    map host-affinity-…   client : address            endpoints without a port
    set endpoints-…       address . port              who may be learned, with the counters of the service
    set local-endpoints-… port
    set host-endpoints-…  address
    map learned, learned-ports   … : goto learn-…     the listeners' keys, asked once a connection is placed
    chain learn-…         who went to an endpoint of the set is noted, or noted anew

The service's chain looks the client up before it picks. Learning comes after NAT, in chains of type nat:
these see the first packet of a connection and no other, so that a connection is counted once, whoever placed
it. The look-up in the set of endpoints is what counts, and what keeps an endpoint that has left from being
learned.

Entries are the clients', not the intent's: they are no items, and a change of anything else leaves them
alone. The timeout stands in the rule, so that the intent's may change while the map stays. Entries whose
endpoint has left the set are taken out by `apply`; where it could not, `observe` shows them as an item that
should not be.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from lbctl.errors import Unsupported
from lbctl.model import Family, Item
from lbctl_nftables import layout
from lbctl_nftables.kernel import datatypes, netlink

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from lbctl.model import Change, Endpoint, Program, Protocol, Service
    from lbctl_nftables.kernel.values import KernelElement, Set

#: An item of this kind stands for entries of a map that lead to endpoints that take no clients.
STALE = "stale"
STALE_TEXT = "entries of clients that lead to no endpoint of the service"
_SECOND = 1000


class Sweep(NamedTuple):
    """A map of clients out of which all entries go that lead elsewhere than to `wanted`."""

    word: str
    name: str
    wanted: frozenset[str]


class AffinityEntry(NamedTuple):
    """A client, its endpoint, and how many seconds it is remembered for, as the kernel lists them."""

    client: str
    endpoint: str
    seconds: int
    expires: bool = True


def keeps(service: Service, family: Family) -> bool:
    """Return True if a service remembers its clients of `family`."""
    return service.affinity is not None and bool(service.slots(family))


def refuse_mixed_ports(service: Service) -> None:
    """Raise `Unsupported` where the entries of clients would have to tell ports of IPv6 endpoints apart."""
    if service.affinity is None or not _by_address(service, Family.IPV6):
        return
    if len({endpoint.port for endpoint in service.endpoints if endpoint.serves(Family.IPV6)}) > 1:
        raise Unsupported(
            backend=layout.NAME,
            service=service.name,
            feature="affinity among IPv6 endpoints with different ports",
            needs="give these endpoints one port, or remove affinity from the service",
        )


def _by_address(service: Service, family: Family) -> bool:
    """Return True if a client's entry holds an address alone, so that all endpoints must have one port."""
    return service.remote and (family is Family.IPV6 or service.keeps_port)


def placing(service: Service, family: Family) -> Iterator[str]:
    """Yield the rules that place a client that is known, to stand before those that pick."""
    word = layout.WORD[family]
    statement = f"dnat {word} to " if service.remote else "redirect to :"
    name = layout.affinity(service.name, layout.EndpointKind.of(service))
    one = _by_address(service, family) and not service.keeps_port
    port = f" : {service.slots(family)[0].port}" if one else ""
    for protocol in service.protocols_of(family):
        yield f"meta l4proto {protocol} {statement}{word} saddr map @{name}{port}"


def shared(family: Family, forms: Sequence[layout.Form], protocols: Sequence[Protocol]) -> Iterator[Item]:
    """Yield what all services with affinity share, in a table with listeners of these forms and protocols."""
    word = layout.WORD[family]
    declarations = layout.declarations(word, layout.Dialect.MODERN)
    maps = layout.LISTENERS[layout.Purpose.LEARN]
    for form in forms:
        yield Item((word, "map", maps[form]), "\n".join(declarations[form]))
    rules: dict[str, list[str]] = {chain: [] for chain in layout.LEARNING}
    for protocol, form in product(protocols, forms):
        only = f"meta l4proto {protocol}"
        port = f"meta l4proto . ct original proto-dst vmap @{maps[form]}"
        if form.has_address:
            for chain in layout.LEARNING:
                rules[chain].append(f"{only} ct original {word} daddr . {port}")
            continue
        # Not what is only forwarded: it may have asked for the same port of another host. The second rule is
        # for an endpoint on the listener's own port, where nothing is translated.
        rules[layout.LEARNING_POSTROUTING] += [
            f"ct status dnat {only} {port}",
            f"fib daddr type local {only} {port}",
        ]
        rules[layout.LEARNING_INPUT].append(f"{only} {port}")
    for chain, hook in layout.LEARNING.items():
        yield Item((word, "chain", chain), layout.base_chain("nat", hook, layout.LEARNING_PRIORITY))
        yield Item((word, "rules", chain), "\n".join(rules[chain]))


def of_service(service: Service, family: Family) -> Iterator[Item]:
    """Yield what one service needs besides, in the order in which the kernel can create it."""
    word, name = layout.WORD[family], service.name
    of = layout.EndpointKind.of(service)
    clients, places = layout.affinity(name, of), layout.endpoints(name, of)
    declarations = layout.declarations(word, layout.Dialect.MODERN)
    for what, made in (("map", clients), ("set", places)):
        kind = layout.kind_of_set(made) or ""
        yield Item((word, what, made), "\n".join(declarations[kind]), name)
    chain = layout.learning_chain(name)
    yield Item((word, "chain", chain), "", name)
    yield Item((word, "rules", chain), "\n".join(_learning(service, family)), name)
    for place, endpoint in _endpoints(service, family).items():
        comment = layout.quote(f"{name}/{endpoint.name}")
        yield Item((word, "element", places, place), f"comment {comment}", name)
    for listener in service.listeners_of(family):
        learned = layout.LISTENERS[layout.Purpose.LEARN][layout.Form.of(listener)]
        yield Item((word, "element", learned, layout.listener_key(listener)), f": goto {chain}", name)


def _learning(service: Service, family: Family) -> Iterator[str]:
    word = layout.WORD[family]
    if not service.local_clients:
        # They may reach an endpoint's port past the service.
        yield "fib saddr type local return"
    if service.interfaces and not service.remote:
        # The same for others. Packets for endpoints elsewhere may no longer know where they arrived.
        yield layout.other_interfaces(service.interfaces)
    if service.excluded(family):
        yield f"ct original {word} daddr @{layout.excluded(service.name)} return"
    of = layout.EndpointKind.of(service)
    clients, places = layout.affinity(service.name, of), layout.endpoints(service.name, of)
    if service.keeps_port:
        entry = f"{word} saddr timeout {service.affinity}s : {word} daddr"
        yield f"{word} daddr @{places} update @{clients} {{ {entry} }}"
        return
    for protocol in service.protocols_of(family):
        place = f"{word} daddr . {protocol} dport" if service.remote else f"{protocol} dport"
        kept = f"{word} daddr" if _by_address(service, family) else place
        entry = f"{word} saddr timeout {service.affinity}s : {kept}"
        yield f"{place} @{places} update @{clients} {{ {entry} }}"


def _endpoints(service: Service, family: Family) -> dict[str, Endpoint]:
    able = set(service.slots(family))
    places: dict[str, Endpoint] = {}
    for endpoint in service.endpoints:
        if endpoint in able:
            places.setdefault(layout.place(endpoint.to), endpoint)
    return places


def has_strangers(clients: Sequence[KernelElement], places: Sequence[KernelElement]) -> bool:
    """Return True if an entry of a map of clients leads to none of these endpoints, or never expires."""
    # An entry has an endpoint's key, or the part of it before the port; see `layout.kept`.
    size = len(clients[0].value) if clients else 0
    wanted = {place.key[:size] for place in places}
    return any(entry.value not in wanted or not any(entry.timeout) for entry in clients)


def strangers(clients: Iterable[AffinityEntry], wanted: Collection[str]) -> list[AffinityEntry]:
    """Return the entries that lead elsewhere or never expire, those that last longest first."""
    found = [entry for entry in clients if entry.endpoint not in wanted or not entry.expires]
    return sorted(found, key=lambda entry: entry.seconds, reverse=True)


def entries(declared: Set, clients: Iterable[KernelElement]) -> Sequence[AffinityEntry]:
    """Return the entries of a map of clients. While they come and go, the kernel may list one twice."""
    client = datatypes.speller(declared.key_types, declared.key_size)
    endpoint = datatypes.speller(declared.data_types, declared.data_size)
    found = {
        each.key: AffinityEntry(
            client(each.key),
            endpoint(each.value),
            netlink.number(each.expiration) // _SECOND,
            expires=any(each.timeout),
        )
        for each in clients
    }
    return tuple(found.values())


def places(declared: Set, endpoints: Iterable[KernelElement]) -> list[str]:
    """Return the elements of a set of endpoints."""
    spell = datatypes.speller(declared.key_types, declared.key_size)
    return [spell(each.key) for each in endpoints]


def sweeps(changes: Sequence[Change], after: Program) -> tuple[Sweep, ...]:
    """Return where entries must go once `changes` are made: the maps of services that lose endpoints."""
    concerned: dict[tuple[str, str], None] = {}
    for word, kind, *names in (change.key for change in changes if change.after is None):
        if kind == STALE:
            concerned[word, names[0]] = None
        elif kind == "element" and layout.is_endpoints(names[0]):
            concerned[word, layout.affinity_of_endpoints(names[0])] = None
    after = after.only({layout.service_of_set(name) for _, name in concerned})
    return tuple(
        Sweep(
            word,
            name,
            frozenset(
                layout.kept(word, item.key[3])
                for item in after.of_kind("element")
                if item.key[:3] == (word, "element", layout.endpoints_of_affinity(name))
            ),
        )
        for word, name in concerned
        if (word, "map", name) in after.by_key
    )
