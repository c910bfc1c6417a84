"""A backend in memory, for what the engine and the commands do with any backend."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lbctl.errors import Unsupported
from lbctl.host import LocalHost
from lbctl.model import Family, Item, Lifted, LiftedService, Program, Scheduler, SourceNat, State
from lbctl.model import Protocol as Transport
from lbctl.spi import Capabilities, Count, Driver, Probe, RuleCounts, registry, require

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pytest

    from lbctl.host import Host
    from lbctl.model import Intent, Plan, Reading
    from lbctl.spi import Case, Problem


class Paper:
    """Holds rules on paper. A service with a hash scheduler has them only for who allows another map."""

    name = "paper"
    preference: int | None = 1
    store = "paper"
    tools = ()
    precedence = 0

    def __init__(self) -> None:
        self.held: dict[str, Program] = {}
        self._lifted: dict[str, LiftedService] = {}

    def probe(self, host: Host, *, driver: str | None = None) -> Probe:
        pencil = Driver(
            name="pencil", store=self.store, usable=True, reason="usable", precedence=self.precedence
        )
        can = Capabilities(
            protocols=frozenset(Transport),
            schedulers=frozenset(Scheduler),
            states=frozenset(State),
            source_nat=frozenset(SourceNat),
            affinity=True,
            allow=True,
        )
        return Probe(drivers=(pencil,), capabilities=can, fix="")

    def capabilities_for(self, tool: str, version: str) -> Capabilities:
        raise ValueError(f"{tool} {version}")

    def compile(self, intent: Intent, capabilities: Capabilities) -> Program:
        require(intent, capabilities, backend=self.name)
        items = []
        for service in intent.services:
            if service.scheduler is Scheduler.SOURCE_HASH and not capabilities.remap:
                raise Unsupported(
                    backend=self.name, service=service.name, feature="source-hash", needs="--allow-remap"
                )
            text = repr(service)
            items.append(Item(("service", service.name), text, service.name))
            self._lifted[text] = LiftedService(
                name=service.name,
                family=Family.IPV4,
                listener=service.listeners[0],
                mode="nth",
                slots=tuple(e.to for e in service.slots(Family.IPV4)),
                action="redirect",
            )
        return Program(intent.owner, tuple(items))

    def render(
        self, program: Program, *, dialect: str = "", family: Family | None = None, remove: bool = False
    ) -> str:
        return "".join(f"{item.text}\n" for item in program.items)

    def check(self, host: Host, driver: str, program: Program) -> None:
        pass

    def observe(self, host: Host, driver: str, owner: str) -> Program:
        return self.held.get(owner, Program(owner))

    def generation(self, host: Host, driver: str) -> str | None:
        return None

    def notes(self, host: Host, plan: Plan) -> tuple[str, ...]:
        return ()

    def apply(self, host: Host, plan: Plan) -> Program:
        self.held[plan.after.owner] = plan.after
        return plan.after

    def lift(self, program: Program) -> Lifted:
        return Lifted(services=tuple(self._lifted[item.text] for item in program.items))

    def stats(self, host: Host, driver: str, owner: str) -> tuple[Count, ...]:
        return ()


class ReadingPaper(Paper):
    """The same with an empty Reader, of which tests replace what they need."""

    def recognizes(self, text: str) -> bool:
        return False

    def read(self, text: str, *, family: Family | None = None) -> Reading:
        raise NotImplementedError

    def dump(self, host: Host, driver: str) -> str:
        return ""

    def count_rules(self, host: Host, driver: str) -> RuleCounts:
        return RuleCounts(store=self.store)

    def diagnose(self, host: Host, driver: str, case: Case) -> Iterable[Problem]:
        return ()


def install(monkeypatch: pytest.MonkeyPatch, state: Path, *backends: Any) -> None:
    """Have these be the backends of this process, on a host where lbctl may do everything."""
    entries = [SimpleNamespace(name="e", value="p", load=lambda it=it: it) for it in backends]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    monkeypatch.setattr(LocalHost, "may_change_network", lambda _: True)
    monkeypatch.setenv("LBCTL_STATE_DIR", str(state))
