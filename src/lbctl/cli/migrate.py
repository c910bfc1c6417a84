"""`lbctl migrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lbctl.cli.options import (
    AllowRemap,
    Color,
    Colors,
    Config,
    DriverName,
    Format,
    Output,
    Owner,
    TrialTime,
    Wait,
    Yes,
    complete_store,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from fractions import Fraction

    from lbctl.cli.output import Style
    from lbctl.engine import Migration, Session
    from lbctl.engine.comparing import Pair
    from lbctl.model import ReadService

#: Shares with denominators from here on are shown as decimals; JSON has them exact.
_LONG = 1_000_000
#: Rules of what stays that are shown.
_FEW = 20


def migrate(
    to: Annotated[
        str, typer.Option("--to", metavar="BACKEND", help="Where the services go: nftables or iptables.")
    ],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STORE",
            help="Where they come from: iptables-legacy, iptables-nft or nftables; else, where they are.",
            autocompletion=complete_store,
            show_default=False,
        ),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show what goes and what comes, and end.")] = False,
    rules: Annotated[
        bool,
        typer.Option(
            "--rules", help="Show the rules too: as a diff, and as scripts for a host without lbctl."
        ),
    ] = False,
    scripts: Annotated[
        Path | None,
        typer.Option(
            "--scripts",
            metavar="DIR",
            help="Write these scripts to files of a directory, in the order of the steps.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    owner: Owner = None,
    trial: TrialTime = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="NAME",
            help="A service or rule of others, as shown, that stays.",
            show_default=False,
        ),
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Where shares are not what was meant: the same for each endpoint.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Where shares are not what was meant: exactly those, leaks too.")
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FILE", help="Write the intent file, once moved.", show_default=False),
    ] = None,
    yes: Yes = False,
    wait: Wait = 0.0,
    driver: DriverName = None,
    allow_remap: AllowRemap = False,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Move services between nftables and iptables, without losing a connection.

    Shows what goes and what comes, and asks. Then the new rules come in, are proved, and the old ones go;
    where a step fails, everything is as it was.
    """
    from lbctl import engine
    from lbctl.cli.output import print_json, say
    from lbctl.cli.progress import stages
    from lbctl.cli.work import (
        announce,
        await_end,
        confirmed,
        ended,
        ensure_trial,
        files_if_any,
        intent_if_any,
        mention_unsettled,
        owner_of,
        session_for,
        settle,
    )
    from lbctl.errors import IntentError
    from lbctl.host.files import write_new
    from lbctl.spi import backends

    ensure_trial(trial)
    if fix and keep:
        raise IntentError("--fix gives other shares, and --keep the same: one of them")
    if save is not None and save.exists():
        raise IntentError(f"{save} is there already, and is not overwritten", hint="another name")
    places = [backend.name for backend in backends()]
    if to not in places:
        raise IntentError(f'there is no backend "{to}" to move to', hint=f"one of {', '.join(places)}")
    with stages("Reading both sides"):
        whose = owner_of(owner, config)
        meant = intent_if_any(config)
        if owner is not None and meant and meant.owner == whose:
            announce(files_if_any(config))
        session = session_for(to, driver, allow_remap=allow_remap, patience=wait)
        if plan:
            mention_unsettled(whose)
        else:
            settle(whose, patience=wait)
        made = engine.migration(
            session,
            whose,
            source=source,
            intent=meant if meant and meant.owner == whose else None,
            exclude=exclude or (),
            cure=engine.Cure.FIX if fix else engine.Cure.KEEP if keep else None,
        )
    data = output is Format.JSON
    if made is None:
        say(f"Nothing to move: rules that balance are in {session.place}, or in no place.")
        if data:
            print_json({"changed": False, "applied": False})
        return
    if scripts is not None:
        for number, (store, text) in enumerate(made.scripts, 1):
            write_new(scripts / f"{number}-{store}.rules", text)
    show_migration(made, data=data, asking=not (plan or yes), color=color, rules=rules)
    applied = not plan and confirmed("Move this?", yes=yes)
    tried = None
    if applied:
        with stages("Moving"):
            if trial is not None:
                tried, notes = engine.try_out(session, made, trial)
            else:
                notes = list(engine.migrate(session, made))
            session.memory.save()
        if save is not None:
            write_new(save, intent_text(made))
        for note in notes:
            say(note)
        if tried is not None:
            say(f"Moved on trial: taken back in {trial:g} s unless lbctl confirm comes first.")
            tried = await_end(session, tried)
    if data:
        print_json(migration_document(made) | {"applied": applied, "trial": tried and tried.state})
    elif tried is not None and tried.state == "confirmed":
        say("Confirmed.")
    elif tried is None and not plan:
        say("Moved." if applied else "Nothing was changed.")
    ended(tried)
    if applied and save is None and meant is None and not data:
        say(f"No intent file says this yet: lbctl import --from {session.place} > lbctl.toml writes it.")


