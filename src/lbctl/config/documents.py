"""Reading intent files: bytes → text → data, each step refusing what it cannot trust.

A file may be anything that someone pointed us at, so it is opened without blocking, must be a regular
file, and is never read beyond the limit. Where something is wrong with a document, `SourceText.line` finds
the line; the scan behind it runs only then, since neither `tomllib` nor `json` keeps positions.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import tomllib
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbctl.config.values import show
from lbctl.errors import ConfigProblem, IntentError
from lbctl.model import inert
from lbctl.values import dataclass

if TYPE_CHECKING:
    from typing import NoReturn, TextIO

    from lbctl.config.locate import Map
    from lbctl.config.values import Place

LIMIT = 16 * 1024 * 1024
#: A line that only intent files have. No language of rules, no shell and no unit file writes either so.
_INTENT = re.compile(
    rb"(?m)^(?:\xef\xbb\xbf)?[ \t]*(?:schema[ \t]*=[ \t]*[0-9]|\[\[[ \t]*service[ \t]*\]\])"
    rb'|"schema"[ \t\r\n]*:'
)
#: As a path of an intent file.
STANDARD_INPUT = Path("-")

# A pattern that begins with a set of characters is searched for at full speed.
_CONTROL = r"[\x00-\x08\x0b-\x1f\x7f](?!(?<=\r)\n)"
_TOML_LINE = r"(?s)(.*) \(at (?:line (\d+), column \d+|end of document)\)"
#: tomllib takes quadratic time for one key of very many parts: 35 s for one of 20,000.
_LONG_KEY = (
    r"(?m)(?:^|[{,])[ \t]*+\[{0,2}+[ \t]*+"
    r"(?:(?:[A-Za-z0-9_-]++|\"(?:[^\"\\\n]++|\\.)*\"|'[^'\n]*+')[ \t]*+\.[ \t]*+){100}"
)
_LONG_KEY_MATTERS = 4096

_JSON_HINT = "JSON needs double quotes, commas between the parts, and no comments"
_LINE_HINT = "a line is `key = value`, `[[service]]` or a # comment"
_TOML_HINTS = (
    ("Cannot overwrite a value", "a key may be given only once in a table"),
    ("twice", "a table may be opened only once; several services are each opened with [[service]]"),
    ("Duplicate inline table key", "a key may be given only once in a table"),
    ("Expected '=' after a key", _LINE_HINT),
    ("Invalid statement", _LINE_HINT),
    (
        "Invalid value",
        "strings are in double quotes, booleans are true or false, hexadecimal numbers start with 0x",
    ),
    ("Unclosed array", "a list ends with ]"),
    ("Unterminated string", "a string ends with the quote that it began with"),
    ("Illegal character", "a string ends on its line, with the quote that it began with"),
    ("Expected newline", "one key per line; a string is in double quotes"),
    ("table declaration", "a table is opened with [name]"),
    ("array declaration", "a service is opened with [[service]]"),
)


@dataclass(frozen=True)
class SourceText:
    """The text of one document, and what it is called in messages."""

    file: str
    text: str
    json: bool

    @cached_property
    def _map(self) -> Map:
        from lbctl.config.locate import scan_json, scan_toml  # only where there is a mistake to report

        return scan_json(self.text) if self.json else scan_toml(self.text)

    def line(self, place: Place) -> int:
        """Return the 1-based line of `place`, or of the nearest part above it that is in the document."""
        return self._map.line(place)

    def fail(self, line: int, message: str, hint: str | None = None) -> NoReturn:
        """Raise the one problem that keeps this document from being read."""
        raise _failure(self.file, line, message, hint)

    def data(self) -> dict[str, Any]:
        """Return the document as plain data. IntentError where it is no TOML, or no JSON object."""
        if found := re.search(_CONTROL, self.text):
            line = self.text.count("\n", 0, found.start()) + 1
            self.fail(line, f"the file contains the control character {show(found[0])}", "remove it")
        try:
            return self._json() if self.json else self._toml()
        except RecursionError:
            self.fail(self._map.deepest_line, "nested too deeply", "an intent nests at most three levels")

    def _toml(self) -> dict[str, Any]:
        # the dots are counted first, since that is far quicker than the search
        dots = max(line.count(".") for line in self.text.split("\n"))
        if len(self.text) > _LONG_KEY_MATTERS and dots >= 99 and (found := re.search(_LONG_KEY, self.text)):
            line = self.text.count("\n", 0, found.start() + 1) + 1
            self.fail(line, "nested too deeply: a key of 100 parts", "an intent nests at most three levels")
        try:
            return tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            self._refuse_other_language()
            found = re.fullmatch(_TOML_LINE, str(error))
            message = found[1] if found else str(error)
            last = self.text.rstrip("\n").count("\n") + 1
            line = int(found[2]) if found and found[2] else last
            hint = next((hint for part, hint in _TOML_HINTS if part in message), "see https://toml.io")
            self.fail(min(line, last), f"not valid TOML: {_tidy(message)}", hint)
        except ValueError:
            self._too_long()

    def _json(self) -> dict[str, Any]:
        repeated = []

        def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            result = dict(pairs)
            if len(result) != len(pairs):
                repeated.append(pairs)
            return result

        try:
            data = json.loads(self.text, object_pairs_hook=table)
        except json.JSONDecodeError as error:
            line, message = _json_mistake(error)
            self.fail(line, f"not valid JSON: {message}", _JSON_HINT)
        except ValueError:
            self._too_long()
        if repeated or self._odd_numbers:
            mistakes = self._map.mistakes or [(1, "not valid JSON: a key is given twice", _JSON_HINT)]
            raise _failures(
                [ConfigProblem(file=self.file, line=n, message=m, hint=h) for n, m, h in mistakes]
            )
        if isinstance(data, dict) and "nftables" in data:
            self.fail(
                1,
                "this file holds rules of nft as JSON, not an intent",
                "lbctl import FILE prints the intent file",
            )
        if not isinstance(data, dict):
            self.fail(
                1, f"the document is {show(data)}, not an object", 'write {"schema": 1, "service": [...]}'
            )
        return data

    def _refuse_other_language(self) -> None:
        """Report a text of another language as what it is, not by its first word that is no TOML."""
        from lbctl.config.words import other_language  # only where there is a mistake to report

        if found := other_language(self.text):
            self.fail(1, f"this file holds {found[0]}, not an intent", found[1])

    @property
    def _odd_numbers(self) -> bool:
        """True where a number may be NaN or infinite: Python reads them, JSON knows no such thing."""
        return ("NaN" in self.text or "Infinity" in self.text) and bool(self._map.mistakes)

    def _too_long(self) -> NoReturn:
        """Report the number that Python refuses to convert."""
        found = re.search(r"[0-9][0-9_]{4000}", self.text)
        line = self.text.count("\n", 0, found.start()) + 1 if found else 1
        self.fail(
            line, "a number of more than 4000 digits", "no number of an intent has more than ten digits"
        )


def read(path: Path, limit: int = LIMIT) -> SourceText:
    """Return the file at `path`, or standard input if that is "-".

    IntentError where it is missing, no regular file, too large or no UTF-8 text.
    """
    file = name_of(path)
    raw = _read_standard_input(sys.stdin, limit) if path == STANDARD_INPUT else _read_bytes(path, file, limit)
    return decode(raw, file)


def decode(raw: bytes, file: str) -> SourceText:
    """Return the document in the bytes of a file, which messages call `file`; IntentError for no text."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        wide = raw[:2] in {b"\xff\xfe", b"\xfe\xff"}
        hint = "save the file as UTF-8" + ("; it looks like UTF-16" if wide else "")
        byte = raw[error.start]
        raise _failure(file, line, f"not UTF-8 text: byte 0x{byte:02x} is not allowed", hint) from None
    return source(text, file)


