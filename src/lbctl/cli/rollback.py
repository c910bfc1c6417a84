"""`lbctl rollback`."""

from __future__ import annotations

from lbctl.cli.options import Color, Colors, Config, Format, Output, Owner, Wait, Yes


def rollback(
    config: Config = None,
    owner: Owner = None,
    yes: Yes = False,
    wait: Wait = 0.0,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Return to the state before the last apply.

    Repeat it to go further back. The intent of that state is applied like any other: what does not differ is
    not touched.
    """
    from lbctl import engine
    from lbctl.cli.migration import show
    from lbctl.cli.output import plan_document, print_json, say, show_plans
    from lbctl.cli.work import confirmed, declined, owner_of, session_for, settle
    from lbctl.documents.migration import document as migration_document
    from lbctl.host import LocalHost

    whose = owner_of(owner, config)
    # An abandoned trial is what is gone back from.
    settle(whose, patience=wait, trials=False)
    target = engine.restorable(LocalHost(), whose)
    session = session_for(target.backend, target.driver, allow_remap=target.allow_remap, patience=wait)
    made, target = engine.roll_back(session, whose)
    asking = made.changed and not yes
    if isinstance(made, engine.Migration):
        show(made, data=output is Format.JSON, asking=asking, color=color)
    else:
        show_plans([made], data=output is Format.JSON, asking=asking, color=color)
    agreed = not made.changed or confirmed("Go back to this?", yes=yes)
    if agreed:
        for note in engine.go_back(session, made, target):
            say(note)
        session.memory.save()
    if output is Format.JSON:
        outcome = {"applied": agreed and made.changed, "to": target.number}
        if isinstance(made, engine.Migration):
            print_json({"changed": made.changed, "migration": migration_document(made), **outcome})
        else:
            document = plan_document(made, engine.describe(session, made), session.backend.render)
            print_json({**document, **outcome})
    elif agreed:
        say(f"Back at {target.state}.")
    else:
        say("Nothing was changed.")
    if not agreed:
        declined()