def show_migration(made: Migration, *, data: bool, asking: bool, color: Color, rules: bool = False) -> None:
    """A migration in words: on stdout, or before a question on stderr where stdout is for data."""
    import sys

    from lbctl.cli.output import Style

    stream = sys.stderr if data else sys.stdout
    if asking or not data:
        print(_text(made, Style(color, stream=stream), rules=rules), file=stream, flush=True)


def migration_document(made: Migration) -> dict[str, Any]:
    """The JSON of a migration."""
    from lbctl.cli.output import share
    from lbctl.model import SELECTOR

    return {
        "from": _place(made.source),
        "to": _place(made.target),
        "changed": made.changed,
        "intent": intent_text(made),
        "intent_from": made.origin,
        "services": [
            {
                "name": (pair.b or pair.service).name,
                **{name: str(getattr(pair.service, name)) for name in SELECTOR},
                "when": dict(pair.service.when) if pair.service.when else None,
                "hooks": list(pair.hooks),
                "verdict": made.told(pair),
                "backends": [
                    {"to": to, "before": share(before), "after": share(after)}
                    for to, (before, after) in pair.shares.items()
                ],
                "leak": {"before": share(pair.leak[0]), "after": share(pair.leak[1])},
                "notes": list(pair.notes),
            }
            for pair in made.pairs
        ],
        "returns": list(made.returns),
        "stays": [
            {"name": stay.name, "rules": list(stay.rules), "reason": stay.reason} for stay in made.stays
        ],
        "findings": [
            {
                "code": found.code,
                "severity": str(found.severity),
                "rule": found.rule,
                "message": found.message,
            }
            for found in made.findings
        ],
        "untouched": list(made.untouched),
        "notes": list(made.notes),
        "rules": {
            "diff": "".join(f"{line}\n" for diff in made.diffs for line in diff),
            "scripts": [{"store": store, "text": text} for store, text in made.scripts],
        },
    }


def intent_text(made: Migration) -> str:
    """The intent file of what holds afterwards."""
    from lbctl.config import dump

    return dump(made.intent, made.comments)


def _place(session: Session) -> dict[str, str]:
    return {"backend": session.backend.name, "driver": session.driver, "store": session.place}


