"""A text of nft's language → its statements, each with its words and its line. No meaning is looked for here.

Each level of blocks is scanned for itself, past the braces of all levels below it: a text is split into words
once, rule by rule, and no list of all its words is ever there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from lbctl_netfilter.log import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# CPython before 3.11.5 gets possessive groups wrong; only single characters are repeated like that here.
#: What nft's own scanner knows: strings, names, addresses of both families, numbers with units, operators.
_WORD = re.compile(
    r"""(?:\s+|\\\r?\n|\#[^\n]*+)*(
    [g-zG-Z_][\w./-]*+\*?
    |"[^"\n]*+"
    |\[[0-9A-Fa-f:.]+\]
    |(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f.]*+(?:/\d+)?
    |\d[\w.]*+(?:/\d+)?
    |[A-Fa-f][\w./-]*+\*?
    |[=!<>]=|<<|>>
    |.
    )""",
    re.VERBOSE | re.ASCII,
)
_BRACE = re.compile(r'[^{}"#]*+(?:([{}])|"[^"\n]*+"|"|\#[^\n]*+)')
#: A part of a statement, and what ends it.
_PART = re.compile(r'(?:[^{}\n;"#\\]++|"[^"\n]*+"|"|\\\r?\n|\\)*([{}\n;#]|\Z)')
_BLANK = re.compile(r"(?:\s+|\\\r?\n)*")


class Statement(NamedTuple):
    """One statement: its words, the line in which it begins, and its text on one line.

    `block` is what its braces enclose, from where to where, if it is a block; its words and text end ahead.
    """

    words: list[str]
    line: int
    text: str
    block: tuple[int, int] | None = None


def split(text: str) -> list[str]:
    """Return the words of a piece of text, which does not end with a comment."""
    # Without blanks at its end: all ways to part them would be tried.
    return _WORD.findall(text.rstrip())


class WordSource:
    """A text, read once from its beginning to its end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._closing = _closing(text)
        #: A place that was reached, and its line.
        self._reached, self._line = 0, 1
        #: Braces without another one.
        self.unbalanced: list[Place] = []

    def statements(
        self, begin: int = 0, end: int | None = None, *, is_block: Callable[[list[str]], bool] | None = None
    ) -> Iterator[Statement]:
        """Yield what stands between line ends and semicolons outside of braces.

        A statement that `is_block`, by its words, ends with its brace; in others, braces are part of a rule,
        as in `tcp dport { 80, 81 } accept`.
        """
        text, end = self._text, len(self._text) if end is None else end
        begin = place = _BLANK.match(text, begin, end).end()  # type: ignore[union-attr]
        while begin < end:
            found = _PART.match(text, place, end)
            assert found is not None  # noqa: S101 (the end of the text matches)
            stop, place = found.start(1), found.end()
            match found[1]:
                case "{":
                    last = self._closing.get(stop)
                    if last is None:
                        self.unbalanced.append(Place(self._line_of(begin), _line(text[begin : stop + 40])))
                        return
                    place = last + 1
                    if is_block is None or not is_block(words := split(text[begin:stop])):
                        continue
                    yield Statement(words, self._line_of(begin), _line(text[begin:stop]), (stop + 1, last))
                case "}":
                    self.unbalanced.append(Place(self._line_of(stop), "}"))
                case _:
                    if begin < stop:
                        part = text[begin:stop]
                        yield Statement(split(part), self._line_of(begin), _line(part))
                    if found[1] == "#":
                        place = text.find("\n", stop, end) % (end + 1)
            begin = place = _BLANK.match(text, place, end).end()  # type: ignore[union-attr]

    def _line_of(self, place: int) -> int:
        """Return the line of a place, which is behind all that were asked for before."""
        self._line += self._text.count("\n", self._reached, place)
        self._reached = place
        return self._line


def _line(text: str) -> str:
    return " ".join(text.split()) if "\n" in text else text.rstrip()


def _closing(text: str) -> dict[int, int]:
    """Return the place of the other brace of each that opens."""
    found: dict[int, int] = {}
    opened: list[int] = []
    for brace in _BRACE.finditer(text):
        match brace[1]:
            case "{":
                opened.append(brace.start(1))
            case "}" if opened:
                found[opened.pop()] = brace.start(1)
    return found
