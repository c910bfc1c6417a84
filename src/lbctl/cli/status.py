"""`lbctl status`."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.options import BackendName, Color, Colors, Config, DriverName, Format, Output
from lbctl.errors import IntentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl.cli.output import Style
    from lbctl.engine import Drift, EndpointStatus, FamilyStatus, Status
    from lbctl.model import ServiceChange

#: So many services, and so many rules of each, are named where they differ; JSON names all.
_SERVICES, _RULES = 20, 4
#: The actual share before the first connection.
_NO_SHARE = "-"


def status(
    config: Config = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second until Ctrl-C.")] = False,
    brief: Annotated[
        bool,
        typer.Option(
            "--brief", help="Report differences between kernel and intent only: quick, counts nothing."
        ),
    ] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 if kernel and intent differ.")
    ] = False,
    backend: BackendName = "auto",
    driver: DriverName = None,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Show wanted and actual shares, connections and drift.

    Shares and counts are the kernel's own, of new connections since an endpoint's rules were loaded.
    """
    from lbctl import engine
    from lbctl.cli.output import Style, print_json
    from lbctl.cli.work import mention_unsettled, read_intent, session_for
    from lbctl.documents.status import status as document

    if watch and exit_code:
        raise IntentError("--watch never ends, so it has no exit code")
    intent = read_intent(config)
    # What was applied by consent is there by consent.
    session = session_for(backend, driver, allow_remap=True)
    follow = backend == "auto" and driver is None
    unsettled = mention_unsettled(intent.owner)
    try:
        while True:
            now = None if brief else engine.status(session, intent, follow=follow)
            drift = now.drift if now else engine.drift(session, intent, follow=follow)
            session.memory.save()
            if output is Format.JSON:
                print_json(document(drift, now, unsettled), one_line=watch)
            else:
                style = Style(color)
                text = "\n".join([*_drift_lines(drift, style), *(_lines(now, style) if now else ())])
                print(("\x1b[H\x1b[J" if watch else "") + text, flush=True)
            if exit_code and not drift.in_sync:
                raise typer.Exit(1)
            if not watch:
                return
            # The one command that may live long.
            gc.collect()
            time.sleep(1)
    except KeyboardInterrupt:
        if not watch:
            raise


def _drift_lines(drift: Drift, style: Style) -> Iterator[str]:
    state = (
        style("in sync with the intent", "green")
        if drift.in_sync
        else style("NOT in sync: kernel and intent differ, see lbctl plan", "red")
    )
    yield f"{drift.backend} (driver {drift.driver}), {state}"
    rules = drift.rules
    for service in drift.services[:_SERVICES]:
        yield f"  {service.name} {_difference(service, rules.get(service.name, ()))}"
    if (more := len(drift.services) - _SERVICES) > 0:
        yield f"  and {more} services more"
    named = {service.name for service in drift.services}
    if foreign := [rule for name, found in rules.items() if name not in named for rule in found]:
        yield f"  shared objects: {_few(foreign)}"
    for store in drift.elsewhere:
        yield f"  {store} also holds rules of this owner, which balance the same connections"


def _difference(service: ServiceChange, rules: Sequence[str]) -> str:
    from lbctl.model import Action

    match service.action:
        case Action.ADD:
            return "is missing"
        case Action.REMOVE:
            return "is not in the intent"
        case _:
            return f"differs: {', '.join([*_differences(service), *([_few(rules)] if rules else ())])}"


def _differences(service: ServiceChange) -> Iterator[str]:
    """The clients that are not balanced as the intent says, and the endpoints that have another share."""
    from lbctl.cli.output import share_text
    from lbctl.cli.shares import clients, lost_families, share_rows

    missing, extra = service.unbalanced_before, service.unbalanced_after
    yield from (f"{who} are not balanced" for who in clients(missing, service.after))
    yield from (f"{who} are balanced, but not in the intent" for who in clients(extra, service.before))
    # Of these, that they are not balanced says it all.
    lost = lost_families(missing, service.after) + lost_families(extra, service.before)
    for row in share_rows(service):
        if row.before == row.after or row.family in lost:
            continue
        where = f" {row.where}" if row.where else ""
        yield f"{row.to}{where} has {share_text(row.before)}, not {share_text(row.after)}"


def _few(rules: Sequence[str]) -> str:
    more = len(rules) - _RULES
    return ", ".join(rules[:_RULES]) + (f" and {more} more" if more > 0 else "")


#: The columns of the table; "by weight" is for Maglev tables only, "family" for families that disagree.
_COLUMNS = (
    "endpoint",
    "family",
    "state",
    "weight",
    "by weight",
    "wanted",
    "actual",
    "connections",
    "established",
    "packets",
    "bytes",
)
_WORDS = frozenset({"endpoint", "family", "state"})


def _lines(status: Status, style: Style) -> Iterator[str]:
    from lbctl.cli.output import deviation_text, stores_text, table
    from lbctl.model import Scheduler

    yield f"rules: {stores_text(status.stores)}"
    for service in status.services:
        maglev = service.scheduler == Scheduler.MAGLEV
        yield ""
        yield style(f"{service.name}  {', '.join(service.listen)}  {service.scheduler}", "bold")
        if maglev:
            yield f"  {deviation_text(service.slots, service.deviation)}"
        rows = [row for endpoint in service.endpoints for row in _rows(endpoint)]
        columns = [
            name
            for name in _COLUMNS
            if (name != "by weight" or maglev) and (name != "family" or any(row["family"] for row in rows))
        ]
        right = frozenset(place for place, name in enumerate(columns) if name not in _WORDS)
        shown = [columns, *([row[name] for name in columns] for row in rows)]
        yield table(shown, right=right, indent="  ")


def _rows(endpoint: EndpointStatus) -> list[dict[str, str]]:
    """One row by column, or one for each family where these get other shares."""
    families = [_cells(endpoint, own, str(family)) for family, own in endpoint.families.items()]
    # As shown: 33.3 % is 33.3 %, and a family without connections has no share to differ by.
    wanted = {row["wanted"] for row in families}
    actual = {row["actual"] for row in families} - {_NO_SHARE}
    if len(wanted) > 1 or len(actual) > 1:
        return families
    one = _cells(endpoint, endpoint, "")
    return [one | {"actual": next(iter(actual), _NO_SHARE)}]


def _cells(endpoint: EndpointStatus, of: EndpointStatus | FamilyStatus, family: str) -> dict[str, str]:
    from lbctl.cli.output import share_text

    return {
        "endpoint": endpoint.name if endpoint.name == endpoint.to else f"{endpoint.name} {endpoint.to}",
        "family": family,
        "state": str(endpoint.state),
        "weight": str(endpoint.weight),
        "by weight": share_text(of.by_weight),
        "wanted": share_text(of.wanted),
        "actual": _NO_SHARE if of.actual is None else f"{float(of.actual):.1%}",
        "connections": str(of.connections),
        "established": "?" if of.established is None else str(of.established),
        "packets": str(of.packets),
        "bytes": str(of.bytes),
    }
