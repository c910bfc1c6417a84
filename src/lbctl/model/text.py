"""Text for people: what came from outside, fit to be shown on a terminal; lengths of time; shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fractions import Fraction

#: The units of a length of time in an intent file, in seconds.
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(seconds: int) -> str:
    """Return a number of seconds as an intent file has it: `90s`, `3h`."""
    sizes = reversed(UNITS.items()) if seconds else UNITS.items()
    unit, size = next((u, n) for u, n in sizes if seconds % n == 0)
    return f"{seconds // size}{unit}"


def brief(share: Fraction) -> str:
    """Return a share for people: 0, 1/3, 1; and decimals where a fraction would be long."""
    return str(share) if share.denominator < 10**12 else f"{float(share):.9f}"


def inert(text: str) -> str:
    r"""Return `text` on one line, with nothing that a terminal would act on: ESC is written `\x1b`."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
