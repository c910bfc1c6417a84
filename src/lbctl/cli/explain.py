"""`lbctl explain`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.options import Color, Colors, Format, Output

if TYPE_CHECKING:
    from lbctl.cli.output import Style
    from lbctl.engine.explaining import Way
    from lbctl.model import Address, Listener, Reading

#: Turns, and rules, that are told one by one.
_TOLD = 24


class Graph(StrEnum):
    """The languages that a graph can be printed in."""

    MERMAID = "mermaid"


def explain(
    listener: Annotated[
        str, typer.Argument(metavar="LISTENER", help="Where a client connects: 80/tcp, 192.0.2.1:443/tcp.")
    ],
    client: Annotated[
        str | None,
        typer.Option("--client", metavar="ADDRESS", help="Whose connection it is.", show_default=False),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RULES",
            help="FILE, - or live:STORE. Without it: every store of this host that can be read.",
            show_default=False,
        ),
    ] = None,
    graph: Annotated[
        Graph | None, typer.Option("--graph", help="Print a graph of the way instead.", show_default=False)
    ] = None,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Show the way of a new connection through the rules, and who gets it with what probability.

    For a client and a hash of addresses: the very endpoint. Changes nothing.
    """
    from lbctl.cli.output import Style, print_json, say, share
    from lbctl.config.values import escape
    from lbctl.engine.explaining import explain as explained
    from lbctl.engine.importing import service_document
    from lbctl.errors import IntentError

    where, who = _listener(listener), _address(client)
    readings = _readings(source)
    refused = [name for name, reading in readings.items() if not reading.accept]
    ways = explained(where, readings, who)
    if graph is Graph.MERMAID:
        print(_mermaid(ways, listener))
    elif output is Format.JSON:
        services = [
            {
                "source": way.source,
                **service_document(way.service),
                "path": [
                    {
                        "where": step.where,
                        "line": step.line,
                        "rule": step.rule,
                        "share": None if step.share is None else share(step.share),
                    }
                    for step in way.service.path
                ],
                "slot": way.slot,
                "slots": len(way.service.slots) if way.service.mode == "hash" else None,
                "chosen": way.chosen,
            }
            for way in ways
        ]
        print_json({"listener": str(where), "client": str(who) if who else None, "services": services})
    else:
        print("\n\n".join(_text(way, who is not None, Style(color)) for way in ways) or "no rule balances it")
    for name in refused:
        say(f"lbctl: {escape(name)} cannot be trusted as a ruleset; see lbctl import")
    if refused:
        raise typer.Exit(IntentError.exit_code)
    if not ways:
        raise typer.Exit(1)


def _listener(text: str) -> Listener:
    from lbctl.config.values import listener
    from lbctl.errors import IntentError

    try:
        return listener(text)
    except ValueError as error:
        raise IntentError(f"listener {error}", hint="as 80/tcp or 192.0.2.1:443/tcp") from error


def _address(text: str | None) -> Address | None:
    from ipaddress import ip_address

    from lbctl.errors import IntentError

    try:
        return None if text is None else ip_address(text)
    except ValueError as error:
        raise IntentError(f"client {text!r} is no address") from error


def _readings(source: str | None) -> dict[str, Reading]:
    """What the rules do: those that are named, else those of each store of this host."""
    from lbctl.cli.work import read_rules_of, read_stores

    return {source: read_rules_of(source)} if source is not None else read_stores()


def _text(way: Way, asked: bool, style: Style) -> str:
    from lbctl.cli.compare import selected
    from lbctl.cli.output import share_text, table
    from lbctl.config.values import escape

    service = way.service
    name = f"  {escape(service.name)}" if service.name else ""
    lines = [style(f"{escape(selected(service))}{name}", "bold") + f"  ({escape(way.source)})"]
    steps = service.path[:_TOLD]
    for step in steps:
        share = "" if step.share is None else share_text(step.share)
        lines.append(f"  {share:>8}  line {step.line}, {escape(step.where)}: {escape(step.rule)}")
    if len(service.path) > len(steps):
        lines.append(f"            and {len(service.path) - len(steps)} more rules")
    if not steps:
        lines.append(f"  at {', '.join(service.hooks)}, lines {', '.join(map(str, service.lines[:_TOLD]))}")
    how = {
        "nth": "in turn",
        "random": "by chance",
        "hash": "by a hash",
        "mixed": "by several picks",
        "single": "always the same",
        "none": "nobody",
    }[service.mode]
    if service.mode == "nth" and 0 < len(service.slots) <= _TOLD:
        how += ": " + " ".join(escape(slot or "(none)") for slot in service.slots)
    lines.append(f"  {service.action}, {how}")
    if service.affinity is not None and service.affinity.kind != "hash":
        kept = "" if service.affinity.seconds is None else f" for {service.affinity.seconds} s"
        lines.append(f"  a client that came before keeps its endpoint{kept}, by its {service.affinity.by}")
    rows = [
        ("→" if way.chosen == each.to else "", escape(each.to), share_text(each.share))
        for each in service.backends
    ]
    if service.leak:
        rows.append(("", f"no endpoint ({escape(service.leak_to or '')})", share_text(service.leak)))
    lines.append(table(rows, right=frozenset({2}), indent="    "))
    if asked:
        lines.append("  " + _chosen(way))
    if not service.exact:
        lines.append(f"  shares depend on {escape(service.depends_on or '')}")
    return "\n".join(lines)


def _chosen(way: Way) -> str:
    from lbctl.config.values import escape

    if way.chosen is not None:
        slot = "" if way.slot is None else f", slot {way.slot} of {len(way.service.slots)}"
        return f"this client gets {escape(way.chosen)}{slot}"
    if way.slot is not None:
        return f"this client gets no endpoint: slot {way.slot} of {len(way.service.slots)} is empty"
    return "which one this client gets is not decided by its address"


def _mermaid(ways: tuple[Way, ...], listener: str) -> str:
    """A flow chart. A label is a quoted string, in which what could end it is a number."""
    lines = ["flowchart LR", f'    listener(["{_label(listener)}"])']
    for number, way in enumerate(ways):
        service, last = way.service, "listener"
        for place, step in enumerate(service.path[:_TOLD]):
            this = f"s{number}r{place}"
            lines.append(f'    {this}["{_label(f"{step.where}: {step.rule}")}"]')
            share = "" if step.share is None else f'|"{step.share}"|'
            lines.append(f"    {last} -->{share} {this}")
            last = this
        for place, each in enumerate(service.backends):
            arrow = "==>" if way.chosen == each.to else "-->"
            lines.append(f'    {last} {arrow}|"{each.share}"| s{number}e{place}(["{_label(each.to)}"])')
        if service.leak:
            lines.append(f'    {last} -.->|"{service.leak}"| s{number}leak["no endpoint"]')
    return "\n".join(lines)


def _label(text: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in " .:/-@,_") else f"#{ord(c)};" for c in text)
