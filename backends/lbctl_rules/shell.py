"""A shell's script → its commands, as their programs would be called, without running anything.

Of all that a shell does, assignments of plain values are followed, quotes, continued lines and documents in
the text ("here-documents"). What only a shell can follow is said: loops, conditions and functions with the
commands inside of them, substitutions, and variables that the text does not set.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

_ASSIGNED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)\Z", re.DOTALL)
_HERE = re.compile(r"\d*<<(-?)(?!<)(.*)\Z", re.DOTALL)
_REDIRECTION = re.compile(r"(?:\d|&)?(?:>>|>|<)(&\d|.*)\Z", re.DOTALL)
_VARIABLE = (
    r"(?P<variable>\$(?:\{(?P<braced>[^}]*)\}|(?P<open>\{.*)|(?P<name>[A-Za-z_][A-Za-z0-9_]*|[@*#?$!0-9])))"
)
_IN_DOCUMENT = re.compile(rf"\\(?P<escaped>[$\\`])|{_VARIABLE}")
#: A part of a word in single quotes, in double ones, or in none.
_SEGMENT = re.compile(r"""'([^']*)'?|"((?:\\.|[^"\\])*)"?|((?:\\.|[^'"\\])+|\\)""", re.DOTALL)
_PIECE = re.compile(rf"\\(?P<escaped>.)|(?P<command>`|\$\()|{_VARIABLE}|[^\\`$]+|.", re.DOTALL)

#: Words that open and close what only a shell can follow.
_OPEN = frozenset({"for", "while", "until", "if", "case", "select"})
_CLOSE = frozenset({"done", "fi", "esac", "}"})
_BETWEEN = frozenset({"then", "do", "else", "elif", "{", "!", "(", ")", ";;", "in"})
_KEYWORDS = _OPEN | _CLOSE | _BETWEEN
#: Those with a list of words behind them.
_WITH_LIST = frozenset({"for", "case", "select"})
_PROMPTS = frozenset({"$", "%", "#"})
_DECLARING = frozenset({"export", "readonly", "local", "declare"})
#: What stands before a command without changing what it is.
_BEFORE = frozenset({"sudo", "doas", "command", "exec", "nohup", "time", "nice", "builtin", "env"})
#: Options of these with a value of their own.
_VALUED = frozenset({"-u", "-g", "-n10"})
#: Commands of scripts that do nothing to rules.
HARMLESS = frozenset(
    {":", "[", "cd", "date", "echo", "exit", "export", "local", "logger", "mkdir", "modprobe", "printf"}
    | {
        "readonly",
        "return",
        "set",
        "shift",
        "sleep",
        "sysctl",
        "test",
        "touch",
        "trap",
        "true",
        "umask",
        "unset",
    }
)
#: Longest value of a variable, each of which may be made of others, and what all uses in a text may bring in.
_LONGEST = 1 << 16
_BROUGHT = 1 << 24
#: Lines that one command may go over, and times that a quote may open in one and close in a later one.
_MOST_LINES = 1000
_MOST_QUOTES = 16


@dataclass(frozen=True, slots=True)
class Here:
    """A document in the text, on the lines behind its command up to one that only says `end`."""

    end: str
    #: True where the shell takes it as it is; else it puts in what variables stand for.
    quoted: bool
    #: True where tabs at the beginning of its lines do not count.
    indented: bool

    def ends(self, line: str) -> bool:
        """Return True for the line behind its last one.

        Blanks around it do not count: copied scripts have them.
        """
        return line.strip() == self.end


@dataclass(frozen=True, slots=True)
class ShellCommand:
    """A simple command. `line` is its first one, from 1; `text` its lines, verbatim."""

    words: Sequence[str]
    line: int
    text: str
    #: A variable or substitution whose value the text does not say.
    missing: str | None = None
    #: The innermost loop, condition or function that it stands in, and the line where that begins.
    inside: tuple[str, int] | None = None
    here: Here | None = None
    #: True where it reads what another command writes.
    piped: bool = False


@dataclass(frozen=True, slots=True)
class Trouble:
    """What needs a shell, or is none's language: code and words of a finding."""

    code: str
    message: str
    line: int
    text: str
    #: True where a command was lost with it.
    lost: bool = False


