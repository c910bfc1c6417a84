"""How services lie in nftables: names, places and spellings that all rooms of this backend share.

One table per family and owner, `table ip lbctl` and `table ip6 lbctl`. A new connection takes one look-up
in a dispatch map, whose verdict leads to its service's chain; there one rule picks a slot number and looks
the endpoint up in a *slot page*, a map that some services share, each with its own range of keys:

    map services     address . protocol . port : goto service-…    listeners with an address
    map ports        protocol . port : goto service-…              listeners on any local address
    map service-ranges, port-ranges                                the same for ranges of ports, asked last
    map ports-3f     slot : port                                   endpoints on this host
    map addresses-tcp-a2 slot : address . port                     endpoints elsewhere, per protocol
    map hosts-a2     slot : address                                endpoints without a port
    chain service-…  redirect/dnat to numgen inc mod M offset K map @page

What a service does not serve, all clients where no endpoint is left, those that `allow` leaves out and those
of `deny`, passes that untranslated and is refused in filter chains, by more maps with the listeners' keys:

    map refused, refused-ports   … : goto refuse      nobody is left
                                 … : goto allowed-…   only clients in set allow-… pass, none in deny-…

Ranges have maps of their own, since a kernel refuses a port that lies inside a range of the same map: these
are maps of intervals, in which a range is one element. A table has only the maps in which some listener has
an element, and rules for these: to look into an empty map takes each new connection some 40 ns. A listener
with a single port inside a range is found first; where its service has nothing
to do with a map in which the range is found, to replace sources, to refuse or to learn, it has an element
`… : return` there (`lbctl.model.hidden`).

A service that forwards by direct server return lies in tables of the family `netdev`, `lbctl.ip` and
`lbctl.ip6`; see `lbctl_nftables.direct`.

A service with `affinity` looks its client up first; see `lbctl_nftables.affinity`. Services with `takeover`
share a filter chain that drops stray packets of endpoints; see `lbctl_nftables.guard`. For `offload` see
`lbctl_nftables.offload`.

Pages keep the number of sets and of bindings per set small; both are walked by the kernel while rules are
loaded (10,000 services of 10: 1.1 s, one map per service: 7.6 s, an anonymous map per rule: 16.4 s).

A service's page and offset come from its name alone, but for names that fall on one place, where the later in
the alphabet moves on (six of 10,000). So a program depends on its intent and on nothing else, and a service
that comes or goes moves no other. Slot keys are 31 bits wide, since nft 1.0.6 reports an offset as a signed
number: the upper 15 choose the service's range, the lower 16 the slot.
"""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from lbctl.model import DEFAULT_OWNER, Family, Listener, Protocol, SourceNat, split

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lbctl.model import Hop, Service

NAME = "nftables"
#: What `render --for TOOL=VERSION` may name.
TOOLS = ("nft",)


class Dialect(StrEnum):
    """A way to write rules; see `lbctl_nftables.dialect`. In the order of preference."""

    MODERN = "modern"
    MARK = "mark"
    CLASSIC = "classic"


#: Dialect → how the maps of slot pages declare their keys, 32-bit numbers in host order.
_PAGE_KEYS: Mapping[str, str] = {Dialect.MODERN: "numgen inc mod 2", Dialect.MARK: "meta mark"}

#: Family → the word for it, in tables and in nat statements.
WORD: Mapping[Family, str] = {Family.IPV4: "ip", Family.IPV6: "ip6"}
#: Family → the word for its packets as they arrive at network interfaces: `netdev` has tables of both.
INGRESS: Mapping[Family, str] = {family: f"netdev.{word}" for family, word in WORD.items()}
#: Every word for tables, as keys of items have it; see `location`.
WORDS = (*WORD.values(), *INGRESS.values())
FAMILY: Mapping[str, Family] = {words[family]: family for words in (WORD, INGRESS) for family in Family}

