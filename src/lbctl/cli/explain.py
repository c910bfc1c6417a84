"""`lbctl explain`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.complete import complete_side
from lbctl.cli.options import BackendName, Color, Colors, Format, Output

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl.cli.output import Style
    from lbctl.engine.inspect.explain import Connection, Trace
    from lbctl.host import Host
    from lbctl.model import Address, Analysis, Listener

#: Turns, and rules, that are told one by one.
_TOLD = 24


class Graph(StrEnum):
    """The languages that a graph can be printed in."""

    MERMAID = "mermaid"
    SVG = "svg"


#: When the client's address is replaced, where it ever is.
_SOURCE = {"always": "", "hairpin": ", where replies would bypass this host"}
#: Condition → the option that decides it.
_DECIDING = {"src": "--client", "sport": "--source-port", "iif": "--in"}


def explain(
    listener: Annotated[
        str, typer.Argument(metavar="LISTENER", help="Where a client connects: 80/tcp, 192.0.2.1:443/tcp.")
    ],
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="Rules or an intent file, as with --from.",
            autocompletion=complete_side,
            show_default=False,
        ),
    ] = None,
    client: Annotated[
        str | None,
        typer.Option("--client", metavar="ADDRESS", help="Client address.", show_default=False),
    ] = None,
    source_port: Annotated[
        int | None,
        typer.Option(
            "--source-port", metavar="PORT", min=0, max=65535, help="Client source port.", show_default=False
        ),
    ] = None,
    interface: Annotated[
        str | None,
        typer.Option("--in", metavar="INTERFACE", help="Input interface.", show_default=False),
    ] = None,
    own: Annotated[bool, typer.Option("--local", help="The connection originates on this host.")] = False,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RULES",
            help="FILE, - or live:STORE. Without it: every store of this host that can be read.",
            autocompletion=complete_side,
            show_default=False,
        ),
    ] = None,
    graph: Annotated[
        Graph | None,
        typer.Option(
            "--graph", help="Print a graph of the path instead; svg needs graphviz.", show_default=False
        ),
    ] = None,
    backend: BackendName = "auto",
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Trace a new connection through the rules to its endpoint.

    Shows the probability of each endpoint; with --client and a hash, the client's endpoint. Rules may
    match on more than the listener: conditions on fields that no option gives are listed. Read-only. An
    intent file stands for the rules that --backend makes of it.
    """
    from lbctl.cli.context import open_host
    from lbctl.cli.output import Style, print_json, say
    from lbctl.documents.explanation import explanation
    from lbctl.engine.inspect.explain import explain as explained
    from lbctl.errors import IntentError
    from lbctl.model import inert

    host = open_host()
    connection = _connection(listener, client, source_port, interface, own)
    if file is not None and source is not None:
        raise IntentError(f"two sources of rules: {file} and --from {source}", hint="name one of them")
    readings = _readings(host, source or file, backend)
    refused = [name for name, reading in readings.items() if not reading.accept]
    ways = explained(connection, readings)
    if graph is not None:
        print(_graph(host, graph, listener, ways))
    elif output is Format.JSON:
        print_json(explanation(connection, ways))
    else:
        known = "that is understood " if any(each.unsupported for each in readings.values()) else ""
        texts = [_text(way, connection, Style(color)) for way in ways] or [
            f"no rule {known}balances {listener}"
        ]
        print("\n\n".join(texts))
    for name, reading in readings.items() if not ways else ():
        for line in _unknown(name, reading):
            say(line)
    for name in refused:
        say(f"lbctl: {inert(name)} cannot be trusted as a ruleset; see lbctl import")
    if refused:
        raise typer.Exit(IntentError.exit_code)
    if not ways:
        raise typer.Exit(1)


def _connection(
    listener: str, client: str | None, source_port: int | None, interface: str | None, own: bool
) -> Connection:
    from lbctl.engine.inspect.explain import Connection
    from lbctl.errors import IntentError

    address = _address(client)
    own = own or (address is not None and address.is_loopback)
    if own and interface is not None:
        raise IntentError(
            "a local connection has no input interface",
            hint="leave out --in, or --local and a --client of this host",
        )
    return Connection(
        listener=_listener(listener),
        client=address,
        source_port=source_port,
        interface=interface,
        own=own,
    )


def _graph(host: Host, graph: Graph, listener: str, ways: Sequence[Trace]) -> str:
    from lbctl.cli.graph import mermaid, svg

    return mermaid(listener, ways) if graph is Graph.MERMAID else svg(host, listener, ways)


