"""What a user asks for, as frozen values.

These classes hold meaning only: `lbctl.config` reads files into them and reports every mistake with its
line; here a value that could not be rendered safely is refused with `ValueError`, whoever builds it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import field, replace
from fractions import Fraction
from ipaddress import collapse_addresses
from typing import TYPE_CHECKING, assert_never

from lbctl.lazy import imported_on_call
from lbctl.model.addresses import Family, Network
from lbctl.model.announce import NO_ANNOUNCEMENTS, Announcements
from lbctl.model.check import DEFAULT_POLICY, AllDown, Check, HealthPolicy
from lbctl.model.dealing import apportioned, laid_out, slots_for
from lbctl.model.endpoints import NAME, Endpoint, Listener, parse_endpoint
from lbctl.model.forward import Forward, Hop
from lbctl.model.kinds import Protocol, Scheduler, SourceNat, State
from lbctl.model.maglev import maglev
from lbctl.model.rotation import NONE, WHOLE, bypassed, padded, turns
from lbctl.model.schedule import schedule, shares, weight_shares
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl.model.access import ConsulAccess, DockerAccess, EtcdAccess, KubernetesAccess
    from lbctl.model.discovery import Discovery
    from lbctl.model.follow import Follow
    from lbctl.model.obstacles import DsrObstacle, Obstacle

# Few services ask for what has obstacles.
with imported_on_call(globals()):
    from lbctl.model.obstacles import dsr_obstacles, takeover_obstacles

DEFAULT_OWNER = "lbctl"
DEFAULT_MARK = 0x3000
#: Slots of one service. Bounds the ladder of a service on the slowest backend and the memory of all.
MAX_SLOTS = 4096

#: The name of a network interface, of at most 15 characters as in the kernel (IFNAMSIZ), or with a `*` at the
#: end the beginning of some. The kernel takes nearly any character; these mean nothing to a rule language.
INTERFACE = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.@-]{0,14}|[A-Za-z0-9_.@-]{0,13}\*)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """An endpoint (`Endpoint.to`) gets only a part of its weight in a family: 0 where a check took it out."""

    family: Family
    to: str
    part: Fraction = NONE

    def __post_init__(self) -> None:
        if not NONE <= self.part < WHOLE:
            raise ValueError(f"a limit of {self.part} is not below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """How many slots an endpoint (`Endpoint.to`) was dealt in a family, of as many as `slots_for` says."""

    family: Family
    to: str
    slots: int

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"{self.slots} slots were dealt to {self.to}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One balanced service: some listeners, some endpoints, and how to choose among them."""

    name: str
    listeners: tuple[Listener, ...]
    endpoints: tuple[Endpoint, ...]
    scheduler: Scheduler = Scheduler.ROUND_ROBIN
    local_clients: bool = True
    seed: int | None = None
    affinity: int | None = None
    source_nat: SourceNat = SourceNat.HAIRPIN
    #: The clients that are served; () for all. Others are refused.
    allow: tuple[Network, ...] = ()
    #: Clients that are refused, whatever `allow` says.
    deny: tuple[Network, ...] = ()
    #: Where connections arrive that are balanced, `ppp*` for all names that begin so; () for everywhere.
    #: Those made on this host arrive nowhere: `local_clients` decides about them.
    interfaces: tuple[str, ...] = ()
    #: Addresses of this host that the listeners without an address leave alone.
    exclude: tuple[Network, ...] = ()
    #: Whether established connections may arrive that another host with the same table balanced before.
    takeover: bool = False
    forward: Forward = Forward.NAT
    check: Check | None = None
    health: HealthPolicy = DEFAULT_POLICY
    #: Where more endpoints come from; a service that has a source may have none of its own.
    discover: Discovery | None = None
    #: What the agent knows of the endpoints; never written in a file.
    limits: frozenset[Limit] = frozenset()
    #: The slots that endpoints were dealt by their established connections; never in a file.
    deals: frozenset[Deal] = frozenset()
    #: The next hops to the endpoints, as far as they are known and `forward` needs them; never in a file.
    hops: frozenset[Hop] = frozenset()

    def __post_init__(self) -> None:
        if not NAME.match(self.name):
            raise ValueError(f"service name {self.name!r} is not a name")
        if self.seed is not None and not 0 <= self.seed <= 0xFFFFFFFF:
            raise ValueError(f"seed {self.seed} is not a 32-bit number")
        for interface in self.interfaces:
            check_interface(interface)
        if self.exclude and (excluded := self.excluded_listener) is not None:
            raise ValueError(f"listener {excluded} is at an address that `exclude` leaves alone")
        if self.takeover and (obstacle := next(self._obstacles(), None)) is not None:
            raise ValueError(f"takeover: {obstacle.name.lower().replace('_', ' ')}")
        if self.forward is Forward.DSR and (bar := next(self._bars(), None)) is not None:
            raise ValueError(f"forward dsr: {bar.name.lower().replace('_', ' ')}")

    def _obstacles(self) -> Iterator[Obstacle]:
        return takeover_obstacles(self.scheduler, self.source_nat, self.listeners, self.endpoints)

    def _bars(self) -> Iterator[DsrObstacle]:
        return dsr_obstacles(
            self.listeners,
            self.endpoints,
            local_clients=self.local_clients,
            translates_source=self.source_nat is SourceNat.ALWAYS,
            affinity=self.affinity is not None,
            scheduler=self.scheduler,
            interfaces=self.interfaces,
        )

    def __hash__(self) -> int:
        # Names are unique in an intent. What is compiled for a service is kept by service: hashing each of
        # its endpoints would cost more than looking it up saves.
        return hash(self.name)

    @property
    def hash_seed(self) -> int:
        """The seed of this service's hash: the one of the file, else one derived from the name."""
        return default_seed(self.name) if self.seed is None else self.seed

    @property
    def remote(self) -> bool:
        """True where connections leave for another address: the endpoints of a service are of one kind."""
        return any(endpoint.address is not None for endpoint in self.endpoints)

    @property
    def keeps_port(self) -> bool:
        """True where connections keep their destination port: no endpoint of a service has one, or each."""
        return any(endpoint.port is None for endpoint in self.endpoints)

    @property
    def moves_connections(self) -> bool:
        """True where an established connection goes wherever the table of the hash then leads it."""
        return self.forward is Forward.DSR and self.scheduler in {Scheduler.SOURCE_HASH, Scheduler.MAGLEV}

    @property
    def excluded_listener(self) -> Listener | None:
        """The first listener at an address of `exclude`, which contradicts itself; None for none."""
        return next(
            (x for x in self.listeners if x.address and any(x.address in net for net in self.exclude)), None
        )

    @property
    def families(self) -> tuple[Family, ...]:
        """The families in which this service is balanced.

        A listener with an address has that address's family; one without takes each family that an
        endpoint can serve.
        """
        return tuple(f for f in Family if self.listeners_of(f))

    def endpoint(self, name: str) -> Endpoint | None:
        """Return the endpoint of a name or an address (`Endpoint.to`); None if there is none."""
        by_name = next((each for each in self.endpoints if each.name == name), None)
        return by_name or next((each for each in self.endpoints if each.to == name), None)

    def listeners_of(self, family: Family) -> tuple[Listener, ...]:
        """Return the listeners that connections of `family` reach."""
        return tuple(
            [
                x
                for x in self.listeners
                if (self._served(family) if x.address is None else Family.of(x.address) is family)
            ]
        )

    def _served(self, family: Family) -> bool:
        return any(e.serves(family) for e in self.endpoints)

    def protocols_of(self, family: Family) -> tuple[Protocol, ...]:
        """Return the protocols of `listeners_of(family)`, each once."""
        return tuple(dict.fromkeys(listener.protocol for listener in self.listeners_of(family)))

    def ready(self, family: Family) -> tuple[Endpoint, ...]:
        """Who takes new connections of `family`.

        Active endpoints that are in; where there is none, the backups that are in; where checks took out all,
        those that would be in without checks, or none, as `health.all_down` says. Empty where none is left.
        """
        return tuple([endpoint for endpoint, part in self.rotation(family) if part])

    def rotation(self, family: Family) -> tuple[tuple[Endpoint, Fraction], ...]:
        """Return the endpoints that would be ready if all of them passed their checks, each with its part.

        A part is 0 for an endpoint that is out, 1 for one that gets its whole weight; no part is above 0 only
        where the result is empty.
        """
        able = [e for e in self.endpoints if e.serves(family)]
        active = [e for e in able if e.state is State.ACTIVE]
        limits = {limit.to: limit.part for limit in self.limits if limit.family is family}
        if active and self.moves_connections:
            # No connection is tracked: a table without the drained would move those of all.
            active = [e for e in able if e.state is not State.BACKUP]
            limits |= {e.to: NONE for e in active if e.state is State.DRAIN}
        if not limits:
            members = active or [e for e in able if e.state is State.BACKUP]
            return tuple([(e, WHOLE) for e in members])
        backup = [e for e in able if e.state is State.BACKUP]
        for members in (active, backup):
            parts = [limits.get(e.to, WHOLE) for e in members]
            if any(parts):
                return tuple(zip(members, parts, strict=True))
        active = [e for e in active if e.state is State.ACTIVE]
        kept = (active or backup) if self.health.all_down is AllDown.KEEP else []
        return tuple([(e, WHOLE) for e in kept])

    def takes_out(self, endpoint: Endpoint, family: Family) -> bool:
        """Return True if a check keeps an endpoint from connections of a family."""
        limit = Limit(family=family, to=endpoint.to)
        return limit in self.limits and endpoint not in self.ready(family)

    def allowed(self, family: Family) -> tuple[Network, ...]:
        """Return the clients of `family` that `allow` names, in order and without overlaps."""
        return _collapsed(self.allow, family)

    def denied(self, family: Family) -> tuple[Network, ...]:
        """As `allowed`, the clients that `deny` names."""
        return _collapsed(self.deny, family)

    def excluded(self, family: Family) -> tuple[Network, ...]:
        """As `allowed`, the addresses of this host that `exclude` names."""
        return _collapsed(self.exclude, family)

    def slots(self, family: Family) -> tuple[Endpoint, ...]:
        """`ready(family)`, each once per slot that it has; round robin takes them in this order."""
        rotation = self.rotation(family)
        members = [e for e, _ in rotation]
        weights = tuple([e.weight for e in members])
        match self.scheduler:
            case Scheduler.ROUND_ROBIN | Scheduler.RANDOM:
                if self.check is not None or self.limits:
                    return self._turns(rotation)
                table = schedule(weights)
            case Scheduler.LEAST_CONNECTIONS:
                return self._dealt(rotation, family)
            case Scheduler.SOURCE_HASH:
                table = schedule(weights)
            case Scheduler.MAGLEV:
                table = maglev(tuple([e.to for e in members]), weights, self.hash_seed)
            case _:
                assert_never(self.scheduler)
        if any(part < WHOLE for _, part in rotation):
            table = bypassed(table, tuple([part for _, part in rotation]), self.hash_seed)
        return tuple([members[i] for i in table])

    def _turns(self, rotation: Sequence[tuple[Endpoint, Fraction]]) -> tuple[Endpoint, ...]:
        """Return slots in turn, of a number that stays for the common failures."""
        count = padded(tuple([e.weight for e, _ in rotation]), ramps=bool(self.health.slow_start))
        left = [(e, part) for e, part in rotation if part]
        table = turns(tuple([e.weight for e, _ in left]), tuple([part for _, part in left]), count)
        return tuple([left[i][0] for i in table])

    def _dealt(self, rotation: Sequence[tuple[Endpoint, Fraction]], family: Family) -> tuple[Endpoint, ...]:
        """Return slots as they were dealt; by the weights if an endpoint that is left was dealt none."""
        left = [(e, part) for e, part in rotation if part]
        if not left:
            return ()
        count = slots_for(len(rotation))
        usual = apportioned([e.weight * part for e, part in left], count)
        dealt = {each.to: each.slots for each in self.deals if each.family is family}
        mine = [dealt.get(e.to, 0) for e, _ in left]
        if not all(mine):
            mine = list(usual)
        elif sum(mine) != count:
            mine = list(apportioned([Fraction(each) for each in mine], count))
        return tuple([left[i][0] for i in laid_out(usual, tuple(mine))])

    def shares(self, family: Family) -> Mapping[str, Fraction]:
        """Return `Endpoint.to` → the wanted share of the new connections of a family, exact.

        Of all endpoints that can serve it; nothing for a family in which the service is not balanced.
        """
        wanted = shares(tuple(e.to for e in self.slots(family)))
        return self._of_all(family, wanted)

    def by_weight(self, family: Family) -> Mapping[str, Fraction]:
        """As `shares`, but what the weights alone would give."""
        ready = self.ready(family)
        parts = weight_shares([e.weight for e in ready])
        return self._of_all(family, dict(zip((e.to for e in ready), parts, strict=True)))

    def _of_all(self, family: Family, wanted: Mapping[str, Fraction]) -> Mapping[str, Fraction]:
        if family not in self.families:
            return {}
        return {e.to: wanted.get(e.to, Fraction(0)) for e in self.endpoints if e.serves(family)}

    def deviation(self) -> Fraction:
        """Return the largest distance of `shares` from `by_weight`: 0 for all but Maglev."""
        distances = [
            abs(share - meant)
            for family in self.families
            for share, meant in zip(
                self.shares(family).values(), self.by_weight(family).values(), strict=True
            )
        ]
        return max(distances, default=Fraction(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """Everything that one owner wants on this host."""

    services: tuple[Service, ...] = ()
    owner: str = DEFAULT_OWNER
    #: The bits of a packet's mark that a backend may use which has no other way to remember a decision.
    mark: int = DEFAULT_MARK
    announce: Announcements = NO_ANNOUNCEMENTS
    #: The interfaces between which established connections are forwarded by a flowtable; () for none.
    offload: tuple[str, ...] = ()
    #: How sources of these kinds are reached; None for what the source takes by itself.
    etcd: EtcdAccess | None = None
    docker: DockerAccess | None = None
    consul: ConsulAccess | None = None
    kubernetes: KubernetesAccess | None = None
    #: The published intent that services come from instead of the file.
    follow: Follow | None = None
    #: Destinations of ssh that the intent is for, by their names; no part of what is applied.
    hosts: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        check_owner(self.owner)
        check_mark(self.mark)
        check_offload(self.offload)

    def service(self, name: str) -> Service:
        """Return the service of a name; raises `LookupError`."""
        for service in self.services:
            if service.name == name:
                return service
        raise LookupError(f'there is no service "{name}"')

    def with_endpoint(
        self,
        service: str,
        endpoint: str,
        *,
        weight: int | None = None,
        state: State | str | None = None,
        name: str = "",
    ) -> Intent:
        """Return this intent with an endpoint of a service changed or added.

        `endpoint` is the name or the address (`Endpoint.to`) of one that the service has, else the address of
        a new one, which may have a `name`: "8004" is a port of this host, "10.0.0.1:80" an address. What is
        not given stays as it is.

        Raises `LookupError` for an unknown service, and `ValueError` for what no endpoint of it can be.
        """
        found = self.service(service)
        old = found.endpoint(endpoint)
        base = old or parse_endpoint(endpoint)
        new = Endpoint(
            port=base.port,
            address=base.address,
            name=name or base.name,
            weight=base.weight if weight is None else weight,
            state=base.state if state is None else State(state),
            mac=base.mac,
        )
        others = [each for each in found.endpoints if each is not old]
        if new.name in {each.name for each in others}:
            raise ValueError(f'service "{service}" has another endpoint "{new.name}"')
        if others and (new.address is None) is not (others[0].address is None):
            raise ValueError(f'service "{service}": {new.to} and {others[0].to} are endpoints of two kinds')
        if old is None:
            return self._with(found, (*found.endpoints, new))
        return self._with(found, tuple(new if each is old else each for each in found.endpoints))

    def without_endpoint(self, service: str, endpoint: str) -> Intent:
        """Return this intent without an endpoint of a service, by its name or address.

        Raises `LookupError` for an unknown service or endpoint, and `ValueError` for the last one.
        """
        found = self.service(service)
        gone = found.endpoint(endpoint)
        if gone is None:
            raise LookupError(f'service "{service}" has no endpoint "{endpoint}"')
        left = tuple(each for each in found.endpoints if each is not gone)
        if not left:
            raise ValueError(f'{endpoint} is the last endpoint of service "{service}"')
        return self._with(found, left)

    def _with(self, service: Service, endpoints: tuple[Endpoint, ...]) -> Intent:
        changed = replace(service, endpoints=endpoints)
        return replace(self, services=tuple(changed if s is service else s for s in self.services))


def _collapsed(networks: tuple[Network, ...], family: Family) -> tuple[Network, ...]:
    return tuple(collapse_addresses(n for n in networks if Family.of(n) is family))  # type: ignore[type-var]


def check_interface(name: str) -> str:
    """`name` itself, or ValueError for what is no name of a network interface, or the beginning of some."""
    if not INTERFACE.match(name):
        raise ValueError(f"{name!r} is not the name of an interface")
    return name


def check_offload(names: tuple[str, ...]) -> None:
    """Raise `ValueError` unless each is the whole name of an interface, once."""
    if any("*" in check_interface(name) for name in names):
        raise ValueError("offload needs whole names of interfaces")
    if len(set(names)) != len(names):
        raise ValueError("offload names an interface twice")


def check_owner(owner: str) -> str:
    """`owner` itself, or ValueError. It is a part of short names in rules: at most 12 characters."""
    if not NAME.match(owner) or len(owner) > MAX_OWNER:
        raise ValueError(f"owner {owner!r} is not a name of at most {MAX_OWNER} characters")
    return owner


#: The shortest names that a backend has are 28 characters; ours, the owner's and a service's must fit.
MAX_OWNER = 12


def check_mark(mark: int) -> int:
    """`mark` itself, or ValueError. A packet's mark has 32 bits, and lbctl needs two of them."""
    if not 0 <= mark <= 0xFFFFFFFF or mark.bit_count() != 2:
        raise ValueError(f"mark {mark:#x} is not two bits of 32")
    return mark


def default_seed(name: str) -> int:
    """Return the 32-bit seed that a service has unless the file says another: the same on every host."""
    return int.from_bytes(hashlib.sha256(f"lbctl seed {name}".encode()).digest()[:4], "big")