#: Ahead of the priority of both iptables flavours (-100 and 100), whatever was registered first.
DESTINATION_PRIORITY = -101
#: Ahead of the host's own filter: a refusal is an answer, where a filter may be silent.
FILTER_PRIORITY = -1
SOURCE_PRIORITY = 99
#: Behind the host's own filters at ingress, which stand at 0 or before: what they drop is not forwarded. A
#: packet passes the tables of both families, which costs it 30 ns, unless the first sends it on.
INGRESS_PRIORITY: Mapping[Family, int] = {Family.IPV4: 50, Family.IPV6: 51}
#: Behind the host's own filters too: what they drop is not offloaded.
OFFLOAD_PRIORITY = 50
#: Just before, while the client still has its own address.
LEARNING_PRIORITY = SOURCE_PRIORITY - 1
#: Clients of one service and family that are remembered; whoever is beyond is placed as without affinity.
AFFINITY_SIZE = 65536
#: Connections of one service, family and protocol that are known at ingress; those beyond go by a hash.
MAX_FLOWS = 1 << 18


class EndpointKind(StrEnum):
    """What all endpoints of a service are, as the word in front of the names of sets that hold them.

    It stands in front: behind, one service could take the name of another's.
    """

    PORT = "local-"
    ADDRESS_PORT = ""
    ADDRESS = "host-"

    @classmethod
    def of(cls, service: Service) -> EndpointKind:
        """Return what the endpoints of a service are."""
        if not service.remote:
            return cls.PORT
        return cls.ADDRESS if service.keeps_port else cls.ADDRESS_PORT

    @classmethod
    def of_place(cls, to: str) -> EndpointKind:
        """Return what an `Endpoint.to` is."""
        address, port = split(to)
        if not address:
            return cls.PORT
        return cls.ADDRESS_PORT if port else cls.ADDRESS


class Form(StrEnum):
    """How a listener matches, which is the kind of its maps. In the order in which maps are asked."""

    ADDRESS = "services"
    ANYWHERE = "ports"
    ADDRESS_RANGE = "service-ranges"
    ANYWHERE_RANGE = "port-ranges"

    @classmethod
    def of(cls, listener: Listener) -> Form:
        """Return the form of a listener."""
        if listener.address is None:
            return cls.ANYWHERE_RANGE if listener.is_range else cls.ANYWHERE
        return cls.ADDRESS_RANGE if listener.is_range else cls.ADDRESS

    @property
    def has_address(self) -> bool:
        """True if keys begin with an address."""
        return self in {Form.ADDRESS, Form.ADDRESS_RANGE}


#: Chain at the forward hook, and the sets of places that it drops stray packets of: with one port, and with
#: ranges of ports, a set of intervals that a table has only where it is needed.
GUARD = "guard"
GUARDED = "guarded"
GUARDED_RANGES = "guarded-ranges"
#: What `lbctl_nftables.offload` has; the sets are of the kinds `GUARDED` and `GUARDED_RANGES`.
FLOWTABLE = "flows"
OFFLOADING, OFFLOAD = "offloading", "offload-flows"
OFFLOADED_ENDPOINTS = ("offloaded-endpoints", "offloaded-endpoint-ranges")


class Purpose(StrEnum):
    """What is looked up by listeners."""

    LEAD = "lead"
    SOURCE = "source"
    REFUSE = "refuse"
    LEARN = "learn"
    OFFLOAD = "offload"
    #: As `LEAD`, in the tables at ingress, by maps of each interface; see `dispatch`.
    INGRESS = "ingress"


