"""Intent → program of table, maps, chains, rules and elements. Pure."""

from __future__ import annotations

from dataclasses import field, replace
from functools import lru_cache
from itertools import product
from sys import intern
from typing import TYPE_CHECKING, NamedTuple, assert_never

from lbctl.errors import Unsupported
from lbctl.model import Family, Forward, Item, Listener, Program, Protocol, Scheduler, hidden
from lbctl.spi import require_offload, require_service
from lbctl.values import dataclass
from lbctl_nftables import affinity, direct, guard, layout, legacy_nft, offload
from lbctl_nftables.layout import Form, Purpose

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lbctl.model import Intent, Network, Part, Service
    from lbctl.spi import Capabilities


class _Hiding(NamedTuple):
    """A listener, and a map in which a wider listener of another service would be found for it."""

    family: Family
    listener: Listener
    purpose: Purpose
    #: The interface that the map is of, at ingress.
    device: str = ""

    @property
    def map_name(self) -> str:
        form = Form.of(self.listener)
        return layout.dispatch(form, self.device) if self.device else layout.LISTENERS[self.purpose][form]


class _Home(NamedTuple):
    """What a service's items depend on beside itself: where its slots lie, and where it hides others."""

    page: int
    place: int
    hiding: frozenset[_Hiding] = frozenset()


def compile_intent(intent: Intent, capabilities: Capabilities, *, previous: Program | None = None) -> Program:
    """See `lbctl.spi.Backend.compile`. A service that is in the previous program has the same part again.

    An intent that differs from the last one in a few services costs those, and a look at each of the others.
    """
    require_offload(intent, capabilities, backend=layout.NAME)
    past = previous.origin if previous is not None else None
    if not isinstance(past, _Past) or past.capabilities != capabilities:
        past = _Past(capabilities, (), {}, ())
    guards = {
        family: guard.guard(intent.services, family, capabilities.dialect, past.guards.get(family))
        for family in past.families
    }
    offloads = {
        family: offload.offload(intent, family, capabilities.dialect, past.offloads.get(family))
        for family in past.families
    }
    now = replace(_compiled(intent.services, past), guards=guards, offloads=offloads)
    parts: list[Part] = []
    for family, compiled in zip(past.families, now.compiled, strict=True):
        mine = [each for each in compiled if each is not None]
        if needs := frozenset().union(*{each.needs for each in mine}):
            parts.append(_shared(family, needs, capabilities.dialect))
        if needs := frozenset().union(*{each.ingress for each in mine}):
            parts.append(_at_ingress(family, needs, capabilities.dialect))
        parts += [each.part for each in mine]
        parts += [part for part in (guards[family].part, offloads[family].part) if part]
    return Program(intent.owner, parts=parts, origin=now, previous=previous)


@dataclass(frozen=True, slots=True)
class _Compiled:
    """What one service is in one family: its own items, and the shared objects, by name, that they need."""

    part: Part
    #: The same object for equal ones, of which there are few: they are put together in every program.
    needs: frozenset[str]
    #: The same in the table at ingress.
    ingress: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Past:
    """What a program was made of: its services, where each was put, and what became of it."""

    capabilities: Capabilities
    services: tuple[Service, ...]
    homes: Mapping[str, _Home]
    #: By family, in the order of the services.
    compiled: Sequence[Sequence[_Compiled | None]]
    #: What drops stray packets of endpoints, by family.
    guards: Mapping[Family, guard.Guard] = field(default_factory=dict)
    #: What offloads established connections, by family.
    offloads: Mapping[Family, offload.Offload] = field(default_factory=dict)

    @property
    def families(self) -> list[Family]:
        """The families of the host."""
        return [family for family in Family if family in self.capabilities.families]


def _compiled(services: tuple[Service, ...], past: _Past) -> _Past:
    """Return services compiled, as far as possible by what they were before."""
    capabilities = past.capabilities
    new = [n for n, (now, was) in enumerate(zip(services, past.services, strict=False)) if now is not was]
    if len(services) == len(past.services) and all(
        _place(services[n]) == _place(past.services[n]) for n in new
    ):
        compiled = [list(each) for each in past.compiled]
        for n in new:
            if services[n] == past.services[n]:
                continue
            made = _compile(services[n], capabilities, past.homes[services[n].name])
            for mine, each in zip(compiled, made, strict=True):
                mine[n] = each
        return _Past(capabilities, services, past.homes, compiled or [() for _ in past.families])
    homes = _homes(services)
    known = {service.name: n for n, service in enumerate(past.services)}
    rows = []
    for service in services:
        was = known.get(service.name)
        same = was is not None and past.services[was] == service
        if was is not None and same and past.homes[service.name] == homes[service.name]:
            rows.append(tuple(each[was] for each in past.compiled))
        else:
            rows.append(_compile(service, capabilities, homes[service.name]))
    return _Past(capabilities, services, homes, [[row[n] for row in rows] for n in range(len(past.families))])


