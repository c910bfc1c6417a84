"""The ways of a connection as a graph, in languages of which a label is a text and never anything else."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl.engine.inspect.explain import Way
    from lbctl.host import Host

#: Rules of one way that are drawn.
_DRAWN = 24
#: What stands for a letter that cannot be shown.
_NO_LETTER = 0xFFFD
#: Letters in a line of a picture.
_WIDE = 60


class _Node(NamedTuple):
    name: str
    label: str
    #: Where connections begin and end, not a rule.
    end: bool = False


class _Edge(NamedTuple):
    begin: str
    end: str
    label: str
    #: `--` for most, `==` for the way of the client that was asked for, `..` for connections that leak.
    line: str = "--"


def mermaid(listener: str, ways: Sequence[Way]) -> str:
    """A flow chart."""
    lines = ["flowchart LR"]
    arrows = {"--": "-->", "==": "==>", "..": "-.->"}
    for part in _parts(listener, ways):
        if isinstance(part, _Node):
            left, right = ("([", "])") if part.end else ("[", "]")
            lines.append(f'    {part.name}{left}"{_label(part.label, "#")}"{right}')
        else:
            label = f'|"{_label(part.label, "#")}"|' if part.label else ""
            lines.append(f"    {part.begin} {arrows[part.line]}{label} {part.end}")
    return "\n".join(lines)


def dot(listener: str, ways: Sequence[Way]) -> str:
    """The same, as graphviz reads it."""
    lines = ["digraph way {", "    rankdir=LR; node [shape=box];"]
    styles = {"--": "solid", "==": "bold", "..": "dashed"}
    for part in _parts(listener, ways):
        if isinstance(part, _Node):
            shape = " shape=ellipse" if part.end else ""
            lines.append(f'    {part.name} [label="{_lines(part.label)}"{shape}];')
        else:
            label = _lines(part.label)
            lines.append(f'    {part.begin} -> {part.end} [label="{label}" style={styles[part.line]}];')
    return "\n".join([*lines, "}", ""])


def svg(host: Host, listener: str, ways: Sequence[Way]) -> str:
    """The graph as a picture, drawn by graphviz; raises `IntentError` where that is not installed."""
    from lbctl.errors import IntentError

    remedy = "install graphviz (Debian: apt install graphviz), or take --graph mermaid"
    if host.which("dot") is None:
        raise IntentError("--graph svg needs the program dot of graphviz, which is not in PATH", hint=remedy)
    done = host.run(["dot", "-Tsvg"], stdin=dot(listener, ways))
    begin = done.out.find("<svg")
    if done.code or begin < 0:
        raise IntentError(f"dot drew nothing: {done.err.strip() or f'exit code {done.code}'}", hint=remedy)
    # Without the reference to a document elsewhere that stands before it.
    return done.out[begin:].rstrip()


def _parts(listener: str, ways: Sequence[Way]) -> Iterator[_Node | _Edge]:
    yield _Node("listener", listener, end=True)
    for number, way in enumerate(ways):
        last = "listener"
        for place, step in enumerate(way.path[:_DRAWN]):
            this = f"s{number}r{place}"
            looked = f" → {step.element}" if step.element else ""
            yield _Node(this, f"{step.where}: {step.rule}{looked}")
            yield _Edge(last, this, "" if step.share is None else str(step.share))
            last = this
        for place, each in enumerate(way.service.backends):
            this = f"s{number}e{place}"
            yield _Node(this, each.to, end=True)
            yield _Edge(last, this, str(each.share), "==" if way.chosen == each.to else "--")
        if way.service.leak:
            yield _Node(f"s{number}leak", "no endpoint")
            yield _Edge(last, f"s{number}leak", str(way.service.leak), "..")


def _lines(text: str) -> str:
    r"""A label for graphviz, in short lines. A backslash means something also where it is a number: `\N`."""
    return r"\n".join(_label(line.replace("\\", "\\\\"), "&#") for line in wrap(text, _WIDE))


def _label(text: str, code: str) -> str:
    """A text in which every letter that means something to whoever draws it is a number behind `code`."""
    return "".join(
        c
        if c.isascii() and (c.isalnum() or c in " .:/-@,_")
        else f"{code}{ord(c) if c.isprintable() else _NO_LETTER};"
        for c in text
    )
