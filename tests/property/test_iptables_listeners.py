"""Which connections iptables serves, refuses and leaves alone: an interpreter of rules against the intent."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import cast

from hypothesis import given, settings, strategies as st

from lbctl.model import (
    Address,
    Endpoint,
    Family,
    Intent,
    Listener,
    Network,
    Program,
    Protocol,
    Service,
    SourceNat,
    State,
)
from lbctl_iptables import backend as iptables, dialect, layout, spelling
from support.intents import overlap

CAPABILITIES = dialect.capabilities(())

OWN = [ip_address(text) for text in ("192.0.2.1", "192.0.2.2", "192.0.2.9", "2001:db8::1", "2001:db8::2")]
FOREIGN = [ip_address("198.51.100.1"), ip_address("2001:db8:9::1")]
CLIENTS = [
    ip_address(text)
    for text in ("203.0.113.1", "203.0.113.2", "203.0.113.77", "2001:db8:7::1", "2001:db8:7::9")
]
NETWORKS = [
    ip_network(text)
    for text in ("0.0.0.0/0", "203.0.113.0/30", "203.0.113.2/32", "192.0.2.1/32", "::/0", "2001:db8:7::/125")
]
#: More than a list of rules has, so that they are split.
MANY = tuple(ip_network(f"203.0.113.{n}/32") for n in range(1, 80, 2)) + tuple(
    ip_network(f"2001:db8:7::{n:x}") for n in range(1, 80, 4)
)
INTERFACES = ["eth0", "ppp*", "eth1"]


class Fate(Enum):
    """What becomes of a new connection."""

    SERVED = auto()
    REFUSED = auto()
    ALONE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A new connection; `interface` is empty for one that is made on this host."""

    protocol: Protocol
    source: Address
    to: Address
    port: int
    interface: str


def fate(intent: Intent, connection: Connection) -> tuple[Fate, str]:
    """Return what the intent says, and which service."""
    family = Family.of(connection.to)
    found = [
        (listener.is_range, listener.address is None, service.name)
        for service in intent.services
        for listener in service.listeners_of(family)
        if listener.protocol is connection.protocol
        and listener.matches(connection.port, connection.to)
        and (listener.address is not None or connection.to in OWN)
    ]
    if not found:
        return Fate.ALONE, ""
    _, anywhere, name = min(found)
    [service] = [service for service in intent.services if service.name == name]
    if not connection.interface:
        alone = not service.local_clients
    else:
        alone = bool(service.interfaces) and not any(
            connection.interface.startswith(name[:-1]) if name.endswith("*") else connection.interface == name
            for name in service.interfaces
        )
    if alone or (anywhere and inside(connection.to, service.exclude)):
        return Fate.ALONE, name
    if inside(connection.source, service.deny) or not service.slots(family):
        return Fate.REFUSED, name
    if service.allow and not inside(connection.source, service.allow):
        return Fate.REFUSED, name
    return Fate.SERVED, name


def inside(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)


class Rules:
    """The chains of a program in one family, and where they lead a connection."""

    def __init__(self, program: Program, family: Family) -> None:
        word = layout.WORD[family]
        self._owner = program.owner
        self._entry = layout.prefix(program.owner)
        self._chains = {item.key[2:4]: item.text for item in program.of_kind("chain") if item.key[0] == word}
        self.marked = False

    def fate(self, connection: Connection) -> tuple[Fate, str]:
        end = self._walk(layout.NAT, self._entry, connection)
        if end is not None:
            return Fate.SERVED, end
        # Later chains see it as it came.
        if not self.marked and self._walk(layout.FILTER, self._entry, connection) is not None:
            return Fate.REFUSED, ""
        return Fate.ALONE, ""

    def _walk(self, table: str, chain: str, connection: Connection) -> str | None:
        """Return the service whose rule ends the connection's path, or ""; None if it comes back."""
        for line in self._chains.get((table, chain), "").splitlines():
            tokens = spelling.split(line)
            if not all(self._holds(tokens, connection)):
                continue
            option, target = next((o, t) for o, t in pairwise(tokens) if o in {"-j", "-g"})
            match target:
                case "RETURN":
                    return None
                case "MARK":
                    self.marked = True
                case "DNAT" | "REDIRECT" | "REJECT":
                    return layout.service_of(self._owner, chain, line) or ""
                case _:
                    end = self._walk(table, target, connection)
                    if end is not None or option == "-g":
                        return end
        return None

    def _holds(self, tokens: list[str], connection: Connection) -> Iterator[bool]:
        before = ""
        for option, value in zip(tokens, [*tokens[1:], ""], strict=True):
            found = self._condition(option, value, connection)
            if found is not None:
                yield found is not (before == "!")
            before = option

    @staticmethod
    def _condition(option: str, value: str, connection: Connection) -> bool | None:
        match option:
            case "-p":
                return value == connection.protocol
            case "-s":
                return connection.source in ip_network(value)
            case "-d":
                return connection.to in ip_network(value)
            case "-i":
                name = value.removesuffix("+")
                same = connection.interface.startswith(name) if "+" in value else connection.interface == name
                return bool(connection.interface) and same
            case "--dport":
                first, _, last = value.partition(":")
                return int(first) <= connection.port <= int(last or first)
            case "--src-type":
                return not connection.interface
            case "--dst-type":
                return connection.to in OWN
        return None