#: The maps of verdicts whose keys are listeners. Those of `LEAD` lead new connections to services' chains.
LISTENERS: Mapping[Purpose, Mapping[Form, str]] = {
    Purpose.LEAD: {form: form.value for form in Form},
    Purpose.SOURCE: dict(
        zip(Form, ("sources", "source-ports", "source-ranges", "source-port-ranges"), strict=True)
    ),
    Purpose.REFUSE: dict(
        zip(Form, ("refused", "refused-ports", "refused-ranges", "refused-port-ranges"), strict=True)
    ),
    Purpose.LEARN: dict(
        zip(Form, ("learned", "learned-ports", "learned-ranges", "learned-port-ranges"), strict=True)
    ),
    Purpose.OFFLOAD: dict(
        zip(Form, ("offloaded", "offloaded-ports", "offloaded-ranges", "offloaded-port-ranges"), strict=True)
    ),
}
#: Sets of pairs of links that packets fill: of each with itself, and of those that differ.
LINKS = "links"
CROSSED = "crossed-links"
PAIRS = frozenset({LINKS, CROSSED})
#: A kind of set: addresses that one service allows, denies or excludes.
NETWORKS = "networks"
HAIRPIN = "source-hairpin"
MASQUERADE = "source-always"
#: Where a connection's source may be replaced, for the services that want it.
SOURCE_CHAIN = {SourceNat.HAIRPIN: HAIRPIN, SourceNat.ALWAYS: MASQUERADE, SourceNat.NEVER: None}
LEARNED = "learned"
LEARNING_INPUT = "learning-input"
LEARNING_POSTROUTING = "learning-postrouting"
#: Chain → the hook that calls it, for learning who went where. A connection passes one of them.
LEARNING = {LEARNING_POSTROUTING: "postrouting", LEARNING_INPUT: "input"}
REFUSE = "refuse"
#: Chain → the hook that calls it, for refusing.
REFUSING = {"refuse-input": "input", "refuse-forward": "forward", "refuse-output": "output"}
PREROUTING = "prerouting"
OUTPUT = "output"
POSTROUTING = "postrouting"

#: What a table of `ip` or `ip6` needs to have a service balanced by translation.
TRANSLATED = "translated"
#: Slot pages at ingress: where new connections go, which are counted, and where other packets go.
PICKS, PATHS = "picks", "paths"
#: Both MAC addresses of a frame: where it goes, and where it comes from.
CARDS = "@ll,0,96"
#: The client's address, and the flags of TCP, by their places in a packet. By its name, nft has a rule of
#: family `netdev` ask for the protocol that a field is of.
SOURCES: Mapping[Family, str] = {Family.IPV4: "@nh,96,32", Family.IPV6: "@nh,64,128"}
TCP_FLAGS = "@th,104,8"

_GOTO = ": goto "
_CHAIN_PREFIX = "service-"
_ALLOWED_PREFIX = "allowed-"
_ENDPOINT_PREFIX = "endpoint-"
_ALLOW_PREFIX = "allow-"
_DENY_PREFIX = "deny-"
_EXCLUDE_PREFIX = "exclude-"
_LEARN_PREFIX = "learn-"
_AFFINITY_PREFIX = "affinity-"
_ENDPOINTS_PREFIX = "endpoints-"
_INGRESS_PREFIX = "ingress-"
_LISTENER_MAPS: Mapping[str, tuple[str, ...]] = {
    name: tuple(maps.values()) for maps in LISTENERS.values() for name in maps.values()
}
#: The maps of listeners of an interface, at its ingress: the beginning of a name → form.
_INGRESS_FORMS: Mapping[str, Form] = {f"{form}-": form for form in (Form.ADDRESS, Form.ADDRESS_RANGE)}
_PAGES = 256
_PAGE = re.compile(r"(?:ports|hosts|addresses-[a-z]+|picks|paths)-[0-9a-f]{2}\Z")
#: nft refuses a longer comment.
_LONGEST = 128
_RANGE = 1 << 16
_RANGES = 1 << 15
_AFFINITIES = tuple(f"{kind}{_AFFINITY_PREFIX}" for kind in EndpointKind)
_ENDPOINTS = tuple(f"{kind}{_ENDPOINTS_PREFIX}" for kind in EndpointKind)
#: Kinds of maps of connections at ingress.
FLOWS = ("flows-tcp", "closing-tcp", "flows-udp")
_CLIENTS = (f"size {AFFINITY_SIZE}", "flags dynamic,timeout")
_LINK_PAIRS = ("size 1024", "flags dynamic")


