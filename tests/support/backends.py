"""Backends in memory, for what the engine and the commands do with any backend.

`Paper` is a `Backend` and no more, `ReadingPaper` a `Reader`, and `MigratingPaper` a `Migrator` too. Their
rules are those of `support.paper_rules`. They keep the contract of `lbctl.spi`: a change is atomic per
family, and what is refused has changed nothing.
"""

from __future__ import annotations

import json
import zlib
from ipaddress import ip_address
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lbctl.errors import ApplyFailed, StateUnknown, Unsupported
from lbctl.host import LocalHost
from lbctl.model import (
    Family,
    Item,
    LiftedProgram,
    LiftedService,
    Listener,
    Program,
    Protocol as Transport,
    Remembered,
    Scheduler,
    SourceNat,
    State,
)
from lbctl.spi import (
    Capabilities,
    Count,
    Driver,
    Probe,
    Retirement,
    RuleCounts,
    ensure_fresh,
    registry,
    require,
)
from support import paper_rules
from support.faults import Effects

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pytest

    from lbctl.host import Host
    from lbctl.model import Address, Analysis, Intent, Plan
    from lbctl.spi import Case, Problem


def slot_of(client: Address, seed: int, slots: int) -> int:
    """Return the slot of a client by the hash that intents name."""
    return zlib.crc32(client.packed, seed) % slots


def other_slot_of(client: Address, seed: int, slots: int) -> int:
    """Return the slot of a client by another hash."""
    return zlib.crc32(client.packed, ~seed & 0xFFFFFFFF) % slots


class Paper:
    """Holds rules on paper. A service with a hash scheduler has them only for who allows another map."""

    name = "paper"
    driver = "pencil"
    preference: int | None = 1
    tools = ()
    precedence = 0
    remaps = True

    def __init__(self, effects: Effects | None = None) -> None:
        self.held: dict[str, Program] = {}
        self.usable = True
        #: How many of the next changes it refuses.
        self.refusals = 0
        #: Endpoints, as `Endpoint.to`, that it takes no rule with.
        self.refused: set[str] = set()
        #: Endpoints that it has no rule for.
        self.inexpressible: set[str] = set()
        #: What it counted, by owner.
        self.counts: dict[str, list[Count]] = {}
        #: Cannot say what it holds after a change.
        self.blind = False
        #: Makes another rule than that which it is handed.
        self.distort: Callable[[str], str] = lambda text: text
        self._effects = effects or Effects()

    @property
    def store(self) -> str:
        """The only store that it has."""
        return self.name

    def probe(self, host: Host, *, driver: str | None = None) -> Probe:
        found = Driver(
            name=self.driver,
            store=self.store,
            usable=self.usable,
            reason="usable" if self.usable else "worn out",
            precedence=self.precedence,
        )
        can = Capabilities(
            protocols=frozenset(Transport),
            schedulers=frozenset(Scheduler),
            states=frozenset(State),
            source_nat=frozenset(SourceNat),
            affinity=True,
            allow=True,
        )
        return Probe(drivers=(found,), capabilities=can, fix="")

    def capabilities_for(self, tool: str, version: str) -> Capabilities:
        raise ValueError(f"{tool} {version}")

    def compile(self, intent: Intent, capabilities: Capabilities) -> Program:
        require(intent, capabilities, backend=self.name)
        items = []
        for service in intent.services:
            if service.scheduler is Scheduler.SOURCE_HASH and self.remaps and not capabilities.remap:
                raise Unsupported(
                    backend=self.name, service=service.name, feature="source-hash", needs="--allow-remap"
                )
            if self.inexpressible & {endpoint.to for endpoint in service.endpoints}:
                raise Unsupported(backend=self.name, service=service.name, feature="this", needs="that")
            for family in service.families:
                text = paper_rules.write(intent.owner, service, family)
                items.append(Item((family, "service", service.name), text, service.name))
        return Program(intent.owner, tuple(items))

    def render(
        self, program: Program, *, dialect: str = "", family: Family | None = None, remove: bool = False
    ) -> str:
        return "".join(f"{item.text}\n" for item in program.items if family in {None, item.key[0]})

    def check(self, host: Host, driver: str, program: Program) -> None:
        self._check(item.text for item in program.items)

    def observe(self, host: Host, driver: str, owner: str) -> Program:
        return self.held.get(owner, Program(owner))

    def generation(self, host: Host, driver: str) -> str | None:
        return None

    def notes(self, host: Host, plan: Plan) -> tuple[str, ...]:
        return ()

    def apply(self, host: Host, plan: Plan) -> Program:
        owner = plan.after.owner
        if self.refusals:
            self.refusals -= 1
            raise ApplyFailed("torn")
        ensure_fresh(plan, self.generation(host, self.driver), lambda: self.observe(host, self.driver, owner))
        written = 0
        for family in Family:
            changes = [change for change in plan.changes if change.key[0] == family]
            if not changes:
                continue
            try:
                self._check(change.after.text for change in changes if change.after is not None)
                self._effects.spend(self.name)
            except ApplyFailed as error:
                if written:
                    raise StateUnknown(f"{error.message}, after {written} of the families") from error
                raise
            rules = self.observe(host, self.driver, owner).by_key
            rules = {key: item for key, item in rules.items() if key not in {c.key for c in changes}}
            new = [change.after for change in changes if change.after is not None]
            rules |= {item.key: item._replace(text=self.distort(item.text)) for item in new}
            self.held[owner] = Program(owner, tuple(rules.values())).in_order_of(plan.after)
            written += 1
        if self.blind:
            raise StateUnknown("the rules cannot be read back")
        return self.observe(host, self.driver, owner)

    def _check(self, texts: Iterable[str]) -> None:
        for rule in paper_rules.rules("\n".join(texts)):
            if self.refused & set(rule.slots):
                raise ApplyFailed("refused")

    def lift(self, program: Program) -> LiftedProgram:
        return LiftedProgram(
            services=tuple(
                LiftedService(
                    name=rule.service or "",
                    family=rule.family,
                    listener=_listener(*place),
                    mode="single" if len(set(rule.slots)) == 1 else rule.mode,
                    slots=rule.slots,
                    action=rule.action,
                )
                for item in program.items
                for rule in paper_rules.rules(item.text)
                for place in rule.places
            )
        )

    def stats(
        self,
        host: Host,
        driver: str,
        owner: str,
        *,
        services: Collection[str] | None = None,
        held: Program | None = None,
    ) -> tuple[Count, ...]:
        every = (count for owned, counts in self.counts.items() if owned == owner for count in counts)
        return tuple(count for count in every if services is None or count.service in services)


