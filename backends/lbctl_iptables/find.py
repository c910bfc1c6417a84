"""How a connection's listener is found: a tree of chains over blocks of addresses and ports.

A few listeners are a list in one chain. Many are split by the leading bits of address and port, three at a
time, into chains for blocks, so that a packet passes at most eight rules of each; whatever is alone in its
block, or one of few, is not split further. A block's chain depends on what is in the block and on nothing
else: a listener that is added or removed rewrites one chain, and the few below if that was or becomes a list.

Single ports have trees of their own, ahead of those of port ranges. A range is in the block of its first port
and may reach beyond it, as the last one there.

Networks of a service (`allow`, `deny`, `exclude`) are found in the same way; so are places of endpoints, for
`takeover`.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl.model import Family, Protocol
from lbctl.values import dataclass
from lbctl_iptables import layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from lbctl.model import Address, Guarded, Listener, Network, Service

Rule: TypeAlias = tuple[str, ...]
#: Chains with their rules, each behind those that it leads to.
Chains: TypeAlias = "Iterator[tuple[str, list[Rule]]]"

#: Rules of a chain that are not worth a chain of their own.
FEW = 8
_STRIDE = 3
_PORT_BITS = 16
_BITS: Mapping[Family, int] = {Family.IPV4: 32, Family.IPV6: 128}
_TO_LOCAL = ("--dst-type", "LOCAL")
FROM_ELSEWHERE = ("!", "--src-type", "LOCAL")


class _Entry(NamedTuple):
    """A rule and how it is found: by the first `length` bits of `key`, and the same of `more` next keys."""

    key: int
    length: int
    rule: Rule
    more: int = 0


@dataclass(frozen=True, slots=True)
class _Keys:
    """What the bits of keys mean: an address, then a port."""

    family: Family
    protocol: Protocol | None
    address_bits: int
    port_bits: int
    option: str
    port_option: str = "--dport"

    @property
    def bits(self) -> int:
        return self.address_bits + self.port_bits

    def next_cut(self, length: int) -> int:
        """Return where to part keys that have `length` bits in common. Address and port meet at a cut."""
        end = self.address_bits if length < self.address_bits else self.bits
        return end - (end - length - 1) // _STRIDE * _STRIDE

    def block(self, entries: Sequence[_Entry], length: int) -> tuple[str, Rule]:
        """Return a name and the condition for the keys that begin with the first `length` bits of `entries`.

        The last entry may reach beyond them.
        """
        key = entries[0].key
        name, rule = [], []
        if self.address_bits:
            bits = min(length, self.address_bits)
            kept = key >> self.bits - bits << self.address_bits - bits
            text = f"{_address(self.family, kept)}/{bits}"
            name.append(text)
            rule += [self.option, text]
        if length > self.address_bits and self.protocol:
            ports = (1 << _PORT_BITS) - 1
            first = key >> self.bits - length << self.bits - length & ports
            last = max(first + (1 << self.bits - length) - 1, (entries[-1].key & ports) + entries[-1].more)
            name.append(f"{first}-{last}")
            rule += ["-p", self.protocol, "-m", self.protocol, self.port_option, f"{first}:{last}"]
        return ":".join(name), tuple(rule)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tree:
    """The chains of some names: what they lead by, and the rule for what is not found, but in the first."""

    owner: str
    names: tuple[str, ...]
    keys: _Keys
    verdict: str
    otherwise: Rule = ()

    def chains(self, entries: list[_Entry], block: str = "") -> Chains:
        """Yield the chain of a block, "" for the whole, behind those that it leads to.

        The entries are sorted and disjoint.
        """
        rules: list[Rule] = []
        if len(entries) <= FEW:
            rules += [entry.rule for entry in entries]
        else:
            bits = self.keys.bits
            cut = self.keys.next_cut(bits - (entries[0].key ^ entries[-1].key).bit_length())
            for _, group in groupby(entries, lambda entry: (entry.key >> bits - cut, entry.length < cut)):
                inside = list(group)
                if len(inside) == 1 or inside[0].length < cut:
                    rules += [entry.rule for entry in inside]
                    continue
                below, condition = self.keys.block(inside, cut)
                yield from self.chains(inside, below)
                rules.append((*condition, self.verdict, self._chain(below)))
        if block and self.otherwise:
            rules.append(self.otherwise)
        yield self._chain(block), rules

    def _chain(self, block: str) -> str:
        return layout.chain(self.owner, *self.names, *([block] if block else []))


def listeners(
    family: Family,
    owner: str,
    services: Iterable[Service],
    verdict: str,
    target: Callable[[Service, Listener], Rule],
    source: Callable[[Service], Rule] = lambda _: (),
) -> Chains:
    """Return the chains that lead a connection to `target` of its service and listener.

    `verdict` is -g, or -j if the rules behind a block's are for connections that are not found in it.
    `source` gives the options of `addrtype` that the source of a service's connections must meet.
    """
    found = [(listener, service) for service in services for listener in service.listeners_of(family)]
    found.sort(key=lambda pair: _order(pair[0]))
    # A listener on any local address needs a guard, here or above its range: else connections that are only
    # forwarded through this host would match.
    if len(found) <= FEW:
        rules = [(*_asked(x), *_addrtype(*source(s), *_to_local(x)), *target(s, x)) for x, s in found]
        yield layout.prefix(owner), rules
        return
    top: list[Rule] = []
    for (ranges, anywhere, protocol), mine in groupby(found, lambda pair: _order(pair[0])[:3]):
        keys = _Keys(family, protocol, 0 if anywhere else _BITS[family], _PORT_BITS, "-d")
        entries = [
            _Entry(
                _key(x),
                keys.bits,
                (*_asked(x), *_addrtype(*source(s)), *target(s, x)),
                x.last_port - x.port,
            )
            for x, s in mine
        ]
        names = (protocol.upper(), *(["LOCAL"] if anywhere else []), *(["RANGES"] if ranges else []))
        yield from _Tree(owner=owner, names=names, keys=keys, verdict=verdict).chains(entries)
        guard = _addrtype(*_TO_LOCAL) if anywhere else ()
        top.append(("-p", protocol, *guard, "-j", layout.chain(owner, *names)))
    yield layout.prefix(owner), top


def asked(listener: Listener) -> Rule:
    """Return the condition for what a listener's connections ask for."""
    return (*_asked(listener), *_addrtype(*_to_local(listener)))


