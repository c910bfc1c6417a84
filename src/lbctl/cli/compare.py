"""`lbctl compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.complete import complete_side
from lbctl.cli.options import BackendName, Color, Colors, Format, MaxSize, Output

if TYPE_CHECKING:
    from lbctl.cli.output import Style
    from lbctl.engine.inspect.compare import Comparison, Pair
    from lbctl.model import AnalysedService

#: How rules pick → the words for it.
_MODES = {
    "nth": "round robin",
    "random": "random",
    "hash": "by a hash",
    "mixed": "by several picks",
    "single": "always the same",
    "none": "no endpoint",
}
_SOURCE = "FILE, - or live:STORE"
SideA = Annotated[
    str,
    typer.Argument(
        metavar="A",
        help=f"Rules or an intent file: {_SOURCE}; lbctl backends lists stores.",
        autocompletion=complete_side,
    ),
]
SideB = Annotated[
    str,
    typer.Argument(metavar="B", help=f"What to compare it with: {_SOURCE}.", autocompletion=complete_side),
]


def compare(
    a: SideA,
    b: SideB,
    backend: BackendName = "auto",
    max_size: MaxSize = None,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Compare the exact shares of two sets of rules.

    Reads nft, iptables-save, scripts of commands, and the rules in the kernel. An intent file stands for the
    rules that --backend makes of it; by default the backend of the other side. Exits with 0 if all shares
    are equal, else with 1.
    """
    from lbctl.cli.context import open_host
    from lbctl.cli.output import Style, print_json
    from lbctl.cli.work import live_store, read_rules_of
    from lbctl.documents.comparison import comparison
    from lbctl.engine.inspect.compare import compare as held
    from lbctl.errors import IntentError

    if a == b == "-":
        raise IntentError("standard input can be read once only", hint="name a file for one side")
    if backend == "auto":
        backend = live_store(a) or live_store(b) or backend
    host = open_host()
    one, other = (read_rules_of(host, side, max_size, backend=backend) for side in (a, b))
    found = held(one, other)
    if output is Format.JSON:
        print_json(comparison(found, one, other))
    else:
        print(_text(found, a, b, Style(color)))
    if not (one.accept and other.accept):
        raise typer.Exit(IntentError.exit_code)
    if not found.equal:
        raise typer.Exit(1)


def _text(found: Comparison, a: str, b: str, style: Style) -> str:
    from lbctl.cli.output import count
    from lbctl.model import inert

    lines = [f"A: {inert(a)}", f"B: {inert(b)}"]
    for pair in found.pairs:
        lines += ["", *_pair_text(pair, style)]
    lines += ["", *(style(f"in doubt: {inert(doubt)}", "yellow") for doubt in found.doubts)]
    differing = sum(not pair.verdict.equal for pair in found.pairs)
    if found.equal:
        lines.append(
            style(f"equal: {count(len(found.pairs), 'service')}, the same shares on both sides", "green")
        )
    else:
        lines.append(style(f"NOT equal: {differing} of {count(len(found.pairs), 'service')} differ", "red"))
    return "\n".join(lines)


def _pair_text(pair: Pair, style: Style) -> list[str]:
    from lbctl.cli.output import share_text, table
    from lbctl.model import inert

    head = style(inert(selected(pair.service)), "bold")
    verdict = style(str(pair.verdict), "green" if pair.verdict.equal else "red")
    lines = [f"{head}  ({', '.join(map(inert, pair.hooks))}): {verdict}"]
    if not pair.verdict.equal:
        rows = [
            (
                inert(to),
                share_text(mine),
                share_text(theirs),
                "" if mine == theirs else f"{float(theirs - mine):+.2%}",
            )
            for to, (mine, theirs) in pair.shares.items()
        ]
        if any(pair.leak):
            mine, theirs = pair.leak
            rows.append(("no endpoint", share_text(mine), share_text(theirs), f"{float(theirs - mine):+.2%}"))
        lines.append(table([("", "A", "B", ""), *rows], right=frozenset({1, 2, 3}), indent="    "))
    lines += [f"    {inert(note)}" for note in pair.notes]
    return lines


def mode_text(service: AnalysedService) -> str:
    """How a service picks endpoints."""
    return _MODES[service.mode]


def selected(service: AnalysedService) -> str:
    """What connections a service is about: `ipv4 tcp local 80 when src 10.0.0.0/8`."""
    family, proto, dst, port, when = service.selector
    text = f"{family} {proto} {dst} {port}"
    return text + (" when " + ", ".join(f"{what} {value}" for what, value in when) if when else "")
