"""`lbctl status`."""

from __future__ import annotations

import gc
import sys
import time
from typing import TYPE_CHECKING, Annotated, cast

import typer

from lbctl.cli.complete import complete_service
from lbctl.cli.options import BackendName, Color, Colors, Config, DriverName, Format, Output, Owner
from lbctl.errors import IntentError, NoIntentFile
from lbctl.values import dataclass

if TYPE_CHECKING:
    from pathlib import Path

    from lbctl.cli.context import Context
    from lbctl.documents.status import AgentSummaryDocument
    from lbctl.engine import Drift, HistoryEntry, Session, Status
    from lbctl.host import Host
    from lbctl.model import Intent


def status(
    services: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SERVICE",
            help="Only these services.",
            show_default=False,
            autocompletion=complete_service,
        ),
    ] = None,
    config: Config = None,
    owner: Owner = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Refresh every second until Ctrl-C, with new connections per second."),
    ] = False,
    brief: Annotated[
        bool,
        typer.Option(
            "--brief", help="Report differences between kernel and intent only: quick, counts nothing."
        ),
    ] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 if kernel and intent differ.")
    ] = False,
    backend: BackendName = "auto",
    driver: DriverName = None,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Show wanted and actual shares, connections and drift.

    Counts are the kernel's own, of new connections; actual shares are of those since a service last changed.
    Without an intent file, the intent that was applied last is shown.
    """
    from lbctl import engine
    from lbctl.cli.context import Context, open_host
    from lbctl.cli.work import mention_rollback

    if watch and exit_code:
        raise IntentError("--watch never ends, so it has no exit code")
    host = open_host()
    intent, applied = _intent(host, config, owner)
    _ensure_known(services or (), intent)
    # What was applied by consent is there by consent.
    session = engine.open_session(host, backend=backend, driver=driver, allow_remap=True)
    look = _Look(
        session=session,
        context=Context(host=host, owner=intent.owner),
        intent=intent,
        applied=applied,
        rolled_back=mention_rollback(host, intent) if applied is None else None,
        only=frozenset(services or ()),
        brief=brief,
        follow=backend == "auto" and driver is None,
    )
    if not watch:
        drift = _print(look, output, color)
        if exit_code and not drift.in_sync:
            raise typer.Exit(1)
        return
    try:
        if output is Format.TEXT and sys.stdout.isatty():
            _watch(look, color)
        while True:
            if output is Format.TEXT:
                print(look.time)
            _print(look, output, color, one_line=True)
            _pause()
    except KeyboardInterrupt:
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What is to be looked at, as often as one likes."""

    session: Session
    context: Context
    intent: Intent
    #: The state whose intent this is; None for an intent file's.
    applied: HistoryEntry | None
    #: The last change, if it is a rollback that the intent file contradicts.
    rolled_back: HistoryEntry | None
    #: The names of the services to be shown; empty for all.
    only: frozenset[str]
    brief: bool
    follow: bool

    @property
    def time(self) -> str:
        """The time of the host, as ISO 8601 in its time zone."""
        from datetime import UTC, datetime

        now = datetime.fromtimestamp(self.session.host.now(), UTC)
        return now.astimezone().isoformat(timespec="seconds")

    def agent(self) -> AgentSummaryDocument | None:
        """Return what a running agent of the owner says of itself; None where none answers."""
        from lbctl.engine.record import verdicts

        host, owner = self.session.host, self.intent.owner
        if not verdicts.is_live(host, owner):
            return None
        from lbctl.agent import client
        from lbctl.documents.status import AgentSummaryDocument

        found = client.about(host.socket_path(owner))
        # One of another version may say less.
        if found is None or not found.keys() >= AgentSummaryDocument.__required_keys__:
            return None
        return cast("AgentSummaryDocument", found)

    def now(self) -> tuple[Drift, Status | None]:
        """Return the differences between kernel and intent and, unless in brief, what was counted."""
        from lbctl import engine

        if self.brief:
            status, drift = None, engine.drift(self.session, self.intent, follow=self.follow)
        else:
            status = engine.status(self.session, self.intent, follow=self.follow, only=self.only)
            drift = status.drift
        self.session.memory.save()
        return drift, status