def _text(made: Migration, style: Style, *, rules: bool) -> str:
    from lbctl.cli.output import count, painted_diff
    from lbctl.model import inert

    services = dict.fromkeys((pair.b or pair.service).name for pair in made.pairs)
    places = (f"{at.place} (driver {at.driver})" for at in (made.source, made.target))
    head = " → ".join(places) + (f": {count(len(services), 'service')}" if services else "")
    lines = [style(head, "bold"), f"What moves is what {made.origin} says."]
    lines += ["", *_columns(made, style)] if made.pairs else []
    lines += _way_back(made, style) if made.comparison is None else []
    for found in made.findings:
        paint = "red" if found.severity == "error" else "yellow"
        lines += ["", f"{style(f'{found.severity}: {found.code}', paint)}: {inert(found.message)}"]
    for stay in made.stays:
        lines += ["", f"Stays: {style(inert(stay.name), 'bold')}: {inert(stay.reason)}"]
        lines += [f"    {inert(rule)}" for rule in stay.rules]
    if made.lift is not None:
        lines += [
            "",
            "The intent, which --save FILE keeps:",
            *(f"    {x}".rstrip() for x in intent_text(made).splitlines()),
        ]
    lines += _rules(f"Stays in {made.source.place} as it is", made.left)
    for note in made.notes:
        lines += ["", f"{style('Note:', 'yellow')} {note}"]
    if rules:
        for diff in made.diffs:
            lines += ["", painted_diff(diff, style)]
        for number, (store, text) in enumerate(made.scripts, 1):
            lines += ["", style(f"# Step {number}, in {store}:", "bold"), text.rstrip()]
    return "\n".join(lines)


def _rules(head: str, rules: Sequence[str]) -> list[str]:
    """How many rules there are, and the first of them."""
    from lbctl.cli.output import count
    from lbctl.model import inert

    lines = ["", f"{head}: {count(len(rules), 'rule') if rules else 'nothing'}"]
    lines += [f"    {inert(rule)}" for rule in rules[:_FEW]]
    return lines + ([f"    … and {len(rules) - _FEW} more"] if len(rules) > _FEW else [])


def _way_back(made: Migration, style: Style) -> list[str]:
    """What comes back and what goes, each in its place."""
    from dataclasses import replace

    from lbctl.cli.output import plan_text
    from lbctl.model import Plan

    lines = _rules(f"Comes back in {made.target.place}", made.returns) if made.returns else []
    for step in (made.come, made.go):
        if isinstance(step, Plan) and step.changed:
            # Notes are told once, below.
            lines += ["", plan_text(replace(step, notes=()), style)]
    return lines


def _columns(made: Migration, style: Style) -> list[str]:
    """What goes beside what comes, one block for each service at each place where rules act on it."""
    from lbctl.cli.compare import selected
    from lbctl.model import inert

    blocks = [(pair, _side(pair, pair.a, 0), _side(pair, pair.b, 1)) for pair in made.pairs]
    heads = f"goes: {made.source.place}", f"comes: {made.target.place}"
    width = max([len(heads[0]), *(len(line) for _, left, _ in blocks for line in left)])
    lines = [style(f"    {heads[0]:<{width}} | {heads[1]}", "dim")]
    for pair, left, right in blocks:
        name = (pair.b or pair.service).name or ""
        told = f"{name}  {selected(pair.service)} ({', '.join(pair.hooks)})".strip()
        paint = "green" if pair.verdict.equal else "yellow"
        verdict = made.told(pair) or str(pair.verdict)
        lines += ["", f"{style(inert(told), 'bold')}: {style(verdict, paint)}"]
        lines += [f"    {one:<{width}} | {other}".rstrip() for one, other in zip(left, right, strict=True)]
        lines += [f"    {inert(note)}" for note in pair.notes]
    return lines


def _side(pair: Pair, service: ReadService | None, side: int) -> list[str]:
    from lbctl.model import inert

    rows = [(to, shares[side]) for to, shares in pair.shares.items()]
    # A side without the service balances nothing: that is no leak.
    leaks = any(leak for each, leak in zip((pair.a, pair.b), pair.leak, strict=True) if each)
    rows += [("no endpoint", pair.leak[side])] if leaks else []
    width = max((len(inert(to)) for to, _ in rows), default=0)
    lines = [f"{inert(to):<{width}}  {_short(value)}" if value else "" for to, value in rows]
    return [service.mode if service else "", *lines]


def _short(value: Fraction) -> str:
    """A share; of chances that are products of many draws, what can be read of it."""
    return str(value) if value.denominator < _LONG else f"{float(value):.9f}"
