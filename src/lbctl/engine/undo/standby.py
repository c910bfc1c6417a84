"""The way back of a trial for a host where no lbctl can wait: programs to run, and what is on record then.

All of it is known before anything changes: a change that cuts off the connection is what a trial is for. The
scripts are those of the backends, written by a host that only notes what is run, and the record is made on a
copy of what is saved.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from lbctl.engine.change.plan import pure_plan
from lbctl.engine.migrate.execute import upcoming
from lbctl.engine.migrate.migration import Migration
from lbctl.engine.record import history, trial
from lbctl.engine.record.history import TrialState
from lbctl.errors import ApplyFailed
from lbctl.host import Completed, Orders, ToolRun
from lbctl.model import Intent, Plan
from lbctl.spi import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl.engine.change.session import Session
    from lbctl.engine.migrate.steps import Step
    from lbctl.engine.record.history import HistoryEntry
    from lbctl.engine.record.trial import Trial
    from lbctl.host import Host


def orders(session: Session, way: Plan | Migration, tried: Trial) -> Orders:
    """Return what the host is to do if a trial is not confirmed in time.

    Raises `ApplyFailed` if a script cannot do it.
    """
    notes = _Notes(session.host)
    for where, step in _backwards(session, way):
        _write(where, step, tried, notes)
    _record(session, way, tried, notes)
    return Orders(
        ident=tried.ident,
        deadline=tried.deadline,
        lock=tried.owner,
        guard=trial.guard_of(tried.owner),
        record=trial.record_of(tried.owner),
        runs=tuple(notes.runs),
        saved=notes.changed(),
    )


def _backwards(session: Session, way: Plan | Migration) -> Sequence[tuple[Session, Step]]:
    """Return the steps of a change, the last one first, each with the place that it changes."""
    if isinstance(way, Plan):
        return ((session, way),)
    return ((way.source, way.go), (way.target, way.come))


def _write(session: Session, step: Step, tried: Trial, notes: _Notes) -> None:
    """Note the programs that undo a step."""
    backend = session.backend
    if not isinstance(backend, Writer):
        raise ApplyFailed(
            f"backend {backend.name} writes no script, and nothing else can revert a trial on that host",
            hint="leave out --trial; lbctl rollback reverts it",
        )
    host = cast("Host", notes)
    if isinstance(step, Plan):
        intent = Intent(owner=tried.owner)
        backend.write(host, pure_plan(backend, session.driver, step.after, step.before, intent))
    elif step.back:
        raise ApplyFailed("foreign rules cannot be restored on trial on that host")
    else:
        backend.write_restored(host, session.driver, step.record, step.dump)


def _record(session: Session, way: Plan | Migration, tried: Trial, notes: _Notes) -> None:
    """Have the copy of the record be as it is after the change, and after its reversal."""
    host = cast("Host", notes)
    forward = _forward(session, way, host)
    if forward is not None:
        history.add(host, tried.owner, forward)
    history.mark_trial(host, tried.owner, TrialState.RUNNING)
    plan = way if isinstance(way, Plan) else way.plan[1]
    back = replace(plan, intent=tried.before.intent, backend=tried.before.backend, driver=tried.before.driver)
    entry = history.upcoming(host, back, tried.before, moved=None, allow_remap=tried.before.allow_remap)
    if entry is not None:
        history.add(host, tried.owner, entry)
    report = f"the trial was not confirmed and was reverted to {tried.before.state} by that host itself"
    trial.end(host, tried, TrialState.REVERTED, report)
    notes.forget(history.pending_of(tried.owner))


def _forward(session: Session, way: Plan | Migration, host: Host) -> HistoryEntry | None:
    if isinstance(way, Migration):
        return upcoming(way, host=host)
    return history.upcoming(host, way, allow_remap=session.allow_remap)


class _Notes:
    """A host that reads what is there, notes what would be run, and saves nothing but on a copy."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._files: dict[str, str | None] = {}
        self.runs: list[ToolRun] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        """Note what changes something."""
        if not stdin:
            return self._host.run(argv)
        self.runs.append(ToolRun(argv=tuple(argv), stdin=stdin))
        return Completed(code=0, out="", err="")

    def write(self, path: str, text: str) -> bool:
        raise ApplyFailed(f"a script does not write {len(text)} bytes to {path}")

    @contextmanager
    def lock(self, name: str, *, patience: float = 0.0) -> Iterator[None]:  # noqa: ARG002
        yield

    def remember(self, name: str, text: str | None) -> None:
        """Nothing is kept."""

    def saved(self, name: str) -> str | None:
        return self._files[name] if name in self._files else self._host.saved(name)

    def saved_names(self) -> tuple[str, ...]:
        gone = {name for name, text in self._files.items() if text is None}
        return tuple(sorted({*self._host.saved_names(), *self._files} - gone))

    def save(self, name: str, text: str | None) -> None:
        self._files[name] = text

    def append(self, name: str, text: str) -> None:
        self.save(name, (self.saved(name) or "") + text)

    def rename(self, name: str, new: str) -> None:
        self._files[new], self._files[name] = self.saved(name), None

    def forget(self, name: str) -> None:
        """Have a file be removed, whether it is there now or not."""
        self._files[name] = None

    def changed(self) -> dict[str, str | None]:
        """Return what is saved otherwise than before."""
        return dict(self._files)
