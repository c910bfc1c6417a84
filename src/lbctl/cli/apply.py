"""`lbctl apply`."""

from __future__ import annotations

import sys

from lbctl.cli.options import BackendName, Color, Colors, Config, DriverName, Format, Output, Yes


def apply(
    config: Config = None,
    yes: Yes = False,
    backend: BackendName = "auto",
    driver: DriverName = None,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Make the kernel do what the intent file says: atomically, and only what differs.

    Shows the plan and asks first. Where nothing differs, nothing is touched.
    """
    from lbctl import engine
    from lbctl.cli.output import Style, plan_document, plan_text, print_json, say
    from lbctl.cli.work import confirmed, read_intent, session_for

    intent = read_intent(config)
    session = session_for(backend, driver)
    made = engine.plan(session, intent)
    style = Style(color)
    if output is Format.TEXT:
        print(plan_text(made, style), flush=True)
    elif made.changed and not yes:
        say(plan_text(made, Style(color, stream=sys.stderr)))
    applied = made.changed and confirmed("Apply this?", yes=yes)
    if applied:
        for note in engine.apply(session, (made,)):
            say(note)
    if output is Format.JSON:
        before, after = session.backend.render(made.before), session.backend.render(made.after)
        print_json(plan_document(made, before, after) | {"applied": applied})
    elif made.changed:
        say(style("Applied." if applied else "Nothing was changed.", "bold"))
