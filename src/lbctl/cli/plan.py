"""`lbctl plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.options import (
    AllowRemap,
    BackendName,
    Color,
    Colors,
    Config,
    DriverName,
    Format,
    IntentFile,
    Output,
)
from lbctl.errors import IntentError
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.engine import HistoryEntry, Unsettled
    from lbctl.model import Plan
    from lbctl.spi import Backend


def plan(
    file: IntentFile = None,
    config: Config = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="FILE",
            readable=False,
            help="Compare with another intent file instead of this host's kernel; needs no privilege.",
            show_default=False,
        ),
    ] = None,
    rules: Annotated[bool, typer.Option("--rules", help="Show the difference of the rules too.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Write the plan to a file for lbctl apply FILE."),
    ] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 if there is something to change.")
    ] = False,
    backend: BackendName = "auto",
    driver: DriverName = None,
    allow_remap: AllowRemap = False,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Show what apply would change, with shares before and after."""
    from lbctl.cli.work import one_file

    config = one_file(file, config)
    if out is not None:
        _ensure_plan_name(out)
    show = _Shown(rules=rules, exit_code=exit_code, output=output, color=color)
    if against is not None:
        if out is not None:
            raise IntentError("a plan between two files cannot be applied: leave out -o or --against")
        _plan_against(against, config, backend, driver, allow_remap=allow_remap, show=show)
    else:
        _plan(config, out, backend, driver, allow_remap=allow_remap, show=show)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """How a plan is shown."""

    rules: bool
    exit_code: bool
    output: Format
    color: Color

    def __call__(
        self,
        made: Plan,
        backend: Backend,
        *,
        base: str = "",
        left: Unsettled | None = None,
        undone: HistoryEntry | None = None,
    ) -> None:
        """Print a plan; `base` is the intent file that it begins with, "" for the kernel.

        `left` is what processes that are gone left of a change, and `undone` the rollback that it undoes.
        """
        from lbctl import engine
        from lbctl.cli.output import Style, plan_document, plan_rules, plan_text, print_json, rules_diff

        if self.output is Format.JSON:
            document = plan_document(made, engine.describe_plan(backend, made), backend.render)
            print_json({**document, **_beside(left, undone)})
        else:
            style = Style(self.color)
            print(plan_text(made, style, base=base))
            if self.rules and made.changed:
                print()
                print(rules_diff(*plan_rules(made, backend.render), style, base=base))
        if self.exit_code and made.changed:
            raise typer.Exit(1)


def _plan(
    config: Path | None,
    out: Path | None,
    backend: str,
    driver: str | None,
    *,
    allow_remap: bool,
    show: _Shown,
) -> None:
    from lbctl import engine
    from lbctl.cli.context import open_host
    from lbctl.cli.fleet import published_name
    from lbctl.cli.intents import context_with_intent
    from lbctl.cli.progress import stages
    from lbctl.cli.work import mention_rollback, mention_unsettled

    with stages("Reading the intent", "Comparing it with the kernel") as next_stage:
        context, intent = context_with_intent(open_host(), config)
        next_stage()
        session = engine.open_session(context.host, backend=backend, driver=driver, allow_remap=allow_remap)
        made = engine.annotate(session, engine.plan(session, intent))
    left = mention_unsettled(context, data=show.output is Format.JSON)
    undone = mention_rollback(context.host, intent)
    if out is not None:
        name = published_name(config)
        engine.write_plan(session, made, intent, context.files, out, published=name)
    show(made, session.backend, left=left, undone=undone)


def _plan_against(
    against: Path,
    config: Path | None,
    backend: str,
    driver: str | None,
    *,
    allow_remap: bool,
    show: _Shown,
) -> None:
    from lbctl import engine
    from lbctl.cli.context import open_host
    from lbctl.cli.intents import intent_files, read_intent
    from lbctl.config.documents import STANDARD_INPUT, name_of

    if engine.is_plan_file(against):
        raise IntentError(
            f"{against} is a plan file, and --against takes an intent file",
            hint=f"lbctl apply {against} shows and carries out that plan",
        )
    if against == STANDARD_INPUT and STANDARD_INPUT in intent_files(config):
        raise IntentError("standard input can be read once only", hint="name a file for one side")
    host = open_host()
    chosen, made = engine.plan_against(
        host,
        read_intent(against),
        read_intent(config),
        backend=backend,
        driver=driver,
        allow_remap=allow_remap,
    )
    show(made, chosen, base=name_of(against))


def _beside(left: Unsettled | None, undone: HistoryEntry | None) -> Mapping[str, object]:
    """Return what the document of a plan has beside the plan."""
    from lbctl.documents.history import UnsettledDocument, interrupted, unsettled

    found = UnsettledDocument(interrupted=None, trial=None) if left is None else unsettled(left)
    return {**found, "rolled_back": interrupted(undone) if undone else None}


def _ensure_plan_name(out: Path) -> None:
    """Raise `IntentError` for a plan file that is named like a format: -o is no short --output."""
    if str(out) in list(Format):
        raise IntentError(
            f"-o writes the plan to a file, and {out} is a format",
            hint=f"--output {out} prints it in that format; a plan file needs another name, e.g. web.plan",
        )