def networks(
    family: Family,
    owner: str,
    names: tuple[str, ...],
    option: str,
    networks: Sequence[Network],
    target: Rule,
    otherwise: Rule = (),
) -> Chains:
    """Return the chains that lead what has an address of `networks` to `target`; last the one of `names`.

    `option` says which address: -s or -d. `otherwise` is the rule for what is not found, in all of these
    chains but the last one.
    """
    keys = _Keys(family, None, _BITS[family], 0, option)
    entries = [
        _Entry(
            int(n.network_address),
            n.prefixlen,
            # Without the option, as iptables-save prints it: all addresses.
            (*((option, str(n)) if n.prefixlen else ()), *target),
        )
        for n in networks
    ]
    tree = _Tree(owner=owner, names=names, keys=keys, verdict="-g", otherwise=otherwise)
    return tree.chains(entries)


def sources(family: Family, owner: str, name: str, places: Sequence[Guarded], target: Rule) -> Chains:
    """Return the chains that lead packets which come from `places` to `target`; last the one of `name`.

    `places` are in order and disjoint; see `lbctl.model.guarded`. What is not found returns.
    """
    found = {
        place: _Entry(
            int(place.address) << _PORT_BITS | place.port,
            _BITS[family] + _PORT_BITS,
            (*_source(place), *target),
            place.last_port - place.port,
        )
        for place in places
    }
    if len(found) <= FEW:
        yield layout.chain(owner, name), [entry.rule for entry in found.values()]
        return
    top: list[Rule] = []
    for protocol, mine in groupby(places, lambda place: place.protocol):
        keys = _Keys(family, protocol, _BITS[family], _PORT_BITS, "-s", "--sport")
        names = (name, protocol.upper())
        tree = _Tree(owner=owner, names=names, keys=keys, verdict="-j")
        yield from tree.chains([found[place] for place in mine])
        top.append(("-p", protocol, "-j", layout.chain(owner, *names)))
    yield layout.chain(owner, name), top


def _to_local(listener: Listener) -> Rule:
    return () if listener.address else _TO_LOCAL


def _addrtype(*options: str) -> Rule:
    """One match for all: iptables-nft 1.8.2 does not give back two of one name in a rule as they were."""
    return ("-m", "addrtype", *options) if options else ()


def _order(listener: Listener) -> tuple[bool, bool, Protocol, int, int]:
    """Which listener decides: one with a single port, and of these one with an address."""
    address = listener.address
    return (
        listener.is_range,
        address is None,
        listener.protocol,
        int(address) if address else 0,
        listener.port,
    )


def _key(listener: Listener) -> int:
    return int(listener.address or 0) << _PORT_BITS | listener.port


def _asked(listener: Listener) -> Rule:
    address, protocol = listener.address, listener.protocol
    to = ("-d", f"{address}/{address.max_prefixlen}") if address else ()
    return (*to, "-p", protocol, "-m", protocol, "--dport", _ports(listener.port, listener.last_port))


def _source(place: Guarded) -> Rule:
    address, protocol = place.address, place.protocol
    ports = _ports(place.port, place.last_port)
    return ("-s", f"{address}/{address.max_prefixlen}", "-p", protocol, "-m", protocol, "--sport", ports)


def _ports(first: int, last: int) -> str:
    return f"{first}:{last}" if last > first else str(first)


def _address(family: Family, number: int) -> Address:
    return IPv4Address(number) if family is Family.IPV4 else IPv6Address(number)
