"""What most commands begin with: the intent file, the session, the question before a change."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from lbctl.cli import options
from lbctl.errors import IntentError, Overtaken, Reverted, StateUnknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lbctl.cli.context import Context
    from lbctl.engine import HistoryEntry, SharePolicy, Trial, Unsettled
    from lbctl.host import Host
    from lbctl.model import Analysis, Intent, Plan

T = TypeVar("T")

_LONGEST_TRIAL = 24 * 3600


def one_file(argument: Path | None, config: Path | None) -> Path | None:
    """The intent file that is named as an argument or by --config; raises `IntentError` for both."""
    if argument is not None and config is not None:
        raise IntentError(f"two intent files: {argument} and --config {config}", hint="name one of them")
    return config if argument is None else argument


def is_cautious(*, yes: bool, ignore_health: bool) -> bool:
    """Return True if endpoints that failed lately stay out although no agent runs: nobody reads the plan."""
    return yes and not ignore_health and not _at_terminal()


def _at_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def settle(context: Context, *, patience: float, trials: bool = True) -> None:
    """Complete what processes that are gone left of a change, and report it; see `lbctl.engine.recover`."""
    from lbctl import engine
    from lbctl.cli.output import say

    host, owner = context.host, context.owner
    if engine.unsettled(host, owner).due:
        for note in engine.recover(engine.open_session(host, patience=patience), owner, trials=trials):
            say(note)


def mention_unsettled(context: Context, *, data: bool) -> Unsettled:
    """Report what processes that are gone left of a change, and a trial; returns it.

    A trial is the first line of what a command prints, or a message where that is `data`.
    """
    from lbctl import engine
    from lbctl.cli.output import say

    found = engine.unsettled(context.host, context.owner)
    for line in found.damaged:
        say(f"{line}. The next command that changes something removes it.")
    if found.entry is not None:
        say(f"Interrupted: {found.entry}. The next command that changes something first ends or reverts it.")
    mention_trial(found, data=data)
    return found


def mention_rollback(host: Host, intent: Intent) -> HistoryEntry | None:
    """Report that the last change was a rollback which an intent file contradicts; returns that state."""
    from lbctl import engine
    from lbctl.cli.output import say

    found = engine.rolled_back(host, intent)
    if found is not None:
        say(f"The last change was {found}. The intent file differs: applying it undoes that.")
    return found


def mention_trial(found: Unsettled, *, data: bool) -> None:
    """Report a trial, if there is one: as the first line of what a command prints, if that is no `data`."""
    from lbctl.cli.output import Style, say
    from lbctl.model import inert

    if found.trial is None:
        return
    if data:
        say(str(found.trial))
    else:
        print(Style(options.chosen_color)(inert(str(found.trial)), "bold", "yellow"), flush=True)


def warn_of_removal(plans: Iterable[Plan]) -> None:
    """Warn if nothing managed by lbctl is left.

    The kernel stops translating, established connections too, with the last rule that needs it.
    """
    from lbctl.cli.output import say

    if any(plan.changed and not plan.after.services for plan in plans):
        say("Warning: established connections will break unless other NAT rules remain.")


def confirmed(question: str, *, yes: bool) -> bool:
    """True after `--yes` or a yes on the terminal; raises `IntentError` if no terminal can be asked."""
    if yes:
        return True
    if not _at_terminal():
        raise IntentError("stdin is not a terminal", hint="pass --yes to go ahead without a prompt")
    try:
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was changed") from None
    if not answer:  # Ctrl-D leaves the cursor behind the question
        print(file=sys.stderr)
    return answer.strip().lower() in {"y", "yes"}


def until_current(attempt: Callable[[], T], *, yes: bool) -> T:
    """Repeat what plans, asks and carries out while the kernel changes between the question and the answer.

    Each time the plan is shown again, and is asked for again: only who sees it may agree to it. Raises
    `Overtaken` after `--yes`, and where no terminal can be asked.
    """
    from lbctl.cli.output import say

    while True:
        try:
            return attempt()
        except Overtaken as found:
            if yes or not _at_terminal():
                raise
            say(f"{found.message}. Nothing was changed; this is the plan now:")


def declined() -> NoReturn:
    """End a command whose question was answered with no, so that `lbctl apply && deploy` stops."""
    import typer

    raise typer.Exit(1)


def ensure_trial(seconds: float | None) -> None:
    """Raise `IntentError` for a time that no trial takes."""
    if seconds is not None and not 1 <= seconds <= _LONGEST_TRIAL:
        raise IntentError("a trial lasts between one second and one day")


def ensure_new(path: Path | None) -> None:
    """Raise `IntentError` for a file that exists already."""
    if path is not None and path.exists():
        raise IntentError(f"{path} already exists, and is not overwritten", hint="choose another name")


def ensure_backend(host: Host, name: str) -> None:
    """Raise `IntentError` for a name of no backend, `auto` included: a migration goes to a named one."""
    from lbctl.spi import AUTO, backends, named_candidates, survey

    candidates = survey(host, backends())
    try:
        known = name != AUTO and bool(named_candidates(candidates, name))
    except IntentError:
        known = False
    if not known:
        names = ", ".join(each.backend.name for each in candidates)
        raise IntentError(f'there is no backend "{name}"', hint=f"one of {names}")


def share_policy(*, fix: bool, keep: bool) -> SharePolicy | None:
    """Return what becomes of wrong shares; raises `IntentError` for both options at once."""
    from lbctl.engine.migrate.foreign import SharePolicy

    if fix and keep:
        raise IntentError("--fix gives equal shares and --keep the current ones: use one of them")
    return SharePolicy.FIX if fix else SharePolicy.KEEP if keep else None


def write_promised(host: Host, confirmed: Trial) -> None:
    """Write the intent file that --save names, now that a trial is confirmed."""
    from lbctl import engine
    from lbctl.cli.output import say
    from lbctl.errors import ApplyFailed
    from lbctl.host.files import write_new

    promised = engine.take_promise(host, confirmed)
    if promised is None:
        return
    try:
        write_new(promised.path, promised.text)
    except ApplyFailed as error:
        # The change is kept all the same.
        say(f"The change is kept, but {error.message}.")
    else:
        shown = promised.path
        # The current directory may be gone, or another one.
        with suppress(OSError, ValueError):
            shown = shown.relative_to(Path.cwd())
        say(f"Wrote {shown}.")


def ended(tried: Trial | None) -> None:
    """Say how a trial ended, and raise what makes the exit code where it was not confirmed."""
    if tried is None:
        return
    if tried.state == "reverted":
        raise Reverted(tried.report or "the trial was reverted by lbctl rollback")
    if tried.state == "failed":
        raise StateUnknown(tried.report, hint="lbctl status shows which rules are in force")


def read_rules_of(host: Host, source: str, limit: int | None = None, *, backend: str = "auto") -> Analysis:
    """Return what the rules in a file, in standard input (`-`) or in `live:STORE` of a host do.

    The file may be an intent file too: then it is what the rules do that `backend` makes of it. Raises
    `IntentError` for text of more than `limit` bytes; see `lbctl.host.files.read_bounded`.
    """
    from lbctl.config import is_intent, loads
    from lbctl.engine.migrate.read import read_intent, read_live, read_rules
    from lbctl.host.files import DEFAULT_LIMIT, read_bounded
    from lbctl.model import inert
    from lbctl.spi import backends

    if store := live_store(source):
        return read_live(host, store, backends())
    if source == "live" and not Path(source).exists():
        raise IntentError(
            '"live" names no store', hint="live:STORE, e.g. live:nftables; lbctl backends lists them"
        )
    data = read_bounded(source, limit or DEFAULT_LIMIT)
    if is_intent(data):
        name = "<stdin>" if source == "-" else inert(source)
        return read_intent(host, loads(data, name), backend=backend)
    return read_rules(data, backends())


def live_store(source: str) -> str:
    """The store of `live:STORE`; "" for all else."""
    kind, colon, store = source.partition(":")
    return store if kind == "live" and colon else ""


def read_stores(host: Host) -> dict[str, Analysis]:
    """What the rules in each store of a host do that can be read, by `live:STORE`."""
    from lbctl.engine.migrate.read import read_live
    from lbctl.spi import Reader, backends

    installed = backends()
    stores = dict.fromkeys(
        driver.store
        for backend in installed
        if isinstance(backend, Reader)
        for driver in backend.probe(host).usable
    )
    return {f"live:{store}": read_live(host, store, installed) for store in stores}
