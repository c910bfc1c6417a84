"""Intent → program of chains and of the jumps that enter them. Pure.

What belongs to one service is compiled once for the same service, and is the same part again.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias, assert_never

from lbctl.errors import Unsupported
from lbctl.model import Family, Forward, Item, Program, Scheduler, SourceNat, guarded, hidden
from lbctl.spi import require_offload, require_service
from lbctl_iptables import dialect, find, layout, pick, recent, spelling
from lbctl_iptables.dialect import Feature

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence

    from lbctl.model import Endpoint, Intent, Listener, Network, Part, Protocol, Service
    from lbctl.spi import Capabilities
    from lbctl_iptables.find import Rule

#: Chains of a service with their rules; last the chain, and its rules so far, for what these have passed on.
_Passing: TypeAlias = "Generator[tuple[str, Iterable[Rule]], None, tuple[str, list[Rule]]]"

_REJECTIONS = {Family.IPV4: "icmp-port-unreachable", Family.IPV6: "icmp6-port-unreachable"}


def compile_intent(
    intent: Intent,
    capabilities: Capabilities,
    *,
    previous: Program | None = None,  # noqa: ARG001 (its programs have no origin)
) -> Program:
    """See `lbctl.spi.Backend.compile`."""
    require_offload(intent, capabilities, backend=layout.NAME)
    parts: list[Part] = []
    marks = layout.Marks.of(intent.mark)
    able = capabilities
    if capabilities.remap:
        able = replace(capabilities, schedulers=capabilities.schedulers | {Scheduler.MAGLEV})
    for service in intent.services:
        _require(service, able)
    for family in Family:
        services = [s for s in intent.services if s.listeners_of(family)]
        if services and family in capabilities.families:
            parts += [_service(s, family, intent.owner, marks) for s in services]
            shared = _FamilyChains(family, intent.owner, marks, services, capabilities.networks)
            parts.append(tuple(shared.items()))
    return Program(intent.owner, parts=parts)


def _require(service: Service, capabilities: Capabilities) -> None:
    _require_release(service, dialect.lacking(capabilities.dialect), remap=capabilities.remap)
    if service.forward not in capabilities.forwards:
        # Named before what a user could consent to.
        require_service(service, capabilities, backend=layout.NAME)
    if service.scheduler is Scheduler.MAGLEV and not capabilities.remap:
        raise _unsupported(service, "scheduler maglev")
    if service.scheduler is Scheduler.SOURCE_HASH and not capabilities.remap:
        for family in (f for f in service.families if f in capabilities.families):
            if not pick.has_same_hash(service, family):
                raise _unsupported(service, f"scheduler source-hash {_beyond(service, family)}")
    require_service(service, capabilities, backend=layout.NAME)
    match service.forward:
        case Forward.NAT:
            pass
        case Forward.DSR:
            # iptables has no rules for packets as they arrive at an interface.
            raise _unsupported(service, "forward dsr")
        case _:
            assert_never(service.forward)


def _require_release(service: Service, lacks: Collection[Feature], *, remap: bool) -> None:
    """Raise `Unsupported` for what the iptables lacks that would be told to it."""
    wanted: list[tuple[str, Feature]] = []
    six = [listener for listener in service.listeners if listener.address and listener.address.version == 6]
    wanted += [(f"IPv6 (listener {listener})", Feature.IPV6_NAT) for listener in six]
    if service.affinity is not None:
        wanted.append(("affinity", Feature.RECENT_MASK))
    if remap and service.scheduler in {Scheduler.SOURCE_HASH, Scheduler.MAGLEV}:
        hashed = [f for f in service.families if not pick.has_same_hash(service, f)]
        wanted += [(f"scheduler {service.scheduler} of {f} clients", Feature.BYTECODE) for f in hashed]
    for what, feature in wanted:
        if feature in lacks:
            first = dialect.since(feature)
            raise Unsupported(
                backend=layout.NAME, service=service.name, feature=what, needs=f"iptables {first} ({feature})"
            )


def _beyond(service: Service, family: Family) -> str:
    """Return what of a service the kernel's hash does not do."""
    if family is Family.IPV6:
        # It sees the first 32 bits of an address alone.
        return "of IPv6 clients"
    slots = len(service.slots(family))
    return f"with {slots} slots, more than {pick.MAX_NODES}"


