"""`lbctl weight`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.complete import complete_endpoint
from lbctl.cli.fleet import ForFleet, Sign
from lbctl.cli.operator import Why
from lbctl.cli.options import Color, Colors, Config, Format, IgnoreHealth, Output, Owner, Yes
from lbctl.errors import IntentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.engine import Operation


def weight(
    endpoint: Annotated[
        str,
        typer.Argument(
            metavar="SERVICE/ENDPOINT",
            help="An endpoint by its name or address, e.g. web/8003 or api/10.0.0.11:8443.",
            autocompletion=complete_endpoint,
            show_default=False,
        ),
    ],
    value: Annotated[
        int | None,
        typer.Argument(metavar="WEIGHT", help="A whole number, 1 or more.", show_default=False),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Use the weight of the intent file again.")] = False,
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
    """Set the weight of an endpoint.

    It overrides the weight in the intent file until --reset, through applies, rollbacks and restarts of the
    host. Starts from what was applied last.
    """
    from lbctl import engine
    from lbctl.cli import operator
    from lbctl.cli.context import open_host
    from lbctl.cli.intents import context_of

    operator.ensure_why(why)
    _ensure_weight(endpoint, value, reset=reset)
    if fleet:
        from lbctl.cli.publication import Publishing, override

        override(
            [endpoint], Publishing(config=config, sign=sign, yes=yes, output=output), weight=value, why=why
        )
        return
    context = context_of(open_host(), owner, config, announced=False)
    session = operator.session_for_owner(context, ignore_health=ignore_health)
    operation = engine.weigh(session, context.owner, [endpoint], value, why=why)
    operator.conclude(operation, _report, yes=yes, output=output, color=color)


def _ensure_weight(endpoint: str, value: int | None, *, reset: bool) -> None:
    from lbctl.model import MAX_WEIGHT

    if reset == (value is not None):
        raise IntentError("give either a weight or --reset", hint=f"lbctl weight {endpoint} 2")
    if value == 0:
        raise IntentError("a weight of 0 is a drain", hint=f"lbctl drain {endpoint}")
    if value is not None and not 1 <= value <= MAX_WEIGHT:
        raise IntentError(f"weight {value} is not between 1 and {MAX_WEIGHT}")


def _report(operation: Operation) -> Iterator[str]:
    (target,) = operation.targets
    in_file = f"; {target.endpoint.weight} in the applied intent" if target.endpoint is not None else ""
    if target.after is not None and target.after.weight is not None:
        done = "has" if target.before == target.after else "now has"
        yield f"{target} {done} weight {target.after.weight}{in_file}."
    elif target.before is None or target.before.weight is None:
        yield f"{target} has no weight set by command{in_file}."
    else:
        yield f"{target} has no weight set by command any more{in_file}."
