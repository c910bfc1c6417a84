"""A host in memory with two stores of rules, for the stories of migrations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from lbctl import engine
from lbctl.config import loads
from lbctl.engine.record import history, trial
from support.backends import MigratingPaper
from support.faults import Effects, MortalHost
from support.network import intent, service

if TYPE_CHECKING:
    from lbctl.engine import Migration, Session, Trial
    from lbctl.model import Intent


class Rules(NamedTuple):
    """All rules of a store, in order: those managed by lbctl, and others."""

    managed: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


def read_intent(*services: str) -> Intent:
    """Return the intent with services as an intent file has them."""
    return loads(intent(*services), "intent")


class Desk:
    """Two stores, `left` and `right`, and the processes that work on them."""

    def __init__(self) -> None:
        self.effects = Effects()
        self.host = MortalHost(self.effects)
        self.left = MigratingPaper(self.effects, name="left", driver="pencil", rank=1)
        self.right = MigratingPaper(self.effects, name="right", driver="pen", rank=2)
        self.host.on_detach = lambda: trial.announce(self.host, *self.host.detached[-1][-2:])

    def paper(self, name: str) -> MigratingPaper:
        """Return one of the two."""
        return {"left": self.left, "right": self.right}[name]

    def session(self, at: str, *, allow_remap: bool = False) -> Session:
        """Return a new session on one of them."""
        papers = [self.left, self.right]
        return engine.open_session(self.host, backend=at, installed=papers, allow_remap=allow_remap)

    @property
    def rules(self) -> dict[str, Rules]:
        """All rules of both."""
        return {paper.name: _rules(paper) for paper in (self.left, self.right)}

    def apply(self, at: str, wanted: Intent) -> None:
        session = self.session(at)
        engine.apply(session, (engine.plan(session, wanted),), record=True)

    def plan(self, to: str, *, allow_remap: bool = False, **options: Any) -> Migration | None:
        return engine.plan_migration(self.session(to, allow_remap=allow_remap), "lbctl", **options)

    def planned(self, to: str, **options: Any) -> Migration:
        """Return the plan of a migration that there is."""
        found = self.plan(to, **options)
        assert found is not None
        return found

    def migrate(self, to: str, **options: Any) -> tuple[str, ...]:
        found = self.planned(to, **options)
        return engine.run_migration(found.target, found)

    def try_out(self, to: str, seconds: float = 60) -> Trial:
        found = self.planned(to)
        return engine.try_out(found.target, found, seconds)[0]

    def watch(self, tried: Trial, at: str = "left") -> Trial:
        """Be the reverter of a trial until it is over."""
        engine.watch(self.session(at), "lbctl", tried.ident)
        found = engine.read_trial(self.host, "lbctl")
        assert found is not None
        return found

    def roll_back(self, at: str = "left", *, to: int | None = None) -> tuple[str, ...]:
        session = self.session(at)
        way, target = engine.roll_back(session, "lbctl", to)
        return engine.go_back(session, way, target)

    def recover(self, at: str = "left", *, trials: bool = True) -> tuple[str, ...]:
        return engine.recover(self.session(at), "lbctl", trials=trials)

    @property
    def pending(self) -> bool:
        return history.pending(self.host, "lbctl") is not None

    @property
    def actions(self) -> list[str]:
        return [entry.action for entry in engine.entries(self.host, "lbctl")]

    @property
    def holds_what_is_on_record(self) -> bool:
        """True if the kernel holds the last state of the history, and nothing else of lbctl."""
        last = history.last_of(self.host, "lbctl")
        if last is None:
            return not any(paper.held.get("lbctl") for paper in (self.left, self.right))
        session = self.session(last.backend)
        other = self.left if session.backend is self.right else self.right
        found = session.like(last)
        wanted = found.compile(last.intent)
        return session.observe("lbctl") == wanted and not other.held.get("lbctl")


def _rules(paper: MigratingPaper) -> Rules:
    managed = tuple(item.text for program in paper.held.values() for item in program.items)
    return Rules(managed, tuple(paper.foreign))


#: Rules of a host that balance nothing, before and behind those that do.
FIRST, LAST = "ipv4 any:22/tcp drop", "ipv4 local:2222/tcp nth to 22"
#: Rules of another program, and the services that they are: one takes its turns in two rules.
WRITTEN = (
    FIRST,
    "ipv4 local:80/tcp nth to 8001 - -",
    "ipv4 local:80/tcp nth to 8002 8003",
    "ipv6 local:53/udp random to 5301 5302",
    LAST,
)
SERVICES = (
    service("web", "80/tcp", "8001", "8002", "8003"),
    service("kept", "192.0.2.1:81/tcp", "10.0.0.1:80", "10.0.0.2:80", affinity="1h"),
)


@dataclass(frozen=True)
class Story:
    """Services in one store, managed by lbctl or written by another program, that migrate to the other."""

    source: str
    target: str
    foreign: bool

    def __str__(self) -> str:
        return f"{'foreign rules' if self.foreign else 'services'} from {self.source} to {self.target}"

    def desk(self) -> Desk:
        """Return the host before the migration."""
        desk = Desk()
        source, target = desk.paper(self.source), desk.paper(self.target)
        source.foreign = list(WRITTEN if self.foreign else (FIRST, LAST))
        target.foreign = ["ipv4 any:23/tcp drop"]
        if not self.foreign:
            desk.apply(self.source, read_intent(*SERVICES))
        return desk


STORIES = [
    Story(*way, foreign) for foreign in (False, True) for way in (("left", "right"), ("right", "left"))
]
