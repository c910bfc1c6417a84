"""What a backend is.

A third-party backend implements `Backend` and declares it as an entry point:

    [project.entry-points."lbctl.backends"]
    mine = "my_package.backend"        # a module or object that satisfies Backend

The built-in backends come in through the same door.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lbctl.model import Family, Scheduler, SourceNat, State
from lbctl.model import Protocol as Transport

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lbctl.host import Host
    from lbctl.model import Intent, Lifted, Network, Plan, Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can express on this host. `compile` refuses everything else by name."""

    #: A service on any address of this host is compiled for these; an address of another one is refused.
    families: frozenset[Family] = frozenset(Family)
    protocols: frozenset[Transport] = frozenset()
    schedulers: frozenset[Scheduler] = frozenset()
    states: frozenset[State] = frozenset({State.ACTIVE})
    source_nat: frozenset[SourceNat] = frozenset()
    affinity: bool = False
    allow: bool = False
    #: The user's consent, no finding of a probe: a backend that cannot give each client the endpoint that a
    #: hash scheduler names may give it another one, with the same shares. Without it `compile` refuses.
    remap: bool = False
    #: Directly connected networks, for backends that must write them into rules; () where unknown.
    networks: tuple[Network, ...] = ()
    #: The backend's own word for how it writes rules on this host; nobody else reads it.
    dialect: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """One way for a backend to reach the kernel, and whether this host offers it.

    `store` names the place where the rules live: drivers with one store see each other's rules, rules of
    different stores coexist in the kernel.
    """

    name: str
    store: str
    usable: bool
    reason: str
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a backend found on a host. `drivers` stand in the order of preference."""

    drivers: tuple[Driver, ...]
    capabilities: Capabilities
    #: What to install or do where no driver is usable.
    remedy: str
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def usable(self) -> tuple[Driver, ...]:
        """The drivers that can be used."""
        return tuple(driver for driver in self.drivers if driver.usable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What the kernel counted for one endpoint of one service since its rules were loaded.

    `connections` are new connections; `packets` and `bytes` are what the balancing rules saw of them, that
    is, the first packet of each.
    """

    service: str
    to: str
    connections: int
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """How many rules a store holds: those of lbctl, of whatever owner, and others; None where unknown."""

    store: str
    ours: int | None = None
    others: int | None = None


def tally(counted: Iterable[tuple[str, str, int, int]]) -> tuple[Count, ...]:
    """Counts from rows of service, `Endpoint.to`, new connections seen as packets, and bytes, summed up."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for service, to, packets, size in counted:
        before = sums.get((service, to), (0, 0))
        sums[service, to] = before[0] + packets, before[1] + size
    return tuple(
        Count(service=service, to=to, connections=packets, packets=packets, bytes=size)
        for (service, to), (packets, size) in sums.items()
    )


@runtime_checkable
class Backend(Protocol):
    """A way to have a kernel balance connections.

    `driver` is always the name of a usable driver of `probe`. Everything but `apply` leaves the kernel
    alone; `compile`, `render` and `lift` are pure.
    """

    #: The name behind `--backend`.
    name: str
    #: Place in the choice of `auto`, smallest first; None for a backend that is used only when named.
    preference: int | None

    def probe(self, host: Host) -> Probe:
        """Say what this host offers. Passive: loads no module, changes no rule, needs no privilege."""

    def compile(self, intent: Intent, capabilities: Capabilities) -> Program:
        """The program for an intent; the empty program for an intent without services.

        Raises `Unsupported` for a feature that `capabilities` lack.
        """

    def render(self, program: Program) -> str:
        """The program as a text that the host's own tools load on a host without lbctl."""

    def check(self, host: Host, driver: str, program: Program) -> None:
        """Have the kernel check a program without applying it; raises `ApplyFailed` with its words."""

    def observe(self, host: Host, driver: str, owner: str) -> Program:
        """What is `owner`'s in the kernel now. Something unknown in our places becomes an item as well.

        Marked with the generation that it was read in or after, where there is one.
        """

    def generation(self, host: Host, driver: str) -> str | None:
        """The kernel's mark of the state that its rules are in, this network namespace included.

        Two marks are equal only where nobody changed a rule in between. None where the kernel has no such
        mark: then nothing but reading the rules tells whether they changed.
        """

    def apply(self, host: Host, plan: Plan) -> Program:
        """Carry out a plan, atomically per family; returns what the kernel then holds.

        Raises `Stale` where the kernel is not as the plan has it (`ensure_fresh`), `ApplyFailed` where
        nothing was changed, `ToolCrashed` where a tool was ended by a signal, and `StateUnknown` where it
        cannot be said what the kernel holds. What is returned was read back, as far as the plan touched it;
        where it is not what was planned, the caller undoes it.
        """

    def lift(self, program: Program) -> Lifted:
        """The services of a program with their exact shares, proved from its items alone."""

    def stats(self, host: Host, driver: str, owner: str) -> tuple[Count, ...]:
        """The counters of every endpoint in the kernel."""


@runtime_checkable
class Refining(Protocol):
    """What a backend adds to `Backend` where looking at files cannot tell what the kernel accepts."""

    def refine(self, host: Host, driver: str, capabilities: Capabilities) -> Capabilities:
        """The capabilities of `probe` after asking the kernel; the same where it gives no answer.

        Called with privilege, before a program is compiled to be held against the kernel's. May load the
        modules that the rules need, but changes no rule.
        """


@runtime_checkable
class Counting(Protocol):
    """What a backend adds to `Backend` to show what else is where its rules are."""

    def census(self, host: Host, driver: str) -> Census:
        """The rules in the store of a driver; raises `ApplyFailed` where they cannot be read.

        Called with privilege. Passive: loads no module, makes no table.
        """


@runtime_checkable
class Advising(Protocol):
    """What a backend adds to `Backend` where a change does more, or less, than its plan can show."""

    def advise(self, host: Host, plan: Plan, intent: Intent) -> tuple[str, ...]:
        """The notes of a plan that changes something: what bites on this host, and the remedy.

        Called with privilege. Changes nothing.
        """
