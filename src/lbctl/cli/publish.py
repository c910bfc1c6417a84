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
        typer.Option(
            "--canary", metavar="HOST", help="Have this host follow it first; repeat it for more hosts."
        ),
    ] = None,
    duration: Annotated[
        float,
        typer.Option(
            "--for", parser=seconds, metavar="TIME", help="Time that canaries have to be well, e.g. 60s."
        ),
    ] = 60.0,
    message: Message = "",
    sign: Sign = None,
    config: Config = None,
    yes: Yes = False,
    output: Output = Format.TEXT,
) -> None:
    """Publish an intent that all hosts of a fleet follow.

    It is checked, and shown against what is published now. The [etcd] table of the local intent file says
    where etcd is; its [follow] table, or --config etcd://NAME, which intent is meant. With --canary, all
    other hosts follow only if these are in sync and well for a while; else they go back, with exit code 1.
    """
    from lbctl.cli.publication import Publishing, change
    from lbctl.config import load

    intent = load(file)
    hosts = tuple(dict.fromkeys(canary or ()))

    async def make(publisher: Publisher, current: Current) -> Publication:
        return publisher.next_of(current, intent, message, hosts=hosts)

    change(make, Publishing(config=config, sign=sign, yes=yes, output=output, seconds=duration))
