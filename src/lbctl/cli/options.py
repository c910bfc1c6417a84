"""The options that commands share: spelled, described and completed in one place."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lbctl.cli.complete import complete_backend, complete_driver, complete_owner
from lbctl.cli.usage import BadValue


class Format(StrEnum):
    """How data is printed."""

    TEXT = "text"
    JSON = "json"


class Color(StrEnum):
    """When text is coloured."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


#: The last `--color`, for complaints, which are printed after the command is over.
chosen_color = Color.AUTO
#: True once a command has printed a document: an error behind it gets none, for there is one a command.
document_printed = False


def _remember(value: Color) -> Color:
    global chosen_color
    chosen_color = value
    return value


def seconds(text: str | float) -> float:
    """Seconds of `2s`, `1.5m` or `1h`."""
    if not isinstance(text, str):
        return text  # the default
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smh])", text)
    if found is None:
        raise BadValue(f'"{text}" is not a time such as 30s, 5m or 1h')
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def size(text: str | int) -> int:
    """Return the bytes of `64M`, `1G`, `512K` or `1048576`."""
    if not isinstance(text, str):
        return text  # the default
    found = re.fullmatch(r"([0-9]{1,9})([KMG]?)(?:i?B)?", text)
    if found is None or not int(found[1]):
        raise BadValue(f'"{text}" is not a size such as 64M or 1G')
    return int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]]


MaxSize = Annotated[
    int | None,
    typer.Option(
        "--max-size",
        metavar="SIZE",
        parser=size,
        help="Refuse a text that is larger, e.g. 256M. The default is 64M.",
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-f",
        metavar="FILE",
        # Our own reader says what is wrong, as it does for everything in the file.
        readable=False,
        help="The intent file, - for standard input, or a directory: its lbctl.toml and conf.d/*.toml, or "
        "else its *.toml, merged. Without it: $LBCTL_CONFIG, ./lbctl.toml, /etc/lbctl/lbctl.toml with "
        "conf.d.",
        show_default=False,
    ),
]
IntentFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE", readable=False, help="The intent file, as with --config.", show_default=False
    ),
]
BackendName = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="NAME",
        help="Name of a backend, or auto for the first usable one; lbctl backends lists them.",
        autocompletion=complete_backend,
    ),
]
DriverName = Annotated[
    str | None,
    typer.Option(
        "--driver",
        metavar="NAME",
        help="Driver of the backend; lbctl backends lists them.",
        autocompletion=complete_driver,
        show_default=False,
    ),
]
AllowRemap = Annotated[
    bool,
    typer.Option(
        "--allow-remap",
        help="Allow clients to hash to different endpoints than on nftables; shares stay the same.",
    ),
]
Output = Annotated[Format, typer.Option("--output", help="How to print data.")]
Colors = Annotated[
    Color,
    typer.Option(
        "--color", help="When to colour text; NO_COLOR is honoured.", callback=_remember, is_eager=True
    ),
]
Owner = Annotated[
    str | None,
    typer.Option(
        "--owner",
        metavar="NAME",
        help="Owner of the rules (default: from the intent file).",
        autocompletion=complete_owner,
        show_default=False,
    ),
]
Wait = Annotated[
    float,
    typer.Option(
        "--wait",
        metavar="TIME",
        parser=seconds,
        help="Wait up to TIME, e.g. 30s, for another lbctl that holds the lock.",
        show_default=False,
    ),
]
TrialTime = Annotated[
    float | None,
    typer.Option(
        "--trial",
        metavar="TIME",
        parser=seconds,
        help="Revert automatically after TIME, e.g. 60s, unless confirmed with lbctl confirm, even if this "
        "terminal or lbctl is gone.",
        show_default=False,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not prompt for confirmation.")]
IgnoreHealth = Annotated[
    bool,
    typer.Option(
        "--ignore-health",
        help="With --yes and no terminal, include endpoints that were down less than 10 minutes ago when "
        "their agent ended.",
    ),
]
Fix = Annotated[bool, typer.Option("--fix", help="Give each endpoint the same share if shares are wrong.")]
Keep = Annotated[
    bool, typer.Option("--keep", help="Reproduce wrong shares as they are, including unmatched traffic.")
]
