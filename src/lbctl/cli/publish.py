"""`lbctl publish`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.fleet import Message, Sign
from lbctl.cli.options import Config, Format, Output, Yes, seconds

if TYPE_CHECKING:
    from lbctl.agent.fleet.publication import Publication
    from lbctl.agent.fleet.publisher import Current, Publisher


def publish(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", readable=False, help="The intent file to publish.", show_default=False
        ),
    ],
    canary: Annotated[
        list[str] | None,
        typer.Option("--canary", metavar="HOST", help="Host that follows it first (repeatable)."),
    ] = None,
    duration: Annotated[
        float,
        typer.Option(
            "--for",
            parser=seconds,
            metavar="TIME",
            help="How long canaries must be healthy (default: 60s).",
            show_default=False,
        ),
    ] = 60.0,
    message: Message = "",
    sign: Sign = None,
    config: Config = None,
    yes: Yes = False,
    output: Output = Format.TEXT,
) -> None:
    """Publish an intent that all hosts of a fleet follow.

    Validates it, shows what differs from the published intent, and asks. The [etcd] table of the local
    intent file says where etcd is; its [follow] table, or --config etcd://NAME, names the intent. With
    --canary, these hosts follow it first. The others follow if the canaries are in sync and healthy for the
    time of --for; otherwise the canaries return to the current intent, and the exit code is 1.
    """
    from lbctl.cli.publication import Publishing, change
    from lbctl.config import load

    intent = load(file)
    hosts = tuple(dict.fromkeys(canary or ()))

    async def make(publisher: Publisher, current: Current) -> Publication:
        return publisher.next_of(current, intent, message, hosts=hosts)

    change(make, Publishing(config=config, sign=sign, yes=yes, output=output, seconds=duration))
