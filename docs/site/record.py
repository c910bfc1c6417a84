"""Record a real run of `lbctl demo --agent` as a picture of a terminal: docs/images/session.svg.

    sudo .venv/bin/python docs/site/record.py

Each line appears at the time when it was printed; pauses are shortened. Readers who prefer no motion, and
programs that show no animation, see all lines.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "images" / "session.svg"
COMMAND = ["demo", "--agent", "--connections", "1000", "--color", "always"]
#: Where the part about the next backend begins.
_NEXT = "== iptables"
#: Columns and lines in pixels, and the space around them.
_COLUMN, _LINE, _EDGE = 8.0, 19, 16
_COLUMNS = 80
#: A longer pause than this is shortened to it; seconds.
_PAUSE = 1.2
_STYLE = re.compile(r"\x1b\[([0-9;]*)m")
_PAINT = {"1": "bold", "2": "dim", "31": "red", "32": "green", "33": "yellow", "36": "cyan"}
_HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"
 role="img">
<title>lbctl demo --agent</title>
<style>
text {{ font: 13px/1 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace }}
text {{ fill: #d8dee9; white-space: pre }}
.bold {{ font-weight: 700; fill: #fff }} .dim {{ fill: #8b95a5 }}
.red {{ fill: #ff7b72 }} .green {{ fill: #7ee787 }}
.yellow {{ fill: #e3b341 }} .cyan {{ fill: #79c0ff }}
.line {{ animation: show 1ms both }}
@keyframes show {{ from {{ opacity: 0 }} to {{ opacity: 1 }} }}
@media (prefers-reduced-motion: reduce) {{ .line {{ animation: none }} }}
</style>
<rect width="100%" height="100%" rx="8" fill="#16181d"/>
"""


def main() -> None:
    """Run the demo, and write the picture."""
    lines = recorded()
    height = len(lines) * _LINE + 2 * _EDGE
    width = round(_COLUMNS * _COLUMN + 2 * _EDGE)
    parts = [_HEAD.format(width=width, height=height)]
    for number, (at, text) in enumerate(lines):
        y = _EDGE + number * _LINE + 14
        if text:
            spans = "".join(_spans(text))
            parts.append(
                f'<text class="line" x="{_EDGE}" y="{y}" xml:space="preserve" '
                f'style="animation-delay:{at:.2f}s">{spans}</text>\n'
            )
    PICTURE.write_text("".join([*parts, "</svg>\n"]), encoding="utf-8")
    print(f"{PICTURE}: {len(lines)} lines")


def recorded() -> list[tuple[float, str]]:
    """Return the lines of the first backend, each with the seconds after which it is shown."""
    shown = [(0.0, f"\x1b[36m#\x1b[0m \x1b[1mlbctl {' '.join(COMMAND[:4])}\x1b[0m")]
    at = last = time.monotonic()
    clock = 1.0
    words = [sys.executable, "-u", "-m", "lbctl", *COMMAND]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ended = False
        for line in process.stdout:
            ended = ended or _STYLE.sub("", line).startswith(_NEXT)
            if not ended:
                at = time.monotonic()
                clock += min(at - last, _PAUSE)
                last = at
                shown.append((clock, line.rstrip("\n")))
    if process.returncode or not ended:
        sys.exit("the demo failed")
    while not shown[-1][1]:
        shown.pop()
    return shown


def _spans(text: str) -> list[str]:
    """Return a line with its colours as elements of SVG."""
    parts, classes = [], ""
    for number, piece in enumerate(_STYLE.split(text)):
        if number % 2:
            classes = " ".join(_PAINT[code] for code in piece.split(";") if code in _PAINT)
        elif piece:
            words = escape(piece)
            parts.append(f'<tspan class="{classes}">{words}</tspan>' if classes else words)
    return parts


if __name__ == "__main__":
    main()