def place(to: str) -> str:
    """Return an `Endpoint.to` as maps and sets have it: `address . port`, or the one of them that it has."""
    return " . ".join(filter(None, split(to)))


def table(owner: str) -> str:
    """Return the name of an owner's tables. Never a bare owner: that might be some other tool's table."""
    return owner if owner == DEFAULT_OWNER else f"{DEFAULT_OWNER}-{owner}"


def location(owner: str, word: str) -> tuple[str, str]:
    """Return the family and the name, as nft has them, of the table that keys of items call `word`."""
    family, dot, rest = word.partition(".")
    return family, f"{table(owner)}{dot}{rest}"


def word_of(family: str, name: str) -> str:
    """Return the word for a table of an owner; the reverse of `location`."""
    return f"{family}{name[name.rindex('.') :]}" if family == "netdev" else family


def owner_of(family: str, name: str) -> str | None:
    """Return the owner of a table; None for a foreign table."""
    if family == "netdev":
        name, _, word = name.rpartition(".")
        family = word
    first, dash, owner = name.partition("-")
    if family not in WORD.values() or first != DEFAULT_OWNER or (dash and not owner):
        return None
    return owner or DEFAULT_OWNER


def chain(service: str) -> str:
    """Return the name of a service's chain. The prefix keeps words of the rule language out of names."""
    return _CHAIN_PREFIX + service


def service_of_chain(name: str) -> str | None:
    """Return the service whose chain this is; None for a chain that all services share."""
    for prefix in (_CHAIN_PREFIX, _ALLOWED_PREFIX, _LEARN_PREFIX):
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    if name.startswith(_ENDPOINT_PREFIX):
        return name.removeprefix(_ENDPOINT_PREFIX).partition("/")[0]
    return None


def endpoint_chain(service: str, to: str) -> str:
    """The name of the chain that leads to an endpoint, in the classic dialect: `endpoint-web/10.0.0.1_80`.

    Colons and brackets would need quotes, which nft takes for no chain. Neither a name nor an `Endpoint.to`
    has an underscore or a slash, so no two names become one.
    """
    place = to.translate({ord("["): None, ord("]"): None, ord(":"): "_"})
    return f"{_ENDPOINT_PREFIX}{service}/{place}"


def is_endpoint_chain(name: str) -> bool:
    """Return True for the name of a chain that leads to an endpoint."""
    return name.startswith(_ENDPOINT_PREFIX)


def verdict(text: str) -> str | None:
    """Return the chain that an element of a verdict map leads to; None for other elements."""
    return text.removeprefix(_GOTO) if text.startswith(_GOTO) else None


def allowed_chain(service: str) -> str:
    """Return the name of the chain that refuses all but a service's allowed clients."""
    return _ALLOWED_PREFIX + service


def allowed(service: str) -> str:
    """Return the name of the set of a service's allowed clients."""
    return _ALLOW_PREFIX + service


def denied(service: str) -> str:
    """Return the name of the set of a service's denied clients."""
    return _DENY_PREFIX + service


def excluded(service: str) -> str:
    """Return the name of the set of the addresses that a service leaves alone."""
    return _EXCLUDE_PREFIX + service


def ingress_chain(device: str) -> str:
    """Return the name of the chain through which packets pass that arrive at an interface."""
    return _INGRESS_PREFIX + device


def device_of(chain: str) -> str:
    """Return the interface whose chain this is."""
    return chain.removeprefix(_INGRESS_PREFIX)


def is_ingress(name: str) -> bool:
    """Return True for the name of a chain at the ingress of an interface."""
    return name.startswith(_INGRESS_PREFIX)


def dispatch(form: Form, device: str) -> str:
    """Return the name of the map that leads what arrives at an interface to services: `services-eth0`."""
    return f"{form}-{device}"


