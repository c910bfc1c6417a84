"""Everything that is printed: data to stdout, talk to stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, Any

from lbctl.cli import options
from lbctl.cli.options import Color
from lbctl.errors import IntentError, LbctlError
from lbctl.model import Action, brief, inert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from fractions import Fraction

    from lbctl.documents.change import ChangeDocument
    from lbctl.model import KeyChange, Plan, Program, ServiceChange
    from lbctl.spi import RuleCounts

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_SIGN = {Action.ADD: "+", Action.CHANGE: "~", Action.REMOVE: "-", Action.NONE: " "}
_PAINT = {Action.ADD: "green", Action.CHANGE: "yellow", Action.REMOVE: "red", Action.NONE: "dim"}
_STYLES = re.compile(r"\x1b\[[0-9;]*m")


class Style:
    """Colours of a stream, or none."""

    def __init__(self, color: Color = Color.AUTO, *, stream: Any = None) -> None:
        self.stream = stream or sys.stdout
        terminal = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        auto = terminal and not os.environ.get("NO_COLOR")
        self._on = color is Color.ALWAYS or (color is Color.AUTO and auto)

    def __call__(self, text: str, *names: str) -> str:
        """`text` in the styles `names`."""
        if not self._on or not names:
            return text
        return f"\x1b[{';'.join(_CODES[name] for name in names)}m{text}\x1b[0m"


def print_json(document: Mapping[str, Any], *, one_line: bool = False) -> None:
    """One JSON object on stdout."""
    options.document_printed = True
    from lbctl.documents import FORMAT_VERSION

    whole = {"format_version": FORMAT_VERSION, **document}
    print(json.dumps(whole, indent=None if one_line else 2), flush=one_line)


def say(text: str) -> None:
    """Print a message on stderr, whatever is in it. Prose is wrapped; indented lines, e.g. rules, are not."""
    say_styled("\n".join(map(inert, text.splitlines())))


def say_styled(text: str) -> None:
    """As `say`, of a text that has been made inert already, and has styles."""
    lines = (line if line[:1] == " " else prose(line, stream=sys.stderr) for line in text.split("\n"))
    print("\n".join(lines), file=sys.stderr)


def prose(text: str, *, hang: int = 4, stream: Any) -> str:
    """Return a line of words, wrapped at the width of a terminal; as it is for any other stream.

    Further lines are indented by `hang` columns. Words are never broken: a rule or a path stays whole.
    """
    width = _width(stream) if stream.isatty() else 0
    if not 0 < width < _length(text):
        return text
    lines = [""]
    # Each word with the spaces before it: what is aligned stays so.
    for word in re.findall(" *[^ ]+", text):
        if lines[-1].strip() and _length(lines[-1] + word) > width:
            lines.append(" " * hang + word.lstrip(" "))
        else:
            lines[-1] += word
    return "\n".join(lines)


def _length(text: str) -> int:
    """The columns that a text takes: styles take none."""
    return len(_STYLES.sub("", text))


def _width(stream: Any) -> int:
    """The columns of a terminal; 0 if unknown. COLUMNS says another number, as for other programs."""
    named = os.environ.get("COLUMNS", "")
    if named.isascii() and named.isdecimal():
        return int(named)
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0


def report(error: LbctlError) -> None:
    """Report everything that an error has to say, on stderr."""
    style = Style(options.chosen_color, stream=sys.stderr)
    for problem in error.problems if isinstance(error, IntentError) else ():
        say_styled(style(inert(str(problem)), "red"))
        if problem.hint:
            _hint(problem.hint)
    # What other programs printed may have several lines.
    first, *more = [inert(line) for line in error.message.splitlines() or [""]]
    say_styled("\n".join([style(f"lbctl: {first}", "bold"), *more]))
    if error.hint:
        _hint(error.hint)


def _hint(text: str) -> None:
    print(prose(f"    hint: {inert(text)}", hang=10, stream=sys.stderr), file=sys.stderr)


def count(number: int, noun: str) -> str:
    """`1 service`, `2 services`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def share_text(value: Fraction | None) -> str:
    """Return a share for people; "?" for an unknown one."""
    return "?" if value is None else brief(value)


def deviation_text(slots: Iterable[int], deviation: Fraction) -> str:
    """How well Maglev tables of these sizes keep to the weights, rounded up so that it is never too good."""
    sizes = " and ".join(map(str, dict.fromkeys(slots)))
    return f"maglev: {sizes} slots, shares within {ceil(deviation * 10_000) / 100:.2f} % of the weights"


def stores_text(stores: Iterable[RuleCounts]) -> str:
    """Return rule counts in one line: `nftables 6 managed by lbctl; iptables-nft 2 …, 12 foreign`."""
    texts = []
    for each in stores:
        counts = ((each.managed, "managed by lbctl"), (each.foreign, "foreign"))
        known = [f"{number} {whose}" for number, whose in counts if number is not None]
        texts.append(f"{each.store} {', '.join(known) or 'unknown'}")
    return "; ".join(texts)


def table(rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset(), indent: str = "") -> str:
    """Rows in aligned columns; the columns in `right` are aligned to the right."""
    columns = []
    for number, column in enumerate(zip(*rows, strict=True)):
        column = tuple(map(inert, column))
        width = max(map(len, column))
        columns.append([cell.rjust(width) if number in right else cell.ljust(width) for cell in column])
    return "\n".join([(indent + "  ".join(line)).rstrip() for line in zip(*columns, strict=True)])


def plan_document(
    plan: Plan, services: Iterable[ServiceChange], render: Callable[[Program], str]
) -> ChangeDocument:
    """Return the JSON of a plan: all its `services`, and its rules as `render` writes them."""
    from lbctl.documents.change import change

    return change(plan, services, plan_rules(plan, render))


