"""`lbctl migrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.complete import complete_store, complete_target
from lbctl.cli.options import (
    AllowRemap,
    Color,
    Colors,
    Config,
    DriverName,
    Fix,
    Format,
    IgnoreHealth,
    Keep,
    Output,
    Owner,
    TrialTime,
    Wait,
    Yes,
)

if TYPE_CHECKING:
    from lbctl.engine import Session
    from lbctl.model import Intent

To = Annotated[
    str,
    typer.Option("--to", metavar="BACKEND", help="Backend to migrate to.", autocompletion=complete_target),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="STORE",
        help="Store to migrate from, as lbctl backends lists them (default: the one with the rules).",
        autocompletion=complete_store,
        show_default=False,
    ),
]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Print the migration plan and exit.")]
Rules = Annotated[
    bool, typer.Option("--rules", help="Show the rules too: a diff, and scripts for a host without lbctl.")
]
Scripts = Annotated[
    Path | None,
    typer.Option(
        "--scripts",
        metavar="DIR",
        help="Write the scripts of --rules to files in this directory.",
        show_default=False,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="NAME",
        help="Leave this service or rule in place (repeatable).",
        show_default=False,
    ),
]
Save = Annotated[
    Path | None,
    typer.Option(
        "--save", metavar="FILE", help="Write the intent file after the migration.", show_default=False
    ),
]


def migrate(
    to: To,
    source: From = None,
    plan: PlanOnly = False,
    rules: Rules = False,
    scripts: Scripts = None,
    config: Config = None,
    owner: Owner = None,
    trial: TrialTime = None,
    exclude: Exclude = None,
    fix: Fix = False,
    keep: Keep = False,
    save: Save = None,
    yes: Yes = False,
    ignore_health: IgnoreHealth = False,
    wait: Wait = 0.0,
    driver: DriverName = None,
    allow_remap: AllowRemap = False,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Migrate services between nftables and iptables without loss.

    Shows the rules to remove and to add, asks, adds and verifies the new rules, then removes the old ones. No
    connection is lost; if a step fails, the state before is restored.
    """
    from lbctl import engine
    from lbctl.cli import migration as shown, work
    from lbctl.cli.context import open_host
    from lbctl.cli.intents import announce, context_of, files_if_any, intent_if_any
    from lbctl.cli.output import print_json, say
    from lbctl.cli.progress import stages

    policy = work.share_policy(fix=fix, keep=keep)
    host = open_host()
    work.ensure_trial(trial)
    work.ensure_new(save)
    work.ensure_backend(host, to)
    data = output is Format.JSON

    def attempt() -> tuple[Session, Intent | None, bool] | None:
        """Plan, ask, and carry out; None where there is nothing to do."""
        with stages("Reading both sides"):
            context = context_of(host, owner, config)
            whose = context.owner
            intent = intent_if_any(config)
            if owner is not None and intent and intent.owner == whose:
                announce(files_if_any(config))
            session = engine.open_session(
                host,
                backend=to,
                driver=driver,
                allow_remap=allow_remap,
                patience=wait,
                cautious=work.is_cautious(yes=yes, ignore_health=ignore_health),
                unattended=yes,
            )
            if plan:
                work.mention_unsettled(context, data=output is Format.JSON)
            else:
                work.settle(context, patience=wait)
            given = intent if intent and intent.owner == whose else None
            migration = engine.plan_migration(
                session, whose, source=source, intent=given, exclude=exclude or (), policy=policy
            )
        if not plan:
            engine.ensure_ended(session.host, whose, patience=wait)
        if trial is not None and not plan and migration is not None:
            engine.ensure_revertible(session, migration)
        if migration is None:
            say(engine.nothing_to_migrate(session, whose, source))
            if data:
                print_json({"changed": False, "applied": False})
            return None
        if scripts is not None:
            shown.write_scripts(scripts, migration)
        shown.show(migration, data=data, asking=not (plan or yes), color=color, rules=rules)
        applied = not plan and work.confirmed("Migrate?", yes=yes)
        shown.carry_out(session, migration, applied=applied, plan=plan, trial=trial, save=save, data=data)
        return session, intent, applied

    done = work.until_current(attempt, yes=yes)
    if done is None:
        return
    session, intent, applied = done
    if not applied and not plan:
        work.declined()
    if applied and save is None and intent is None and not data:
        say(f"There is no intent file yet: lbctl import --from {session.place} > lbctl.toml writes it.")