@lru_cache(maxsize=1 << 10)
def listener_maps(name: str) -> tuple[str, ...]:
    """Return the names of the maps that are asked for one purpose, by that of one of them; () for no such."""
    device = next((name.removeprefix(prefix) for prefix in _INGRESS_FORMS if name.startswith(prefix)), None)
    if device is None:
        return _LISTENER_MAPS.get(name, ())
    return tuple(dispatch(form, device) for form in _INGRESS_FORMS.values())


@lru_cache(maxsize=1 << 10)
def is_dispatch(name: str) -> bool:
    """Return True for the name of a map that leads packets to services' chains."""
    return name in LISTENERS[Purpose.LEAD].values() or name.startswith(tuple(_INGRESS_FORMS))


def flows(kind: str, service: str) -> str:
    """Return the name of a map of a service's connections, of a kind in `declarations`."""
    return f"{kind}-{service}"


def cards(hop: Hop) -> str:
    """Return the MAC addresses of frames for a next hop, as maps have them."""
    return f"0x{hop.mac}{hop.source}".replace(":", "")


def is_page(name: str) -> bool:
    """Return True for the name of a slot page."""
    return _PAGE.match(name) is not None


def number_of_page(name: str) -> int:
    """Return the number of the page of this name, as `home` has it."""
    return int(name.rpartition("-")[2], 16)


def kind_of_page(name: str) -> str:
    """Return the kind of declaration that a page of this name has."""
    return f"page-{name.rpartition('-')[0]}"


def is_of_packets(name: str, pair: str) -> bool:
    """Return True for a pair of links that packets may have added to a set of `PAIRS`."""
    one, other = pair.split(" . ")
    return one == other if name == LINKS else "0" != one != other


def service_of_set(name: str) -> str | None:
    """Return the service that a set or map is for; None for one that services share."""
    for prefix in (_ALLOW_PREFIX, _DENY_PREFIX, _EXCLUDE_PREFIX):
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    kind = kind_of_set(name)
    return name.removeprefix(f"{kind}-") if kind else None


def learning_chain(service: str) -> str:
    """Return the name of the chain that notes a service's clients."""
    return _LEARN_PREFIX + service


def affinity(service: str, kind: EndpointKind) -> str:
    """Return the name of the map of a service's clients.

    The kind is a part: another could not take its place.
    """
    return f"{kind}{_AFFINITY_PREFIX}{service}"


def endpoints(service: str, kind: EndpointKind) -> str:
    """Return the name of the set of the endpoints that clients may keep."""
    return f"{kind}{_ENDPOINTS_PREFIX}{service}"


def is_affinity(name: str) -> bool:
    """Return True for the name of a map of clients."""
    return name.startswith(_AFFINITIES)


def is_endpoints(name: str) -> bool:
    """Return True for the name of a set of endpoints that clients may keep."""
    return name.startswith(_ENDPOINTS)


def endpoints_of_affinity(name: str) -> str:
    """Return the set of endpoints that belongs to a map of clients."""
    return name.replace(_AFFINITY_PREFIX, _ENDPOINTS_PREFIX, 1)


def affinity_of_endpoints(name: str) -> str:
    """Return the map of clients that belongs to a set of endpoints."""
    return name.replace(_ENDPOINTS_PREFIX, _AFFINITY_PREFIX, 1)


def kind_of_set(name: str) -> str | None:
    """The kind of declaration that the map of clients or set of endpoints of this name has; else None."""
    prefixes = (*_AFFINITIES, *_ENDPOINTS, *(f"{kind}-" for kind in FLOWS))
    found = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
    return found.rstrip("-") if found else None


def other_interfaces(names: Sequence[str]) -> str:
    """Return the rule by which a chain leaves alone what arrives on other interfaces than these.

    Not by a set, since a name that ends in `*` needs nft 1.0.2 there. Packets of local clients have no
    interface at the output hook, which kernels compare differently: the rule is not for these.
    """
    compared = " ".join(f"iifname != {quote(name)}" for name in names)
    return f"fib saddr type != local {compared} return"