def _compile(service: Service, capabilities: Capabilities, home: _Home) -> tuple[_Compiled | None, ...]:
    """Return a service in each family of the host; None where it has no listener."""
    require_service(service, capabilities, backend=layout.NAME)
    affinity.refuse_mixed_ports(service)
    match service.forward:
        case Forward.NAT:
            kind = _ClassicService if capabilities.dialect == layout.Dialect.CLASSIC else _ServiceItems
        case Forward.DSR:
            _require_direct(service)
            kind = _DirectService
        case _:
            assert_never(service.forward)
    return tuple(
        kind(service, family, listeners, home).compiled(capabilities.dialect) if listeners else None
        for family in Family
        if family in capabilities.families
        for listeners in [service.listeners_of(family)]
    )


def _require_direct(service: Service) -> None:
    if service.scheduler is Scheduler.LEAST_CONNECTIONS:
        raise Unsupported(
            backend=layout.NAME,
            service=service.name,
            feature=f"scheduler {service.scheduler} with forward dsr",
            needs="forward nat: replies that bypass this host do not show which connections are established",
        )


@lru_cache(maxsize=1 << 12)
def _same(needs: frozenset[str]) -> frozenset[str]:
    return needs


@lru_cache(maxsize=64)
def _shared(family: Family, needs: frozenset[str], dialect: str) -> Part:
    """Return what all services of a family share, as far as one of them needs it."""
    return tuple(_FamilyTable(family, needs, dialect).items())


_at_ingress = lru_cache(maxsize=64)(direct.shared)


