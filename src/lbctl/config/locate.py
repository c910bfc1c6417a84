"""Where things stand in a document: place → line, for TOML and JSON.

Neither `tomllib` nor `json` keeps positions, so a document with a mistake is read a second time here. The
scan is iterative and linear in the length of the text. It takes for granted that the document is valid and
simply stops where it is not: a line is then that of the nearest place above that is known.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING

from lbctl.config.values import show_key

if TYPE_CHECKING:
    from lbctl.config.values import Place

#: Nesting that no intent needs; the place to point at where a document nests too deeply to be read.
DEEP = 64

# No possessive groups, `(…)*+`: Python 3.11.2 misses matches with them.
_BLANK = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)*")
_SPACE = re.compile(r"[ \t]*+")
_STRING = re.compile(
    r'"""(?:[^"\\]++|\\[\s\S]|"{1,2}(?!"))*"{3,5}'
    r"|'''(?:[^']++|'{1,2}(?!'))*'{3,5}"
    r'|"(?:[^"\\\n]++|\\.)*"'
    r"|'[^'\n]*+'"
)
_KEY = re.compile(r"""[A-Za-z0-9_-]++|"(?:[^"\\\n]++|\\.)*"|'[^'\n]*+'""")
_SCALAR = re.compile(r"[^,\[\]{}\"'#\r\n]++")


class _Place:
    """The line of one place, and the places below it by key or index."""

    __slots__ = ("kids", "line", "tables")

    def __init__(self, line: int) -> None:
        self.line = line
        self.kids: dict[str | int, _Place] = {}
        self.tables = False  # True for the list that [[name]] headers make

    def kid(self, key: str | int, line: int) -> _Place:
        return self.kids.setdefault(key, _Place(line))

    def current(self) -> _Place:
        """Return the table that a header's key leads into: of a list of tables, the last."""
        return self.kids[len(self.kids) - 1] if self.tables and self.kids else self


class Map:
    """What a scan found: the lines of all places, the mistakes that a parser lets pass, the deepest line."""

    def __init__(self) -> None:
        self.root = _Place(1)
        self.mistakes: list[tuple[int, str, str]] = []
        self.deepest_line = 1

    def line(self, place: Place) -> int:
        """Return the 1-based line of `place`, or of the nearest known place above it."""
        node = self.root
        for key in place:
            below = node.kids.get(key)
            if below is None:
                break
            node = below
        return node.line


class _Cursor:
    """A position in a text, its line, and how deep it is nested."""

    def __init__(self, text: str, found: Map) -> None:
        self.text = text
        self.at = 0
        self._line = 1
        self._counted = 0
        self._found = found

    @property
    def line(self) -> int:
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def take(self, pattern: re.Pattern[str]) -> str | None:
        """Return what `pattern` matches here, passed over; None where it does not match."""
        match = pattern.match(self.text, self.at)
        if match is None:
            return None
        self.at = match.end()
        return match[0]

    def skip(self, literal: str) -> bool:
        """True, and passed over, where the text goes on with `literal`."""
        if not self.text.startswith(literal, self.at):
            return False
        self.at += len(literal)
        return True

    def opens(self, node: _Place, stack: list[tuple[_Place, str]]) -> bool:
        """Return True if a list or table begins here; it is then the innermost of `stack`."""
        for bracket, closing in (("[", "]"), ("{", "}")):
            if self.skip(bracket):
                stack.append((node, closing))
                self.note_depth(len(stack))
                return True
        return False

    def close(self, stack: list[tuple[_Place, str]], blank: re.Pattern[str]) -> None:
        """Pass over the comma behind a value, and over all that ends with it."""
        while stack:
            self.take(blank)
            self.skip(",")
            self.take(blank)
            if not self.skip(stack[-1][1]):
                return
            stack.pop()

    def note_depth(self, depth: int) -> None:
        if depth == DEEP and self._found.deepest_line == 1:
            self._found.deepest_line = self.line


def scan_toml(text: str) -> Map:
    """Return the places of a TOML document."""
    found = Map()
    cursor = _Cursor(text, found)
    table = found.root
    while True:
        cursor.take(_BLANK)
        line = cursor.line
        if cursor.skip("["):
            many = cursor.skip("[")
            node = found.root
            keys = _toml_keys(cursor)
            if not keys:
                return found
            for key in keys[:-1]:
                node = node.kid(key, line).current()
            last = node.kid(keys[-1], line)
            if many:
                last.tables = True
                table = last.kid(len(last.kids), line)
            else:
                table = last.current()
            cursor.take(_SPACE)
            if not cursor.skip("]]" if many else "]"):
                return found
        else:
            entry = _toml_entry(cursor, table)
            if entry is None or not _toml_value(cursor, entry):
                return found


def _toml_keys(cursor: _Cursor) -> list[str]:
    """Return the parts of the dotted key here; empty where there is none."""
    keys = []
    while True:
        cursor.take(_SPACE)
        token = cursor.take(_KEY)
        if token is None:
            return []
        keys.append(_unquote(token))
        cursor.take(_SPACE)
        if not cursor.skip("."):
            return keys


def _unquote(token: str) -> str:
    if token[0] not in "\"'":
        return token
    if "\\" not in token:
        return token[1:-1]
    try:
        return str(tomllib.loads(f"k = {token}")["k"])
    except tomllib.TOMLDecodeError:
        return token[1:-1]


def _toml_entry(cursor: _Cursor, table: _Place) -> _Place | None:
    """Return the place of the `key =` here, noted below `table`; None where there is none."""
    line = cursor.line
    keys = _toml_keys(cursor)
    if not keys or not cursor.skip("="):
        return None
    for key in keys:
        table = table.kid(key, line)
    return table


def _toml_value(cursor: _Cursor, node: _Place) -> bool:
    """Pass over the value of `node`, noting the places inside. False where it makes no sense."""
    stack: list[tuple[_Place, str]] = []  # the lists and inline tables around, each with its closing bracket
    while True:
        # here stands a value
        cursor.take(_BLANK)
        if not cursor.opens(node, stack) and cursor.take(_STRING) is None and cursor.take(_SCALAR) is None:
            return False
        # here stands the next part of what is around, or its end
        cursor.close(stack, _BLANK)
        if not stack:
            return True
        around, closing = stack[-1]
        if closing == "]":
            node = around.kid(len(around.kids), cursor.line)
        else:
            entry = _toml_entry(cursor, around)
            if entry is None:
                return False
            node = entry


_JSON_BLANK = re.compile(r"[ \t\r\n]*+")
_JSON_STRING = re.compile(r'"(?:[^"\\]++|\\[\s\S])*"')
_JSON_SCALAR = re.compile(r"[^,\[\]{}\":\s]++")


def scan_json(text: str) -> Map:
    """Return the places of a JSON document, and as mistakes its repeated keys and numbers that are none."""
    found = Map()
    cursor = _Cursor(text, found)
    cursor.take(_JSON_BLANK)
    node = found.root
    node.line = cursor.line
    stack: list[tuple[_Place, str]] = []
    while True:
        cursor.take(_JSON_BLANK)
        if not cursor.opens(node, stack) and cursor.take(_JSON_STRING) is None:
            line = cursor.line
            word = cursor.take(_JSON_SCALAR)
            if word is None:
                return found
            if word.lstrip("-") in {"NaN", "Infinity"}:
                found.mistakes.append(
                    (line, f"not valid JSON: {word} is not a number", "write a whole number")
                )
        cursor.close(stack, _JSON_BLANK)
        if not stack:
            return found
        line = cursor.line
        around, closing = stack[-1]
        if closing == "]":
            node = around.kid(len(around.kids), line)
            continue
        token = cursor.take(_JSON_STRING)
        cursor.take(_JSON_BLANK)
        if token is None or not cursor.skip(":"):
            return found
        try:
            key = str(json.loads(token))
        except ValueError:
            return found
        if key in around.kids:
            first = around.kids[key].line
            found.mistakes.append(
                (
                    line,
                    f"not valid JSON: the key {show_key(key)} is given twice",
                    f"the first is on line {first}",
                )
            )
        node = around.kid(key, line)
