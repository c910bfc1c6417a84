"""`--host`: a command works on another host over ssh, or on several, one after the other or some at once."""

from __future__ import annotations

import inspect
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_AT_ONCE = 64

Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        metavar="DEST",
        help="Work on another host over ssh: [USER@]HOST[:PORT], a name of the table [hosts], or all of that "
        "table (repeatable). That host needs only sh, and nft or iptables.",
        show_default=False,
    ),
]
Parallel = Annotated[
    int,
    typer.Option(
        "--parallel",
        metavar="N",
        min=1,
        max=_MOST_AT_ONCE,
        help="With several hosts, work on up to N at the same time.",
    ),
]
KeepGoing = Annotated[
    bool,
    typer.Option("--keep-going", help="With several hosts, continue after one has failed."),
]
_OPTIONS = {"host": (Hosts, None), "parallel": (Parallel, 1), "keep_going": (KeepGoing, False)}


def on_hosts(command: Callable[..., None], intent: str = "config") -> Callable[..., None]:
    """Return a command that also takes `--host`: without it, it works on this host.

    `intent` is the parameter that names an intent file, beside `config`.
    """

    @wraps(command)
    def run(
        *, host: list[str] | None = None, parallel: int = 1, keep_going: bool = False, **words: Any
    ) -> None:
        if not host and (parallel > 1 or keep_going):
            from lbctl.errors import WrongUsage

            raise WrongUsage("--parallel and --keep-going need several hosts", hint="name each with --host")
        if not host:
            command(**words)
            return
        from lbctl.cli.context import working_on
        from lbctl.cli.intents import reading_once
        from lbctl.cli.many import destinations, on_each

        with reading_once():
            found = destinations(host, words.get("config") or _intent_file(words.get(intent)))
            if len(found) > 1:
                writes = words.get("out") or words.get("save")
                on_each(found, parallel=parallel, keep_going=keep_going, writes=writes)
                return
            with working_on(*found.values()):
                command(**words)

    own = inspect.signature(command, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
    ]
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])  # type: ignore[attr-defined]
    run.__annotations__ = get_type_hints(command, include_extras=True) | {
        name: annotation for name, (annotation, _) in _OPTIONS.items()
    }
    return run


def _intent_file(value: Path | list[Path] | None) -> Path | None:
    """Return the intent file that an argument names, if it does: `apply` takes a plan file too."""
    from lbctl.engine import is_plan_file

    file = value[0] if isinstance(value, list) and value else value
    return file if isinstance(file, Path) and not is_plan_file(file) else None
