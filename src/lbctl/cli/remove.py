"""`lbctl remove`."""

from __future__ import annotations

from lbctl.cli.options import BackendName, Color, Colors, Config, DriverName, Format, Output, Owner, Wait, Yes


def remove(
    config: Config = None,
    owner: Owner = None,
    yes: Yes = False,
    wait: Wait = 0.0,
    backend: BackendName = "auto",
    driver: DriverName = None,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Remove everything that lbctl manages, and nothing else.

    Searches every backend of this host, or only that of --backend and --driver.
    """
    from lbctl import engine
    from lbctl.cli.context import open_host
    from lbctl.cli.intents import context_of
    from lbctl.cli.output import plan_document, print_json, say, show_plans
    from lbctl.cli.work import confirmed, declined, settle, warn_of_removal

    context = context_of(open_host(), owner, config)
    whose = context.owner
    session = engine.open_session(context.host, backend=backend, driver=driver, patience=wait, unattended=yes)
    settle(context, patience=wait)
    engine.ensure_ended(session.host, whose, patience=wait)
    changes = engine.removal(session, whose, everywhere=backend == "auto" and driver is None)
    due = tuple((at, engine.in_recorded_order(at, plan)) for at, plan in changes if plan.changed)
    show_plans((plan for _, plan in due), data=output is Format.JSON, asking=not yes, color=color)
    if not due and output is Format.TEXT:
        print(f'Nothing to remove: no backend holds rules of owner "{whose}".')
    warn_of_removal(plan for _, plan in due)
    removed = bool(due) and confirmed("Remove this?", yes=yes)
    if removed:
        for place, plan in due:
            for note in engine.apply(place, (plan,), record=True):
                say(note)
        session.memory.save()
    if output is Format.JSON:
        documents = [plan_document(p, engine.describe(at, p), at.backend.render) for at, p in due]
        print_json({"owner": whose, "changed": bool(due), "removed": removed, "plans": documents})
    elif due:
        say("Removed." if removed else "Nothing was changed.")
    if due and not removed:
        declined()