def _unsupported(service: Service, feature: str) -> Unsupported:
    needs = "nftables; or --allow-remap, for the same shares of other clients"
    return Unsupported(backend=layout.NAME, service=service.name, feature=feature, needs=needs)


@lru_cache(maxsize=1 << 16)
def _service(service: Service, family: Family, owner: str, marks: layout.Marks) -> Part:
    return tuple(_ServiceChains(service, family, owner, marks).items())


class _ServiceChains:
    """The chains of one service in one family."""

    def __init__(self, service: Service, family: Family, owner: str, marks: layout.Marks) -> None:
        self._service = service
        self._family = family
        self._owner = owner
        self._marks = marks

    def items(self) -> Iterator[Item]:
        for name, rules in self._chains():
            yield self._item(layout.NAT, name, rules)
        if _refusing_chain(self._service, self._family):
            for name, rules in self._refusing():
                yield self._item(layout.FILTER, name, rules)

    def _item(self, table: str, name: str, rules: Iterable[Rule]) -> Item:
        return _chain(self._family, self._owner, table, name, rules, self._service.name)

    def _chains(self) -> Iterator[tuple[str, Iterable[Rule]]]:
        service, owner = self._service, self._owner
        node = pick.picker(service, self._family)
        if node is None:
            yield layout.chain(owner, service.name), ()
            return
        body = [*self._marking(), *self._remembered()]
        below: list[tuple[str, list[Rule]]] = []
        protocols = service.protocols_of(self._family)
        for protocol in protocols:
            names = (service.name, protocol) if len(protocols) > 1 else (service.name,)
            ladders = list(self._ladders(node, protocol, names))
            if len(protocols) > 1:
                body.append(("-p", protocol, "-g", layout.chain(owner, *names)))
            else:
                body += ladders.pop(0)[1]
            below += ladders
        yield from self._selecting(body)
        yield from below
        if service.affinity is not None:
            for endpoint in _distinct(service, self._family):
                yield (
                    recent.chain(owner, service, endpoint),
                    recent.noting(owner, service, endpoint, self._family, protocols, self._target(endpoint)),
                )

    def _selecting(self, body: Iterable[Rule]) -> Iterator[tuple[str, Iterable[Rule]]]:
        """Yield the chains that lead to the rules of `body` the connections that are served."""
        service, family = self._service, self._family
        before: list[Rule] = []
        if not service.local_clients:
            before.append((*_from("LOCAL"), "-j", "RETURN"))
        here, rules = yield from self._excluding(before)
        denied = service.denied(family)
        here, rules = yield from self._leaving(here, rules, denied, "-s", layout.DENIED, layout.ADMITTED)
        if service.interfaces:
            arrived = self._name(layout.ARRIVED)
            yield here, [*rules, *self._arriving(arrived)]
            here, rules = arrived, []
        if service.allow:
            served = self._name(layout.SERVED)
            *blocks, (_, allowed) = find.networks(
                family,
                self._owner,
                (service.name, layout.CLIENTS),
                "-s",
                service.allowed(family),
                ("-g", served),
            )
            yield here, [*rules, *allowed]
            yield from blocks
            here, rules = served, []
        yield here, [*rules, *body]

    def _excluding(self, before: list[Rule]) -> _Passing:
        """Leave alone what `exclude` names, in a service's first chain and behind its rules `before`."""
        excluded = self._service.excluded(self._family)
        return self._leaving(self._name(), before, excluded, "-d", layout.EXCLUDED, layout.INCLUDED)

    def _leaving(
        self, here: str, rules: list[Rule], networks: Sequence[Network], option: str, found: str, others: str
    ) -> _Passing:
        """Leave alone what has an address of `networks`; return the chain for the rest, and its rules so far.

        Many networks are split into chains named `found`, which lead the rest to a chain named `others`.
        """
        others = self._name(others)
        otherwise = ("-g", others)
        *blocks, (_, leaving) = find.networks(
            self._family,
            self._owner,
            (self._service.name, found),
            option,
            networks,
            ("-j", "RETURN"),
            otherwise,
        )
        if not blocks:
            return here, [*rules, *leaving]
        yield here, [*rules, *leaving, otherwise]
        yield from blocks
        return others, []

    def _arriving(self, target: str) -> Iterator[Rule]:
        """Yield the rules that lead what arrives on the interfaces to `target`, or is made on this host."""
        for name in self._service.interfaces:
            yield ("-i", layout.interface(name), "-g", target)
        if self._service.local_clients:
            # These arrive nowhere: `local-clients` alone decides about them.
            yield (*_from("LOCAL"), "-g", target)

    def _refusing(self) -> Iterator[tuple[str, Iterable[Rule]]]:
        """Yield the chains that refuse what is not served, and leave alone what is not the service's."""
        refuse = layout.chain(self._owner, layout.REFUSE)
        here, rules = yield from self._excluding([])
        if self._service.interfaces:
            yield here, [*rules, *self._arriving(refuse)]
        else:
            yield here, [*rules, ("-g", refuse)]

    def _name(self, *names: str) -> str:
        return layout.chain(self._owner, self._service.name, *names)

    def _marking(self) -> Iterator[Rule]:
        """What later chains must know: whether our source address is needed, or only that it is served."""
        service = self._service
        decision = self._translating() if service.remote else None
        if decision is None and (service.allow or service.denied(self._family)):
            decision = self._marks.served
        if decision:
            yield ("-j", "MARK", "--set-xmark", decision)

    def _translating(self) -> str | None:
        """Return the mark by which a later chain replaces the client's address; None if none does."""
        source_nat = self._service.source_nat
        match source_nat:
            case SourceNat.NEVER:
                return None
            case SourceNat.ALWAYS:
                return self._marks.masquerade
            case SourceNat.HAIRPIN:
                return self._marks.hairpin
        assert_never(source_nat)

    def _remembered(self) -> Iterator[Rule]:
        if self._service.affinity is not None:
            for endpoint in _distinct(self._service, self._family):
                yield recent.remembered(self._owner, self._service, endpoint, self._family)

    def _ladders(
        self, node: pick.Node, protocol: Protocol, names: tuple[str, ...]
    ) -> Iterator[tuple[str, list[Rule]]]:
        """Yield the chains of a tree: the one that picks first, then those of its groups, numbered."""
        waiting = [(layout.chain(self._owner, *names), node)]
        number = 0
        while waiting:
            name, here = waiting.pop(0)
            rungs = here.rungs if isinstance(here, pick.Ladder) else (((), here),)
            rules: list[Rule] = []
            for condition, there in rungs:
                if isinstance(there, pick.Ladder):
                    number += 1
                    below = layout.chain(self._owner, *names, str(number))
                    waiting.append((below, there))
                    rules.append((*condition, "-g", below))
                else:
                    rules.append(self._rung(condition, there, protocol))
            yield name, rules

    def _rung(self, condition: Rule, endpoint: Endpoint, protocol: Protocol) -> Rule:
        if self._service.affinity is not None:
            return (*condition, "-g", recent.chain(self._owner, self._service, endpoint))
        return ("-p", protocol, *condition, *self._target(endpoint))

    def _target(self, endpoint: Endpoint) -> Rule:
        """Return where a rule sends to; with a comment if the endpoint has a name of its own."""
        named = endpoint.name != endpoint.to
        about = layout.comment(f"{self._service.name}/{endpoint.name}") if named else ()
        if endpoint.address is None:
            return (*about, "-j", "REDIRECT", "--to-ports", str(endpoint.port))
        return (*about, "-j", "DNAT", "--to-destination", endpoint.to)


