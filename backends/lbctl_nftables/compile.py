"""Intent → program of table, maps, chains, rules and elements. Pure."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import TYPE_CHECKING, assert_never

from lbctl.model import Family, Item, Program, Scheduler, SourceNat
from lbctl.spi import require
from lbctl_nftables import layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lbctl.model import Intent, Listener, Network, Protocol, Service
    from lbctl.spi import Capabilities


def compile_intent(intent: Intent, capabilities: Capabilities) -> Program:
    """See `lbctl.spi.Backend.compile`."""
    require(intent, capabilities, backend=layout.NAME)
    items: list[Item] = []
    for family in Family:
        services = [s for s in intent.services if family in s.families]
        if services and family in capabilities.families:
            items += _Table(family, services).items()
    return Program(intent.owner, tuple(items))


class _Table:
    """The items of one family, in the order in which the kernel can create them."""

    def __init__(self, family: Family, services: list[Service]) -> None:
        self._word = layout.WORD[family]
        self._family = family
        self._services = services
        self._homes = _homes(services)
        self._source_nat = {s.source_nat for s in services if s.remote} - {SourceNat.NEVER}
        self._refusing = [s for s in services if s.allow or not s.slots(family)]

    def items(self) -> Iterator[Item]:
        yield Item((self._word, "table"), "")
        yield from self._maps()
        yield from self._chains()
        yield from self._rules()
        for service in self._services:
            yield from self._slots(service)
        for service in self._services:
            yield from self._dispatch(service)
        for service in self._refusing:
            yield from self._refusals(service)

    def _maps(self) -> Iterator[Item]:
        names = {layout.SERVICES: layout.SERVICES, layout.PORTS: layout.PORTS}
        if self._source_nat:
            names |= {layout.SOURCES: layout.SERVICES, layout.SOURCE_PORTS: layout.PORTS}
        if SourceNat.HAIRPIN in self._source_nat:
            names |= {layout.LINKS: layout.LINKS}
        if self._refusing:
            names |= {layout.REFUSED: layout.SERVICES, layout.REFUSED_PORTS: layout.PORTS}
        for service in self._services:
            for protocol in service.protocols_of(self._family):
                page = self._page(service, protocol)
                names[page] = layout.kind_of_page(page)
            if service.allow:
                names[layout.networks(service.name)] = layout.NETWORKS
        declarations = layout.declarations(self._word)
        for name, kind in names.items():
            what = "set" if kind in {layout.LINKS, layout.NETWORKS} else "map"
            owner = layout.service_of_set(name) if kind == layout.NETWORKS else None
            yield Item((self._word, what, name), "\n".join(declarations[kind]), owner)

    def _chains(self) -> Iterator[Item]:
        for hook in (layout.PREROUTING, layout.OUTPUT):
            yield self._chain(hook, base_chain("nat", hook, layout.DESTINATION_PRIORITY))
        if self._source_nat:
            hook = layout.POSTROUTING
            yield self._chain(hook, base_chain("nat", hook, layout.SOURCE_PRIORITY))
        if SourceNat.HAIRPIN in self._source_nat:
            yield self._chain(layout.HAIRPIN, "")
        if SourceNat.ALWAYS in self._source_nat:
            yield self._chain(layout.MASQUERADE, "")
        if self._refusing:
            for chain, hook in layout.REFUSING.items():
                yield self._chain(chain, base_chain("filter", hook, layout.FILTER_PRIORITY))
            yield self._chain(layout.REFUSE, "")
        for service in self._services:
            yield self._chain(layout.chain(service.name), "", service.name)
            if service.allow:
                yield self._chain(layout.allowed_chain(service.name), "", service.name)

    def _chain(self, name: str, text: str, service: str | None = None) -> Item:
        return Item((self._word, "chain", name), text, service)

    def _rules(self) -> Iterator[Item]:
        word = self._word
        for hook in (layout.PREROUTING, layout.OUTPUT):
            yield self._body(
                hook,
                f"{word} daddr . meta l4proto . th dport vmap @{layout.SERVICES}",
                # Without the guard, connections that are only forwarded through this host would match.
                f"fib daddr type local meta l4proto . th dport vmap @{layout.PORTS}",
            )
        if self._source_nat:
            # What a connection asked for tells our connections from those that others translated. The type
            # of `ct original proto-dst` is known only behind a match on one protocol.
            yield self._body(
                layout.POSTROUTING,
                *(
                    f"ct status dnat meta l4proto {protocol} {key} vmap @{name}"
                    for protocol in ("tcp", "udp")
                    for key, name in (
                        (
                            f"ct original {word} daddr . meta l4proto . ct original proto-dst",
                            layout.SOURCES,
                        ),
                        ("meta l4proto . ct original proto-dst", layout.SOURCE_PORTS),
                    )
                ),
            )
        if SourceNat.HAIRPIN in self._source_nat:
            yield self._body(
                layout.HAIRPIN,
                # Our own clients may have chosen a source that the endpoint cannot answer.
                'oif != "lo" fib saddr type local masquerade fully-random',
                # Back out where it came in: the endpoint would answer the client without us.
                f"iif . oif @{layout.LINKS} masquerade fully-random",
            )
        if SourceNat.ALWAYS in self._source_nat:
            yield self._body(layout.MASQUERADE, "masquerade fully-random")
        if self._refusing:
            for chain in layout.REFUSING:
                yield self._body(
                    chain,
                    f"ct state new {word} daddr . meta l4proto . th dport vmap @{layout.REFUSED}",
                    f"ct state new fib daddr type local meta l4proto . th dport vmap @{layout.REFUSED_PORTS}",
                )
            yield self._body(layout.REFUSE, "reject with tcp reset", "reject")
        for service in self._services:
            name = service.name
            yield self._body(layout.chain(name), *self._service_rules(service), service=name)
            if service.allow:
                allowed = f"{word} saddr @{layout.networks(name)} return"
                yield self._body(layout.allowed_chain(name), allowed, f"goto {layout.REFUSE}", service=name)

    def _body(self, chain: str, *rules: str, service: str | None = None) -> Item:
        return Item((self._word, "rules", chain), "\n".join(rules), service)

    def _service_rules(self, service: Service) -> Iterator[str]:
        if not service.local_clients:
            yield "fib saddr type local return"
        if service.allow:
            yield f"{self._word} saddr != @{layout.networks(service.name)} return"
        if not service.slots(self._family):
            return
        if service.remote and service.source_nat is SourceNat.HAIRPIN:
            # Two registers cannot be compared, so a set of pairs (x, x) stands for "the same link".
            yield f"update @{layout.LINKS} {{ iif . iif }}"
        picker = self._picker(service)
        statement = f"dnat {self._word} to " if service.remote else "redirect to :"
        for protocol in service.protocols_of(self._family):
            yield f"meta l4proto {protocol} {statement}{picker} map @{self._page(service, protocol)}"

    def _picker(self, service: Service) -> str:
        """What chooses a slot's key. A hash has a seed always: without, each load would move all clients."""
        span = f"mod {len(service.slots(self._family))}"
        first = f"offset {self._offset(service)}"
        match service.scheduler:
            case Scheduler.ROUND_ROBIN:
                return f"numgen inc {span} {first}"
            case Scheduler.RANDOM:
                return f"numgen random {span} {first}"
            case Scheduler.SOURCE_HASH | Scheduler.MAGLEV:
                return f"jhash {self._word} saddr {span} seed {service.hash_seed:#x} {first}"
        assert_never(service.scheduler)

    def _slots(self, service: Service) -> Iterator[Item]:
        first = self._offset(service)
        for page in dict.fromkeys(self._page(service, p) for p in service.protocols_of(self._family)):
            for number, endpoint in enumerate(service.slots(self._family)):
                data = str(endpoint.port)
                if endpoint.address is not None:
                    data = f"{endpoint.address} . {data}"
                comment = layout.quote(f"{service.name}/{endpoint.name}")
                yield self._element(page, str(first + number), f"comment {comment} : {data}", service)

    def _dispatch(self, service: Service) -> Iterator[Item]:
        to_service = f": goto {layout.chain(service.name)}"
        after = {SourceNat.HAIRPIN: layout.HAIRPIN, SourceNat.ALWAYS: layout.MASQUERADE}
        to_source = after.get(service.source_nat) if service.remote else None
        for listener in service.listeners_of(self._family):
            key = _listener_key(listener)
            anywhere = listener.address is None
            yield self._element(layout.PORTS if anywhere else layout.SERVICES, key, to_service, service)
            if to_source:
                sources = layout.SOURCE_PORTS if anywhere else layout.SOURCES
                yield self._element(sources, key, f": goto {to_source}", service)

    def _refusals(self, service: Service) -> Iterator[Item]:
        nobody = not service.slots(self._family)
        to = layout.REFUSE if nobody else layout.allowed_chain(service.name)
        for listener in service.listeners_of(self._family):
            name = layout.REFUSED_PORTS if listener.address is None else layout.REFUSED
            yield self._element(name, _listener_key(listener), f": goto {to}", service)
        for network in self._allowed(service):
            key = str(network.network_address if network.num_addresses == 1 else network)
            yield self._element(layout.networks(service.name), key, "", service)

    def _allowed(self, service: Service) -> Iterable[Network]:
        """Networks without overlaps, which an interval set would refuse."""
        if self._family is Family.IPV4:
            return collapse_addresses(n for n in service.allow if isinstance(n, IPv4Network))
        return collapse_addresses(n for n in service.allow if isinstance(n, IPv6Network))

    def _element(self, name: str, key: str, text: str, service: Service) -> Item:
        return Item((self._word, "element", name, key), text, service.name)

    def _page(self, service: Service, protocol: Protocol) -> str:
        kind = f"addresses-{protocol}" if service.remote else "ports"
        return layout.page(kind, self._homes[service.name][0])

    def _offset(self, service: Service) -> int:
        return layout.offset(self._homes[service.name][1])


def base_chain(kind: str, hook: str, priority: int) -> str:
    """The declaration of a chain that the kernel calls at a hook."""
    return f"type {kind} hook {hook} priority {priority}; policy accept;"


def _homes(services: list[Service]) -> dict[str, tuple[int, int]]:
    """Each service's page and range. In the order of names, so that the file's order moves nothing."""
    taken: set[tuple[bool, int, int]] = set()
    homes = {}
    for service in sorted(services, key=lambda s: s.name):
        page, place = layout.home(service.name)
        while (service.remote, page, place) in taken:
            place = layout.next_range(place)
        taken.add((service.remote, page, place))
        homes[service.name] = page, place
    return homes


def _listener_key(listener: Listener) -> str:
    key = f"{listener.protocol} . {listener.port}"
    return key if listener.address is None else f"{listener.address} . {key}"
