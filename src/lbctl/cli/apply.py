"""`lbctl apply`."""

from __future__ import annotations

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
    from lbctl.cli.output import plan_document, print_json, say, show_plans
    from lbctl.cli.work import confirmed, read_intent, session_for

    intent = read_intent(config)
    session = session_for(backend, driver)
    made = engine.plan(session, intent)
    show_plans([made], data=output is Format.JSON, asking=made.changed and not yes, color=color)
    applied = made.changed and confirmed("Apply this?", yes=yes)
    if applied:
        for note in engine.apply(session, (made,)):
            say(note)
    session.memory.save()
    if output is Format.JSON:
        document = plan_document(made, engine.describe(session, made), session.backend.render)
        print_json(document | {"applied": applied})
    elif made.changed:
        say("Applied." if applied else "Nothing was changed.")