def listener_key(listener: Listener) -> str:
    """Return a listener as the dispatch maps have it."""
    key = f"{listener.protocol} . {listener.ports}"
    return key if listener.address is None else f"{listener.address} . {key}"


def listener(key: str) -> Listener | None:
    """Return the listener that a key of the dispatch maps stands for, None for what is no such key."""
    try:
        *address, protocol, ports = key.split(" . ")
        port, dash, last = ports.partition("-")
        return Listener(
            protocol=Protocol(protocol),
            port=int(port),
            address=ip_address(address[0]) if address else None,
            last_port=int(last) if dash else 0,
        )
    except ValueError:
        return None


def base_chain(kind: str, hook: str, priority: int) -> str:
    """Return the declaration of a chain that the kernel calls at a hook."""
    return f"type {kind} hook {hook} priority {priority}; policy accept;"


def ingress_hook(device: str, priority: int) -> str:
    """Return the declaration of a chain that the kernel calls for what arrives at an interface."""
    return f"type filter hook ingress device {quote(device)} priority {priority}; policy accept;"


def flowtable(devices: Sequence[str], priority: int = 0, more: str = "") -> str:
    """Return the declaration of a flowtable at the ingress of interfaces."""
    names = ", ".join(map(quote, sorted(devices)))
    return "\n".join(filter(None, (f"hook ingress priority {priority};", f"devices = {{ {names} }};", more)))


@lru_cache(maxsize=1 << 15)
def home(service: str) -> tuple[int, int]:
    """Return the page number and the range number (both below their moduli) where a service's slots begin."""
    digest = hashlib.sha256(f"lbctl slots {service}".encode()).digest()
    return digest[0] % _PAGES, int.from_bytes(digest[1:3], "big") % _RANGES


def page(kind: str, number: int) -> str:
    """Return the name of a page: `ports-3f`, `addresses-tcp-a2`."""
    return f"{kind}-{number:02x}"


def offset(range_number: int) -> int:
    """Return the first slot key of a range."""
    return range_number * _RANGE


def next_range(range_number: int) -> int:
    """Return the range to try where one is taken by another service of the same page."""
    return (range_number + 1) % _RANGES


@lru_cache(maxsize=16)
def declarations(word: str, dialect: str) -> Mapping[str, tuple[str, ...]]:
    """Kind of set or map → the statements that declare it in family `word` in a dialect.

    Newer nft notes an expression for each `type` too, in a form that makes nft 1.0.6 crash when it reads the
    table; with the notes that `typeof` leaves, every version gets on. `typeof` is of nft 0.9.4.
    """
    if word in INGRESS.values():
        return _at_ingress(WORD[FAMILY[word]], dialect)
    if dialect == Dialect.CLASSIC:
        address = "ipv4_addr" if word == "ip" else "ipv6_addr"
        return {
            Form.ADDRESS: (f"type {address} . inet_proto . inet_service : verdict",),
            Form.ANYWHERE: ("type inet_proto . inet_service : verdict",),
            NETWORKS: (f"type {address}", "flags interval"),
            **dict.fromkeys(PAIRS, ("type iface_index . iface_index", *_LINK_PAIRS)),
            GUARDED: (f"type {address} . inet_proto . inet_service",),
            GUARDED_RANGES: (f"type {address} . inet_proto . inet_service", "flags interval"),
        }
    key = _PAGE_KEYS[dialect]
    listeners = {
        Form.ADDRESS: f"typeof {word} daddr . meta l4proto . th dport : verdict",
        Form.ANYWHERE: "typeof meta l4proto . th dport : verdict",
    }
    return {
        **{form: (text,) for form, text in listeners.items()},
        Form.ADDRESS_RANGE: (listeners[Form.ADDRESS], "flags interval"),
        Form.ANYWHERE_RANGE: (listeners[Form.ANYWHERE], "flags interval"),
        "page-ports": (f"typeof {key} : th dport", "counter"),
        # A concatenation must name the protocol of the rules that use it: nft 1.0.6 takes `th` in a script
        # that makes the map, but not once the map is in the kernel.
        **{
            f"page-addresses-{protocol}": (f"typeof {key} : {word} daddr . {protocol} dport", "counter")
            for protocol in Protocol
        },
        "page-hosts": (f"typeof {key} : {word} daddr", "counter"),
        NETWORKS: (f"typeof {word} saddr", "flags interval"),
        **dict.fromkeys(PAIRS, ("typeof iif . oif", *_LINK_PAIRS)),
        GUARDED: (f"typeof {word} saddr . meta l4proto . th sport",),
        GUARDED_RANGES: (f"typeof {word} saddr . meta l4proto . th sport", "flags interval"),
        "affinity": (_kept(word), *_CLIENTS),
        "local-affinity": (f"typeof {word} saddr : th dport", *_CLIENTS),
        "endpoints": (f"typeof {word} daddr . th dport", "counter"),
        "local-endpoints": ("typeof th dport", "counter"),
        "host-affinity": (f"typeof {word} saddr : {word} daddr", *_CLIENTS),
        "host-endpoints": (f"typeof {word} daddr", "counter"),
    }