class _FamilyTable:
    """The table of one family, and what in it belongs to no service."""

    def __init__(self, family: Family, needs: frozenset[str], dialect: str) -> None:
        self._family = family
        self._dialect = dialect
        self._word = layout.WORD[family]
        self._needs = needs
        self._translating = bool(needs & {layout.HAIRPIN, layout.MASQUERADE})
        #: No packet is looked up in a map that no listener has an element in.
        self._forms = [form for form in Form if form in needs]
        self._protocols = [protocol for protocol in Protocol if protocol in needs]

    def items(self) -> Iterator[Item]:
        yield Item((self._word, "table"), "")
        yield from self._maps()
        yield from self._chains()
        yield from self._rules()
        if layout.LEARNED in self._needs:
            yield from affinity.shared(self._family, self._forms, self._protocols)

    def _maps(self) -> Iterator[Item]:
        names: dict[str, str] = {name: form for form, name in self._maps_for(Purpose.LEAD)}
        if self._translating:
            names |= {name: form for form, name in self._maps_for(Purpose.SOURCE)}
        if layout.HAIRPIN in self._needs:
            names |= {layout.LINKS: layout.LINKS, layout.CROSSED: layout.CROSSED}
        if layout.REFUSE in self._needs:
            names |= {name: form for form, name in self._maps_for(Purpose.REFUSE)}
        pages = [name for name in sorted(self._needs) if layout.is_page(name)]
        names |= {name: layout.kind_of_page(name) for name in pages}
        for name, kind in names.items():
            what = "set" if kind in layout.PAIRS else "map"
            yield _set(self._word, self._dialect, what, name, kind)

    def _maps_for(self, purpose: Purpose) -> list[tuple[Form, str]]:
        """Return the maps of listeners for a purpose, in the order in which they are asked."""
        return [(form, layout.LISTENERS[purpose][form]) for form in self._forms]

    def _asked(self, purpose: Purpose) -> Iterator[str]:
        """Yield the look-ups of packets that are not translated yet."""
        for form, name in self._maps_for(purpose):
            # Without the guard, connections that are only forwarded through this host would match.
            where = f"{self._word} daddr ." if form.has_address else "fib daddr type local"
            yield f"{where} meta l4proto . th dport vmap @{name}"

    def _chains(self) -> Iterator[Item]:
        for hook in (layout.PREROUTING, layout.OUTPUT):
            yield self._chain(hook, layout.base_chain("nat", hook, layout.DESTINATION_PRIORITY))
        if self._translating:
            hook = layout.POSTROUTING
            yield self._chain(hook, layout.base_chain("nat", hook, layout.SOURCE_PRIORITY))
        if layout.HAIRPIN in self._needs:
            yield self._chain(layout.HAIRPIN, "")
        if layout.MASQUERADE in self._needs:
            yield self._chain(layout.MASQUERADE, "")
        if layout.REFUSE in self._needs:
            for chain, hook in layout.REFUSING.items():
                yield self._chain(chain, layout.base_chain("filter", hook, layout.FILTER_PRIORITY))
            yield self._chain(layout.REFUSE, "")

    def _chain(self, name: str, text: str) -> Item:
        return Item((self._word, "chain", name), text)

    def _rules(self) -> Iterator[Item]:
        word = self._word
        for hook in (layout.PREROUTING, layout.OUTPUT):
            yield self._body(hook, *self._asked(Purpose.LEAD))
        if self._translating:
            # What a connection asked for tells our connections from those that others translated. The type
            # of `ct original proto-dst` is known only behind a match on one protocol.
            yield self._body(
                layout.POSTROUTING,
                *self._crossing(layout.POSTROUTING),
                *(
                    f"ct status dnat meta l4proto {protocol} "
                    + (f"ct original {word} daddr . " if form.has_address else "")
                    + f"meta l4proto . ct original proto-dst vmap @{name}"
                    for protocol, (form, name) in product(self._protocols, self._maps_for(Purpose.SOURCE))
                ),
            )
        if layout.HAIRPIN in self._needs:
            yield self._body(
                layout.HAIRPIN,
                *self._crossing(layout.HAIRPIN),
                # Our own clients may have chosen a source that the endpoint cannot answer.
                'oif != "lo" fib saddr type local masquerade fully-random',
                # Back out where it came in: the endpoint would answer the client without us. Two registers
                # cannot be compared, so a set of pairs (x, x) stands for "the same link".
                f"update @{layout.LINKS} {{ iif . iif }}",
                f"iif . oif @{layout.LINKS} masquerade fully-random",
                # A packet of this host has arrived on no link, and may need another source.
                f"iif != 0 update @{layout.CROSSED} {{ iif . oif }}",
            )
        if layout.MASQUERADE in self._needs:
            yield self._body(layout.MASQUERADE, "masquerade fully-random")
        if layout.REFUSE in self._needs:
            for chain in layout.REFUSING:
                yield self._body(chain, *(f"ct state new {rule}" for rule in self._asked(Purpose.REFUSE)))
            yield self._body(layout.REFUSE, "reject with tcp reset", "reject")

    def _crossing(self, chain: str) -> Iterator[str]:
        """Yield the rule of `chain` that lets pass what crosses from one link to another, as far as is known.

        It saves a new connection all other questions about its source: 0.3 of 1.0 µs that balancing takes. A
        service that masquerades always has to be found before.
        """
        if layout.HAIRPIN not in self._needs:
            return
        if chain == (layout.HAIRPIN if layout.MASQUERADE in self._needs else layout.POSTROUTING):
            yield f"iif . oif @{layout.CROSSED} return"

    def _body(self, chain: str, *rules: str) -> Item:
        return Item((self._word, "rules", chain), "\n".join(rules))