def source(text: str, file: str) -> SourceText:
    """`text` as a document: JSON where the name ends in .json or it begins with a brace, else TOML."""
    text = text.removeprefix("\ufeff")
    return SourceText(file, text, file.endswith(".json") or text.lstrip().startswith("{"))


def is_intent(data: bytes) -> bool:
    """Return True for what is meant as an intent file, be it right or wrong, and not as rules."""
    return len(data) <= LIMIT and _INTENT.search(data) is not None


def name_of(path: Path) -> str:
    """`path` as messages show it: as given, unless it could not be printed."""
    return "<stdin>" if path == STANDARD_INPUT else inert(str(path))


@lru_cache(maxsize=1)
def _read_standard_input(_stream: TextIO, limit: int) -> bytes:
    """Return all of a stream, which can be read once, and is asked for several times by most commands."""
    from lbctl.host.files import read_bounded  # only here: `check` needs nothing else of the host

    try:
        return read_bounded("-", limit)
    except IntentError as error:
        raise _failure("<stdin>", 1, error.message, "an intent file is a text of some kilobytes") from None


def _read_bytes(path: Path, file: str, limit: int) -> bytes:
    try:
        # asked first, since opening a device can already have an effect
        _check_regular(path.stat().st_mode, file)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with os.fdopen(fd, "rb", buffering=0) as stream:
            _check_regular(os.fstat(fd).st_mode, file)
            blocks = []
            wanted = limit + 1
            while wanted and (block := stream.read(wanted)):
                blocks.append(block)
                wanted -= len(block)
    except FileNotFoundError:
        raise _failure(file, 0, "no such file", "`lbctl init` prints an intent file to begin with") from None
    except PermissionError:
        raise _failure(file, 0, "permission denied", "run lbctl as a user who may read it") from None
    except ValueError:
        raise _failure(file, 0, "not a file name", "check the path") from None
    except OSError as error:
        raise _failure(file, 0, f"cannot be read: {error.strerror}", "check the path") from None
    if not wanted:
        raise _failure(
            file,
            1,
            f"larger than {limit // 1024 // 1024} MiB",
            "is this an intent file? split it into conf.d/*.toml",
        )
    return b"".join(blocks)


