"""What a backend is.

A third-party backend implements `Backend` and declares it as an entry point:

    [project.entry-points."lbctl.backends"]
    mine = "my_package.backend"        # a module or object that satisfies Backend

The built-in backends are found in the same way. `Backend` is all that plan, apply, status and doctor need; a
backend that also satisfies `lbctl.spi.Reader` understands existing rules, and one that satisfies
`lbctl.spi.Migrator` can remove and restore them. One whose rules learn connections that the kernel does not
track is a `lbctl.spi.Learner`.
"""

from __future__ import annotations

import sys
from dataclasses import field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lbctl.model import Family, Forward, Protocol as Transport, Scheduler, SourceNat, State
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from lbctl.host import Host
    from lbctl.model import Intent, LiftedProgram, Network, Plan, Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can express on this host. `compile` refuses everything else by name."""

    #: A service on any address of this host is compiled for these; an address of another one is refused.
    families: frozenset[Family] = frozenset(Family)
    protocols: frozenset[Transport] = frozenset()
    schedulers: frozenset[Scheduler] = frozenset()
    states: frozenset[State] = frozenset({State.ACTIVE})
    source_nat: frozenset[SourceNat] = frozenset()
    forwards: frozenset[Forward] = frozenset({Forward.NAT})
    affinity: bool = False
    allow: bool = False
    deny: bool = False
    interfaces: bool = False
    exclude: bool = False
    #: Listeners with a range of ports.
    port_ranges: bool = False
    #: Endpoints without a port: connections keep the destination port that their clients chose.
    kept_ports: bool = False
    #: Established connections that another host balanced before.
    takeover: bool = False
    #: Established connections that the kernel forwards past all rules, and why it does not, if known.
    offload: bool = False
    offload_refusal: str = ""
    #: The user's consent, no finding of a probe: a backend that cannot give each client the endpoint that a
    #: hash scheduler names may give it another one, with the same shares. Without it `compile` refuses.
    remap: bool = False
    #: Directly connected networks, for backends that must write them into rules; () if unknown.
    networks: tuple[Network, ...] = ()
    #: True for a backend that must write the directly connected networks into rules (source-nat hairpin).
    needs_networks: bool = False
    #: The backend's own word for how it writes rules on this host; only the backend reads it.
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
    #: When the rules of the store decide about a new connection: the smallest comes first. The default is for
    #: a store of which that is unknown: nothing is reported to decide before it.
    precedence: int = -sys.maxsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a backend found on a host. `drivers` stand in the order of preference."""

    drivers: tuple[Driver, ...]
    capabilities: Capabilities
    #: What to install or do where no driver is usable.
    fix: str
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def usable(self) -> tuple[Driver, ...]:
        """The drivers that can be used."""
        return tuple(driver for driver in self.drivers if driver.usable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What the kernel counted for one endpoint of one service in one family since its rules were loaded.

    `connections` are new connections; `packets` and `bytes` are what the balancing rules saw of them, that
    is, the first packet of each.
    """

    service: str
    family: Family
    to: str
    connections: int
    packets: int
    bytes: int


def tally(counted: Iterable[tuple[str, Family, str, int, int]]) -> tuple[Count, ...]:
    """Return counts, summed up from rows of service, family, `Endpoint.to`, packets, and bytes.

    Packets are the new connections that were seen.
    """
    sums: dict[tuple[str, Family, str], tuple[int, int]] = {}
    for service, family, to, packets, size in counted:
        before = sums.get((service, family, to), (0, 0))
        sums[service, family, to] = before[0] + packets, before[1] + size
    return tuple(
        Count(service=service, family=family, to=to, connections=packets, packets=packets, bytes=size)
        for (service, family, to), (packets, size) in sums.items()
    )


@runtime_checkable
class Backend(Protocol):
    """Has a kernel balance connections.

    `driver` is always the name of a usable driver of `probe`. All methods leave the kernel alone but `apply`,
    and `probe` with a driver; `compile`, `render` and `lift` are pure.
    """

    #: The name behind `--backend`.
    name: str
    #: Place in the choice of `auto`, smallest first; None for a backend that is used only when named.
    preference: int | None
    #: The tools that `render --for TOOL=VERSION` may name, each belonging to one backend; () for none.
    tools: Sequence[str]

    def probe(self, host: Host, *, driver: str | None = None) -> Probe:
        """Return what this host offers.

        Without a driver it is passive: loads no module, changes no rule, needs no privilege. With one, which
        the caller has chosen and has the privilege to use, the capabilities are what that driver's tool and
        this kernel accept: it may load modules and write a table of its own that no packet passes.
        """

    def capabilities_for(self, tool: str, version: str) -> Capabilities:
        """Return what a release of one of `tools` can express; nothing is known of the host's links. Pure.

        Raises `ValueError` for what is no version, and `NoBackend` for a release that is too old.
        """

    def compile(
        self, intent: Intent, capabilities: Capabilities, *, previous: Program | None = None
    ) -> Program:
        """Return the program for an intent; the empty program for an intent without services.

        `previous` is one that this backend compiled before, given only if that has an `origin`: what is the
        same in both need not be compiled again.

        Raises `Unsupported` for a feature that `capabilities` lack.
        """

    def render(
        self, program: Program, *, dialect: str = "", family: Family | None = None, remove: bool = False
    ) -> str:
        """Return the text by which the host's own tools add a program, or with `remove` remove it.

        `dialect` is that of the capabilities which the program was compiled with, "" for the newest; `family`
        leaves out what the program has of the other one. Raises `NoBackend` if a dialect cannot do it.
        """

    def check(self, host: Host, driver: str, program: Program) -> None:
        """Have the kernel check a program without applying it; raises `ApplyFailed` with its words."""

    def observe(self, host: Host, driver: str, owner: str) -> Program:
        """Return what is the owner's in the kernel now; what is unknown in the owner's places is an item too.

        Marked with the generation that it was read in or after, if there is one.
        """

    def generation(self, host: Host, driver: str) -> str | None:
        """Return the kernel's mark of the state that its rules are in, this network namespace included.

        Two marks are equal only if no rule changed in between. None if the kernel has no such mark: then only
        reading the rules shows whether they changed.
        """

    def notes(self, host: Host, plan: Plan) -> tuple[str, ...]:
        """Return what a user should know of a plan that its changes do not show: other effects, limits.

        Called with privilege, for a plan that changes something.
        """

    def apply(self, host: Host, plan: Plan) -> Program:
        """Carry out a plan, atomically per family; returns what the kernel then holds.

        The caller holds the owner's lock. Raises `Stale` if the kernel is not as the plan has it
        (`ensure_fresh`), `ApplyFailed` if nothing was changed, `ToolCrashed` if a tool was ended by a signal,
        and `StateUnknown` if what the kernel holds is unknown. The result was read back, as far as the plan
        touched it; the caller undoes a result that is not what was planned.
        """

    def lift(self, program: Program) -> LiftedProgram:
        """Return the services of a program with their exact shares, derived from its items alone."""

    def stats(
        self,
        host: Host,
        driver: str,
        owner: str,
        *,
        services: Collection[str] | None = None,
        held: Program | None = None,
    ) -> tuple[Count, ...]:
        """Return the counters of every endpoint in the kernel, of `services` alone if they are given.

        A change of one service asks for its own: that should not read what all others counted. `held` was
        just read: a backend that reads counters along with rules (`Program.reading`) need not read again.
        """
