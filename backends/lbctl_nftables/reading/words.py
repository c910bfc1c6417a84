"""A text of nft's language → its words, each with its place. Nothing is understood here."""

from __future__ import annotations

import re
from typing import NamedTuple

#: What nft's own scanner knows: strings, addresses of both families, numbers with units, names, operators.
_WORD = re.compile(
    r"""(?P<skip>[ \t\r\f\v]+|\\\r?\n|\#[^\n]*)|(?P<word>
    "[^"\n]*"
    |\[[0-9A-Fa-f:.]+\]
    |(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f.]*(?:/\d+)?
    |\d[\w.]*(?:/\d+)?
    |[A-Za-z_][\w./-]*\*?
    |[=!<>]=|<<|>>
    |[\s\S]
    )""",
    re.VERBOSE | re.ASCII,
)
#: Words of one text. A text of a million lines has fewer; more is a flood.
LIMIT = 40_000_000


class Words(NamedTuple):
    """The words of a text side by side: what, in which line, from where, to where. Line ends are words."""

    words: list[str]
    lines: list[int]
    starts: list[int]
    ends: list[int]
    source: str

    def verbatim(self, begin: int, end: int) -> str:
        """The text of some words, as it is written, on one line."""
        if begin >= end:
            return ""
        text = self.source[self.starts[begin] : self.ends[end - 1]]
        return " ".join(text.split()) if "\n" in text else text


def split(source: str) -> Words:
    """The words of a text."""
    words: list[str] = []
    lines: list[int] = []
    starts: list[int] = []
    ends: list[int] = []
    line = 1
    for found in _WORD.finditer(source):
        word = found["word"]
        if word is None:
            line += found[0].endswith("\n")
            continue
        words.append(word)
        lines.append(line)
        starts.append(found.start())
        ends.append(found.end())
        if word == "\n":
            line += 1
    return Words(words, lines, starts, ends, source)
