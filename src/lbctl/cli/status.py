"""`lbctl status`."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lbctl.cli.options import BackendName, Color, Colors, Config, DriverName, Format, Output

if TYPE_CHECKING:
    from lbctl.cli.output import Style
    from lbctl.engine import Status


def status(
    config: Config = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every second, until Ctrl-C.")] = False,
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
    from lbctl.cli.work import mention_interrupted, read_intent, session_for

    intent = read_intent(config)
    # What was applied by consent is there by consent.
    session = session_for(backend, driver, allow_remap=True)
    if backend == "auto" and driver is None:
        session = session.where_held(intent.owner)
    interrupted = mention_interrupted(intent.owner)
    while True:
        now = engine.status(session, intent)
        if output is Format.JSON:
            print_json(_document(now) | {"interrupted": interrupted}, one_line=watch)
        else:
            print(("\x1b[H\x1b[J" if watch else "") + _text(now, Style(color)), flush=True)
        if not watch:
            return
        # The one command that may live long.
        gc.collect()
        time.sleep(1)


def _document(status: Status) -> dict[str, Any]:
    from lbctl.cli.output import share, stores_document

    return {
        "backend": status.backend,
        "driver": status.driver,
        "in_sync": status.in_sync,
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


def _text(status: Status, style: Style) -> str:
    from lbctl.cli.output import deviation_text, share_text, stores_text, table
    from lbctl.model import Scheduler

    state = (
        style("in sync with the intent", "green")
        if status.in_sync
        else style("NOT in sync: the kernel differs from the intent, see lbctl plan", "red")
    )
    lines = [f"{status.backend} (driver {status.driver}), {state}", f"rules: {stores_text(status.stores)}"]
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
        lines += ["", style(f"{service.name}  {', '.join(service.listen)}  {service.scheduler}", "bold")]
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
            lines.append(f"  {deviation_text(service.slots, service.deviation)}")
            meant = ("by weight", *(share_text(e.by_weight) for e in service.endpoints))
            shown = [(*row[:3], cell, *row[3:]) for row, cell in zip(shown, meant, strict=True)]
        lines.append(table(shown, right=frozenset(range(2, len(shown[0]))), indent="  "))
    return "\n".join(lines)
