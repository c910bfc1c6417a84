"""Numbers in untrusted text.

`str.isdigit` is true for digits that `int` refuses (superscripts), `str.isdecimal` for the digits of every
script, and `int` refuses more than 4,300 digits. Ports, marks, positions and lengths are read here instead.
"""

from __future__ import annotations

#: Enough for 32 bits: ports, marks, moduli, seeds.
MOST_DIGITS = 10


def decimal(text: str, digits: int = MOST_DIGITS) -> int | None:
    """Return the number that `text` writes with 1 to `digits` ASCII digits; None for any other text."""
    if 0 < len(text) <= digits and text.isascii() and text.isdigit():
        return int(text)
    return None
