"""nft's symbolic constants: a name and its number are one value, whichever of the two a text has.

`nft list` prints names; with `--numeric`, `--numeric-protocol` or `--service` it prints the other spelling
of some, and people write either. The table, `symbols.txt`, comes with this module: no file of this host is
read, since a text may come from another one. A word without an entry stays: names of users, of interface
groups, of hosts.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]{1,16}|[0-9]{1,20}", re.ASCII)
#: `[field, field] flag`, and its constants up to the next one.
_SECTION = re.compile(r"(?m)^\[([^]]+)\] ?(\w*)\n([^\[#]*)")
_TABLE = Path(__file__).with_name("symbols.txt")


@dataclass(frozen=True, slots=True)
class _Symbols:
    """The constants of one data type: numbers by name, and for each number the word that is shown."""

    names: Mapping[str, int]
    words: Mapping[int, str]
    #: True if a value is the sum of some of the constants.
    bits: bool
    #: How a number without a name is written.
    digits: str

    def number(self, word: str) -> int | None:
        """Return the number that a word stands for; None for neither a number nor a name here."""
        if word in self.names:
            return self.names[word]
        if not _NUMBER.fullmatch(word):
            return None
        return int(word, 16) if word[:2].lower() == "0x" else int(word)

    def range(self, word: str) -> tuple[int, int] | None:
        """Return the numbers of `cs1-cs3`: names have dashes too, as `port-unreachable-13` has."""
        for place, letter in enumerate(word):
            if letter == "-":
                first, last = self.number(word[:place]), self.number(word[place + 1 :])
                if first is not None and last is not None:
                    return first, last
        return None

    def sum(self, text: str) -> int | None:
        """Return the number of `syn|ack`; None if one of them is not known."""
        numbers = [self.number(word) for word in text.strip("()").split("|")]
        total = 0
        for number in numbers:
            if number is None:
                return None
            total |= number
        return total

    def word(self, number: int) -> str:
        """Return the word for a number: its name, or several with `|` between; else its digits."""
        if not self.bits or number in self.words:
            return self.words.get(number, f"{number:{self.digits}}")
        named = [bit for bit in sorted(self.words) if number & bit]
        rest = number & ~sum(named)
        return "|".join([*(self.words[bit] for bit in named), *([hex(rest)] if rest else [])]) or "0"


@lru_cache(maxsize=1 << 16)
def canonical(field: str, word: str) -> str:
    """Return the one spelling of a value, a range or joined bits of a field; what is not known stays."""
    symbols = _of(field.partition(" & ")[0])
    if symbols is None:
        return word
    number = symbols.sum(word) if symbols.bits else symbols.number(word)
    if number is not None:
        return symbols.word(number)
    numbers = symbols.range(word)
    return word if numbers is None else "-".join(map(symbols.word, numbers))


def mask(field: str, text: str) -> int | None:
    """Return the bits of `syn`, `0x2` or `(syn|ack)`; None for another word, or a field without bits."""
    symbols = _of(field)
    return symbols.sum(text) if symbols is not None and symbols.bits else None


def masked(field: str, bits: int) -> str:
    """Return a field of which only some bits count, as text: `tcp flags & (syn|ack)`, `mark & 0xff`."""
    symbols = _of(field)
    if symbols is None or not symbols.bits:
        return f"{field} & {bits:#x}"
    word = symbols.word(bits)
    return f"{field} & ({word})" if "|" in word else f"{field} & {word}"


def span(field: str, word: str) -> tuple[int, int] | None:
    """Return the numbers that a name of a field, or a range from one name to another, stands for."""
    symbols = _of(field)
    if symbols is None:
        return None
    if word in symbols.names:
        return symbols.names[word], symbols.names[word]
    return symbols.range(word)


def _of(field: str) -> _Symbols | None:
    if field.startswith("fib ") and field.endswith(" type"):
        field = "fib type"
    return _symbols().get(field)


@cache
def _symbols() -> Mapping[str, _Symbols]:
    """Return the constants by field: its name in nft's language, or in a selector."""
    return dict(_read(_TABLE.read_text(encoding="ascii")))


def _read(text: str) -> Iterator[tuple[str, _Symbols]]:
    for fields, flag, constants in _SECTION.findall(text):
        pairs = [(name, int(number, 0)) for name, number in re.findall(r"(\S+)=(\S+)", constants)]
        # Of several names of a number, or numbers of a name, the first counts.
        words = {} if flag == "unshown" else {number: name for name, number in reversed(pairs)}
        if flag == "bits":
            words = {number: name for number, name in words.items() if number.bit_count() == 1}
        digits = "#x" if flag == "hexadecimal" else "d"
        made = _Symbols(dict(reversed(pairs)), words, flag == "bits", digits)
        yield from ((field, made) for field in fields.replace("\n", " ").split(", "))
