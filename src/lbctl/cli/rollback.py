"""`lbctl rollback`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.fleet import ForFleet, Sign
from lbctl.cli.options import Color, Colors, Config, Format, IgnoreHealth, Output, Owner, Wait, Yes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.engine import Migration, Session
    from lbctl.host import Host
    from lbctl.model import Intent, Plan

#: So many services are named that an intent file has otherwise.
_FEW = 8


def rollback(
    to: Annotated[
        int | None,
        typer.Option(
            "--to",
            metavar="NUMBER",
            help="Return to a state that lbctl history lists; 0 is the host before the first apply.",
            show_default=False,
        ),
    ] = None,
    fleet: ForFleet = False,
    sign: Sign = None,
    config: Config = None,
    owner: Owner = None,
    yes: Yes = False,
    ignore_health: IgnoreHealth = False,
    wait: Wait = 0.0,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Return to the state before the last apply.

    Repeat it to go further back. The intent of that state is applied like any other: what does not differ is
    not touched. Drains and weights that were set by command stay. With --fleet, publish the intent that was
    published before the current one.
    """
    from lbctl import engine
    from lbctl.cli.context import open_host
    from lbctl.cli.intents import context_of
    from lbctl.cli.output import print_json, say
    from lbctl.cli.work import confirmed, declined, is_cautious, settle

    if fleet:
        from lbctl.cli.publication import Publishing, roll_back

        roll_back(to, Publishing(config=config, sign=sign, yes=yes, output=output))
        return
    host = open_host()
    context = context_of(host, owner, config)
    whose = context.owner
    # An abandoned trial is what is gone back from.
    settle(context, patience=wait, trials=False)
    target = engine.restorable(host, whose) if to is None else engine.state(host, whose, to)
    session = engine.open_session(
        host,
        backend=target.backend,
        driver=target.driver,
        allow_remap=target.allow_remap,
        patience=wait,
        cautious=is_cautious(yes=yes, ignore_health=ignore_health),
        unattended=yes,
    )
    data = output is Format.JSON
    plan, target = engine.roll_back(session, whose, to)
    if not isinstance(plan, engine.Migration):
        plan = engine.annotate(session, plan)
    _show(plan, data=data, asking=plan.changed and not yes, color=color)
    _mention_decisions(session.host, whose)
    agreed = not plan.changed or confirmed("Roll back to this?", yes=yes)
    if agreed:
        for note in engine.go_back(session, plan, target):
            say(note)
        session.memory.save()
    if data:
        print_json({**_document(session, plan), "applied": agreed and plan.changed, "to": target.number})
    elif agreed:
        say(f"Back at {target.state}.")
    else:
        say("Nothing was changed.")
    if agreed:
        _mention_file(config, target.intent)
    else:
        declined()


def _show(plan: Plan | Migration, *, data: bool, asking: bool, color: Color) -> None:
    """Print the way back, or before a question on stderr if stdout is for data."""
    from lbctl import engine
    from lbctl.cli import migration
    from lbctl.cli.output import show_plans
    from lbctl.cli.work import warn_of_removal

    if isinstance(plan, engine.Migration):
        migration.show(plan, data=data, asking=asking, color=color)
    else:
        show_plans([plan], data=data, asking=asking, color=color)
        warn_of_removal([plan])


def _document(session: Session, plan: Plan | Migration) -> Mapping[str, object]:
    from lbctl import engine
    from lbctl.cli.output import plan_document
    from lbctl.documents.migration import document

    if isinstance(plan, engine.Migration):
        return {"changed": plan.changed, "migration": document(plan)}
    return plan_document(plan, engine.describe(session, plan), session.backend.render)


def _mention_decisions(host: Host, owner: str) -> None:
    """Report what a rollback does not revert: the last act may have been one of these."""
    from lbctl.cli.output import say
    from lbctl.engine.change.operate import decisions

    if decided := decisions(host, owner):
        say(
            f"Drains and weights by command are not part of the history, and stay: {decided}. lbctl activate "
            "ends a drain, lbctl weight SERVICE/ENDPOINT --reset a weight."
        )


def _mention_file(config: Path | None, intent: Intent) -> None:
    """Report that the intent file says something else than what was restored."""
    from lbctl.cli.differences import service_lines
    from lbctl.cli.intents import files_if_any
    from lbctl.cli.output import say
    from lbctl.config import load_merged
    from lbctl.errors import IntentError
    from lbctl.model import intent_changes

    try:
        files = files_if_any(config)
        meant = load_merged(files) if files else None
    except IntentError:
        return  # whose owner was named beside it
    if meant is None or meant.owner != intent.owner or meant == intent:
        return
    named = ", ".join(map(str, files))
    say(f"{named} still differs; lbctl apply would undo this rollback:")
    for lines in service_lines(intent_changes(intent, meant), most=_FEW):
        say(lines)