class _ServiceItems:
    """The items of one service in one family, in the order in which the kernel can create them."""

    #: What the dialects with slot pages declare apart is not of one service.
    _dialect = layout.Dialect.MODERN

    def __init__(self, service: Service, family: Family, listeners: Sequence[Listener], home: _Home) -> None:
        self._word = layout.WORD[family]
        self._family = family
        self._service = service
        self._page_number = home.page
        self._offset = layout.offset(home.place)
        #: The interfaces at which packets are taken before they are routed.
        self._devices = direct.devices(service) if service.forward is Forward.DSR else ()
        self._hiding = [each for each in home.hiding if each.family is family] if home.hiding else ()
        self._slots = service.slots(family)
        self._remote = service.remote
        #: The shared chain that may replace the client's address, for endpoints elsewhere.
        self._source_chain = layout.SOURCE_CHAIN[service.source_nat] if self._remote else None
        self._listeners = [(Form.of(listener), layout.listener_key(listener)) for listener in listeners]
        self._pages = {listener.protocol: self._page(listener.protocol) for listener in listeners}
        self._denied, self._excluded = service.denied(family), service.excluded(family)
        self._refusing = bool(service.allow or self._denied) or not self._slots
        self._keeping = affinity.keeps(service, family)

    def compiled(self, dialect: str) -> _Compiled:  # noqa: ARG002 (what is of one service is the same in all)
        needs: set[str] = {layout.TRANSLATED, *self._pages.values()}
        needs |= {form for form, _ in self._listeners}
        needs |= set(self._service.protocols_of(self._family))
        if self._source_chain:
            needs.add(self._source_chain)
        if self._refusing:
            needs.add(layout.REFUSE)
        if self._keeping:
            needs.add(layout.LEARNED)
        ingress = frozenset(self._hidden_at_ingress())
        return _Compiled(tuple(self._items()), _same(frozenset(needs)), _same(ingress))

    def _items(self) -> Iterator[Item]:
        service, name = self._service, self._service.name
        for networks, _ in self._networks():
            yield _set(self._word, self._dialect, "set", networks, layout.NETWORKS, name)
        yield self._chain(layout.chain(name))
        if self._selecting:
            yield self._chain(layout.allowed_chain(name))
        yield self._body(layout.chain(name), *self._rules())
        if self._selecting:
            yield self._body(layout.allowed_chain(name), *self._refusing_rules())
        yield from self._slot_items()
        yield from self._dispatch()
        yield from self._network_elements()
        if self._refusing:
            yield from self._refusals()
        if self._keeping:
            yield from affinity.of_service(service, self._family)
        yield from self._hidden()

    def _networks(self) -> Iterator[tuple[str, Sequence[Network]]]:
        """Yield the name of each set of addresses, and what is in it."""
        service, name = self._service, self._service.name
        if service.allow:
            yield layout.allowed(name), service.allowed(self._family)
        if self._denied:
            yield layout.denied(name), self._denied
        if self._excluded:
            yield layout.excluded(name), self._excluded

    def _network_elements(self) -> Iterator[Item]:
        for networks, members in self._networks():
            for network in members:
                key = str(network.network_address if network.num_addresses == 1 else network)
                yield self._element(networks, key, "")

    def _chain(self, name: str) -> Item:
        return Item((self._word, "chain", name), "", self._service.name)

    def _body(self, chain: str, *rules: str) -> Item:
        return Item((self._word, "rules", chain), "\n".join(rules), self._service.name)

    @property
    def _selecting(self) -> bool:
        """True where some connections are refused, and others are not."""
        service = self._service
        leaving = not service.local_clients or bool(service.interfaces or self._excluded)
        return self._refusing and (bool(self._slots) or leaving)

    def _leaving(self) -> Iterator[str]:
        """Yield the rules that let pass what the service leaves alone: it reaches what listens there."""
        if not self._service.local_clients:
            yield "fib saddr type local return"
        if self._service.interfaces:
            yield layout.other_interfaces(self._service.interfaces)
        if self._excluded:
            yield f"{self._word} daddr @{layout.excluded(self._service.name)} return"

    def _refusing_rules(self) -> Iterator[str]:
        yield from self._leaving()
        if self._slots and self._denied:
            yield f"{self._word} saddr @{layout.denied(self._service.name)} goto {layout.REFUSE}"
        if self._slots and self._service.allow:
            yield f"{self._word} saddr @{layout.allowed(self._service.name)} return"
        if not self._slots or self._service.allow:
            yield f"goto {layout.REFUSE}"

    def _rules(self) -> Iterator[str]:
        service = self._service
        yield from self._leaving()
        if self._denied:
            yield f"{self._word} saddr @{layout.denied(service.name)} return"
        if service.allow:
            yield f"{self._word} saddr != @{layout.allowed(service.name)} return"
        if not self._slots:
            return
        if self._keeping:
            yield from affinity.placing(service, self._family)
        yield from self._picks()

    def _picks(self) -> Iterator[str]:
        """Yield the rules that choose an endpoint."""
        picker = self._picker()
        statement = f"dnat {self._word} to " if self._remote else "redirect to :"
        for protocol, page in self._pages.items():
            yield f"meta l4proto {protocol} {statement}{picker} map @{page}"

    def _picker(self) -> str:
        """Return what chooses a slot's key.

        A hash has a seed always: without, each load would move all clients.
        """
        service = self._service
        span = f"mod {len(self._slots)}"
        first = f"offset {self._offset}"
        match service.scheduler:
            case Scheduler.ROUND_ROBIN | Scheduler.LEAST_CONNECTIONS:
                return f"numgen inc {span} {first}"
            case Scheduler.RANDOM:
                return f"numgen random {span} {first}"
            case Scheduler.SOURCE_HASH | Scheduler.MAGLEV:
                return f"jhash {self._word} saddr {span} seed {service.hash_seed:#x} {first}"
        assert_never(service.scheduler)

    def _slot_items(self) -> Iterable[Item]:
        """Return what the picked slots lead to."""
        # A list, and no call for an item: there are more of these than of all others.
        word, name = self._word, self._service.name
        texts = {}
        for to, endpoint in {endpoint.to: endpoint for endpoint in self._slots}.items():
            texts[to] = f"comment {layout.quote(f'{name}/{endpoint.name}')} : {layout.place(to)}"
        # Numbers of slots are the same in all pages, and there are millions of slots.
        slots = [
            (intern(str(key)), texts[endpoint.to]) for key, endpoint in enumerate(self._slots, self._offset)
        ]
        return [
            Item((word, "element", page, key), text, name)
            for page in dict.fromkeys(self._pages.values())
            for key, text in slots
        ]

    def _dispatch(self) -> Iterator[Item]:
        to_service = f": goto {layout.chain(self._service.name)}"
        for form, key in self._listeners:
            yield self._element(layout.LISTENERS[Purpose.LEAD][form], key, to_service)
            if self._source_chain:
                sources = layout.LISTENERS[Purpose.SOURCE][form]
                yield self._element(sources, key, f": goto {self._source_chain}")

    def _refusals(self) -> Iterator[Item]:
        name = self._service.name
        to = layout.allowed_chain(name) if self._selecting else layout.REFUSE
        for form, key in self._listeners:
            yield self._element(layout.LISTENERS[Purpose.REFUSE][form], key, f": goto {to}")

    def _hidden_at_ingress(self) -> Iterator[str]:
        return (each.map_name for each in self._hiding if each.purpose is Purpose.INGRESS)

    def _hidden(self) -> Iterator[Item]:
        """Yield an element for each map in which only a wider listener of another service would be found."""
        own = {
            Purpose.SOURCE: self._source_chain is not None,
            Purpose.REFUSE: self._refusing,
            Purpose.LEARN: self._keeping,
        }
        for each in sorted(self._hiding, key=str):
            if own.get(each.purpose, each.device in self._devices):
                continue
            word = layout.INGRESS[self._family] if each.device else self._word
            key = (word, "element", each.map_name, layout.listener_key(each.listener))
            yield Item(key, ": return", self._service.name)

    def _element(self, name: str, key: str, text: str) -> Item:
        return Item((self._word, "element", name, key), text, self._service.name)

    def _page(self, protocol: Protocol) -> str:
        if self._service.keeps_port:
            return layout.page("hosts", self._page_number)
        kind = f"addresses-{protocol}" if self._remote else "ports"
        return layout.page(kind, self._page_number)


