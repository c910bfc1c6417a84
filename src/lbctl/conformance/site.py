"""Where a check takes place: a private network, and one driver of one backend on its middle host."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, islice
from typing import TYPE_CHECKING

from lbctl import engine
from lbctl.conformance.network import CLIENT4, HOST4, Network
from lbctl.errors import Unsupported
from lbctl.host.netns import Namespace, PrivateHost
from lbctl.model import Family, Intent, Scheduler, Service
from lbctl.spi import backends, require
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lbctl.host import Host
    from lbctl.model import Endpoint, Plan
    from lbctl.spi import Backend, Capabilities


#: Nobody else's, since a backend may keep its rules where no network namespace keeps them apart.
OWNER, NEIGHBOUR = "conform-a", "conform-b"

#: Schedulers that name one endpoint for each client, the same with every backend.
HASHES = frozenset({Scheduler.SOURCE_HASH, Scheduler.MAGLEV})


class Failed(AssertionError):
    """The backend does something else than what the intent says."""


def expect(found: object, wanted: object, what: str) -> None:
    """Raise `Failed` where `found` is not `wanted`."""
    if found != wanted:
        raise Failed(f"{what}: {found!r}, not {wanted!r}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DriverUnderTest:
    """One way to the kernel: a backend and one of its drivers, and why that cannot be used, if so."""

    backend: Backend
    driver: str
    reason: str | None = None

    def __str__(self) -> str:
        return f"{self.backend.name} {self.driver}"

    def session(self, *, allow_remap: bool = False, host: PrivateHost | None = None) -> engine.Session:
        """A session on the host of the calling thread's namespace, which knows of no other backend."""
        return engine.open_session(
            host or PrivateHost(),
            backend=self.backend.name,
            driver=self.driver,
            installed=[self.backend],
            allow_remap=allow_remap,
        )

    def clear(self) -> None:
        """Take out what checks left in a store that is not the network namespace's own."""
        namespace = Namespace(PrivateHost())
        try:
            with namespace.entered():
                _clear(self.session())
        finally:
            namespace.close()


def _clear(session: engine.Session) -> None:
    for owner in (OWNER, NEIGHBOUR):
        engine.remove(session, owner)


def ways(host: Host, backend: str | None = None, driver: str | None = None) -> tuple[DriverUnderTest, ...]:
    """All ways of all installed backends, or those of the names given."""
    return tuple(
        DriverUnderTest(backend=each, driver=found.name, reason=None if found.usable else found.reason)
        for each in backends()
        if backend in (None, each.name)
        for found in each.probe(host).drivers
        if driver in (None, found.name)
    )


class Site:
    """One check's own network with the backend at work on its host. Use as a context manager."""

    def __init__(self, way: DriverUnderTest, *, allow_remap: bool = False) -> None:
        self.way = way
        self.network = Network()
        try:
            with self.network.host.entered():
                self.session = way.session(allow_remap=allow_remap)
                _clear(self.session)
        except BaseException:
            self.network.close()
            raise

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.network.close()

    def refusal(self, services: Iterable[Service], offload: tuple[str, ...] = ()) -> Unsupported | None:
        """How the backend refuses services that its capabilities lack; None for what they have.

        Raises `Failed` where the two do not agree, or the refusal does not say what to do.
        """
        intent = Intent(services=tuple(services), owner=OWNER, offload=offload)
        with self.network.host.entered():
            capabilities = self.session.capabilities
        lacking = None
        try:
            require(intent, capabilities, backend=self.way.backend.name)
        except Unsupported as error:
            lacking = error
        refused = self._refused(intent, capabilities)
        hashed = any(each.scheduler in HASHES for each in intent.services)
        if refused is None and lacking is not None and not (hashed and capabilities.remap):
            raise Failed(f"compiles {lacking.feature}, which its capabilities lack")
        if refused is not None and lacking is None:
            # A map of clients that it cannot give may be refused, but is not where any map will do.
            consent = replace(capabilities, remap=True)
            if capabilities.remap or not hashed or self._refused(intent, consent):
                raise Failed(f"refuses {refused.feature}, which its capabilities have")
        if refused is not None and not refused.hint:
            raise Failed(f"refuses {refused.feature}, but not a word of what to do instead")
        return refused

    def _refused(self, intent: Intent, capabilities: Capabilities) -> Unsupported | None:
        try:
            self.session.backend.compile(intent, capabilities)
        except Unsupported as error:
            return error
        return None

    def plan(self, *services: Service, owner: str = OWNER, offload: tuple[str, ...] = ()) -> Plan:
        """What would change."""
        with self.network.host.entered():
            return engine.plan(self.session, Intent(services=services, owner=owner, offload=offload))

    def apply(self, *services: Service, owner: str = OWNER, offload: tuple[str, ...] = ()) -> Plan:
        """Apply an intent; what it changed."""
        plan = self.plan(*services, owner=owner, offload=offload)
        self.carry_out(plan)
        return plan

    def carry_out(self, plan: Plan) -> None:
        """Apply a plan."""
        with self.network.host.entered():
            engine.apply(self.session, (plan,))

    def at_host(self, host: PrivateHost) -> None:
        """Go on as a process that finds another host than `PrivateHost` in the same network."""
        with self.network.host.entered():
            self.session = self.way.session(host=host)

    def afresh(self) -> None:
        """Go on as a later process that knows nothing of the kernel but what it reads."""
        with self.network.host.entered():
            self.session = self.way.session()

    def ask(
        self,
        address: str = HOST4,
        port: int = 80,
        count: int = 1,
        *,
        kind: str = "tcp",
        source: str | None = CLIENT4,
    ) -> list[str]:
        """Who answers new connections of the client."""
        source = None if ":" in address and source == CLIENT4 else source
        return self.network.ask(self.network.client, address, port, count, kind=kind, source=source)

    def ask_here(
        self, address: str = HOST4, port: int = 80, count: int = 1, *, kind: str = "tcp"
    ) -> list[str]:
        """Who answers new connections of the host's own clients."""
        return self.network.ask(self.network.host, address, port, count, kind=kind)

    def counts(self, service: Service, family: Family = Family.IPV4) -> Mapping[str, int]:
        """Return endpoint → new connections of a service in a family, as the kernel counted them."""
        with self.network.host.entered():
            found = self.session.backend.stats(self.session.host, self.session.driver, OWNER)
        counted = {
            count.to: count.connections
            for count in found
            if (count.service, count.family) == (service.name, family)
        }
        return {endpoint.to: counted.get(endpoint.to, 0) for endpoint in service.endpoints}


def names(endpoints: Iterable[Endpoint]) -> list[str]:
    """What the endpoints of a network answer: their port, or their address."""
    return [str(endpoint.address or endpoint.port) for endpoint in endpoints]


def turns(service: Service, count: int, *, family: Family = Family.IPV4, after: int = 0) -> list[str]:
    """Who has to answer `count` connections of one listener, `after` so many others."""
    return list(islice(cycle(names(service.slots(family))), after, after + count))