class _FamilyChains:
    """What the services of one family share."""

    def __init__(
        self,
        family: Family,
        owner: str,
        marks: layout.Marks,
        services: Sequence[Service],
        networks: Sequence[Network],
    ) -> None:
        self._family = family
        self._owner = owner
        self._marks = marks
        self._services = services
        self._networks = networks
        #: Those that refuse some clients, or all.
        self._refusing = [s for s in services if _refuses(s, family)]
        self._inside = _inside(services, family)
        self._translated = [s for s in services if s.remote and s.source_nat is not SourceNat.NEVER]
        self._guarded = guarded(services, family)

    def items(self) -> Iterator[Item]:
        owner = self._owner
        entry = layout.prefix(owner)
        # What a service's own chain takes back out is found anew for wider listeners, in another tree.
        leaving = {
            name: [listener for listener, service in inside if _leaves_some(service, self._family)]
            for name, inside in self._inside.items()
        }
        yield from self._found(
            layout.NAT, self._services, "-g", leaving, lambda s: layout.chain(owner, s.name)
        )
        if self._translated:
            yield from self._source()
        for hook in layout.ENTRANCES[layout.NAT]:
            yield self._jump(layout.NAT, hook, ("-j", entry))
        if self._refusing:
            yield from self._refusals()
        yield from self._entrances()

    def _found(
        self,
        table: str,
        services: Sequence[Service],
        verdict: str,
        inside: Mapping[str, Sequence[Listener]],
        target: Callable[[Service], str],
    ) -> Iterator[Item]:
        """Yield the chains of a table that lead connections to what `target` names for their service.

        `inside` has for some services the single ports of others in their ranges: these decide, whatever
        they do, and the range leaves them alone.
        """
        owner = self._owner

        def led(service: Service, listener: Listener) -> Rule:
            if listener.is_range and inside.get(service.name):
                return ("-g", layout.chain(owner, service.name, layout.RANGES))
            return ("-g", target(service))

        def source(service: Service) -> Rule:
            return () if table == layout.NAT or service.local_clients else find.FROM_ELSEWHERE

        for name, rules in find.listeners(self._family, owner, services, verdict, led, source):
            yield self._chain(table, name, rules)
        for service in services:
            if singles := inside.get(service.name):
                name = layout.chain(owner, service.name, layout.RANGES)
                rules = [(*find.asked(listener), "-j", "RETURN") for listener in singles]
                rules.append(("-g", target(service)))
                yield _chain(self._family, owner, table, name, rules, service.name)

    def _chain(self, table: str, name: str, rules: Iterable[Rule]) -> Item:
        return _chain(self._family, self._owner, table, name, rules)

    def _jump(self, table: str, hook: str, rule: Rule) -> Item:
        return Item((layout.WORD[self._family], "jump", table, hook), spelling.join(rule))

    def _source(self) -> Iterator[Item]:
        """Yield the chains behind the mark, and the jump that leads there what has it."""
        marks = self._marks
        names = layout.SOURCE, layout.HAIRPIN, layout.MASQUERADE
        source, hairpin, masquerade = (layout.chain(self._owner, name) for name in names)
        # Off again, else what becomes of the packet, in a tunnel for one, would have the mark as well.
        unmark = ("-j", "MARK", "--set-xmark", marks.none)
        kinds = {service.source_nat for service in self._translated}
        asked: list[tuple[Rule, str]] = [
            (("-m", "mark", "--mark", mark), name)
            for kind, mark, name in (
                (SourceNat.ALWAYS, marks.masquerade, masquerade),
                (SourceNat.HAIRPIN, marks.hairpin, hairpin),
            )
            if kind in kinds
        ]
        # Nearly always all services are of one kind, and its connections are led to its chain at once.
        marked, target = asked[0]
        if len(asked) > 1:
            marked, target = ("-m", "mark", "!", "--mark", marks.none), source
            yield self._chain(layout.NAT, source, [(*mark, "-g", name) for mark, name in asked])
        if SourceNat.HAIRPIN in kinds:
            yield self._chain(layout.NAT, hairpin, (*self._bypassing(("-g", masquerade)), unmark))
        yield self._chain(layout.NAT, masquerade, (unmark, layout.MASQUERADING))
        yield self._jump(layout.NAT, "POSTROUTING", (*marked, "-j", target))

    def _bypassing(self, target: Rule) -> Iterator[Rule]:
        """Yield the connections whose replies would not come back through this host, or could not."""
        # Our own clients may have chosen a source that the endpoint cannot answer.
        yield ("!", "-o", "lo", "-m", "addrtype", "--src-type", "LOCAL", *target)
        # Client and endpoint on one link: the endpoint would answer the client without us. A rule behind
        # routing cannot see where a packet came in, so the networks of this host's links stand here.
        networks = [network for network in self._networks if Family.of(network) is self._family]
        every = (e.address for s in self._translated for e in s.endpoints if e.serves(self._family))
        # As numbers: there may be a hundred thousand, and an address hashes and compares ten times as slowly.
        addresses = set(map(int, filter(None, every))) if networks else set()
        for network in networks:
            first, last = int(network.network_address), int(network.broadcast_address)
            if any(first <= address <= last for address in addresses):
                yield ("-s", str(network), "-d", str(network), *target)

    def _refusals(self) -> Iterator[Item]:
        owner = self._owner
        refuse = layout.chain(owner, layout.REFUSE)

        def target(service: Service) -> str:
            return layout.chain(owner, service.name) if _refusing_chain(service, self._family) else refuse

        # With -j, a block that does not have the listener leaves it to the rules behind: so apply can have
        # the rules of before and after in one chain for a moment.
        inside = {name: [listener for listener, _ in found] for name, found in self._inside.items()}
        yield from self._found(layout.FILTER, self._refusing, "-j", inside, target)
        answers = (
            ("-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"),
            ("-j", "REJECT", "--reject-with", _REJECTIONS[self._family]),
        )
        yield self._chain(layout.FILTER, refuse, answers)

    def _entrances(self) -> Iterator[Item]:
        """Yield what the hooks of the filter table lead to."""
        new = ("-m", "conntrack", "--ctstate", "NEW", "-m", "mark", "--mark", self._marks.none)
        refusing = (*new, "-j", layout.prefix(self._owner))
        stray = ("-m", "conntrack", "--ctstate", "INVALID,NEW")
        guarding = (*stray, "-j", layout.chain(self._owner, layout.GUARD))
        if self._guarded:
            yield from self._guard(refusing)
        for hook in layout.ENTRANCES[layout.FILTER]:
            if hook == "FORWARD" and self._guarded:
                yield self._jump(layout.FILTER, hook, guarding)
            elif self._refusing:
                yield self._jump(layout.FILTER, hook, refusing)

    def _guard(self, refusing: Rule) -> Iterator[Item]:
        """Yield what drops packets of endpoints that no connection is known for.

        Another host balanced their connections before. Untranslated, they would end these; and TCP sends
        them again.
        """
        *blocks, (name, rules) = find.sources(
            self._family, self._owner, layout.GUARD, self._guarded, ("-j", "DROP")
        )
        for block, inside in blocks:
            yield self._chain(layout.FILTER, block, inside)
        yield self._chain(layout.FILTER, name, [*rules, refusing] if self._refusing else rules)