def _listener(proto: str, dst: str, port: str) -> Listener:
    address = None if dst == "local" else ip_address(dst)
    return Listener(protocol=Transport(proto), port=int(port), address=address)


class ReadingPaper(Paper):
    """The same, with rules that other programs wrote beside those of lbctl, which it can read."""

    def __init__(self, effects: Effects | None = None) -> None:
        super().__init__(effects)
        #: The lines that lbctl does not manage, behind the rules managed by lbctl, and ahead of them.
        self.foreign: list[str] = []
        self.ahead: list[str] = []

    def recognizes(self, text: str) -> bool:
        return bool(paper_rules.rules(text))

    def read(self, text: str, *, family: Family | None = None) -> Analysis:
        return paper_rules.read(text, other_slot_of if self.remaps else slot_of)

    def dump(self, host: Host, driver: str) -> str:
        managed = [item.text for program in self.held.values() for item in program.items]
        return "\n".join([*self.ahead, *managed, *self.foreign])

    def count_rules(self, host: Host, driver: str) -> RuleCounts:
        ours = sum(len(program.items) for program in self.held.values())
        return RuleCounts(
            store=self.store, managed=ours, foreign=len(paper_rules.rules("\n".join(self.foreign)))
        )

    def diagnose(self, host: Host, driver: str, case: Case) -> Iterable[Problem]:
        return ()


