"""`lbctl register`."""

from __future__ import annotations

from typing import Annotated

import typer

from lbctl.cli.options import Config, seconds
from lbctl.errors import ApplyFailed, IntentError


def register(
    service: Annotated[
        str,
        typer.Argument(metavar="SERVICE", help="Name of the service, part of the key.", show_default=False),
    ],
    address: Annotated[
        str,
        typer.Argument(metavar="ADDRESS", help="The endpoint, e.g. 10.0.0.11:8443.", show_default=False),
    ],
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", help="The program that serves at ADDRESS.", show_default=False),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", help="Name of the endpoint (default: its address).", show_default=False
        ),
    ] = None,
    weight: Annotated[int, typer.Option("--weight", metavar="NUMBER", help="Weight of the endpoint.")] = 1,
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="KEY", help="Prefix of the keys of all services.")
    ] = "/services/",
    drain: Annotated[
        float,
        typer.Option(
            "--drain",
            parser=seconds,
            metavar="TIME",
            help="How long to drain the endpoint before COMMAND is ended (default: 5s).",
            show_default=False,
        ),
    ] = 5.0,
    config: Config = None,
) -> None:
    """Keep an endpoint registered in etcd while a program runs.

    Services that discover endpoints in etcd below /services/SERVICE/ get it from there. SIGTERM and Ctrl-C
    drain the endpoint, then end COMMAND; the exit code is that of COMMAND. Without COMMAND, the endpoint is
    registered until SIGTERM or Ctrl-C. If this host is lost, the endpoint is removed after 10 seconds.
    """
    import asyncio

    from lbctl.cli.fleet import access_of
    from lbctl.cli.output import say

    key = _key(prefix, service, name or address)
    _ensure(address, name, weight)
    access = access_of(config)
    from lbctl.agent.fleet.registration import Registration, keep

    registration = Registration(access=access, key=key, address=address, weight=weight, drain=drain)
    try:
        code = asyncio.run(keep(registration, command or (), say))
    except OSError as error:
        program = (command or [""])[0]
        raise ApplyFailed(f"{program} cannot be started: {error.strerror}") from error
    raise typer.Exit(code)


def _key(prefix: str, service: str, name: str) -> str:
    from lbctl.model import check_source_name

    whole = f"{prefix.rstrip('/')}/{service}"
    try:
        check_source_name("etcd", whole)
    except ValueError as error:
        raise IntentError(str(error), hint="SERVICE is a name like web") from error
    return f"{whole}/{name}"


def _ensure(address: str, name: str | None, weight: int) -> None:
    """Raise `IntentError` for what no host would take for an endpoint."""
    from lbctl.model import Endpoint, parse_endpoint

    try:
        plain = parse_endpoint(address)
        if plain.address is None:
            raise ValueError(f"{address} is a port: other hosts need an address")
        Endpoint(address=plain.address, port=plain.port, name=name or "", weight=weight)
    except ValueError as error:
        raise IntentError(str(error), hint="e.g. lbctl register web 10.0.0.11:8443") from error