def _chain(
    family: Family, owner: str, table: str, name: str, rules: Iterable[Rule], service: str | None = None
) -> Item:
    """Return a chain and its rules. `service` is the one that it belongs to, if it is not shared."""
    every = list(rules)
    if service is not None and layout.service_of(owner, name) is None:
        every = _labelled(every, service)
    return Item((layout.WORD[family], "chain", table, name), spelling.lines(every), service)


def _labelled(rules: Sequence[Rule], service: str) -> list[Rule]:
    """Return the rules of a chain whose name is cut short, of which at least one names its service."""
    if any("--comment" in rule for rule in rules):
        return list(rules)
    *others, last = rules or [("-j", "RETURN")]
    target = max(last.index(option) for option in ("-j", "-g") if option in last)
    return [*others, (*last[:target], *layout.comment(service), *last[target:])]


def _refuses(service: Service, family: Family) -> bool:
    """Return True if a service refuses some clients, or all."""
    return bool(service.allow or service.denied(family) or not service.slots(family))


def _refusing_chain(service: Service, family: Family) -> bool:
    """Return True if what a service refuses is not all that its listeners match and it does not serve."""
    return _refuses(service, family) and bool(service.interfaces or service.excluded(family))


def _leaves_some(service: Service, family: Family) -> bool:
    """Return True if a service does not send each connection of its listeners to an endpoint."""
    some = service.interfaces or service.excluded(family) or not service.local_clients
    return _refuses(service, family) or bool(some)


def _inside(services: Sequence[Service], family: Family) -> Mapping[str, list[tuple[Listener, Service]]]:
    """Return name of a service with ranges → the single ports of other services that are in these."""
    found: dict[str, list[tuple[Listener, Service]]] = {}
    named = {service.name: service for service in services}
    for name, wider in hidden(services).items():
        singles = [x for x in named[name].listeners_of(family) if not x.is_range]
        for listener in singles:
            for other in wider.get(listener, ()):
                if any(x.is_range and x.meets(listener) for x in other.listeners_of(family)):
                    found.setdefault(other.name, []).append((listener, named[name]))
    return {name: sorted(inside, key=lambda pair: str(pair[0])) for name, inside in found.items()}


def _from(kind: str) -> Rule:
    return ("-m", "addrtype", "--src-type", kind)


def _distinct(service: Service, family: Family) -> Iterable[Endpoint]:
    """Return the endpoints that take new connections, each once."""
    return {endpoint.to: endpoint for endpoint in service.ready(family)}.values()
