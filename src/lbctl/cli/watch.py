"""`status --watch` on a terminal: the whole screen, drawn anew each second."""

from __future__ import annotations

import os
import signal
import sys
from math import ceil
from typing import TYPE_CHECKING, TypeAlias

from lbctl.cli.output import count
from lbctl.cli.status_text import SHORT, Line, attention, block, headline, rows
from lbctl.model import Rates, inert

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import terminal_size
    from types import FrameType, TracebackType

    from lbctl.cli.output import Style
    from lbctl.cli.status_text import Row
    from lbctl.engine import Drift, ServiceStatus, Status
    from lbctl.engine.record.trial import Outlook

#: xterm's alternate screen, without a cursor; and back. What was on the terminal before is there again.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
#: Signals that end the command; by their default, it would end without leaving the screen.
_ENDING = (signal.SIGTERM, signal.SIGHUP)

#: Seconds, or rather looks, that a sparkline shows at most.
_SECONDS = 30
#: A service is not cut to fewer lines: a blank one, its name, the columns and an endpoint.
_FEWEST = 4
_BARS, _PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-=+*%#"
_LAST = f"last {_SECONDS} s"
_COLUMNS = ("endpoint", "family", "state", "wanted", "actual", "connections", "established", "new/s", _LAST)

#: The service, `Endpoint.to` and family of a row; "" for all families.
Key: TypeAlias = tuple[str, str, str]


def new_rates() -> Rates[Key]:
    """Return what a screen shows of the seconds before it: nothing yet."""
    return Rates(_SECONDS)


def note(rates: Rates[Key], clock: float, status: Status | None) -> None:
    """Note what was counted at a time in seconds."""
    services = status.services if status else ()
    rates.note(clock, {_key(each, row): int(row["connections"]) for each in services for row in rows(each)})


def _key(service: ServiceStatus, row: Row) -> Key:
    return service.name, row["endpoint"], row["family"]


def sparkline(values: Sequence[float], top: float, bars: str = _BARS) -> str:
    """Return values from 0 to `top` as bars."""
    return "".join(bars[ceil(value / top * (len(bars) - 1)) if top else 0] for value in values)


def picture(
    *,
    time: str,
    drift: Drift,
    status: Status | None,
    rates: Rates[Key],
    size: terminal_size,
    trial: Outlook | None = None,
    agent: Line | None = None,
    sources: Sequence[str] = (),
) -> list[Line]:
    """Return the lines of a screen, no more and no longer than it can show.

    `sources` are those about sources that fail.
    """
    lines = [Line(inert(str(trial)), "yellow")] if trial is not None else []
    lines += [Line(f"{time}  Ctrl-C ends", "dim"), headline(drift), *([agent] if agent else [])]
    lines += attention(drift, status, None, sources)
    services = status.services if status else ()
    for number, service in enumerate(services):
        more = [Line(""), *_block(service, rates, size.columns)]
        left = len(services) - number - 1
        room = size.lines - len(lines) - (1 if left else 0)
        if len(more) <= room:
            lines += more
            continue
        lines += _cut(more, left, size.lines - len(lines))
        break
    return [Line(_without_end(line.text, size.columns), line.paint) for line in lines[: size.lines]]


def _cut(more: Sequence[Line], left: int, room: int) -> list[Line]:
    """Return what fits of a service that has `left` others behind it, and how much does not."""
    shown = room - 1
    if shown < _FEWEST:
        return [Line(f"… {count(left + 1, 'more service')}")]
    beyond = f", {count(left, 'more service')}" if left else ""
    return [*more[:shown], Line(f"… {count(len(more) - shown, 'more line')}{beyond}")]


def _without_end(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _block(service: ServiceStatus, rates: Rates[Key], columns: int) -> Iterator[Line]:
    found = rows(service)
    recent = [rates.of(_key(service, row)) for row in found]
    now = [f"{each[-1]:.0f}" if each else "-" for each in recent]
    found = [row | {"new/s": rate, _LAST: ""} for row, rate in zip(found, now, strict=True)]
    without = {name: SHORT.get(name, name) for name in _COLUMNS if name != _LAST}
    bare = list(block(service, found, without, columns))
    # What the table leaves of the width.
    room = min(_SECONDS, columns - max(len(line.text) for line in bare[-len(found) - 1 :]) - 2)
    if room < len(_LAST):
        yield from bare
        return
    top = max((rate for each in recent for rate in each), default=0.0)
    bars = _BARS if (sys.stdout.encoding or "").lower().startswith("utf") else _PLAIN_BARS
    lined: list[Row] = [
        row | {_LAST: sparkline(each[-room:], top, bars)} for row, each in zip(found, recent, strict=True)
    ]
    yield from block(service, lined, without | {_LAST: _LAST}, columns)


class Screen:
    """The terminal's other screen. It is left on every way out, and while the command is stopped."""

    def __init__(self, style: Style) -> None:
        self._style = style

    def __enter__(self) -> Screen:
        for number in _ENDING:
            signal.signal(number, _end)
        signal.signal(signal.SIGTSTP, self._stop)
        _write(_ENTER)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _write(_LEAVE)
        for number in (*_ENDING, signal.SIGTSTP):
            signal.signal(number, signal.SIG_DFL)

    def show(self, lines: Sequence[Line]) -> None:
        """Draw lines in place of those before."""
        drawn = f"{_END_OF_LINE}\r\n".join(line.styled(self._style) for line in lines)
        _write(f"{_HOME}{drawn}{_END_OF_LINE}{_END_OF_SCREEN}")

    def _stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 (of handlers)
        _write(_LEAVE)
        os.kill(os.getpid(), signal.SIGSTOP)
        _write(_ENTER)


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (of handlers)
    raise SystemExit(128 + number)


def _write(text: str) -> None:
    """Write to the terminal, without the buffer: it is closed to a handler of a signal that interrupts it."""
    left = text.encode(sys.stdout.encoding or "utf-8", "replace")
    while left:
        left = left[os.write(sys.stdout.fileno(), left) :]