def _at_ingress(word: str, dialect: str) -> Mapping[str, tuple[str, ...]]:
    """Return `declarations` of the tables at ingress; the classic dialect has none."""
    if dialect == Dialect.CLASSIC:
        return {}
    key = _PAGE_KEYS[dialect]
    lists = declarations(word, dialect)
    connections = (f"size {MAX_FLOWS}", "flags dynamic,timeout")
    return {
        **{kind: lists[kind] for kind in (Form.ADDRESS, Form.ADDRESS_RANGE, NETWORKS)},
        f"page-{PICKS}": (f"typeof {key} : {CARDS}", "counter"),
        f"page-{PATHS}": (f"typeof {key} : {CARDS}",),
        **{
            kind: (f"typeof {_connection(word, kind.rpartition('-')[2])} : {CARDS}", *connections)
            for kind in FLOWS
        },
    }


def _connection(word: str, protocol: str) -> str:
    """Return what a connection is found by. With IPv6 the addresses are hashed (see `direct`)."""
    if word == "ip":
        return f"ip saddr . {protocol} sport . ip daddr . {protocol} dport"
    return f"numgen inc mod 2 . {protocol} sport . {protocol} dport"


def is_respelled(word: str, one: str, other: str) -> bool:
    """Return True for two declarations that are one to the kernel: by `type` and by `typeof`."""
    spelled = {one, other}
    classic, modern = (declarations(word, dialect) for dialect in (Dialect.CLASSIC, Dialect.MODERN))
    return any(spelled == {"\n".join(classic[kind]), "\n".join(modern[kind])} for kind in classic)


def quote(text: str) -> str:
    """Return a string of the rule language. The one place where a name or comment becomes rule text.

    It has printable ASCII, but for what ends or escapes a string.
    """
    if len(text) > _LONGEST or not (text.isascii() and text.isprintable()) or '"' in text or "\\" in text:
        raise ValueError(f"{text!r} cannot be quoted")
    return f'"{text}"'


def kept(word: str, place: str) -> str:
    """Return what a client's entry holds of an endpoint that is written as `address . port` or `port`."""
    return place.partition(" . ")[0] if word == "ip6" else place


def _kept(word: str) -> str:
    # An update writes 16 bytes of data at most: with an IPv6 address and a port, nft 1.0.6 aborts. And no
    # `typeof` fits rules of several protocols: it then refuses a delta ("conflicting protocols specified").
    return "typeof ip6 saddr : ip6 daddr" if word == "ip6" else "type ipv4_addr : ipv4_addr . inet_service"
