"""Intent → program of chains and of the jumps that enter them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.model import Family, Item, Program, SourceNat
from lbctl.spi import require
from lbctl_iptables import layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl.model import Endpoint, Intent, Listener, Network, Service
    from lbctl.spi import Capabilities

#: iptables 1.8 prints the protocol of `conntrack --ctproto` as a number.
_NUMBER = {"tcp": "6", "udp": "17", "sctp": "132"}
_MASQUERADE = ("-j", "MASQUERADE", "--random-fully")


def compile_intent(intent: Intent, capabilities: Capabilities) -> Program:
    """See `lbctl.spi.Backend.compile`."""
    require(intent, capabilities, backend=layout.NAME)
    items: list[Item] = []
    for family in Family:
        services = [s for s in intent.services if family in s.families]
        if services and family in capabilities.families:
            items += _Nat(family, intent.owner, services, capabilities.networks).items()
    return Program(intent.owner, tuple(items))


class _Nat:
    """The items of one family's nat table."""

    def __init__(
        self, family: Family, owner: str, services: list[Service], networks: Sequence[Network]
    ) -> None:
        self._word = layout.WORD[family]
        self._family = family
        self._owner = owner
        self._services = services
        self._translated = [s for s in services if s.remote and s.source_nat is not SourceNat.NEVER]
        self._networks = networks

    def items(self) -> Iterator[Item]:
        owner = self._owner
        for service in self._services:
            name = layout.chain(owner, service.name)
            yield self._chain(name, self._service_rules(service), service.name)
        yield self._chain(layout.prefix(owner), self._dispatch())
        if self._translated:
            yield self._chain(layout.hairpin_chain(owner), self._hairpin())
            yield self._chain(layout.source_chain(owner), self._sources())
        yield self._jump("PREROUTING", layout.prefix(owner))
        yield self._jump("OUTPUT", layout.prefix(owner))
        if self._translated:
            yield self._jump("POSTROUTING", layout.source_chain(owner))

    def _chain(self, name: str, rules: Iterator[Sequence[str]], service: str | None = None) -> Item:
        return Item((self._word, "chain", name), "\n".join(map(layout.join, rules)), service)

    def _jump(self, hook: str, chain: str) -> Item:
        return Item((self._word, "jump", hook), layout.join((*_comment(self._owner), "-j", chain)))

    def _dispatch(self) -> Iterator[Sequence[str]]:
        for service in self._services:
            for listener in service.listeners_of(self._family):
                target = ("-g", layout.chain(self._owner, service.name))
                protocol = listener.protocol
                port = ("-p", protocol, "-m", protocol, "--dport", str(listener.port))
                # Without the guard, connections that are only forwarded through this host would match.
                guard = () if listener.address else ("-m", "addrtype", "--dst-type", "LOCAL")
                yield (*_destination(listener), *port, *guard, *_comment(service.name), *target)

    def _service_rules(self, service: Service) -> Iterator[Sequence[str]]:
        if not service.local_clients:
            yield ("-m", "addrtype", "--src-type", "LOCAL", *_comment(service.name), "-j", "RETURN")
        slots = service.slots(self._family)
        for protocol in service.protocols_of(self._family):
            for left, endpoint in zip(range(len(slots), 0, -1), slots, strict=True):
                # A rule sees only what the earlier ones left, so it takes one of what is left: N, N-1, … 2.
                every = ("-m", "statistic", "--mode", "nth", "--every", str(left), "--packet", "0")
                yield (
                    *("-p", protocol),
                    *(every if left > 1 else ()),
                    *_comment(f"{service.name}/{endpoint.name}"),
                    *_target(endpoint),
                )

    def _sources(self) -> Iterator[Sequence[str]]:
        for service in self._translated:
            for listener in service.listeners_of(self._family):
                # What a connection asked for tells our connections from those that others translated.
                asked = ("--ctstate", "DNAT", "--ctproto", _NUMBER[listener.protocol])
                address = ("--ctorigdst", str(listener.address)) if listener.address else ()
                port = ("--ctorigdstport", str(listener.port))
                target = (
                    _MASQUERADE
                    if service.source_nat is SourceNat.ALWAYS
                    else ("-g", layout.hairpin_chain(self._owner))
                )
                yield (
                    *("-p", listener.protocol, "-m", "conntrack", *asked, *address, *port),
                    *_comment(service.name),
                    *target,
                )

    def _hairpin(self) -> Iterator[Sequence[str]]:
        # Our own clients may have chosen a source that the endpoint cannot answer.
        own = ("!", "-o", "lo", "-m", "addrtype", "--src-type", "LOCAL")
        yield (*own, *_comment(self._owner), *_MASQUERADE)
        # Client and endpoint on one link: the endpoint would answer the client without us. A rule behind
        # routing cannot see where a packet came in, so the networks of this host's links stand here.
        endpoints = [e for s in self._translated for e in s.endpoints if e.serves(self._family)]
        for network in self._networks:
            if Family.of(network) is self._family and any(e.address in network for e in endpoints):
                pair = ("-s", str(network), "-d", str(network))
                yield (*pair, *_comment(self._owner), *_MASQUERADE)


def _comment(text: str) -> Sequence[str]:
    return ("-m", "comment", "--comment", text)


def _destination(listener: Listener) -> Sequence[str]:
    if listener.address is None:
        return ()
    return ("-d", f"{listener.address}/{listener.address.max_prefixlen}")


def _target(endpoint: Endpoint) -> Sequence[str]:
    if endpoint.address is None:
        return ("-j", "REDIRECT", "--to-ports", str(endpoint.port))
    return ("-j", "DNAT", "--to-destination", endpoint.to)
