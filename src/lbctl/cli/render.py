"""`lbctl render`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.options import AllowRemap, BackendName, Config, DriverName, Format, IntentFile, Output
from lbctl.errors import WrongUsage

if TYPE_CHECKING:
    from lbctl.model import Network


class FamilyName(StrEnum):
    """The families, without what it takes to import the model."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"


Target = Annotated[
    str | None,
    typer.Option(
        "--for",
        metavar="TOOL=VERSION",
        help="Write for another host, named by its tool: nft=0.9.8, iptables=1.4.21 (legacy), "
        "iptables-nft=1.8.2. This host is not examined.",
        show_default=False,
    ),
]
OneFamily = Annotated[
    FamilyName | None,
    typer.Option("--family", help="Print the rules of one address family only.", show_default=False),
]
Remove = Annotated[bool, typer.Option("--remove", help="Print what removes these rules.")]
Networks = Annotated[
    list[str] | None,
    typer.Option(
        "--network",
        metavar="NETWORK",
        help="A network on a link of that host, e.g. 10.0.0.0/24; once for each. iptables needs them for "
        "source-nat = hairpin.",
        show_default=False,
    ),
]


def _network(text: str) -> Network:
    from ipaddress import ip_interface, ip_network

    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        hint = f"it has host bits set: did you mean {ip_interface(text).network}?"
    except ValueError:
        hint = "e.g. 10.0.0.0/24"
    raise WrongUsage(f'--network: "{text}" is not a network', hint=hint)


def render(
    file: IntentFile = None,
    config: Config = None,
    backend: BackendName = "auto",
    driver: DriverName = None,
    target: Target = None,
    family: OneFamily = None,
    remove: Remove = False,
    network: Networks = None,
    allow_remap: AllowRemap = False,
    output: Output = Format.TEXT,
) -> None:
    """Print the rules that apply would load.

    Load the text with nft -f or iptables-restore --noflush, also on a host without lbctl. Rules for nft can
    be loaded again; rules for iptables only after loading what --remove prints. Needs no privilege, and does
    not read the rules in the kernel.
    """
    from lbctl import engine
    from lbctl.cli.context import open_host
    from lbctl.cli.intents import read_intent
    from lbctl.cli.output import print_json, say
    from lbctl.cli.work import one_file
    from lbctl.model import Family

    networks = [_network(text) for text in network or ()]
    host = open_host()
    found = engine.render(
        host,
        read_intent(one_file(file, config)),
        backend=backend,
        driver=driver,
        target=target,
        family=None if family is None else Family(family),
        remove=remove,
        networks=networks,
        allow_remap=allow_remap,
    )
    for note in found.notes:
        say(f"Note: {note}")
    if output is Format.JSON:
        given = {"for": target, "family": family}
        print_json(
            {
                "backend": found.backend,
                "rules": found.rules,
                **{name: value for name, value in given.items() if value is not None},
            }
        )
    else:
        print(found.rules, end="")
