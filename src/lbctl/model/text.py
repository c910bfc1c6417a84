"""Text that came from outside, fit to be shown: the one function that every line on a terminal passes."""

from __future__ import annotations


def inert(text: str) -> str:
    r"""Return `text` on one line, with nothing that a terminal would act on: ESC is written `\x1b`."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
