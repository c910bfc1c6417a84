"""`lbctl status`."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lbctl.cli.options import BackendName, Color, Colors, Config, DriverName, Format, Output
from lbctl.errors import IntentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl.cli.output import Style
    from lbctl.engine import Drift, Status
    from lbctl.model import ServiceChange

#: So many services, and so many rules of each, are named where they differ; JSON names all.
_SERVICES, _RULES = 20, 4


def status(
    config: Config = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every second, until Ctrl-C.")] = False,
    brief: Annotated[
        bool,
        typer.Option(
            "--brief", help="Only say where kernel and intent differ: quick, since it counts nothing."
        ),
    ] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 where the kernel differs from the intent.")
    ] = False,
    backend: BackendName = "auto",
    driver: DriverName = None,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Show each endpoint's wanted and actual share, its connections, packets and bytes.

    Shares and counts are the kernel's own, of new connections since an endpoint's rules were loaded.
    """
    from lbctl import engine
    from lbctl.cli.output import Style, print_json
    from lbctl.cli.work import mention_unsettled, read_intent, session_for

    if watch and exit_code:
        raise IntentError("--watch has no end that an exit code could tell of")
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
                document = _drift_document(drift) | (_document(now) if now else {})
                print_json(document | unsettled, one_line=watch)
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


def _drift_document(drift: Drift) -> dict[str, Any]:
    from lbctl.cli.output import share

    return {
        "backend": drift.backend,
        "driver": drift.driver,
        "in_sync": drift.in_sync,
        "drift": {
            "services": [
                {
                    "name": service.name,
                    "action": str(service.action),
                    "endpoints": [
                        {"to": e.to, "held": share(e.before), "wanted": share(e.after)}
                        for e in service.endpoints
                    ],
                }
                for service in drift.services
            ],
            "rules": [
                {"service": name, "rule": rule} for name, found in _rules(drift).items() for rule in found
            ],
            "elsewhere": list(drift.elsewhere),
        },
    }


def _drift_lines(drift: Drift, style: Style) -> Iterator[str]:
    state = (
        style("in sync with the intent", "green")
        if drift.in_sync
        else style("NOT in sync: the kernel differs from the intent, see lbctl plan", "red")
    )
    yield f"{drift.backend} (driver {drift.driver}), {state}"
    rules = _rules(drift)
    for service in drift.services[:_SERVICES]:
        yield f"  {service.name} {_difference(service, rules.get(service.name, ()))}"
    if (more := len(drift.services) - _SERVICES) > 0:
        yield f"  and {more} services more"
    named = {service.name for service in drift.services}
    if others := [rule for name, found in rules.items() if name not in named for rule in found]:
        yield f"  rules of no service: {_few(others)}"
    for store in drift.elsewhere:
        yield f"  {store} holds rules of this owner too, which balance the same connections"


def _rules(drift: Drift) -> dict[str | None, list[str]]:
    """What differs, by the service that owns it."""
    found: dict[str | None, list[str]] = {}
    for change in drift.changes:
        found.setdefault(change.service, []).append(" ".join(change.key))
    return found


def _difference(service: ServiceChange, rules: Sequence[str]) -> str:
    from lbctl.model import Action

    match service.action:
        case Action.ADD:
            return "is missing"
        case Action.REMOVE:
            return "is not in the intent"
        case _:
            shares = [f"{to} has {held}, not {due}" for to, held, due in service.endpoints if held != due]
            return f"differs: {', '.join([*shares, _few(rules)])}"


def _few(rules: Sequence[str]) -> str:
    more = len(rules) - _RULES
    return ", ".join(rules[:_RULES]) + (f" and {more} more" if more > 0 else "")


def _document(status: Status) -> dict[str, Any]:
    from lbctl.cli.output import share, stores_document

    return {
        "stores": stores_document(status.stores),
        "services": [
            {
                "name": service.name,
                "listen": list(service.listen),
                "scheduler": service.scheduler,
                "deviation": share(service.deviation),
                "connections": service.connections,
                "endpoints": [
                    {
                        "name": e.name,
                        "to": e.to,
                        "state": str(e.state),
                        "weight": e.weight,
                        "wanted": share(e.wanted),
                        "by_weight": share(e.by_weight),
                        "actual": share(e.actual),
                        "connections": e.connections,
                        "established": e.established,
                        "packets": e.packets,
                        "bytes": e.bytes,
                    }
                    for e in service.endpoints
                ],
            }
            for service in status.services
        ],
    }


def _lines(status: Status, style: Style) -> Iterator[str]:
    from lbctl.cli.output import deviation_text, share_text, stores_text, table
    from lbctl.model import Scheduler

    yield f"rules: {stores_text(status.stores)}"
    head = (
        "endpoint",
        "state",
        "weight",
        "wanted",
        "actual",
        "connections",
        "established",
        "packets",
        "bytes",
    )
    for service in status.services:
        maglev = service.scheduler == Scheduler.MAGLEV
        yield ""
        yield style(f"{service.name}  {', '.join(service.listen)}  {service.scheduler}", "bold")
        rows = [
            (
                e.name if e.name == e.to else f"{e.name} {e.to}",
                str(e.state),
                str(e.weight),
                share_text(e.wanted),
                f"{float(e.actual):.1%}" if service.connections else "-",
                str(e.connections),
                "?" if e.established is None else str(e.established),
                str(e.packets),
                str(e.bytes),
            )
            for e in service.endpoints
        ]
        shown: list[tuple[str, ...]] = [head, *rows]
        if maglev:
            yield f"  {deviation_text(service.slots, service.deviation)}"
            meant = ("by weight", *(share_text(e.by_weight) for e in service.endpoints))
            shown = [(*row[:3], cell, *row[3:]) for row, cell in zip(shown, meant, strict=True)]
        yield table(shown, right=frozenset(range(2, len(shown[0]))), indent="  ")