class Script:
    """A script, line by line: what stands between commands is the caller's to read."""

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        #: How many lines were taken: the number of the last one.
        self.number = 0
        self._variables: dict[str, str] = {}
        self._brought = 0
        #: What is open, and in which line it was opened.
        self._open: list[tuple[str, int]] = []

    def take(self) -> str | None:
        """Return the next line, without its end; None after the last one."""
        if self.number >= len(self._lines):
            return None
        line = self._lines[self.number]
        self.number += 1
        return line[:-1] if line[-1:] == "\r" else line

    def commands(self, line: str, shown: str | None = None) -> Iterator[ShellCommand | Trouble]:
        """Yield the commands of the line that was just taken, with the lines that it goes on in.

        They are parted at `;`, `&&`, `||`, `|` and `&`. `shown` is what the line is called, where not itself.
        """
        number = self.number
        text = self._continued(line)
        for _ in range(_MOST_QUOTES):
            try:
                parts = _parted(text)
                break
            except _Unfinished as unfinished:
                more = self._until(unfinished.quote)
                if more is None:
                    yield Trouble("unparsable-line", str(unfinished), number, text.strip(), lost=True)
                    return
                text = f"{text}\n{more}"
        else:
            yield Trouble("unparsable-line", "a quoted text over too many lines", number, text, lost=True)
            return
        poured: Here | None = None
        for raw, part, piped in parts:
            # Of several, each has its own part of the line: as much is told as stands there.
            whole = part if len(parts) > 1 else (shown or text).strip()
            here = _here(raw)
            if piped and here is None:
                here, poured = poured, None
            elif raw[:1] == ["cat"] and len(raw) == 1:
                poured = here
                continue
            yield from self._command(raw, number, whole, here, piped=piped and here is None)
        if poured is not None:
            yield ShellCommand(["cat"], number, text.strip(), here=poured)

    def unclosed(self) -> Iterator[Trouble]:
        """Yield what was opened and never closed."""
        for word, number in self._open:
            yield Trouble("shell-construct", f"`{word}` without its end", number, word)

    def _continued(self, line: str) -> str:
        """Return a line with those that its last backslash joins to it."""
        if line[-1:] != "\\":
            return line
        joined: list[str] = []
        while (len(line) - len(line.rstrip("\\"))) % 2:
            joined.append(line[:-1])
            following = self.take() if len(joined) <= _MOST_LINES else None
            if following is None:
                line = ""
                break
            line = following
        return "".join([*joined, line])

    def _until(self, quote: str) -> str | None:
        """Return the lines up to one that has a quote; None where there is none near."""
        last = min(len(self._lines), self.number + _MOST_LINES)
        for i in range(self.number, last):
            if quote in self._lines[i]:
                found = self._lines[self.number : i + 1]
                self.number = i + 1
                return "\n".join(line.removesuffix("\r") for line in found)
        return None

    def _command(
        self, raw: list[str], number: int, text: str, here: Here | None, *, piped: bool
    ) -> Iterator[ShellCommand | Trouble]:
        """One simple command; its words still hold quotes and variables."""
        begin, opened = self._enter(raw, number)
        for word in opened:
            yield Trouble("shell-construct", f"`{word}` needs a shell", number, text)
        words = raw[begin:]
        if words and (words[0].endswith("()") or words[0] == "function" or words[1:2] == ["()"]):
            self._open.append(("function", number))
            yield Trouble("shell-construct", "a function needs a shell", number, text)
            return
        if words and words[0].endswith(")") and self._open and self._open[-1][0] == "case":
            del words[0]
        if words and words[0] in _DECLARING and len(words) > 1:
            del words[0]
        while words and (found := _ASSIGNED.match(words[0])):
            self._assign(found[1], found[2])
            del words[0]
        expanded = [self._expand(word) for word in words]
        values = [value for found, _ in expanded for value in found]
        if values:
            missing = next((name for _, name in expanded if name is not None), None)
            inside = self._open[-1] if self._open else None
            yield ShellCommand(values, number, text, missing, inside, here, piped)

    def _enter(self, raw: list[str], number: int) -> tuple[int, list[str]]:
        """Follow the words that open and close loops and conditions.

        Return where the command behind them begins, and those that open something.
        """
        begin = int(raw[:1] != [] and raw[0] in _PROMPTS)  # a prompt that was copied along
        opened: list[str] = []
        while begin < len(raw) and (word := raw[begin]) in _KEYWORDS:
            begin += 1
            if word in _OPEN:
                opened.append(word)
            if word in _OPEN or (word == "{" and not self._open):
                self._open.append((word, number))
            elif word in _CLOSE and self._open:
                self._open.pop()
            if word in _WITH_LIST:
                # What follows `for x in` and `case x in` is no command; a condition may be anything.
                return len(raw), opened
        return begin, opened

    def _assign(self, name: str, value: str) -> None:
        values, missing = self._expand(value)
        if missing is not None or self._open:
            # Its value is known to a shell alone.
            self._variables.pop(name, None)
        elif sum(map(len, values)) <= _LONGEST:
            self._variables[name] = " ".join(values)

    def replaced(self, line: str, here: Here) -> str:
        """Return a line of a document, with what its variables stand for; those that are not set stay."""
        if here.indented:
            line = line.lstrip("\t")
        if here.quoted or ("$" not in line and "\\" not in line):
            return line
        return _IN_DOCUMENT.sub(self._in_document, line)

    def _in_document(self, found: re.Match[str]) -> str:
        value = None if found["escaped"] else self._value(_name_of(found))
        return found["escaped"] or (found[0] if value is None else value)

    def _value(self, name: str) -> str | None:
        value = self._variables.get(name)
        if value is not None:
            self._brought += len(value)
        return value if self._brought <= _BROUGHT else None

    def _expand(self, word: str) -> tuple[list[str], str | None]:
        """Return a word → the words that it stands for, and a variable that is not set."""
        if not any(mark in word for mark in "'\"$\\`"):
            return [word], None
        words: list[str] = []
        #: The word that is being made; None if there is nothing of it yet, not even quotes.
        now: str | None = None
        missing: str | None = None
        for segment in _SEGMENT.finditer(word):
            single, double, bare = segment.groups()
            if bare is None:
                now = (now or "") + (single or "")
            for piece in _PIECE.finditer(double or bare or ""):
                if piece["command"]:
                    return [*words, *([now] if now is not None else [])], missing or "$(…)"
                if piece["variable"] is None:
                    now = (now or "") + _literal(piece, quoted=bare is None)
                    continue
                name = _name_of(piece)
                value = self._value(name)
                if value is None:
                    missing = missing or f"${name[:40]}"
                    continue
                first, *others = [value] if bare is None else value.split(" ")
                now = (now or "") + first if first or now is not None else None
                for other in others:
                    words += [now] if now is not None else []
                    now = other or None
                if len(now or "") > _LONGEST:
                    return [], f"${name[:40]}"
        return [*words, *([now] if now is not None else [])], missing


