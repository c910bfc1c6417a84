"""`lbctl hosts`."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.options import Color, Colors, Config, Format, Output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.agent.fleet.publisher import Fleet
    from lbctl.agent.fleet.report import HostReport
    from lbctl.cli.output import Style
    from lbctl.documents.fleet import HostDocument, HostsDocument
    from lbctl.model import EtcdAccess

_PAINT = {"in-sync": "green", "canary": "cyan", "behind": "yellow", "problem": "yellow"}


def hosts(
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second until Ctrl-C.")] = False,
    forget: Annotated[
        list[str] | None,
        typer.Option("--forget", metavar="HOST", help="Remove a decommissioned host from the list."),
    ] = None,
    config: Config = None,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Show the hosts of a fleet: revision, sync, health.

    The local intent file says where etcd is and which intent is followed; --config etcd://NAME names another
    one. A host is silent if its agent has not reported for 10 seconds.
    """
    import asyncio
    import sys
    import time

    from lbctl.cli.fleet import place
    from lbctl.cli.output import Style, print_json

    name, access = place(config)
    from lbctl.agent.fleet.publisher import look

    if forget:
        asyncio.run(_forget(access, name, forget))
    # Ctrl-C is how a watch ends.
    with suppress(KeyboardInterrupt) if watch else nullcontext():
        while True:
            fleet = asyncio.run(look(access, name))
            if output is Format.JSON:
                print_json(document(fleet), one_line=watch)
            else:
                if watch and sys.stdout.isatty():
                    sys.stdout.write("\x1b[H\x1b[J")
                print("\n".join(lines(fleet, Style(color))), flush=True)
            if not watch:
                return
            time.sleep(1)


async def _forget(access: EtcdAccess, name: str, gone: list[str]) -> None:
    from lbctl.agent.etcd import Client
    from lbctl.agent.fleet import keys
    from lbctl.agent.fleet.publisher import reaching
    from lbctl.errors import IntentError

    async with reaching():
        client = await Client.of(access)
        for host in gone:
            if await client.get(keys.hosts(name, host)) is not None:
                raise IntentError(f"{host} still reports", hint="stop its agent first")
            await client.delete(keys.known(name, host))


def document(fleet: Fleet) -> HostsDocument:
    """Return the document of a fleet."""
    from lbctl.agent.fleet.report import uneven
    from lbctl.cli.publication import publication_document
    from lbctl.documents.fleet import HostsDocument

    return HostsDocument(
        name=fleet.name,
        quorum=fleet.quorum,
        current=None if fleet.current is None else publication_document(fleet.current),
        canary=None if fleet.canary is None else publication_document(fleet.canary),
        hosts=[_host(name, report, fleet) for name, report in fleet.reports.items()],
        uneven=list(uneven(fleet.reports.values())),
        problems=list(fleet.problems),
    )


def _host(name: str, report: HostReport | None, fleet: Fleet) -> HostDocument:
    from lbctl.documents.fleet import HostDocument, ServiceHealthDocument

    state = str(_standing(report, fleet))
    if report is None:
        return HostDocument(
            host=name, state=state, revision=None, refused=None, problems=[], version=None, started=None,
            tables={}, services=[],
        )  # fmt: skip
    return HostDocument(
        host=name,
        state=state,
        revision=report.revision,
        refused=report.refused,
        problems=list(report.problems),
        version=report.version,
        started=report.started,
        tables=dict(report.tables),
        services=[
            ServiceHealthDocument(name=each.name, up=each.up, down=each.down, unknown=each.unknown)
            for each in report.services
        ],
    )


def _standing(report: HostReport | None, fleet: Fleet) -> str:
    from lbctl.agent.fleet.report import standing

    found = (fleet.current, fleet.canary)
    current, canary = (None if each is None else each.revision for each in found)
    return standing(report, current, canary)


def lines(fleet: Fleet, style: Style) -> Iterator[str]:
    """Yield a fleet in words: what is published, then a line for each host."""
    from lbctl.agent.fleet.report import uneven
    from lbctl.cli.fleet import described
    from lbctl.cli.output import table
    from lbctl.model import inert

    if not fleet.quorum:
        yield style(
            "etcd has no quorum: this is what one member knew, and hosts are not listed as silent.", "red"
        )
    for publication in (fleet.current, fleet.canary):
        if publication is not None:
            yield inert(described(publication))
            for each in publication.overrides:
                yield inert(f"  {each.service}/{each.endpoint}: {each}")
    if fleet.current is None:
        yield f'No intent "{fleet.name}" is published.'
    rows = [("HOST", "STATE", "REVISION", "CHECKS", "VERSION", "")]
    for name, report in fleet.reports.items():
        rows.append((name, str(_standing(report, fleet)), *_cells(report)))
    if len(rows) == 1:
        yield "No host reports."
        return
    head, *body = table(rows).splitlines()
    yield style(head, "bold")
    for row, line in zip(rows[1:], body, strict=True):
        yield style(line, _PAINT.get(row[1], "red"))
    for service in uneven(fleet.reports.values()):
        yield style(f"{service}: its tables differ between hosts of one revision.", "red")
    for problem in fleet.problems:
        yield style(inert(problem), "red")


def _cells(report: HostReport | None) -> tuple[str, str, str, str]:
    if report is None:
        return "-", "-", "-", "its agent no longer reports"
    up, down = (sum(getattr(each, key) for each in report.services) for key in ("up", "down"))
    unknown = sum(each.unknown for each in report.services)
    checks = f"{up} up, {down} down" + (f", {unknown} unknown" if unknown else "") if report.services else "-"
    why = report.refused or next(iter(report.problems), "")
    return "-" if report.revision is None else str(report.revision), checks, report.version, why
