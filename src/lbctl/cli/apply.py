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
    from lbctl import engine
    from lbctl.cli.context import open_host
    from lbctl.cli.countdown import await_end
    from lbctl.cli.intents import context_with_intent
    from lbctl.cli.output import say, show_plans
    from lbctl.cli.progress import stages
    from lbctl.cli.work import (
        confirmed,
        declined,
        ended,
        ensure_trial,
        is_cautious,
        mention_rollback,
        one_file,
        session_for,
        settle,
        until_current,
        warn_of_removal,
    )

    host = open_host()
    ensure_trial(trial)

    def attempt() -> tuple[Session, Plan, bool, Trial | None, Sequence[str]]:
        """Plan, ask, and carry out."""
        with stages("Reading the intent", "Comparing it with the kernel") as next_stage:
            if file is not None and engine.is_plan_file(file):
                if backend != "auto" or driver is not None or allow_remap:
                    raise IntentError("a plan file names its own backend, driver and --allow-remap")
                session, made = _planned(host, file, config, wait, next_stage)
            else:
                context, intent = context_with_intent(host, one_file(file, config))
                next_stage()
                session = session_for(
                    host,
                    backend,
                    driver,
                    allow_remap=allow_remap,
                    patience=wait,
                    cautious=is_cautious(yes=yes, ignore_health=ignore_health),
                    unattended=yes,
                )
                settle(context, patience=wait)
                made = engine.plan(session, intent)
            made = engine.annotate(session, made)
        _ensure_possible(session, made, trial, wait)
        if made.intent is not None:
            mention_rollback(host, made.intent)
        show_plans([made], data=output is Format.JSON, asking=made.changed and not yes, color=color)
        warn_of_removal([made])
        applied = made.changed and confirmed("Apply this?", yes=yes)
        tried = None
        notes: Sequence[str] = ()
        with stages("Changing the kernel"):
            if applied and trial is not None:
                tried, notes = engine.try_out(session, made, trial)
            elif applied or not made.changed:
                notes = engine.apply(session, (made,), record=True)
            session.memory.save()
        return session, made, applied, tried, notes

    session, made, applied, tried, notes = until_current(attempt, yes=yes)
    for note in notes:
        say(note)
    if tried is not None:
        tried = await_end(session, tried, "Applied", trial or 0)
    _report(session, made, tried, applied=applied, output=output)
    ended(tried)
    if made.changed and not applied:
        declined()


def _report(session: Session, made: Plan, tried: Trial | None, *, applied: bool, output: Format) -> None:
    """Print what became of a plan."""
    from lbctl import engine
    from lbctl.cli.output import plan_document, print_json, say

    if output is Format.JSON:
        document = plan_document(made, engine.describe(session, made), session.backend.render)
        print_json({**document, "applied": applied, "trial": tried and tried.state})
    elif tried is not None and tried.state == "confirmed":
        say("Confirmed.")
    elif made.changed and tried is None:
        say("Applied." if applied else "Nothing was changed.")


def _ensure_possible(session: Session, made: Plan, trial: float | None, wait: float) -> None:
    """Raise before the question what would refuse the answer.

    A running trial does so even if nothing would change: that may be over soon.
    """
    from lbctl import engine

    engine.ensure_ended(session.host, made.owner, patience=wait)
    if trial is not None and made.changed:
        engine.ensure_revertible(session, made)


def _planned(
    host: Host, path: Path, config: Path | None, wait: float, next_stage: Callable[[], None]
) -> tuple[Session, Plan]:
    """The plan of a file, and the session that it is for."""
    from lbctl import engine
    from lbctl.cli.context import Context
    from lbctl.cli.intents import announce, intent_of, read_intent
    from lbctl.cli.work import session_for, settle
    from lbctl.config.documents import name_of

    found = engine.read_plan(path)
    announce((config,) if config is not None else found.sources)
    next_stage()
    session = session_for(host, found.backend, found.driver, allow_remap=found.allow_remap, patience=wait)
    settle(Context(host=host, owner=found.intent.owner), patience=wait)
    if config is not None:
        return session, engine.resume(session, found, partial(read_intent, config), place=str(config))
    if not found.sources:
        return session, engine.resume(session, found)
    published = f"etcd://{found.published}" if found.published is not None else None
    place = published or ", ".join(map(name_of, found.sources))
    meant = partial(intent_of, found.sources, found.published)
    return session, engine.resume(session, found, meant, place=place)
