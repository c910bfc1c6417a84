"""A host together with the backend that was chosen for it."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from lbctl.engine.change.facts import read_facts
from lbctl.engine.record.memory import SessionMemory
from lbctl.engine.record.next_hops import NextHops
from lbctl.errors import ApplyFailed, IntentError, NoBackend
from lbctl.host import need_privilege
from lbctl.model import Effective, effective
from lbctl.spi import AUTO, Selection, backends, require_offload, select, survey
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl.engine.record.history import HistoryEntry
    from lbctl.host import Host
    from lbctl.model import Facts, Intent, Program
    from lbctl.spi import Backend, Candidate, Capabilities, Driver


@dataclass(frozen=True, kw_only=True)
class Session:
    """Everything that a use case needs to know about where it works."""

    host: Host
    candidates: tuple[Candidate, ...]
    choice: Selection
    memory: SessionMemory
    #: See `Capabilities.remap`.
    allow_remap: bool = False
    #: Seconds to wait for another lbctl that holds the lock.
    patience: float = 0.0
    #: Whether endpoints stay out that failed a moment before their agent ended: for who cannot be asked.
    cautious: bool = False
    #: Whether plans are carried out that no person agreed to: what changed since they were made is then no
    #: reason to refuse them.
    unattended: bool = False
    #: What to take for known of endpoints instead of what is on record: for a plan of another record.
    assumed: Facts | None = None

    @property
    def backend(self) -> Backend:
        """The chosen backend."""
        return self.choice.backend

    @property
    def place(self) -> str:
        """The store that the chosen driver reaches."""
        return self.choice.driver.store

    @property
    def driver(self) -> str:
        """The name of the chosen driver."""
        return self.choice.driver.name

    def effective(self, intent: Intent) -> Effective:
        """Return an intent as it is to be carried out: with what operators decided, for instance.

        Raises `Damaged` where that cannot be read, and `IntentError` where both cannot hold together.
        """
        if not intent.services:  # what is to be removed is removed, whatever is known of it
            return Effective(intent=intent, file=intent, known=intent)
        memory = self.memory
        facts, hops = self.facts(intent.owner), self.next_hops(intent.owner)
        if hops.services(intent):
            # Asked of the kernel, whatever else is assumed.
            hops.resolve(self.host, intent, facts.found)
            facts = replace(facts, hops=hops.found, unreachable=hops.unreachable)
        try:
            found = effective(intent, facts, memory.effective.get(intent.owner))
        except ValueError as error:
            raise IntentError(str(error), hint="lbctl weight SERVICE/ENDPOINT --reset") from error
        memory.effective[intent.owner] = found
        return found

    def facts(self, owner: str) -> Facts:
        """Return what is known of an owner's endpoints; raises `Damaged` if a record cannot be read."""
        if self.assumed is not None:
            return self.assumed
        memory = self.memory
        return read_facts(
            self.host,
            owner,
            live=memory.verdicts.get(owner),
            found=memory.found.get(owner),
            dealt=memory.dealt.get(owner),
            cautious=self.cautious,
        )

    def next_hops(self, owner: str) -> NextHops:
        """Return what this session knows of the next hops to an owner's endpoints."""
        return self.memory.next_hops.setdefault(owner, NextHops())

    def compile(self, intent: Intent) -> Program:
        """Return the chosen backend's program for an intent, as it is `effective`."""
        return self.compile_exactly(self.effective(intent).intent)

    def compile_exactly(self, intent: Intent) -> Program:
        """Return the chosen backend's program for what an intent says and nothing else."""
        self.next_hops(intent.owner).require(intent)
        # Here too: a third party's backend may be older than this feature.
        require_offload(intent, self.capabilities, backend=self.backend.name)
        key = self.backend.name, intent.owner
        last = self.memory.compiled.get(key)
        if last is None or last.origin is None:
            program = self.backend.compile(intent, self.capabilities)
        else:
            program = self.backend.compile(intent, self.capabilities, previous=last)
        self.memory.compiled[key] = program
        return program

    @cached_property
    def capabilities(self) -> Capabilities:
        """What the chosen backend can express: as it found, and as the kernel says where it may be asked."""
        probe = self.choice.probe
        if self.host.may_change_network():
            probe = self.backend.probe(self.host, driver=self.driver)
        return replace(probe.capabilities, remap=self.allow_remap)

    def observe(self, owner: str) -> Program:
        """Return what the chosen backend holds of an owner now, read from the kernel."""
        self.need_privilege()
        return self.backend.observe(self.host, self.driver, owner)

    def held(self, owner: str, *, like: Program) -> Program:
        """As `observe`, but not read again where nothing has changed since that was last known.

        `like` is what it is about to be compared with.
        """
        self.need_privilege()
        store = self.place
        generation = self.backend.generation(self.host, self.driver)
        if self.next_hops(owner).replaced:
            return self.observe(owner)
        known = self.memory.recall(store, owner, generation)
        return known or self.memory.load(store, owner, generation, like) or self.observe(owner)

    def remembers(self, held: Program) -> bool:
        """Return True for rules that this session itself has seen or written before."""
        return self.memory.recall(self.place, held.owner, held.generation) is held

    def check(self, program: Program) -> None:
        """Have the kernel check a program without applying it."""
        self.need_privilege()
        self.backend.check(self.host, self.driver, program)

    def stores(self) -> Iterator[tuple[Backend, Driver]]:
        """One usable driver for each place that can hold our rules, the chosen one first."""
        seen = {self.place}
        yield self.backend, self.choice.driver
        for candidate in self.candidates:
            for driver in candidate.probe.usable:
                if driver.store not in seen:
                    seen.add(driver.store)
                    yield candidate.backend, driver

    def at(self, backend: Backend, driver: Driver, reason: str) -> Session:
        """This session with another backend and driver of this host."""
        probe = next(candidate.probe for candidate in self.candidates if candidate.backend is backend)
        return replace(self, choice=Selection(backend=backend, driver=driver, probe=probe, reason=reason))

    def elsewhere(self, owner: str) -> tuple[Session, ...]:
        """Return a session on each other store that holds rules of an owner, as far as it can be read."""
        self.need_privilege()
        return tuple(
            self.at(backend, driver, "it holds the rules")
            for backend, driver in self.stores()
            if driver.store != self.place and _holds(self.host, backend, driver, owner)
        )

    def store(self, backend: str, driver: str) -> str:
        """Return the store that a driver reaches, or would reach if it were usable; "" for an unknown one."""
        drivers = (d for c in self.candidates if c.backend.name == backend for d in c.probe.drivers)
        return next((d.store for d in drivers if d.name == driver), "")

    def like(self, entry: HistoryEntry) -> Session:
        """A session as the one that brought about a state: on its store, by its driver if that can be used.

        Raises `NoBackend` where nothing reaches that store any more.
        """
        store = self.store(entry.backend, entry.driver)
        for candidate in self.candidates:
            for driver in sorted(candidate.probe.usable, key=lambda driver: driver.name != entry.driver):
                if driver.store == store:
                    session = self.at(candidate.backend, driver, "as before")
                    return replace(session, allow_remap=entry.allow_remap)
        raise NoBackend(f"{entry.backend} (driver {entry.driver}) can no longer be used here")

    def need_privilege(self) -> None:
        """Raise `PermissionDenied` where the kernel would refuse even to show us its rules."""
        need_privilege(self.host)


def _holds(host: Host, backend: Backend, driver: Driver, owner: str) -> bool:
    try:
        return bool(backend.observe(host, driver.name, owner))
    except ApplyFailed:
        return False


def open_session(
    host: Host,
    *,
    backend: str = AUTO,
    driver: str | None = None,
    allow_remap: bool = False,
    patience: float = 0.0,
    cautious: bool = False,
    unattended: bool = False,
    installed: Sequence[Backend] | None = None,
) -> Session:
    """Probe the installed backends, or those in `installed`, and choose one; raises `NoBackend`."""
    candidates = survey(host, backends() if installed is None else installed)
    choice = select(candidates, backend=backend, driver=driver)
    return Session(
        host=host,
        candidates=candidates,
        choice=choice,
        memory=SessionMemory(host),
        allow_remap=allow_remap,
        patience=patience,
        cautious=cautious,
        unattended=unattended,
    )
