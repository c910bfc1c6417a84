"""`lbctl drain`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.fleet import ForFleet, Sign
from lbctl.cli.operator import Endpoints, Why
from lbctl.cli.options import Color, Colors, Config, Format, IgnoreHealth, Output, Owner, Yes, seconds
from lbctl.errors import IntentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.engine import Operation


def drain(
    endpoints: Endpoints,
    wait: Annotated[
        float | None,
        typer.Option(
            "--wait",
            metavar="TIME",
            parser=seconds,
            help="Return when no established connection is left, or with exit code 1 after TIME, e.g. 5m. "
            "The endpoints stay drained.",
            show_default=False,
        ),
    ] = None,
    why: Why = "",
    fleet: ForFleet = False,
    sign: Sign = None,
    config: Config = None,
    owner: Owner = None,
    yes: Yes = False,
    ignore_health: IgnoreHealth = False,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Take endpoints out of rotation.

    They get no new connections; established ones continue. Lasts until lbctl activate, through applies,
    rollbacks and restarts of the host. Starts from what was applied last. Asks only if no endpoint that
    works is left, or if another program changed the rules in the kernel.
    """
    from lbctl import engine
    from lbctl.cli import operator
    from lbctl.cli.context import open_host
    from lbctl.cli.intents import context_of

    operator.ensure_why(why)
    if fleet:
        if wait is not None:
            raise IntentError("--wait looks at the connections of this host: leave it out with --fleet")
        from lbctl.cli.publication import Publishing, override

        override(endpoints, Publishing(config=config, sign=sign, yes=yes, output=output), drain=True, why=why)
        return
    context = context_of(open_host(), owner, config, announced=False)
    session = operator.session_for_owner(context, ignore_health=ignore_health)
    operation = engine.drain(session, context.owner, endpoints, why=why)
    if wait is not None:
        # Not after the change: without conntrack there is nothing to wait by.
        _left(operation)
    waiting = partial(_await, wait=wait) if wait is not None else None
    operator.conclude(operation, _report, yes=yes, output=output, color=color, wait=waiting)


def _report(operation: Operation) -> Iterator[str]:
    for target in operation.targets:
        if target.before is not None and target.before == target.after:
            yield f"{target} was already {target.before}."
        else:
            yield f"Drained {target}; lbctl activate {target} ends that."


def _left(operation: Operation) -> int:
    from lbctl import engine

    places = {(target.service, target.name) for target in operation.targets}
    return engine.connections_left(operation.session, operation.state.intent, places)


def _await(operation: Operation, wait: float) -> int:
    """Wait until the drained endpoints have no established connection; returns how many are left."""
    from lbctl import engine
    from lbctl.cli.operator import countdown, named
    from lbctl.cli.output import say

    names = named(operation.targets)
    places = {(target.service, target.name) for target in operation.targets}
    try:
        with countdown() as show:
            left = engine.await_drained(operation.session, operation.state.intent, places, wait, show)
    except KeyboardInterrupt:
        say(f"{names}: stays drained. lbctl activate ends that; lbctl drain --wait waits again.")
        raise
    if left:
        say(f"{left} established connections of {names} are left after {wait:g} s. It stays drained.")
    else:
        say(f"No established connection of {names} is left.")
    return left
