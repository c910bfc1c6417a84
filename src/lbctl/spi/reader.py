"""The protocol of a backend that understands existing rules, whoever wrote them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lbctl.model import join
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lbctl.host import Host
    from lbctl.model import Address, Analysis, Family, Intent, Protocol as Transport, Service, Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCounts:
    """How many rules a store holds: those managed by lbctl for any owner, and others; None if unknown."""

    store: str
    managed: int | None = None
    foreign: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem of a host: what happens, what shows it, and what helps.

    An error loses connections as things are; a warning does so when something else happens.
    """

    code: str
    severity: Severity
    message: str
    evidence: str
    fix: str
    service: str | None = None
    #: The words of `message`, `evidence` and `fix` that name what is concerned, as `8001/tcp`. Problems that
    #: differ in these words alone are shown as one.
    about: str = ""
    #: The endpoints that get no connections, or lose them: the name of a service and an `Endpoint.to` each.
    endpoints: tuple[tuple[str, str], ...] = ()
    #: The problem in a few words, for a row of a table of endpoints.
    mark: str = ""


def sole(services: Sequence[str]) -> str | None:
    """Return the service that a problem is about, if it is about exactly one."""
    return services[0] if len(services) == 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Connections that a host has to let through once they are translated: to an endpoint, from outside.

    `outgoing` is the link that they leave by, None for a process on the host, which has no `address` either.
    `incoming` is None if the link by which clients arrive is unknown.
    """

    service: str
    family: Family
    protocol: Transport
    address: Address | None
    port: int
    outgoing: str | None
    incoming: str | None

    def __str__(self) -> str:
        return f"{join(self.address, self.port)}/{self.protocol}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a host is examined for.

    `store` is where the rules of the intent are, or would be; `precedence` is `Driver.precedence` there.
    """

    intent: Intent | None
    store: str | None
    precedence: int
    #: The host's own addresses.
    addresses: tuple[Address, ...] = ()
    passages: tuple[Passage, ...] = ()
    #: A store with more rules than this, those of the intent's owner aside, is not read; None reads any.
    most_rules: int | None = None

    @property
    def services(self) -> tuple[Service, ...]:
        """The services of the intent; none without one."""
        return self.intent.services if self.intent else ()


@runtime_checkable
class Reader(Protocol):
    """Reads existing rules of its language. It changes nothing, and loads no module of the kernel.

    A backend gets the meaning of rules by lowering them to the program of `lbctl_netfilter` and calling
    `lbctl_netfilter.analyse`; any other way to a `Analysis` is as good. Without a Reader, a backend has no
    import, compare, explain and migrate, and `doctor` examines what belongs to no backend.
    """

    def recognizes(self, text: str) -> bool:
        """Return True if a text looks like this backend's language, whatever else is in it. Pure."""

    def read(self, text: str, *, family: Family | None = None) -> Analysis:
        """Return what the rules of a text do; `family` is that of a dump that does not name its own.

        Pure: runs, resolves or looks up nothing that the text names. The caller bounds the size of the text.
        """

    def dump(self, host: Host, driver: str) -> str:
        """Return all rules of a live kernel that could balance, as a text for `read`.

        The caller has the privilege to read them. Raises `ApplyFailed`.
        """

    def count_rules(self, host: Host, driver: str) -> RuleCounts:
        """Count the rules in the store of a driver.

        The caller has the privilege to read them. Raises `ApplyFailed` if they cannot be read.
        """

    def diagnose(self, host: Host, driver: str, case: Case) -> Iterable[Problem]:
        """Yield the problems in the store of a driver, be it the one that the intent uses or another.

        The caller may have no privilege: then only files are looked at. Raises `ApplyFailed` on the way.
        """
