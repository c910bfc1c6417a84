"""Which backend and driver to use, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed, IntentError, NoBackend
from lbctl.spi.reader import Reader, RuleCounts
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl.host import Host
    from lbctl.spi.backend import Backend, Driver, Probe

AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A backend with what it found on this host."""

    backend: Backend
    probe: Probe

    def own(self, counts: Sequence[RuleCounts]) -> list[RuleCounts]:
        """Return the counts of this backend's stores."""
        stores = {driver.store for driver in self.probe.drivers}
        return [count for count in counts if count.store in stores]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The backend and driver to work with."""

    backend: Backend
    driver: Driver
    probe: Probe
    reason: str


def survey(host: Host, backends: Sequence[Backend]) -> tuple[Candidate, ...]:
    """Probe all backends, in order of preference."""
    return tuple(Candidate(backend=backend, probe=backend.probe(host)) for backend in backends)


def count_rules(host: Host, candidates: Sequence[Candidate]) -> tuple[RuleCounts, ...]:
    """Return one count for each store of the candidates, unknown if it cannot be read. Leaves no trace."""
    counts: dict[str, RuleCounts] = {}
    for candidate in candidates:
        # The usable drivers first, each kind in the order of preference.
        for driver in sorted(candidate.probe.drivers, key=lambda d: not d.usable):
            if driver.store not in counts:
                counts[driver.store] = _count(host, candidate.backend, driver)
    return tuple(counts.values())


def _count(host: Host, backend: Backend, driver: Driver) -> RuleCounts:
    if driver.usable and isinstance(backend, Reader) and host.may_change_network():
        try:
            return backend.count_rules(host, driver.name)
        except ApplyFailed:
            pass
    return RuleCounts(store=driver.store)


def select(
    candidates: Sequence[Candidate],
    *,
    backend: str = AUTO,
    driver: str | None = None,
    counts: Sequence[RuleCounts] = (),
) -> Selection:
    """Return the choice for the options `--backend` and `--driver`.

    Both may also name a store, and `--backend` a driver or a tool, as users of other programs do: then a
    driver of that store is chosen. With the `counts` of `count_rules`, the reason says where another store
    of the same backend holds rules. Raises `IntentError` for an unknown name and `NoBackend` if nothing is
    usable.
    """
    options = _options(candidates, backend, driver)
    passed: list[str] = []
    for candidate, option in options:
        if option.usable:
            asked = driver is not None or backend != AUTO
            why = ["asked for"] if asked else [*passed, "first usable in order of preference"]
            why += _beside(candidate, option, counts)
            return Selection(
                backend=candidate.backend, driver=option, probe=candidate.probe, reason="; ".join(why)
            )
        passed.append(f"{candidate.backend.name} ({option.name}): {option.reason}")
    raise NoBackend(
        "no usable backend: " + "; ".join(passed or ["none is installed"]),
        hint="; or ".join(dict.fromkeys(candidate.probe.fix for candidate, _ in options)) or None,
    )


def named_candidates(candidates: Sequence[Candidate], backend: str) -> tuple[Candidate, ...]:
    """Return the candidates that a name means: one for all names but `AUTO`; raises `IntentError`."""
    if backend == AUTO:
        return tuple(candidates)
    found = [c for c in candidates if c.backend.name == backend]
    found = found or [c for c in candidates if _stores_named(c, backend)]
    if not found:
        names = ", ".join([AUTO, *(c.backend.name for c in candidates)])
        raise IntentError(f'there is no backend "{backend}"', hint=f"one of {names}")
    return tuple(found[:1])


def _options(
    candidates: Sequence[Candidate], backend: str, driver: str | None
) -> list[tuple[Candidate, Driver]]:
    """Return the drivers that the names mean, in order of preference."""
    named = named_candidates(candidates, backend)
    if backend == AUTO and driver is None:
        named = tuple(c for c in named if c.backend.preference is not None)
    options = [(candidate, each) for candidate in named for each in candidate.probe.drivers]
    if backend != AUTO and named[0].backend.name != backend:
        stores = _stores_named(named[0], backend)
        options = [(candidate, each) for candidate, each in options if each.store in stores]
    if driver is None:
        return options
    exact = [(candidate, each) for candidate, each in options if each.name == driver]
    found = exact or [(candidate, each) for candidate, each in options if each.store == driver]
    if not found:
        names = ", ".join(dict.fromkeys(each.name for _, each in options))
        whose = "" if backend == AUTO else f" for backend {backend}"
        raise IntentError(f'there is no driver "{driver}"{whose}', hint=f"one of {names}")
    return found


def _stores_named(candidate: Candidate, name: str) -> frozenset[str]:
    """Return the stores of a backend that a name means: of a store, of a driver, or of one of its tools."""
    drivers = candidate.probe.drivers
    found = {each.store for each in drivers if name in {each.store, each.name}}
    if not found and name in candidate.backend.tools:
        found = {each.store for each in drivers}
    return frozenset(found)


def _beside(candidate: Candidate, chosen: Driver, counts: Sequence[RuleCounts]) -> Iterator[str]:
    """Yield the rules that people take for those of the chosen store: the tools have the same names."""
    stores = {driver.store for driver in candidate.probe.drivers} - {chosen.store}
    for count in counts:
        rules = (count.managed or 0) + (count.foreign or 0)
        if count.store in stores and rules:
            yield f"{count.store} holds {rules} rule{'' if rules == 1 else 's'} too, and the kernel runs both"
