"""A migration in words: what is removed and added, and the outcome."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from lbctl import engine
from lbctl.cli.compare import mode_text, selected
from lbctl.cli.countdown import await_end
from lbctl.cli.output import Style, count, painted_diff, plan_text, print_json, prose, say
from lbctl.cli.overrides import operator_lines
from lbctl.cli.progress import stages
from lbctl.cli.work import ended
from lbctl.documents.migration import agreement_text, document, intent_text
from lbctl.engine.migrate import view
from lbctl.engine.migrate.foreign import SharePolicy
from lbctl.host.files import write_new
from lbctl.model import Plan, Severity, inert

if TYPE_CHECKING:
    from collections.abc import Sequence
    from fractions import Fraction
    from pathlib import Path

    from lbctl.cli.options import Color
    from lbctl.engine import Migration, Session
    from lbctl.engine.inspect.compare import Pair
    from lbctl.engine.migrate.foreign import ForeignRules
    from lbctl.model import AnalysedService, Finding

#: Shares with denominators from here on are shown as decimals; JSON has them exact.
_LONG = 1_000_000
#: Rules of what stays that are shown.
_FEW = 20


def carry_out(
    session: Session,
    migration: Migration,
    *,
    applied: bool,
    plan: bool,
    trial: float | None,
    save: Path | None,
    data: bool,
) -> None:
    """Migrate if that was `applied` for, on trial if a time is given, and print the outcome."""
    tried = None
    if applied:
        with stages("Migrating"):
            if trial is not None:
                file = engine.PromisedFile(path=save, text=intent_text(migration)) if save else None
                tried, notes = engine.try_out(session, migration, trial, promised=file)
            else:
                notes = list(engine.run_migration(session, migration))
            session.memory.save()
        if save is not None and tried is None:
            write_new(save, intent_text(migration))
        for note in notes:
            say(note)
        if tried is not None:
            tried = await_end(session, tried, "Migrated", trial or 0)
    if data:
        print_json({**document(migration), "applied": applied, "trial": tried and tried.state})
    elif tried is not None and tried.state == "confirmed":
        say("Confirmed.")
    elif tried is None and not plan:
        say("Migrated." if applied else "Nothing was changed.")
    ended(tried)
    if applied and (left := view.boot_note(migration)):
        say(left)


def show(migration: Migration, *, data: bool, asking: bool, color: Color, rules: bool = False) -> None:
    """Print a migration on stdout, or before a question on stderr if stdout is for data."""
    stream = sys.stderr if data else sys.stdout
    if asking or not data:
        print(_text(migration, Style(color, stream=stream), rules=rules), file=stream, flush=True)


def write_scripts(directory: Path, migration: Migration) -> None:
    """Write the steps to files that do not exist yet, named in the order of the steps."""
    for number, (store, text) in enumerate(view.scripts(migration), 1):
        write_new(directory / f"{number}-{store}.rules", text)


def _text(migration: Migration, style: Style, *, rules: bool) -> str:
    """Return what a migration removes and adds, and what stays; with `rules`, the rules and scripts too."""
    services = dict.fromkeys((pair.b or pair.service).name for pair in migration.pairs)
    places = (f"{at.place} (driver {at.driver})" for at in (migration.source, migration.target))
    head = " → ".join(places) + (f": {count(len(services), 'service')}" if services else "")
    lines = [style(head, "bold"), f"The services are from {migration.origin}."]
    lines += ["", *_columns(migration, style)] if migration.pairs else []
    lines += _way_back(migration, style) if migration.comparison is None else []
    if migration.foreign is not None:
        for found in migration.foreign.findings:
            paint = "red" if found.severity == "error" else "yellow"
            head = f"{found.severity}: {found.code}{_answer(migration.foreign, found)}"
            text = f"{style(head, paint)}: {inert(found.message)}"
            lines += ["", prose(text, stream=style.stream)]
        for each in migration.foreign.retained:
            text = f"Not migrated: {style(inert(each.name), 'bold')}: {inert(each.reason)}"
            lines += ["", prose(text, stream=style.stream)]
            lines += [f"    {inert(rule)}" for rule in each.rules]
        lines += ["", "The intent file, which --save FILE writes:"]
        lines += [f"    {line}".rstrip() for line in intent_text(migration).splitlines()]
    lines += _rules(f"Unchanged in {migration.source.place}", view.untouched_rules(migration))
    for note in view.notes(migration):
        lines += ["", prose(f"{style('Note:', 'yellow')} {note}", stream=style.stream)]
    if migration.comparison is not None and (operated := operator_lines(migration.plan[1].effective)):
        lines += ["", *(style(line, "yellow") for line in operated)]
    if rules:
        for diff in view.diffs(migration):
            lines += ["", painted_diff(diff, style)]
        for number, (store, text) in enumerate(view.scripts(migration), 1):
            lines += ["", style(f"# Step {number}, in {store}:", "bold"), text.rstrip()]
    return "\n".join(lines)


def _answer(foreign: ForeignRules, found: Finding) -> str:
    """Return what the migration does about a finding that makes shares other than what was meant."""
    if found.severity is not Severity.ERROR or foreign.policy is None:
        return ""
    match foreign.policy:
        case SharePolicy.FIX:
            return " (fixed)"
        case SharePolicy.KEEP:
            return " (kept as it is)"
        case _:
            assert_never(foreign.policy)


def _rules(head: str, rules: Sequence[str]) -> list[str]:
    """How many rules there are, and the first of them."""
    lines = ["", f"{head}: {count(len(rules), 'rule') if rules else 'nothing'}"]
    lines += [f"    {inert(rule)}" for rule in rules[:_FEW]]
    return lines + ([f"    … and {len(rules) - _FEW} more"] if len(rules) > _FEW else [])


def _way_back(migration: Migration, style: Style) -> list[str]:
    """What is restored and what is removed, each in its store."""
    restored = view.restored(migration)
    lines = _rules(f"Restored in {migration.target.place}", restored) if restored else []
    for step in (migration.come, migration.go):
        if isinstance(step, Plan) and step.changed:
            # Notes are shown once, below.
            lines += ["", plan_text(replace(step, notes=()), style)]
    return lines


def _columns(migration: Migration, style: Style) -> list[str]:
    """What is removed beside what is added, one block for each service at each hook where rules act on it."""
    blocks = [(pair, _side(pair, pair.a, 0), _side(pair, pair.b, 1)) for pair in migration.pairs]
    heads = f"remove: {migration.source.place}", f"add: {migration.target.place}"
    width = max([len(heads[0]), *(len(line) for _, left, _ in blocks for line in left)])
    lines = [style(f"    {heads[0]:<{width}} | {heads[1]}", "dim")]
    for pair, left, right in blocks:
        name = (pair.b or pair.service).name or ""
        title = f"{name}  {selected(pair.service)} ({', '.join(pair.hooks)})".strip()
        paint = "green" if pair.verdict.equal else "yellow"
        verdict = agreement_text(migration, pair) or str(pair.verdict)
        lines += ["", f"{style(inert(title), 'bold')}: {style(verdict, paint)}"]
        lines += [f"    {one:<{width}} | {other}".rstrip() for one, other in zip(left, right, strict=True)]
        lines += [f"    {inert(note)}" for note in pair.notes]
    return lines


def _side(pair: Pair, service: AnalysedService | None, side: int) -> list[str]:
    rows = [(to, shares[side]) for to, shares in pair.shares.items()]
    # A side without the service balances nothing: that is no unmatched traffic.
    leaks = any(leak for each, leak in zip((pair.a, pair.b), pair.leak, strict=True) if each)
    rows += [("no endpoint", pair.leak[side])] if leaks else []
    width = max((len(inert(to)) for to, _ in rows), default=0)
    lines = [f"{inert(to):<{width}}  {_short(value)}" if value else "" for to, value in rows]
    return [mode_text(service) if service else "", *lines]


def _short(value: Fraction) -> str:
    """A share; of chances that are products of many draws, as many digits as can be read."""
    return str(value) if value.denominator < _LONG else f"{float(value):.9f}"