def program_at(
    words: Sequence[str], is_program: Callable[[str], object], *, called_by: Container[str] = ()
) -> int | None:
    """Return where a program's name stands in a command, behind `sudo -n`, `ip netns exec NAME` and the like.

    None where the command calls something else. Names are asked for without their folders. `called_by` names
    programs that may stand before these in particular.
    """
    i, count = 0, len(words)
    while i < count:
        base = words[i].rpartition("/")[2]
        if is_program(base):
            return i
        if base in _BEFORE or base in called_by:
            i += 1
            while i < count and (words[i][:1] == "-" or _ASSIGNED.match(words[i])):
                i += 2 if words[i] in _VALUED else 1
        elif base == "ip" and list(words[i + 1 : i + 3]) == ["netns", "exec"]:
            i += 4
        else:
            return None
    return None


def without_redirections(words: Sequence[str]) -> list[str]:
    """Words that the program itself gets."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif found := _REDIRECTION.match(word):
            skip = not found[1]
        else:
            kept.append(word)
    return kept


def _here(raw: list[str]) -> Here | None:
    """Return the document that a command reads; its words are taken out."""
    for i, word in enumerate(raw):
        if found := _HERE.match(word):
            end = found[2]
            del raw[i]
            if not end and i < len(raw):
                end = raw.pop(i)
            bare = re.sub(r"['\"\\]", "", end)
            return Here(bare, quoted=bare != end, indented=bool(found[1])) if bare else None
    return None


def _name_of(found: re.Match[str]) -> str:
    return found["name"] or found["braced"] or found["open"] or ""


def _literal(piece: re.Match[str], *, quoted: bool) -> str:
    """Return what stands for itself; in double quotes, most backslashes do too."""
    escaped = piece["escaped"]
    return piece[0] if escaped is None or (quoted and escaped not in '$`"\\') else escaped


class _Unfinished(Exception):
    """A line that goes on in the next one."""

    def __init__(self, quote: str) -> None:
        super().__init__("an unclosed quote")
        self.quote = quote


#: What goes into a word as it stands.
_RAW = re.compile(
    r"""[^\s'"\\;&|#<>()`$]+|\\.?|'[^']*'|"(?:\\.|[^"\\])*"|\(\)|[<>]|&(?=>)|(?<=[<>])&|\$(?!\()""", re.DOTALL
)


def _parted(text: str) -> list[tuple[list[str], str, bool]]:
    """Return a line → simple commands: raw words, as it stands, and True for those behind a pipe.

    Raise `_Unfinished`.
    """
    commands: list[tuple[list[str], str, bool]] = []
    words: list[str] = []
    now = ""
    at, begin, piped = 0, 0, False
    while at <= len(text):
        if found := _RAW.match(text, at):
            now, at = now + found[0], found.end()
            continue
        char = text[at : at + 1]
        if char and char in "'\"":
            raise _Unfinished(char)
        if char and char in "`$":
            end = _past(text, at)
            now, at = now + text[at:end], end
            continue
        if char == "#" and now:
            now, at = now + char, at + 1
            continue
        now += char if char == ")" and now else ""
        words += [now] if now else []
        now = ""
        if char in _ENDS:
            # What closes a parenthesis belongs to the command before it.
            end = at + 1 if char == ")" else at
            commands += [(words, text[begin:end].strip(), piped)] if words else []
            words, begin = [], at + 1
            around = text[max(at - 1, 0) : at + 2]
            piped = around.count("|") == 1 if char == "|" else piped and char in {"(", ")"}
        if char == "#":
            break
        at += 1
    return commands


#: What parts commands.
_ENDS = frozenset({*";&|()#", ""})


def _past(text: str, start: int) -> int:
    """Behind what `$(` or a backquote opens; the end of the text where nothing closes it."""
    if text[start] == "`":
        found = text.find("`", start + 1)
        return len(text) if found < 0 else found + 1
    depth = 0
    for i in range(start + 1, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i + 1
    return len(text)