def plan_text(plan: Plan, style: Style, *, base: str = "") -> str:
    """A plan in words: what happens to each service, shares before and after.

    `base` is the intent file that it begins with, "" if that is what the kernel holds.
    """
    from lbctl.cli.changes import flow_lines
    from lbctl.cli.overrides import operator_lines

    number = {action: sum(s.action is action for s in plan.services) for action in Action}
    unchanged = plan.after.services.keys() - {s.name for s in plan.services}
    if not plan.changed:
        held = count(len(unchanged), "service")
        if base:
            return f"Nothing changes: {base} has the same rules ({held})."
        nothing = f"Nothing to change: {plan.backend} matches the intent ({held})."
        return "\n".join([nothing, *operator_lines(plan.effective), *_note_lines(plan, style)])
    how = f"compared with {base}" if base else f"driver {plan.driver}"
    lines = [
        style(
            f"{plan.backend} ({how}): {count(number[Action.ADD], 'service')} to add, "
            f"{number[Action.CHANGE]} to change, {number[Action.REMOVE]} to remove, "
            f"{len(unchanged)} unchanged",
            "bold",
        )
    ]
    for service in plan.services:
        head = f"{_SIGN[service.action]} {service.name}  {', '.join(_listeners(service))}"
        lines += ["", style(head, _PAINT[service.action])]
        lines += _service_lines(service, style)
    if plan.stale:
        flows = (f"{style('Note:', 'yellow')} {line}" for line in flow_lines(plan.stale))
        lines += ["", *(prose(line, stream=style.stream) for line in flows)]
    lines += _note_lines(plan, style)
    if operated := [style(line, "yellow") for line in operator_lines(plan.effective)]:
        lines += ["", *operated]
    shared = sum(change.service is None for change in plan.changes)
    if shared and not plan.services:
        rules = count(shared, "rule")
        lines += ["", f"Shared rules were modified ({rules}); run `lbctl apply`."]
    return "\n".join(lines)


def _note_lines(plan: Plan, style: Style) -> Iterator[str]:
    for note in plan.notes:
        yield from ("", prose(f"{style('Note:', 'yellow')} {inert(note)}", stream=style.stream))


def _listeners(service: ServiceChange) -> tuple[str, ...]:
    """Return where a service is reached: after the change, unless it is removed."""
    if service.action is not Action.CHANGE or not service.after:
        return service.listeners
    return replace(service, before={}).listeners


def _service_lines(service: ServiceChange, style: Style) -> Iterator[str]:
    """What changes for whom: settings, clients that are not balanced on one side, the shares on both."""
    from lbctl.cli.changes import change_rows, setting_rows
    from lbctl.cli.shares import clients, share_rows

    rows = share_rows(service)
    if service.action is Action.ADD and service.changes:
        yield style(table(setting_rows(service.changes), indent="    "), "green")
    if service.action is Action.CHANGE:
        shown = [change for change in service.changes if not _in_shares(change, service)]
        if shown:
            yield style(table(change_rows(shown), indent="    "), "yellow")
        # A new listener is not balanced yet, which is no news.
        moved = any(change.key == "listen" for change in service.changes)
        places = {**service.before, **service.after}
        now = "" if moved else ", ".join(clients(service.unbalanced_before, places, service.before))
        then = ", ".join(clients(service.unbalanced_after, places, service.after))
        if now:
            yield style(f"    not balanced now: {now}", "red")
        if then:
            yield style(f"    no longer balanced: {then}", "yellow")
        if not (now or then or service.changes) and all(row.before == row.after for row in rows):
            yield style("    same shares, other rules: see lbctl plan --rules", "dim")
    cells: list[tuple[str, ...]] = [
        (row.to, row.where, share_text(row.before), "→", share_text(row.after)) for row in rows
    ]
    if not any(row.where for row in rows):
        cells = [(to, *shares) for to, _, *shares in cells]
    if cells:
        yield table(cells, right=frozenset({len(cells[0]) - 3}), indent="    ")


def _in_shares(change: KeyChange, service: ServiceChange) -> bool:
    """Return True if the shares show all of a change: endpoints that are added or removed."""
    before, after = change.before, change.after
    if change.key != "endpoints" or not isinstance(before, tuple) or not isinstance(after, tuple):
        return False
    different = set(before) ^ set(after)
    return bool(different) and different <= set(service.targets)


def show_plans(plans: Iterable[Plan], *, data: bool, asking: bool, color: Color) -> None:
    """Plans in words: on stdout, or before a question on stderr where stdout is for data."""
    stream = sys.stderr if data else sys.stdout
    for plan in plans:
        if asking or not data:
            print(plan_text(plan, Style(color, stream=stream)), file=stream, flush=True)


def plan_rules(plan: Plan, render: Callable[[Program], str]) -> tuple[str, str]:
    """The rules of both sides as text, in one order: the kernel's own means nothing."""
    return render(plan.before.in_order_of(plan.after)), render(plan.after)


def rules_diff(before: str, after: str, style: Style, *, base: str = "") -> str:
    """The rules on both sides as a unified diff; `base` is the file of the first, "" for the kernel."""
    from difflib import unified_diff

    names = base or "kernel", "intent"
    lines = unified_diff(before.splitlines(), after.splitlines(), *names, lineterm="", n=3)
    return painted_diff(lines, style)


def painted_diff(lines: Iterable[str], style: Style) -> str:
    """A unified diff in colours."""
    paint = {"+": "green", "-": "red", "@": "cyan"}
    return "\n".join(style(line, paint[line[0]]) if line[:1] in paint else line for line in lines)
