"""What logs of an agent lead to: `lbctl agent --replay LOG`, `lbctl history --health`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.cli.options import Format
from lbctl.errors import IntentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from lbctl.host import Host
    from lbctl.model import Shift

#: Bytes of a log: some times what the agent writes, with 100,000 endpoints, before it begins another one.
_LARGEST = 256 << 20


def print_log(log: Path, output: Format) -> None:
    """Print what the log in a file leads to; raises `IntentError`."""
    from lbctl.agent.replay import replay
    from lbctl.host.files import read_bounded
    from lbctl.model import inert

    try:
        text = read_bounded(str(log), _LARGEST, hint="is this a log of lbctl agent?").decode()
    except UnicodeDecodeError:
        raise IntentError(f"{inert(str(log))}: not UTF-8") from None
    print_shifts(replay(text.splitlines()), output)


def print_recorded(host: Host, owner: str, output: Format) -> None:
    """Print what the log of an owner's agent leads to."""
    from lbctl.agent.recorder import recorded
    from lbctl.agent.replay import replay

    found = tuple(replay(recorded(host, owner)))
    if not found and output is Format.TEXT:
        print(f'No agent of owner "{owner}" recorded anything here.')
    else:
        print_shifts(found, output)


def print_shifts(shifts: Iterable[Shift], output: Format) -> None:
    """Print each change of shares when it is known; as JSON, all together."""
    if output is Format.JSON:
        from lbctl.cli.output import print_json
        from lbctl.documents.replay import replay as document

        print_json(document(shifts))
        return
    for shift in shifts:
        print("\n".join(_lines(shift)))


def _lines(shift: Shift) -> Iterator[str]:
    from lbctl.cli.output import share_text
    from lbctl.model import inert, time_of

    yield f"{time_of(shift.time)} {shift.service} ({shift.family})"
    for to, before, after in shift.endpoints():
        change = share_text(after) if before == after else f"{share_text(before)} -> {share_text(after)}"
        reason = f"  {inert(shift.reasons[to])}" if to in shift.reasons else ""
        yield f"  {to}  {change}{reason}"