class _DirectService(_ServiceItems):
    """A service that is not translated: what is refused, and beside that its items at ingress."""

    def __init__(self, service: Service, family: Family, listeners: Sequence[Listener], home: _Home) -> None:
        super().__init__(service, family, listeners, home)
        self._source_chain = None
        self._pages = {}
        self._ingress = direct.DirectService(service, family, page=home.page, offset=self._offset)

    def compiled(self, dialect: str) -> _Compiled:
        needs: set[str] = {layout.REFUSE} if self._refusing else set()
        if self._refusing or any(each.purpose is not Purpose.INGRESS for each in self._hiding):
            needs |= {form for form, _ in self._listeners}
        items = (*self._ingress.items(dialect), *self._items())
        ingress = frozenset((*self._hidden_at_ingress(), *self._ingress.needs()))
        return _Compiled(items, _same(frozenset(needs)), _same(ingress))

    def _items(self) -> Iterator[Item]:
        if self._refusing:
            yield from self._refusing_items()
        yield from self._hidden()

    def _refusing_items(self) -> Iterator[Item]:
        service = self._service
        if self._selecting:
            for networks, _ in self._networks():
                yield _set(self._word, self._dialect, "set", networks, layout.NETWORKS, service.name)
            chain = layout.allowed_chain(service.name)
            yield self._chain(chain)
            yield self._body(chain, *self._refusing_rules())
            yield from self._network_elements()
        yield from self._refusals()