def _check_regular(mode: int, file: str) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
        (stat.S_ISSOCK, "a socket"),
    )
    kind = next((name for test, name in kinds if test(mode)), "something else")
    raise _failure(file, 0, f"{kind}, not a regular file", "give the path of an intent file")


def _json_mistake(error: json.JSONDecodeError) -> tuple[int, str]:
    """Return the line of a mistake and what it is. Python itself names a trailing comma since 3.13 only."""
    at = error.pos + (error.doc[error.pos : error.pos + 1] == ",")
    before, behind = error.doc[:at].rstrip(), error.doc[at:].lstrip()
    if before.endswith(",") and behind[:1] in {"}", "]"}:
        return before.count("\n") + 1, f"no comma is allowed before the closing {behind[0]}"
    return error.lineno, _tidy(error.msg)


def _tidy(message: str) -> str:
    """Return a parser's message, which may quote the document, fit for a terminal."""
    return inert(message)[:200]


def _failure(file: str, line: int, message: str, hint: str | None) -> IntentError:
    return _failures([ConfigProblem(file=file, line=line, message=message, hint=hint)])


def _failures(problems: list[ConfigProblem]) -> IntentError:
    return IntentError(summary(problems), problems=tuple(problems))


def summary(problems: list[ConfigProblem]) -> str:
    """One line on all of `problems`."""
    files = list(dict.fromkeys(p.file for p in problems))
    count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
    return f"{count} in {', '.join(files[:3])}{', ...' if len(files) > 3 else ''}"
