"""How a connection's listener is found: a tree of chains over ranges of addresses and ports.

A few listeners are a list in one chain. Many are parted by the leading bits of address and port, three at a
time, into chains for ranges, so that at most eight rules of each are met; whatever is alone in its range, or
one of few, is not parted further. A range's chain depends on what is in the range and on nothing else: a
listener that comes or goes rewrites one chain, and the few below where that was or becomes a list.

The allowed clients of a service, which are ranges themselves, are found in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl.model import Family, Protocol
from lbctl_iptables import layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from lbctl.model import Address, Listener, Network, Service

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
    """A rule and how it is found: by the first `length` bits of `key`."""

    key: int
    length: int
    rule: Rule


@dataclass(frozen=True, slots=True)
class _Keys:
    """What the bits of keys mean: an address, then a port."""

    family: Family
    protocol: Protocol | None
    address_bits: int
    port_bits: int
    option: str

    @property
    def bits(self) -> int:
        return self.address_bits + self.port_bits

    def next_cut(self, length: int) -> int:
        """Return where to part keys that have `length` bits in common. Address and port meet at a cut."""
        end = self.address_bits if length < self.address_bits else self.bits
        return end - (end - length - 1) // _STRIDE * _STRIDE

    def range(self, key: int, length: int) -> tuple[str, Rule]:
        """Return a name and the condition for the keys that begin with the first `length` bits of `key`."""
        name, rule = [], []
        if self.address_bits:
            bits = min(length, self.address_bits)
            kept = key >> self.bits - bits << self.address_bits - bits
            text = f"{_address(self.family, kept)}/{bits}"
            name.append(text)
            rule += [self.option, text]
        if length > self.address_bits and self.protocol:
            first = key >> self.bits - length << self.bits - length & (1 << _PORT_BITS) - 1
            last = first + (1 << self.bits - length) - 1
            name.append(f"{first}-{last}")
            rule += ["-p", self.protocol, "-m", self.protocol, "--dport", f"{first}:{last}"]
        return ":".join(name), tuple(rule)


def listeners(
    family: Family,
    owner: str,
    services: Iterable[Service],
    verdict: str,
    target: Callable[[Service], Rule],
    source: Callable[[Service], Rule] = lambda _: (),
) -> Chains:
    """Return the chains that lead a connection to `target` of its service.

    `verdict` is -g, or -j where a connection that is not found in a range shall be looked for on. `source`
    gives the options of `addrtype` that the source of a service's connections must meet.
    """
    found = [(listener, service) for service in services for listener in service.listeners_of(family)]
    found.sort(key=lambda pair: _order(pair[0]))
    # A listener on any local address needs a guard, here or above its range: else connections that are only
    # forwarded through this host would match.
    if len(found) <= FEW:
        rules = [
            (*_asked(x), *_addrtype(*source(s), *_to_local(x)), *comment(s.name), *target(s))
            for x, s in found
        ]
        yield layout.prefix(owner), rules
        return
    top: list[Rule] = []
    for (anywhere, protocol), mine in groupby(found, lambda pair: _order(pair[0])[:2]):
        keys = _Keys(family, protocol, 0 if anywhere else _BITS[family], _PORT_BITS, "-d")
        entries = [
            _Entry(_key(x), keys.bits, (*_asked(x), *_addrtype(*source(s)), *comment(s.name), *target(s)))
            for x, s in mine
        ]
        names = (protocol.upper(), *(["LOCAL"] if anywhere else []))
        yield from _parted(owner, names, "", entries, keys, verdict)
        guard = _addrtype(*_TO_LOCAL) if anywhere else ()
        top.append(("-p", protocol, *guard, "-j", layout.chain(owner, *names)))
    yield layout.prefix(owner), top


def clients(
    family: Family, owner: str, service: Service, networks: Sequence[Network], target: Rule
) -> Chains:
    """Return the chain that leads clients of `networks` on to `target`."""
    bits = _BITS[family]
    keys = _Keys(family, None, bits, 0, "-s")
    entries = [
        _Entry(int(n.network_address), n.prefixlen, ("-s", str(n), *comment(service.name), *target))
        for n in networks
    ]
    return _parted(owner, (service.name, layout.CLIENTS), "", entries, keys, "-g")


def comment(text: str) -> Rule:
    """Return a rule's comment."""
    return ("-m", "comment", "--comment", text)


def _to_local(listener: Listener) -> Rule:
    return () if listener.address else _TO_LOCAL


def _addrtype(*options: str) -> Rule:
    """One match for all: iptables-nft 1.8.2 does not give back two of one name in a rule as they were."""
    return ("-m", "addrtype", *options) if options else ()


def _parted(
    owner: str, names: tuple[str, ...], label: str, entries: list[_Entry], keys: _Keys, verdict: str
) -> Chains:
    """Return the chain of `names` and of a range's `label`, which leads to entries, sorted and disjoint."""
    rules: list[Rule] = []
    if len(entries) <= FEW:
        rules += [entry.rule for entry in entries]
    else:
        common = keys.bits - (entries[0].key ^ entries[-1].key).bit_length()
        cut = keys.next_cut(common)
        for _, group in groupby(entries, lambda entry: (entry.key >> keys.bits - cut, entry.length < cut)):
            inside = list(group)
            if len(inside) == 1 or inside[0].length < cut:
                rules += [entry.rule for entry in inside]
                continue
            below, asked = keys.range(inside[0].key, cut)
            yield from _parted(owner, names, below, inside, keys, verdict)
            rules.append((*asked, verdict, layout.chain(owner, *names, below)))
    yield layout.chain(owner, *names, *([label] if label else [])), rules


def _order(listener: Listener) -> tuple[bool, Protocol, int, int]:
    """Addresses first: a listener with an address wins over one on any local address."""
    address = listener.address
    return address is None, listener.protocol, int(address) if address else 0, listener.port


def _key(listener: Listener) -> int:
    return int(listener.address or 0) << _PORT_BITS | listener.port


def _asked(listener: Listener) -> Rule:
    address, protocol = listener.address, listener.protocol
    to = ("-d", f"{address}/{address.max_prefixlen}") if address else ()
    return (*to, "-p", protocol, "-m", protocol, "--dport", str(listener.port))


def _address(family: Family, number: int) -> Address:
    return IPv4Address(number) if family is Family.IPV4 else IPv6Address(number)
