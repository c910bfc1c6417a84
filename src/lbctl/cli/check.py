"""`lbctl check`."""

from __future__ import annotations

from typing import Annotated

import typer

from lbctl.cli.options import AllowRemap, BackendName, Color, Colors, Config, DriverName, Format, Output
from lbctl.errors import IntentError


def check(
    config: Config = None,
    kernel: Annotated[
        bool, typer.Option("--kernel", help="Also have the kernel check the compiled rules, unapplied.")
    ] = False,
    backend: BackendName = "auto",
    driver: DriverName = None,
    allow_remap: AllowRemap = False,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Validate the intent file: report every error with its line."""
    from lbctl.cli.output import Style, count, deviation_text, print_json
    from lbctl.cli.work import read_intent, session_for
    from lbctl.documents.check import CheckDocument, problems
    from lbctl.model import Scheduler

    try:
        intent = read_intent(config)
    except IntentError as error:
        if output is Format.JSON:
            print_json(CheckDocument(valid=False, services=[], errors=problems(error)))
        raise
    if kernel:
        session = session_for(backend, driver, allow_remap=allow_remap)
        session.check(session.compile(intent))
    names = [service.name for service in intent.services]
    if output is Format.JSON:
        print_json(CheckDocument(valid=True, services=names, errors=[]))
        return
    endpoints = sum(len(service.endpoints) for service in intent.services)
    verdict = "valid, and the kernel takes it" if kernel else "valid"
    found = f"{count(len(names), 'service')}, {count(endpoints, 'endpoint')}"
    print(f"{Style(color)(verdict, 'green')}: {found}")
    for service in intent.services:
        if service.scheduler is Scheduler.MAGLEV:
            sizes = (len(service.slots(family)) for family in service.families)
            print(f"{service.name}: {deviation_text(sizes, service.deviation())}")