def _print(look: _Look, output: Format, color: Color, *, one_line: bool = False) -> Drift:
    from lbctl.cli.output import Style, print_json
    from lbctl.cli.status_text import agent_line, lines, source_lines, sources_of, width
    from lbctl.cli.work import mention_unsettled

    unsettled = mention_unsettled(look.context, data=output is Format.JSON)
    drift, status = look.now()
    agent = look.agent()
    if output is Format.JSON:
        from lbctl.documents.status import status as document  # its types cost a start of every other output

        rules = document(drift, status, unsettled, look.applied, look.rolled_back)
        print_json({**rules, "agent": agent}, one_line=one_line)
    else:
        style = Style(color)
        shown = lines(
            drift,
            status,
            width(),
            wrap=sys.stdout.isatty(),
            agent=agent_line(agent, look.intent),
            sources=source_lines(agent),
            sources_of=sources_of(agent),
        )
        print("\n".join([line.styled(style) for line in shown]), flush=True)
    return drift


def _watch(look: _Look, color: Color) -> None:
    """Show the status on the whole terminal, again each second."""
    from shutil import get_terminal_size

    from lbctl.cli.output import Style
    from lbctl.cli.status_text import agent_line, source_lines
    from lbctl.cli.watch import Screen, new_rates, note, picture
    from lbctl.engine import unsettled

    rates = new_rates()
    with Screen(Style(color)) as screen:
        while True:
            drift, status = look.now()
            note(rates, look.session.host.clock(), status)
            trial = unsettled(look.session.host, look.intent.owner).trial
            agent = look.agent()
            shown = picture(
                time=look.time,
                drift=drift,
                status=status,
                rates=rates,
                size=get_terminal_size(),
                trial=trial,
                agent=agent_line(agent, look.intent),
                sources=source_lines(agent),
            )
            screen.show(shown)
            _pause()


def _pause() -> None:
    # The one command that may live long.
    gc.collect()
    time.sleep(1)


def _intent(host: Host, config: Path | None, owner: str | None) -> tuple[Intent, HistoryEntry | None]:
    """The intent of the files; or, without one or for another owner, the one that was applied last."""
    from lbctl.cli.intents import context_of, read_intent

    try:
        intent = read_intent(config)
        if owner in {None, intent.owner}:
            return intent, None
    except NoIntentFile as error:
        if config is not None:
            raise
        missing: NoIntentFile | None = error
    else:
        missing = None
    return _last_applied(context_of(host, owner, None), missing)


def _last_applied(context: Context, missing: NoIntentFile | None) -> tuple[Intent, HistoryEntry]:
    from lbctl.cli.output import say
    from lbctl.engine.record import history

    host, owner = context.host, context.owner
    last = history.last_of(host, owner)
    if last is None:
        others = ", ".join(f"--owner {each}" for each in history.owners(host))
        hint = f"on record: {others}" if others else None
        if missing is not None:
            missing.hint = hint or missing.hint
            raise missing
        raise IntentError(f'nothing was applied here for owner "{owner}"', hint=hint)
    which = "No intent file" if missing else f"Owner {owner}"
    if last.intent.services:
        say(f"{which}: this is the intent of {last}.")
    else:
        say(f"{which}, and no service is applied since {last}.")
    return last.intent, last


def _ensure_known(names: tuple[str, ...] | list[str], intent: Intent) -> None:
    """Raise `IntentError` for names of services that an intent does not have."""
    from difflib import get_close_matches

    known = [service.name for service in intent.services]
    if unknown := [name for name in names if name not in known]:
        service = unknown[0].partition("/")[0]
        near = [service] if service in known else get_close_matches(unknown[0], known, n=1)
        few = ", ".join(known[:5]) + (", …" if len(known) > 5 else "")
        hint = f'did you mean "{near[0]}"?' if near else f"the services are: {few}" if known else None
        raise IntentError(f'there is no service "{unknown[0]}"', hint=hint)
