"""`lbctl apply`."""

from __future__ import annotations

from lbctl.cli.options import AllowRemap, BackendName, Color, Colors, Config, DriverName, Format, Output, Yes


def apply(
    config: Config = None,
    yes: Yes = False,
    backend: BackendName = "auto",
    driver: DriverName = None,
    allow_remap: AllowRemap = False,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Make the kernel do what the intent file says: atomically, and only what differs.

    Shows the plan and asks first. Where nothing differs, nothing is touched.
    """
    from lbctl import engine
    from lbctl.cli.output import plan_document, print_json, say, show_plans
    from lbctl.cli.progress import stages
    from lbctl.cli.work import confirmed, read_intent, session_for

    with stages("Reading the intent", "Comparing it with the kernel") as next_stage:
        intent = read_intent(config)
        next_stage()
        session = session_for(backend, driver, allow_remap=allow_remap)
        made = engine.plan(session, intent)
    show_plans([made], data=output is Format.JSON, asking=made.changed and not yes, color=color)
    applied = made.changed and confirmed("Apply this?", yes=yes)
    with stages("Changing the kernel"):
        notes = engine.apply(session, (made,)) if applied else ()
        session.memory.save()
    for note in notes:
        say(note)
    if output is Format.JSON:
        document = plan_document(made, engine.describe(session, made), session.backend.render)
        print_json(document | {"applied": applied})
    elif made.changed:
        say("Applied." if applied else "Nothing was changed.")
