"""Direct server return: packets are handed to endpoints as they arrive, with other MAC addresses.

A table of family `netdev` for each address family, `lbctl.ip` and `lbctl.ip6`, has for each interface a chain
that the kernel calls before routing and before it tracks connections:

    chain ingress-eth0   type filter hook ingress device "eth0" priority 50
                         ip daddr . meta l4proto . th dport vmap @services-eth0
    map services-eth0    address . protocol . port : goto service-…      and service-ranges-eth0
    map picks-3f         slot : MAC addresses, counted: where new connections go
    map paths-3f         slot : MAC addresses: where other packets go
    chain service-…      @ll,0,96 set PICKER map @picks-3f fwd to "eth0"

`@ll,0,96` are both MAC addresses of a frame, the endpoint's and then this host's, which are written at once:
apart, they cost 60 ns more of 450. Both have to be replaced. With the client's as the source, a switch would
learn that the client is behind this host's port, and send it the replies of endpoints there.

**Hash and Maglev** pick for each packet by the client's address, and keep no state. Packets that open a TCP
connection, and all datagrams, are looked up in `picks-…`, whose counters count them. Each expression costs
each packet 4 to 25 ns, and forwarding by the kernel some 180: a map for each interface saves the question
where a packet arrived (15 ns), and bytes by their place, `@nh,96,32` for `ip saddr`, save questions about
protocols that the listener has answered (15 ns).

**Round robin and random** pick once for each connection, and learn what was picked:

    map flows-tcp-…      connection : MAC addresses   an hour after the last packet of the client
    map closing-tcp-…    connection : MAC addresses   once the client has sent FIN or RST: a minute
    map flows-udp-…      connection : MAC addresses   two minutes after the last datagram

A SYN of a connection that is known goes where the first one went, since it was sent again; but one of a
connection that is closing begins a new one. A connection that is not known, and new ones while the map is
full, go by a hash of the client, which the counter of the last rule counts.

Entries hold MAC addresses and not the slot: a change of weights or endpoints leaves connections where they
are. If an endpoint has another MAC address, `apply` writes it into them. Connections are the clients' and not
the intent's, and no items (as in `lbctl_nftables.affinity`).

A connection is found by its addresses and ports. nft 1.0.6 aborts where a rule adds a key of more than 16
bytes to a map: for IPv6, a hash of both addresses stands for them. Two clients with the same hash that use
the same ports at the same time share an endpoint, and nothing else happens.

What is not balanced passes, and is refused as everywhere (`lbctl_nftables.layout`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from lbctl.model import Item, Protocol, Scheduler
from lbctl.spi import next_hops
from lbctl_nftables import layout
from lbctl_nftables.layout import Form

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from lbctl.model import Endpoint, Family, Network, Part, Service

#: Seconds that a connection is known after its last packet from the client: before the handshake is over
#: (a client repeats SYN after 1, 3, 7, 15 and 31 seconds), once it is, and when the client has ended it.
OPENING, OPEN, CLOSING = 60, 3600, 60
#: Seconds after the last datagram.
DATAGRAMS = 120
#: Masks of the flags of TCP, and values.
_SYN_ONLY = "tcp flags & 0x17 == 0x02"
_SYN_ONLY_IN_TCP = f"{layout.TCP_FLAGS} & 0x17 == 0x02"
_SYN = "tcp flags & 0x12 == 0x02"
_NO_SYN = "tcp flags & 0x12 != 0x02"
_ENDING = "tcp flags & 0x05 != 0x00"
_MOST = 0xFFFFFFFF


def shared(family: Family, needs: Collection[str], dialect: str) -> Part:
    """Return what all services of a family share at ingress: `needs` are names of chains and maps."""
    word = layout.INGRESS[family]
    declarations = layout.declarations(word, dialect)
    priority = layout.INGRESS_PRIORITY[family]
    maps: dict[str, str] = {}
    hooks: list[Item] = []
    for chain in sorted(filter(layout.is_ingress, needs)):
        device = layout.device_of(chain)
        forms = {layout.dispatch(form, device): form for form in (Form.ADDRESS, Form.ADDRESS_RANGE)}
        names = [name for name in forms if name in needs]
        maps |= {name: forms[name] for name in names}
        key = f"{_only(family)} {layout.WORD[family]} daddr . meta l4proto . th dport"
        hooks.append(Item((word, "chain", chain), layout.ingress_hook(device, priority)))
        hooks.append(Item((word, "rules", chain), "\n".join(f"{key} vmap @{name}" for name in names)))
    maps |= {name: layout.kind_of_page(name) for name in sorted(needs) if layout.is_page(name)}
    declared = [Item((word, "map", name), "\n".join(declarations[kind])) for name, kind in maps.items()]
    return (Item((word, "table"), ""), *declared, *hooks)


def devices(service: Service) -> Sequence[str]:
    """Return the interfaces at which packets of a service are taken: those of the file, else of endpoints."""
    return service.interfaces or sorted({hop.device for hop in service.hops})


def _only(family: Family) -> str:
    return f"meta protocol {layout.WORD[family]}"


class DirectService:
    """What one service has at ingress in one family."""

    def __init__(self, service: Service, family: Family, *, page: int, offset: int) -> None:
        self._service = service
        self._family = family
        self._word = layout.INGRESS[family]
        self._ip = layout.WORD[family]
        self._only = _only(family)
        self._offset = offset
        self._slots = service.slots(family)
        self._hops = next_hops(service, family)
        self._picks, self._paths = (layout.page(kind, page) for kind in (layout.PICKS, layout.PATHS))
        self._learns = service.scheduler in {Scheduler.ROUND_ROBIN, Scheduler.RANDOM}
        self._devices = devices(service)
        self._listeners = [
            (layout.dispatch(Form.of(listener), device), layout.listener_key(listener))
            for device in self._devices
            for listener in service.listeners_of(family)
        ]
        self._protocols = service.protocols_of(family)

    def needs(self) -> Iterator[str]:
        """Yield what the service needs of `shared`."""
        yield from (layout.ingress_chain(device) for device in self._devices)
        yield from (name for name, _ in self._listeners)
        yield from (self._picks, self._paths)

    def items(self, dialect: str) -> Iterator[Item]:
        """Yield the items of the service, in the order in which the kernel can create them."""
        declarations, name = layout.declarations(self._word, dialect), self._service.name
        for networks, _ in self._networks():
            yield self._item("set", networks, text="\n".join(declarations[layout.NETWORKS]))
        for kind in self._kinds():
            yield self._item("map", layout.flows(kind, name), text="\n".join(declarations[kind]))
        yield self._item("chain", layout.chain(name))
        yield self._item("rules", layout.chain(name), text="\n".join(self._rules()))
        for page in (self._picks, self._paths):
            for slot, endpoint in enumerate(self._slots, self._offset):
                yield self._item("element", page, str(slot), text=self._slot(endpoint))
        for dispatch, key in self._listeners:
            yield self._item("element", dispatch, key, text=f": goto {layout.chain(name)}")
        for networks, members in self._networks():
            for network in members:
                key = str(network.network_address if network.num_addresses == 1 else network)
                yield self._item("element", networks, key)

    def _item(self, *key: str, text: str = "") -> Item:
        return Item((self._word, *key), text, self._service.name)

    def _networks(self) -> Iterator[tuple[str, Sequence[Network]]]:
        service, family = self._service, self._family
        if service.allow:
            yield layout.allowed(service.name), service.allowed(family)
        if denied := service.denied(family):
            yield layout.denied(service.name), denied

    def _kinds(self) -> Iterator[str]:
        """Yield the kinds of maps of connections that the service has."""
        for protocol in self._protocols if self._learns else ():
            yield f"flows-{protocol}"
            if protocol is Protocol.TCP:
                yield "closing-tcp"

    def _slot(self, endpoint: Endpoint) -> str:
        # The endpoint as `Endpoint.to` and not by its name: a MAC address does not say where it leads.
        comment = layout.quote(f"{self._service.name}/{endpoint.to}")
        return f"comment {comment} : {layout.cards(self._hops[endpoint.to])}"

    def _rules(self) -> Iterator[str]:
        service = self._service
        if service.denied(self._family):
            yield f"{self._only} {self._ip} saddr @{layout.denied(service.name)} return"
        if service.allow:
            yield f"{self._only} {self._ip} saddr != @{layout.allowed(service.name)} return"
        if not self._slots:
            return
        for protocol in self._protocols:
            if not self._learns:
                yield from self._stateless(protocol)
            elif protocol is Protocol.TCP:
                yield from self._learned_tcp()
            else:
                yield from self._learned_udp()
        if self._learns:
            hashed = f"jhash {self._ip} saddr {self._span(seeded=True)}"
            yield f"{self._only} counter {self._sent(f'{hashed} map @{self._paths}')}"

    def _stateless(self, protocol: Protocol) -> Iterator[str]:
        """Yield the rules that place each packet by itself.

        They ask nothing that the listener has asked, or that nft would ask again for a field by its name.
        """
        picked, sent = (
            self._sent(f"jhash {layout.SOURCES[self._family]} {self._span(seeded=True)} map @{page}")
            for page in (self._picks, self._paths)
        )
        only = f"meta l4proto {protocol} " if len(self._protocols) > 1 else ""
        if protocol is Protocol.TCP:
            yield f"{_SYN_ONLY if only else _SYN_ONLY_IN_TCP} {picked}"
            yield f"{only}{sent}"
        else:
            yield f"{only}{picked}"

    def _learned_tcp(self) -> Iterator[str]:
        open_, closing = (layout.flows(kind, self._service.name) for kind in ("flows-tcp", "closing-tcp"))
        known, ended = (f"{self._connection('tcp')} map @{name}" for name in (open_, closing))
        ends = (self._notes("add", closing, "tcp", CLOSING), self._notes("delete", open_, "tcp"))
        refreshed = self._notes("update", open_, "tcp", OPEN)
        # The kernel changes the timeout of an entry and not what it leads to: an earlier one has to go.
        opened = (self._notes("add", open_, "tcp", OPENING), self._notes("delete", closing, "tcp"))
        yield f"{self._only} {_ENDING} {self._sent(known, *ends)}"
        yield f"{self._only} {_NO_SYN} {self._sent(known, refreshed)}"
        yield f"{self._only} {_SYN} {self._sent(known)}"
        yield f"{self._only} {_SYN_ONLY} {self._sent(f'{self._picker()} map @{self._picks}', *opened)}"
        yield f"{self._only} {self._sent(ended, self._notes('update', closing, 'tcp', CLOSING))}"

    def _learned_udp(self) -> Iterator[str]:
        name = layout.flows("flows-udp", self._service.name)
        known = f"{self._connection('udp')} map @{name}"
        added = self._notes("add", name, "udp", DATAGRAMS)
        yield f"{self._only} {self._sent(known, self._notes('update', name, 'udp', DATAGRAMS))}"
        picked = f"{self._picker()} map @{self._picks}"
        yield f"{self._only} meta l4proto udp {self._sent(picked, added)}"

    def _sent(self, target: str, *notes: str) -> str:
        """Return the statements that send a packet on to the MAC addresses that a look-up gives."""
        return " ".join((f"{layout.CARDS} set {target}", *notes, f"fwd to {layout.quote(self._device)}"))

    @property
    def _device(self) -> str:
        """The interface that all endpoints are reached by."""
        return next(iter(self._hops.values())).device

    def _notes(self, operation: str, name: str, protocol: str, seconds: int = 0) -> str:
        """Return the statement that notes the connection of a packet, or forgets it."""
        timeout = f" timeout {seconds}s" if seconds else ""
        return f"{operation} @{name} {{ {self._connection(protocol)}{timeout} : {layout.CARDS} }}"

    def _connection(self, protocol: str) -> str:
        """Return what a connection is found by."""
        ports = f"{protocol} sport", f"{protocol} dport"
        if self._ip == "ip":
            return f"ip saddr . {ports[0]} . ip daddr . {ports[1]}"
        seed = self._service.hash_seed
        return f"jhash ip6 saddr . ip6 daddr mod {_MOST} seed {seed:#x} offset 0 . {ports[0]} . {ports[1]}"

    def _span(self, *, seeded: bool) -> str:
        seed = f"seed {self._service.hash_seed:#x} " if seeded else ""
        return f"mod {len(self._slots)} {seed}offset {self._offset}"

    def _picker(self) -> str:
        """Return what chooses the slot of a connection that is learned."""
        match self._service.scheduler:
            case Scheduler.ROUND_ROBIN | Scheduler.LEAST_CONNECTIONS:
                return f"numgen inc {self._span(seeded=False)}"
            case Scheduler.RANDOM:
                return f"numgen random {self._span(seeded=False)}"
            case Scheduler.SOURCE_HASH | Scheduler.MAGLEV:
                raise ValueError(f"{self._service.scheduler} learns no connections")
        assert_never(self._service.scheduler)