@st.composite
def service(draw: st.DrawFn, name: str) -> Service:
    port = draw(st.integers(1, 40))
    listeners = [
        Listener(
            protocol=draw(st.sampled_from([Protocol.UDP, Protocol.UDP, Protocol.TCP])),
            port=port,
            last_port=draw(st.just(0) | st.integers(port, 41)),
            address=draw(st.none() | st.sampled_from(OWN[:2] + OWN[3:])),
        )
    ]
    listeners += [replace(listeners[0], port=41, last_port=0)] if draw(st.booleans()) else []
    plain = draw(st.booleans())
    lists = st.lists(st.sampled_from(NETWORKS), max_size=2, unique=True).map(tuple) | st.just(MANY)
    few = st.just(()) if plain else st.just(()) | lists
    exclude = cast("tuple[Network, ...]", draw(few))
    if any(x.address and inside(x.address, exclude) for x in listeners):
        exclude = ()
    state = draw(st.sampled_from([State.ACTIVE, State.ACTIVE, State.DRAIN]))
    places = (ip_address("10.0.0.1"), ip_address("2001:db8:2::1"))
    return Service(
        name=name,
        listeners=tuple(listeners),
        endpoints=tuple(Endpoint(address=address, state=state) for address in places),
        source_nat=draw(st.sampled_from(SourceNat)),
        local_clients=plain or draw(st.booleans()),
        allow=draw(few),
        deny=draw(few),
        exclude=exclude,
        interfaces=()
        if plain
        else tuple(draw(st.lists(st.sampled_from(INTERFACES), max_size=2, unique=True))),
    )


@st.composite
def intents(draw: st.DrawFn) -> Intent:
    kept: list[Service] = []
    for number in range(draw(st.sampled_from([2, 4, 16]))):
        drawn = draw(service(f"s{number}"))
        if not any(overlap(drawn, other) for other in kept):
            kept.append(drawn)
    return Intent(services=tuple(kept))


@st.composite
def connections(draw: st.DrawFn) -> Connection:
    family = draw(st.sampled_from(Family))
    interface = draw(st.sampled_from(["", "eth0", "eth1", "eth10", "ppp7"]))
    sources = CLIENTS if interface else OWN
    return Connection(
        protocol=draw(st.sampled_from([Protocol.UDP, Protocol.UDP, Protocol.TCP])),
        source=draw(st.sampled_from([a for a in sources if Family.of(a) is family])),
        to=draw(st.sampled_from([a for a in OWN + FOREIGN if Family.of(a) is family])),
        port=draw(st.integers(1, 42)),
        interface=interface,
    )


@settings(deadline=None, max_examples=300)
@given(intent=intents(), asked=st.lists(connections(), min_size=20, max_size=40))
def test_every_connection_gets_what_the_listener_that_decides_says(
    intent: Intent, asked: list[Connection]
) -> None:
    program = iptables.compile(intent, CAPABILITIES)
    for connection in asked:
        found, name = Rules(program, Family.of(connection.to)).fate(connection)
        wanted, who = fate(intent, connection)
        assert found is wanted, connection
        assert name in {"", who}