def _listener(text: str) -> Listener:
    from lbctl.config.values import InvalidValue, listener
    from lbctl.errors import IntentError

    try:
        return listener(text)
    except InvalidValue as error:
        raise IntentError(error.message, hint=error.hint) from error


def _address(text: str | None) -> Address | None:
    from ipaddress import ip_address

    from lbctl.errors import IntentError

    try:
        return None if text is None else ip_address(text)
    except ValueError as error:
        raise IntentError(f'client "{text}" is not an address', hint="e.g. 198.51.100.7") from error


def _readings(host: Host, source: str | None, backend: str) -> dict[str, Analysis]:
    """What the rules do: those that are named, else those of each store of this host."""
    from lbctl.cli.work import read_rules_of, read_stores

    return {source: read_rules_of(host, source, backend=backend)} if source is not None else read_stores(host)


def _unknown(source: str, reading: Analysis) -> Iterator[str]:
    """Yield the rules that may match all the same, since they are not understood."""
    from lbctl.model import inert

    rules = reading.unsupported
    for rule in rules[:_TOLD]:
        why = inert(rule.reason)
        yield f"lbctl: {inert(source)}, line {rule.line}, may match: {inert(rule.rule)} ({why})"
    if len(rules) > _TOLD:
        yield f"lbctl: {inert(source)}: {len(rules) - _TOLD} more rules may match; see lbctl import"


def _text(way: Trace, connection: Connection, style: Style) -> str:
    from lbctl.cli.compare import mode_text, selected
    from lbctl.cli.output import share_text, table
    from lbctl.model import inert

    service = way.service
    name = f"  {inert(service.name)}" if service.name else ""
    lines = [style(f"{inert(selected(service))}{name}", "bold") + f"  ({inert(way.source)})"]
    lines += _path(way)
    how = mode_text(service)
    if service.mode == "nth" and 0 < len(service.slots) <= _TOLD:
        how += ": " + " ".join(inert(slot or "(none)") for slot in service.slots)
    lines.append(f"  {service.action}, {how}")
    if service.affinity is not None and service.affinity.kind != "hash":
        kept = "" if service.affinity.seconds is None else f" for {service.affinity.seconds} s"
        lines.append(f"  a known client keeps its endpoint{kept}, by its {service.affinity.by}")
    rows = [
        ("→" if way.chosen == each.to else "", inert(each.to), share_text(each.share))
        for each in service.backends
    ]
    if service.leak:
        rows.append(("", f"no endpoint ({inert(service.leak_to or '')})", share_text(service.leak)))
    lines.append(table(rows, right=frozenset({2}), indent="    "))
    if service.source_nat is not None and service.source_nat in _SOURCE:
        lines.append(f"  the client address is replaced by this host's{_SOURCE[service.source_nat]}")
    if service.source_lines:
        told = ", ".join(map(str, service.source_lines))
        lines.append(f"  the client address is replaced for some connections only, by line {told}")
    if connection.client is not None:
        lines.append("  " + _chosen(way))
    for name, value in way.open:
        option = f" ({_DECIDING[name]} sets it)" if name in _DECIDING else ""
        lines.append(f"  only if {inert(name)} is {inert(value)}{option}")
    if not service.exact:
        lines.append(f"  shares depend on {inert(service.depends_on or '')}")
    return "\n".join(lines)


def _path(way: Trace) -> Iterator[str]:
    """The rules in their order: the connections that arrive at each, and those that it matches."""
    from lbctl.cli.output import share_text
    from lbctl.model import inert

    service = way.service
    if not way.path:
        yield f"  at {', '.join(service.hooks)}, lines {', '.join(map(str, service.lines[:_TOLD]))}"
        return
    yield f"  {'arriving':>8}  {'matched':>8}"
    for step in way.path[:_TOLD]:
        arriving, matched = ("" if part is None else share_text(part) for part in (step.share, step.taken))
        looked = "" if step.element is None else f"  →  {inert(step.element)}"
        where = f"line {step.line}, {inert(step.where)}"
        yield f"  {arriving:>8}  {matched:>8}  {where}: {inert(step.rule)}{looked}"
    if len(way.path) > _TOLD:
        yield f"{'':22}and {len(way.path) - _TOLD} more rules"


def _chosen(way: Trace) -> str:
    from lbctl.model import inert

    if way.chosen is not None:
        slot = "" if way.slot is None else f", slot {way.slot} of {len(way.service.slots)}"
        return f"this client gets {inert(way.chosen)}{slot}"
    if way.slot is not None:
        return f"this client gets no endpoint: slot {way.slot} of {len(way.service.slots)} is empty"
    return "the endpoint does not depend on the client address"
