"""`lbctl apply`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.options import (
    AllowRemap,
    BackendName,
    Color,
    Colors,
    Config,
    DriverName,
    Format,
    IgnoreHealth,
    Output,
    TrialTime,
    Wait,
    Yes,
)
from lbctl.errors import IntentError
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lbctl.engine import Session, Trial
    from lbctl.host import Host
    from lbctl.model import Plan


def apply(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            readable=False,
            help="The intent file, as with --config; or a plan file of lbctl plan -o, which is refused if "
            "kernel or intent changed since.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    trial: TrialTime = None,
    yes: Yes = False,
    ignore_health: IgnoreHealth = False,
    wait: Wait = 0.0,
    backend: BackendName = "auto",
    driver: DriverName = None,
    allow_remap: AllowRemap = False,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Make the kernel do what the intent file says, atomically.

    Shows the plan and asks first. Changes nothing if nothing differs.
    """
    from lbctl.cli.context import open_host
    from lbctl.cli.countdown import await_end
    from lbctl.cli.output import say
    from lbctl.cli.work import declined, ended, ensure_trial, until_current

    host = open_host()
    ensure_trial(trial)
    request = _Request(
        file=file,
        config=config,
        trial=trial,
        yes=yes,
        ignore_health=ignore_health,
        wait=wait,
        backend=backend,
        driver=driver,
        allow_remap=allow_remap,
        output=output,
        color=color,
    )
    done = until_current(partial(_attempt, host, request), yes=yes)
    for note in done.notes:
        say(note)
    tried = done.trial and await_end(done.session, done.trial, "Applied", trial or 0)
    _report(done, tried, output)
    ended(tried)
    if done.plan.changed and not done.applied:
        declined()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """The options of a call; times are seconds."""

    file: Path | None
    config: Path | None
    trial: float | None
    yes: bool
    ignore_health: bool
    wait: float
    backend: str
    driver: str | None
    allow_remap: bool
    output: Format
    color: Color


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What became of a plan: carried out if `applied`, and then on trial if there is one."""

    session: Session
    plan: Plan
    applied: bool
    trial: Trial | None = None
    notes: Sequence[str] = ()


def _attempt(host: Host, request: _Request) -> _Outcome:
    """Plan, ask, and carry out."""
    from lbctl import engine
    from lbctl.cli.output import show_plans
    from lbctl.cli.progress import stages
    from lbctl.cli.work import confirmed, mention_rollback, warn_of_removal

    data, yes, trial = request.output is Format.JSON, request.yes, request.trial
    with stages("Reading the intent", "Comparing it with the kernel") as next_stage:
        if request.file is not None and engine.is_plan_file(request.file):
            session, plan = _resumed(host, request, request.file, next_stage)
        else:
            session, plan = _planned(host, request, next_stage)
        plan = engine.annotate(session, plan)
    _ensure_possible(session, plan, trial, request.wait)
    if plan.intent is not None:
        mention_rollback(host, plan.intent)
    show_plans([plan], data=data, asking=plan.changed and not yes, color=request.color)
    warn_of_removal([plan])
    applied = plan.changed and confirmed("Apply this?", yes=yes)
    tried = None
    notes: Sequence[str] = ()
    with stages("Changing the kernel"):
        if applied and trial is not None:
            tried, notes = engine.try_out(session, plan, trial)
        elif applied or not plan.changed:
            notes = engine.apply(session, (plan,), record=True)
        session.memory.save()
    return _Outcome(session=session, plan=plan, applied=applied, trial=tried, notes=notes)


def _planned(host: Host, request: _Request, next_stage: Callable[[], None]) -> tuple[Session, Plan]:
    """Return the plan of an intent file, and the session that it is for."""
    from lbctl import engine
    from lbctl.cli.intents import context_with_intent
    from lbctl.cli.work import is_cautious, one_file, settle

    context, intent = context_with_intent(host, one_file(request.file, request.config))
    next_stage()
    session = engine.open_session(
        host,
        backend=request.backend,
        driver=request.driver,
        allow_remap=request.allow_remap,
        patience=request.wait,
        cautious=is_cautious(yes=request.yes, ignore_health=request.ignore_health),
        unattended=request.yes,
    )
    settle(context, patience=request.wait)
    return session, engine.plan(session, intent)


def _resumed(
    host: Host, request: _Request, path: Path, next_stage: Callable[[], None]
) -> tuple[Session, Plan]:
    """Return the plan of a plan file, and the session that it is for."""
    from lbctl import engine
    from lbctl.cli.context import Context
    from lbctl.cli.intents import announce, intent_of, read_intent
    from lbctl.cli.work import settle
    from lbctl.config.documents import name_of

    if request.backend != "auto" or request.driver is not None or request.allow_remap:
        raise IntentError("a plan file names its own backend, driver and --allow-remap")
    config, wait = request.config, request.wait
    found = engine.read_plan(path)
    announce((config,) if config is not None else found.sources)
    next_stage()
    session = engine.open_session(
        host, backend=found.backend, driver=found.driver, allow_remap=found.allow_remap, patience=wait
    )
    settle(Context(host=host, owner=found.intent.owner), patience=wait)
    if config is not None:
        return session, engine.resume(session, found, partial(read_intent, config), place=str(config))
    if not found.sources:
        return session, engine.resume(session, found)
    published = f"etcd://{found.published}" if found.published is not None else None
    place = published or ", ".join(map(name_of, found.sources))
    meant = partial(intent_of, found.sources, found.published)
    return session, engine.resume(session, found, meant, place=place)


def _ensure_possible(session: Session, plan: Plan, trial: float | None, wait: float) -> None:
    """Raise before the question what would refuse the answer.

    A running trial does so even if nothing would change: that may be over soon.
    """
    from lbctl import engine

    engine.ensure_ended(session.host, plan.owner, patience=wait)
    if trial is not None and plan.changed:
        engine.ensure_revertible(session, plan)


def _report(done: _Outcome, tried: Trial | None, output: Format) -> None:
    """Print what became of a plan; `tried` is its trial as that ended."""
    from lbctl import engine
    from lbctl.cli.output import plan_document, print_json, say

    if output is Format.JSON:
        described = engine.describe(done.session, done.plan)
        document = plan_document(done.plan, described, done.session.backend.render)
        print_json({**document, "applied": done.applied, "trial": tried and tried.state})
    elif tried is not None and tried.state == "confirmed":
        say("Confirmed.")
    elif done.plan.changed and tried is None:
        say("Applied." if done.applied else "Nothing was changed.")