class _ClassicService(_ServiceItems):
    """The same in the classic dialect: no pages, a chain per endpoint."""

    _dialect = layout.Dialect.CLASSIC

    def __init__(self, service: Service, family: Family, listeners: Sequence[Listener], home: _Home) -> None:
        super().__init__(service, family, listeners, home)
        self._protocols = tuple(self._pages)
        self._pages = {}
        self._offset = 0

    def _picks(self) -> Iterator[str]:
        for protocol in self._protocols:
            yield from legacy_nft.pick(self._service, self._family, protocol, self._picker())

    def _slot_items(self) -> Iterable[Item]:
        for name, rules in legacy_nft.chains(self._service, self._family):
            yield self._chain(name)
            yield self._body(name, *rules)


def _set(word: str, dialect: str, what: str, name: str, kind: str, service: str | None = None) -> Item:
    """Return the declaration of a set or map, of the kind that `layout.declarations` has."""
    return Item((word, what, name), "\n".join(layout.declarations(word, dialect)[kind]), service)


def _homes(services: Sequence[Service]) -> dict[str, _Home]:
    """Return each service's page and range: where its name leads, for all but those that find it taken.

    The first in the order of names stays, and the others take the next range that is nobody's by name. So
    the order of the file moves nothing.
    """
    first: dict[tuple[bool, int, int], Service] = {}
    late: list[Service] = []
    homes: dict[str, _Home] = {}
    for service in services:
        page, place = layout.home(service.name)
        homes[service.name] = _Home(page, place)
        found = first.setdefault((service.remote, page, place), service)
        if found is not service:
            late.append(max(found, service, key=_name))
            first[service.remote, page, place] = min(found, service, key=_name)
    for service in sorted(late, key=_name):
        page, place, _ = homes[service.name]
        while first.setdefault((service.remote, page, place), service) is not service:
            place = layout.next_range(place)
        homes[service.name] = _Home(page, place)
    for name, wider in hidden(services).items():
        homes[name] = homes[name]._replace(hiding=_hiding(wider))
    return homes


def _hiding(wider: Mapping[Listener, Sequence[Service]]) -> frozenset[_Hiding]:
    """Return the maps that have listeners of services which some narrower listeners hide, by these."""
    return frozenset(
        _Hiding(family, hiding, purpose, device)
        for listener, services in wider.items()
        for service in services
        for family in service.families
        if listener.address is None or Family.of(listener.address) is family
        for purpose in _purposes(service, family)
        for hiding in _hiding_listeners(listener, service, family, purpose)
        for device in (direct.devices(service) if purpose is Purpose.INGRESS else ("",))
    )


def _hiding_listeners(
    listener: Listener, wider: Service, family: Family, purpose: Purpose
) -> Iterator[Listener]:
    """Yield the listeners by which one hides those of a wider service: at ingress, all have an address."""
    if purpose is not Purpose.INGRESS:
        yield listener
        return
    for hidden_one in wider.listeners_of(family):
        if hidden_one.is_range and hidden_one.meets(listener):
            yield replace(listener, address=hidden_one.address)


def _purposes(service: Service, family: Family) -> Iterator[Purpose]:
    """Yield what a service looks up its listeners for, beside leading connections to it."""
    if service.forward is Forward.DSR:
        yield Purpose.INGRESS
    elif service.remote and layout.SOURCE_CHAIN[service.source_nat] is not None:
        yield Purpose.SOURCE
    if service.allow or service.denied(family) or not service.ready(family):
        yield Purpose.REFUSE
    if affinity.keeps(service, family):
        yield Purpose.LEARN


def _place(service: Service) -> tuple[object, ...]:
    """Return what the homes of a service and of others depend on."""
    wide = bool(service.exclude) or any(listener.is_range for listener in service.listeners)
    hiding = tuple(tuple(_purposes(service, family)) for family in service.families) if wide else ()
    devices = direct.devices(service) if wide and service.forward is Forward.DSR else ()
    return service.name, service.remote, service.listeners, bool(service.exclude), hiding, devices


def _name(service: Service) -> str:
    return service.name
