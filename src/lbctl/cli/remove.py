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
    """Take out everything that lbctl owns, and nothing else.

    Looks in every backend of this host, or only where --backend or --driver point.
    """
    from lbctl import engine
    from lbctl.cli.output import plan_document, print_json, say, show_plans
    from lbctl.cli.work import confirmed, owner_of, session_for, settle

    whose = owner_of(owner, config)
    session = session_for(backend, driver, patience=wait)
    settle(whose, patience=wait)
    plans = engine.removal(session, whose, everywhere=backend == "auto" and driver is None)
    due = tuple(plan for plan in plans if plan.changed)
    show_plans(due, data=output is Format.JSON, asking=not yes, color=color)
    if not due and output is Format.TEXT:
        print(f'Nothing to remove: no backend holds rules of owner "{whose}".')
    if due:
        # The kernel stops translating, established connections too, with the last rule that wants it.
        say("Established connections live on only if other rules of this host use NAT.")
    removed = bool(due) and confirmed("Remove this?", yes=yes)
    if removed:
        for note in engine.apply(session, due, record=True):
            say(note)
        session.memory.save()
    if output is Format.JSON:
        renderer = {c.backend.name: c.backend.render for c in session.candidates}
        documents = [plan_document(p, engine.describe(session, p), renderer[p.backend]) for p in due]
        print_json({"owner": whose, "changed": bool(due), "removed": removed, "plans": documents})
    elif due:
        say("Removed." if removed else "Nothing was changed.")
