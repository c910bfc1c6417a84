"""`lbctl check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.options import AllowRemap, BackendName, Color, Colors, Config, DriverName, Format, Output
from lbctl.errors import ConfigProblem, IntentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.cli.output import Style
    from lbctl.model import Intent

Files = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="FILE",
        readable=False,
        help="Intent files, each validated by itself; the files of a directory are merged.",
        show_default=False,
    ),
]


def check(
    files: Files = None,
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
    """Validate intent files: report every error with its line."""
    from lbctl.cli.output import Style, print_json, say
    from lbctl.cli.work import one_file
    from lbctl.documents.check import CheckDocument, problems

    named = [one_file(file, config) for file in files or (None,)]
    try:
        intents = _read(named)
    except IntentError as error:
        if output is Format.JSON:
            print_json(CheckDocument(valid=False, services=[], errors=problems(error), notes=[]))
        raise
    if kernel or backend != "auto" or driver is not None:
        from lbctl import engine
        from lbctl.cli.context import open_host

        host = open_host()
    if kernel:
        session = engine.open_session(host, backend=backend, driver=driver, allow_remap=allow_remap)
        for intent in intents:
            session.check(session.compile(intent))
    elif backend != "auto" or driver is not None:
        for intent in intents:
            engine.render(host, intent, backend=backend, driver=driver, allow_remap=allow_remap)
    if output is Format.JSON:
        names = [service.name for intent in intents for service in intent.services]
        notes = [note for intent in intents for note in _notes(intent)]
        print_json(CheckDocument(valid=True, services=names, errors=[], notes=notes))
        return
    for file, intent in zip(named, intents, strict=True):
        whose = f"{file}: " if len(named) > 1 else ""
        print(_text(intent, whose, Style(color), kernel=kernel))
        for note in _notes(intent):
            say(f"Note: {whose}{note}")


def _read(files: list[Path | None]) -> list[Intent]:
    """The intent of each file; raises `IntentError` with the mistakes of all of them."""
    from lbctl.cli.intents import read_intent
    from lbctl.config.documents import summary

    intents: list[Intent] = []
    found: list[ConfigProblem] = []
    for file in files:
        try:
            intents.append(read_intent(file))
        except IntentError as error:
            if not error.problems:
                raise
            found += error.problems
    if found:
        raise IntentError(summary(found), problems=tuple(found))
    return intents


def _notes(intent: Intent) -> Iterator[str]:
    """Yield what an intent may say, and is rarely meant: a service without an endpoint in rotation."""
    for service in intent.services:
        if service.endpoints and not any(service.ready(family) for family in service.families):
            yield f"{service.name}: all endpoints are drained: new connections are refused"


def _text(intent: Intent, whose: str, style: Style, *, kernel: bool) -> str:
    from lbctl.cli.output import count, deviation_text
    from lbctl.model import Scheduler, inert

    endpoints = sum(len(service.endpoints) for service in intent.services)
    verdict = style("valid, and accepted by the kernel" if kernel else "valid", "green")
    lines = [
        f"{inert(whose)}{verdict}: {count(len(intent.services), 'service')}, {count(endpoints, 'endpoint')}"
    ]
    lines += [
        f"{service.name}: its endpoints come from {service.discover}"
        for service in intent.services
        if service.discover is not None
    ]
    lines += _missing_sources(intent)
    for service in intent.services:
        if service.scheduler is Scheduler.MAGLEV:
            sizes = (len(service.slots(family)) for family in service.families)
            lines.append(f"{service.name}: {deviation_text(sizes, service.deviation())}")
    return "\n".join(lines)


def _missing_sources(intent: Intent) -> Iterator[str]:
    """Yield a line for each service whose source of endpoints cannot be asked here."""
    sources = {each.name: each.discover.source for each in intent.services if each.discover is not None}
    if not sources:
        return
    from lbctl.spi import source_names

    installed = source_names()
    for name, source in sources.items():
        if source not in installed:
            yield f'{name}: no source "{source}" is installed on this host'
        elif source == "etcd" and intent.etcd is None:
            yield f"{name}: there is no table [etcd] that says where etcd is"
