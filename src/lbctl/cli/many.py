"""One command for several hosts: each in a process of its own, and a table of how they ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from threading import Event
from typing import TYPE_CHECKING, Any

import typer

from lbctl.errors import IntentError, WrongUsage
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lbctl.host.remote import Destination

#: Words of a command that are about several hosts, with how many words follow each.
_OWN = {"--host": 1, "--parallel": 1, "--keep-going": 0}
#: 128 and the number of SIGINT, as a shell has it.
_INTERRUPTED = 130
_UNKNOWN = 6
_MEANINGS = {
    0: "done",
    1: "differences",
    2: "invalid input",
    3: "no usable backend, or no connection",
    4: "no permission",
    5: "failed, unchanged",
    _UNKNOWN: "failed, state unknown",
    7: "stale or locked",
    8: "reverted",
    70: "bug",
    _INTERRUPTED: "interrupted",
}


def destinations(named: Sequence[str], file: Path | None) -> Mapping[str, Destination]:
    """Return the destinations that the values of `--host` stand for, by their names; raises `LbctlError`.

    `file` is the intent file that was named, if one was.
    """
    from lbctl.config.hosts import EVERY, is_name
    from lbctl.host.remote import Destination

    table = _table(file, needed=EVERY in named) if any(map(is_name, named)) else {}
    found: dict[str, Destination] = {}
    for text in named:
        names = list(table) if text == EVERY else [text]
        found |= {name: Destination.of(table.get(name, name)) for name in names}
    return found


def _table(file: Path | None, *, needed: bool) -> Mapping[str, str]:
    """Return the table [hosts] of the intent file, if there is one."""
    from lbctl.cli.intents import files_if_any, read_ahead
    from lbctl.config.documents import read

    files = files_if_any(file)
    try:
        if not needed and not any("hosts" in read(path).text for path in files):
            return {}  # as in most files: the intent is read while ssh connects
        found = read_ahead(files).hosts if files else {}
    except IntentError:
        if needed:
            raise
        return {}  # the command itself reports what is wrong with it, if it needs it
    if needed and not found:
        raise WrongUsage(
            "--host all: the intent file has no table [hosts]",
            hint='write a table [hosts] with lines like lb1 = "admin@lb1.example.net"',
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOutcome:
    """How a command ended for one host: its exit code, None if it was not begun, and what it printed."""

    host: str
    code: int | None
    out: str = ""
    err: str = ""


def on_each(
    found: Mapping[str, Destination], *, parallel: int, keep_going: bool, writes: Path | None = None
) -> None:
    """Run this command for each host, and end as the worst of them did.

    One after the other, each with the terminal, or `parallel` at once: then none can ask. After a failure no
    other host is begun, unless `keep_going`; after Ctrl-C none is. `writes` is a file that the command is to
    write.
    """
    words, data = _own_words(sys.argv[1:]), _is_json(sys.argv[1:])
    _ensure_possible(words, parallel, writes)
    stopped = Event()

    def run(name: str) -> HostOutcome:
        if stopped.is_set():
            return HostOutcome(host=name, code=None)
        outcome = _run(name, words, captured=data or parallel > 1)
        if outcome.code == _INTERRUPTED or (outcome.code and not keep_going):
            stopped.set()
        if not data:
            _show(outcome)
        return outcome

    with ThreadPoolExecutor(parallel) as pool:
        begun = [pool.submit(run, name) for name in found]
        try:
            wait(begun)
        except KeyboardInterrupt:
            # The commands have the signal too, and end as they do alone.
            stopped.set()
    outcomes = [each.result() for each in begun]
    if data:
        _print_document(outcomes)
    else:
        _print_table(outcomes)
    raise typer.Exit(max(each.code or 0 for each in outcomes))


def _ensure_possible(words: Sequence[str], parallel: int, writes: Path | None) -> None:
    if writes is not None:
        raise WrongUsage(
            f"{writes} cannot hold what is written for several hosts",
            hint="run it for each host, with its own file",
        )
    if parallel > 1 and words and words[0] in _ASKING and not {"--yes", "-y"} & set(words):
        raise WrongUsage(f"--parallel {parallel}: several hosts cannot ask at once", hint="pass --yes")
    if "--watch" in words:
        raise WrongUsage("--watch shows one host", hint="name one by --host")
    if "-" in words or ("--config", "-") in pairwise(words):
        raise WrongUsage("standard input can be read for one host only", hint="name a file")


_ASKING = frozenset({"apply", "migrate", "remove", "rollback"})


def _own_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command line without those that are about several hosts."""
    kept: list[str] = []
    skip = 0
    for word in words:
        name, equals, _ = word.partition("=")
        if skip:
            skip -= 1
        elif name in _OWN:
            skip = 0 if equals else _OWN[name]
        else:
            kept.append(word)
    return kept


def _is_json(words: Sequence[str]) -> bool:
    return "--output=json" in words or ("--output", "json") in pairwise(words)


def _run(host: str, words: Sequence[str], *, captured: bool) -> HostOutcome:
    from lbctl.model import inert

    argv = [sys.executable, "-sP", "-m", "lbctl", *words, f"--host={host}"]
    if not captured:
        print(f"== {inert(host)}", file=sys.stderr, flush=True)
        return HostOutcome(host=host, code=_code(subprocess.run(argv, check=False).returncode))
    done = subprocess.run(argv, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return HostOutcome(host=host, code=_code(done.returncode), out=done.stdout, err=done.stderr)


def _code(code: int) -> int:
    """Return the exit code for how a process ended: what one that was killed had changed is unknown."""
    if code >= 0:
        return code
    return _INTERRUPTED if -code == signal.SIGINT else _UNKNOWN


def _show(outcome: HostOutcome) -> None:
    """Print what a command said of a host that ran beside others."""
    from lbctl.model import inert

    if outcome.out or outcome.err:
        print(f"== {inert(outcome.host)}", file=sys.stderr)
        sys.stderr.write(outcome.err)
        sys.stderr.flush()
        sys.stdout.write(outcome.out)
        sys.stdout.flush()


def _print_table(outcomes: Sequence[HostOutcome]) -> None:
    from lbctl.cli.output import say_styled, table
    from lbctl.model import inert

    rows = [(inert(each.host), _text(each.code), _last_line(each)) for each in outcomes]
    say_styled("")
    say_styled(table([("host", "result", ""), *rows]))


def _text(code: int | None) -> str:
    return "not begun" if code is None else f"{code} {_MEANINGS.get(code, '')}".rstrip()


def _last_line(outcome: HostOutcome) -> str:
    """Return what was said last of a failure that was not seen as it happened."""
    from lbctl.model import inert

    lines = [line for line in outcome.err.splitlines() if line.startswith("lbctl:")] if outcome.code else []
    return inert(lines[-1].removeprefix("lbctl: "))[:100] if lines else ""


def _print_document(outcomes: Sequence[HostOutcome]) -> None:
    from lbctl.cli.output import print_json
    from lbctl.documents.many import HostOutcomeDocument, ManyHostsDocument

    rows = [
        HostOutcomeDocument(
            host=each.host,
            exit=each.code,
            document=_document(each.out),
            messages=each.err.splitlines(),
        )
        for each in outcomes
    ]
    print_json(ManyHostsDocument(hosts=rows))


def _document(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
