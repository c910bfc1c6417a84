"""`lbctl plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lbctl.cli.options import AllowRemap, BackendName, Color, Colors, Config, DriverName, Format, Output


def plan(
    config: Config = None,
    rules: Annotated[bool, typer.Option("--rules", help="Show the difference of the rules too.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Write the plan to a file for lbctl apply FILE."),
    ] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 if there is something to change.")
    ] = False,
    backend: BackendName = "auto",
    driver: DriverName = None,
    allow_remap: AllowRemap = False,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Show what apply would change, with shares before and after."""
    from lbctl import engine
    from lbctl.cli.output import Style, plan_document, plan_rules, plan_text, print_json, rules_diff
    from lbctl.cli.progress import stages
    from lbctl.cli.work import intent_files, mention_unsettled, read_announced, session_for
    from lbctl.documents.history import unsettled as unsettled_document

    with stages("Reading the intent", "Comparing it with the kernel") as next_stage:
        intent = read_announced(config)
        next_stage()
        session = session_for(backend, driver, allow_remap=allow_remap)
        made = engine.plan(session, intent)
    unsettled = mention_unsettled(intent.owner, data=output is Format.JSON)
    if out is not None:
        engine.write_plan(session, made, intent, intent_files(config), out)
    if output is Format.JSON:
        document = plan_document(made, engine.describe(session, made), session.backend.render)
        print_json({**document, **unsettled_document(unsettled)})
    else:
        style = Style(color)
        print(plan_text(made, style))
        if rules and made.changed:
            print()
            print(rules_diff(*plan_rules(made, session.backend.render), style))
    if exit_code and made.changed:
        raise typer.Exit(1)
