"""What `drain`, `activate` and `weight` have in common."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.complete import complete_endpoint
from lbctl.cli.options import Format
from lbctl.errors import IntentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from lbctl.cli.context import Context
    from lbctl.cli.options import Color
    from lbctl.documents.change import OperationDocument
    from lbctl.engine import Operated, Operation, Session
    from lbctl.model import Family

#: Seconds that these commands wait for another lbctl: a repair by a timer holds the lock for a moment.
_PATIENCE = 10.0
_FAMILIES = {"ipv4": "IPv4", "ipv6": "IPv6"}


Endpoints = Annotated[
    list[str],
    typer.Argument(
        metavar="SERVICE/ENDPOINT",
        help="An endpoint by its name or address, e.g. web/8003 or api/10.0.0.11:8443.",
        autocompletion=complete_endpoint,
        show_default=False,
    ),
]
Why = Annotated[
    str,
    typer.Option("--why", metavar="TEXT", help="The reason, shown by plan and status.", show_default=False),
]


def ensure_why(why: str) -> None:
    """Raise `IntentError` for a reason that cannot be kept."""
    from lbctl.model import MAX_WHY

    if len(why) > MAX_WHY or not why.isprintable():
        raise IntentError(f"--why takes one line of at most {MAX_WHY} characters")


def session_for_owner(context: Context, *, ignore_health: bool) -> Session:
    """Return a session for a command that works from what was applied last, with nothing left unsettled.

    Such a command does not ask: what failed when the last agent ended stays out.
    """
    from lbctl import engine
    from lbctl.cli.work import settle

    settle(context, patience=_PATIENCE)
    return engine.open_session(context.host, patience=_PATIENCE, cautious=not ignore_health, unattended=True)


def conclude(
    operation: Operation,
    report: Callable[[Operation], Iterable[str]],
    *,
    yes: bool,
    output: Format,
    color: Color,
    wait: Callable[[Operation], int] | None = None,
) -> None:
    """Carry out an operation and print the outcome; end with 1 after a "no".

    `wait` returns how many connections are left behind it, with which the command ends with 1 too.
    """
    from lbctl.cli.output import print_json, say

    data = output is Format.JSON
    agreed = _carry_out(operation, yes=yes, data=data, color=color)
    for line in report(operation) if agreed else ("Nothing was changed.",):
        say(line)
    left = wait(operation) if agreed and wait is not None else None
    if data:
        print_json(_document(operation, applied=agreed, established=left))
    if not agreed or left:
        raise typer.Exit(1)


def _carry_out(operation: Operation, *, yes: bool, data: bool, color: Color) -> bool:
    """Show an operation, ask where it does more than it says, and carry it out; False after a "no"."""
    from lbctl import engine
    from lbctl.cli.output import say, show_plans
    from lbctl.cli.progress import stages
    from lbctl.cli.work import confirmed

    asking = operation.changed and operation.doubtful
    if operation.plan.changed:
        show_plans([operation.plan], data=data, asking=asking and not yes, color=color)
    if operation.drifted:
        say("The kernel differs from what was applied last: this restores that too.")
    for service, families in operation.emptied.items():
        say(f"Warning: no endpoint of {service} is left for new {_named(families)} connections.")
    for service, families in operation.failed.items():
        say(
            f"Warning: only endpoints of {service} that fail their checks are left for new "
            f"{_named(families)} connections."
        )
    if asking and not confirmed("Do this?", yes=yes):
        return False
    if operation.changed:
        with stages("Changing the kernel"):
            notes = engine.operate(operation)
        for note in notes:
            say(note)
    return True


def _named(families: Iterable[Family]) -> str:
    return " and ".join(_FAMILIES[family] for family in families)


def _document(operation: Operation, *, applied: bool, established: int | None) -> OperationDocument:
    """Return the document of an operation."""
    from lbctl import engine
    from lbctl.cli.output import plan_document
    from lbctl.documents.change import OperationDocument, target

    session, plan = operation.session, operation.plan
    return OperationDocument(
        **plan_document(plan, engine.describe(session, plan), session.backend.render),
        applied=applied and operation.changed,
        endpoints=[target(each) for each in operation.targets],
        established=established,
    )


def named(targets: Sequence[Operated]) -> str:
    """Return the endpoints of targets in a sentence."""
    return ", ".join(map(str, targets))


@contextmanager
def countdown() -> Iterator[Callable[[int, float], None]]:
    """Show how many connections and seconds are left, in one line of a terminal; elsewhere nothing."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda _left, _seconds: None
        return

    def show(left: int, seconds: float) -> None:
        minutes, rest = divmod(int(seconds), 60)
        line = f"{left} established connections left, waiting {minutes}:{rest:02} more"
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