class MigratingPaper(ReadingPaper):
    """The same, which can remove and restore what other programs wrote, and keeps clients."""

    def __init__(
        self, effects: Effects | None = None, *, name: str = "paper", driver: str = "pencil", rank: int = 1
    ) -> None:
        super().__init__(effects)
        self.name, self.driver, self.preference, self.precedence = name, driver, rank, rank
        #: The clients that each rule keeps.
        self.kept: dict[str, dict[str, tuple[str, int]]] = {}

    def apply(self, host: Host, plan: Plan) -> Program:
        held = super().apply(host, plan)
        self.remember(host, self.driver, plan.after.owner, plan.clients)
        return held

    def foreign_rules(self, text: str, owner: str) -> str:
        return "\n".join(line for line in text.split("\n") if not line.startswith(f"[{owner}/"))

    def rules_in(self, text: str) -> tuple[str, ...]:
        return tuple(rule.text for rule in paper_rules.rules(text))

    def retire(self, text: str, lines: Collection[int]) -> Retirement:
        every = text.split("\n")
        gone = [line for number, line in enumerate(every, 1) if number in lines]
        record = json.dumps({"before": every, "gone": gone})
        after = paper_rules.without(text, lines)
        return Retirement(after=after, lines=tuple(sorted(lines)), record=record)

    def managing_program(self, text: str, lines: Collection[int]) -> str | None:
        writers = {rule.writer for rule in paper_rules.rules(text) if rule.line in lines}
        return next((writer for writer in sorted(writers) if writer), None)

    def removed_rules(self, record: str) -> tuple[str, ...]:
        return tuple(json.loads(record)["gone"])

    def boot_files(self, host: Host) -> tuple[str, ...]:
        return tuple(path for path in ("/etc/paper",) if host.exists(path))

    def side_effects(self, driver: str, text: str, record: str) -> tuple[str, ...]:
        return (f"{self.name} forgets the clients of rules that leave it",)

    def is_present(self, host: Host, driver: str, record: str) -> bool:
        return set(self.removed_rules(record)) <= set(self.foreign)

    def removal_text(self, host: Host, driver: str, record: str) -> str:
        return "".join(f"erase {line}\n" for line in self.removed_rules(record) if line in self.foreign)

    def remove_rules(self, host: Host, driver: str, record: str) -> None:
        for family in Family:
            gone = {rule.text for rule in self._rules_of(record) if rule.family is family}
            if gone & set(self.foreign):
                self._effects.spend(self.name)
                self.foreign = [line for line in self.foreign if line not in gone]

    def restore_rules(self, host: Host, driver: str, record: str) -> None:
        before = json.loads(record)["before"]
        for family in Family:
            gone = {rule.text for rule in self._rules_of(record) if rule.family is family}
            if gone - set(self.foreign):
                self._effects.spend(self.name)
                self.foreign = paper_rules.restore_rules(self.foreign, before, gone)

    def _rules_of(self, record: str) -> tuple[paper_rules.Rule, ...]:
        return paper_rules.rules("\n".join(self.removed_rules(record)))

    def clients(self, host: Host, driver: str, owner: str) -> tuple[Remembered, ...]:
        rules = paper_rules.rules(self.dump(host, driver))
        mine = {rule.line: rule.service or "" for rule in rules if rule.owned_by(owner)}
        return tuple(self._clients(rules, mine))

    def clients_of(
        self, host: Host, text: str, services: Mapping[str, Collection[int]]
    ) -> tuple[Remembered, ...]:
        names = {line: service for service, lines in services.items() for line in lines}
        return tuple(self._clients(paper_rules.rules(text), names))

    def _clients(self, rules: Sequence[paper_rules.Rule], names: Mapping[int, str]) -> Iterator[Remembered]:
        for rule in rules:
            for client, (to, seconds) in self.kept.get(rule.text, {}).items():
                if rule.line in names:
                    yield Remembered(names[rule.line], rule.family, client, to, seconds)

    def remember(self, host: Host, driver: str, owner: str, clients: Sequence[Remembered]) -> None:
        for rule in paper_rules.rules(self.dump(host, driver)):
            if not rule.owned_by(owner) or rule.seconds is None:
                continue
            mine = self.kept.setdefault(rule.text, {})
            for each in clients:
                if (each.service, each.family) == (rule.service, rule.family) and each.to in rule.slots:
                    mine.setdefault(each.client, (each.to, each.seconds))


def install(monkeypatch: pytest.MonkeyPatch, state: Path, *backends: Any) -> None:
    """Have these be the backends of this process, on a host where lbctl may do everything."""
    entries = [SimpleNamespace(name="e", value="p", load=lambda it=it: it) for it in backends]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    monkeypatch.setattr(LocalHost, "may_change_network", lambda _: True)
    monkeypatch.setenv("LBCTL_STATE_DIR", str(state))
