"""`lbctl doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from lbctl.cli.options import BackendName, Color, Colors, Config, DriverName, Format, Output

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lbctl.cli.output import Style
    from lbctl.engine.inspect.doctor import Diagnosis
    from lbctl.engine.inspect.grouping import ProblemGroup
    from lbctl.model import Intent
    from lbctl.spi import Problem

#: Services that are named for one kind of problem.
_NAMED = 8


def doctor(
    config: Config = None,
    backend: BackendName = "auto",
    driver: DriverName = None,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Check this host for problems that would break balancing.

    Shows each problem with its evidence and a fix. Read-only. Runs fewer checks without privilege or an
    intent file. Exits with 1 on errors, with 0 on warnings.
    """
    from lbctl.cli.context import open_host
    from lbctl.cli.output import Style, print_json
    from lbctl.cli.work import mention_trial
    from lbctl.documents.diagnosis import diagnosis
    from lbctl.engine.inspect.doctor import examine
    from lbctl.engine.record.unsettled import unsettled
    from lbctl.model import DEFAULT_OWNER, Severity

    host = open_host()
    intent, missing = _intent(config)
    mention_trial(unsettled(host, intent.owner if intent else DEFAULT_OWNER), data=output is Format.JSON)
    found = examine(host, intent, backend=backend, driver=driver)
    unseen = [(each.what, each.reason) for each in found.unseen]
    if missing:
        unseen.insert(0, ("services", missing))
    if output is Format.JSON:
        print_json(diagnosis(found, intent, unseen))
    else:
        print(_text(found, intent, unseen, Style(color)))
    if found.of(Severity.ERROR):
        raise typer.Exit(1)


def _intent(config: Path | None) -> tuple[Intent | None, str]:
    """The intent; or, where no file was named, why there is none to be read."""
    from lbctl.cli.intents import intent_files, read_intent
    from lbctl.errors import NoIntentFile

    try:
        intent_files(config)
    except NoIntentFile as error:
        return None, error.message
    return read_intent(config), ""


def _text(found: Diagnosis, intent: Intent | None, unseen: Sequence[tuple[str, str]], style: Style) -> str:
    from lbctl.cli.output import count
    from lbctl.engine.inspect.grouping import grouped
    from lbctl.model import Severity, inert

    errors, warnings = found.of(Severity.ERROR), found.of(Severity.WARNING)
    about = count(len(intent.services), "service") if intent else "general checks only"
    how = f"{found.backend} (driver {found.driver})" if found.backend else "no usable backend"
    verdict = f"{_counted(errors, 'problem')}, {_counted(warnings, 'warning')}"
    paint = "red" if errors else "yellow" if warnings else "green"
    blocks = [f"{how}, {about}: {style(verdict, paint)}"]
    blocks += [_group(group, style("problem", "red"), style) for group in grouped(errors)]
    blocks += [_group(group, style("warning", "yellow"), style) for group in grouped(warnings)]
    if unseen:
        lines = [f"    {what}: {inert(reason)}" for what, reason in unseen]
        blocks.append("\n".join(["Not examined:", *lines]))
    return "\n\n".join(blocks)


def _counted(found: Sequence[Problem], noun: str) -> str:
    """Return `4 warnings`, with the number of kinds if that is what is printed below."""
    from lbctl.cli.output import count
    from lbctl.engine.inspect.grouping import grouped

    kinds = len(list(grouped(found)))
    return count(len(found), noun) + (f" of {count(kinds, 'kind')}" if kinds < len(found) else "")


def _group(group: ProblemGroup, kind: str, style: Style) -> str:
    """Return a kind of problem with what it concerns: a few services of many, all of them in JSON."""
    from lbctl.cli.output import prose
    from lbctl.engine.inspect.grouping import folded
    from lbctl.model import inert

    problem = group.whole or group.general
    whose = f'service "{problem.service}": ' if problem.service else ""
    head = f"{kind} {style(problem.code, 'bold')}: {whose}{inert(problem.message)}"
    lines = [prose(head, stream=style.stream)]
    if group.whole is None:
        named = list(group.services.items())
        lines += [f"    {name}: {inert(folded(about))}".rstrip(": ") for name, about in named[:_NAMED]]
        if (more := len(named) - _NAMED) > 0:
            lines.append(f"    and {more} more services; --output json lists all")
    lines.append(prose(f"    evidence: {inert(problem.evidence)}", hang=14, stream=style.stream))
    lines.append(prose(f"    fix:      {inert(problem.fix)}", hang=14, stream=style.stream))
    return "\n".join(lines)
