"""Files in which people keep rules → the commands in them, each on the line where it stands.

A unit of systemd, a file of wg-quick, `/etc/network/interfaces`, firewalld's direct rules and OpenWrt's
fragments hold commands or rules in a form of their own. `extract` knows the form and returns a text that a
`Reader` understands: as many lines as the file, on each of them the command that this line runs, or nothing.
What a file holds and does not run, or what its form leaves open, is a finding. Rules are not understood here.
"""

from __future__ import annotations

import re
import shlex
from bisect import bisect_right
from dataclasses import field
from typing import TYPE_CHECKING
from xml.parsers import expat

from lbctl.model import Finding, Severity, UnsupportedRule
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Programs whose lines a reader of rules should not miss.
_RULES = re.compile(r"\b(?:ip6?tables|nft|ipset|ipvsadm|firewall-cmd|ebtables)\b")


@dataclass(slots=True, kw_only=True)
class Extracted:
    """The commands of a file. `text` has the file's lines; `form` is what the file is."""

    form: str
    commands: list[str]
    findings: list[Finding] = field(default_factory=list)
    unsupported: list[UnsupportedRule] = field(default_factory=list)
    #: True if there is nothing in it that a reader could read.
    refused: bool = False

    @property
    def text(self) -> str:
        """What a reader reads."""
        return "\n".join(self.commands)

    def note(self, line: int, rule: str, message: str) -> None:
        """Add a line of the file that holds commands which are not among the loaded rules."""
        found = Finding(
            code="shell-construct",
            severity=Severity.INFO,
            line=line,
            rule=rule,
            message=f"{self.form}: {message}",
        )
        self.findings.append(found)

    def cannot(self, line: int, rule: str, what: str, reason: str) -> None:
        """Add a line that may balance, in a language that no reader here knows."""
        self.unsupported.append(UnsupportedRule(line=line, rule=rule, what=what, reason=reason))

    def refuse(self, line: int, rule: str, message: str) -> None:
        """Refuse the file as a whole, for what a line says."""
        self.refused = True
        found = Finding(
            code="unparsable-line", severity=Severity.ERROR, line=line, rule=rule, message=message
        )
        self.findings.append(found)


def extract(text: str) -> Extracted | None:
    """Return the commands of a file in one of the forms that are known here; None for any other text."""
    lines = text.split("\n")
    number, first = next(((n, x.strip()) for n, x in enumerate(lines, 1) if _says(x)), (1, ""))
    for form, begins, holds, take in _FORMS:
        if begins.match(first) and (holds is None or holds.search(text)):
            found = Extracted(form=form, commands=[""] * len(lines))
            take(lines, found, number)
            if not any(found.commands) and not found.refused:
                found.refuse(number, first, f"{form}: no line of it loads rules")
            return found
    if "firewall-cmd" in text:
        return _firewall_cmd(lines)
    return None


def _says(line: str) -> bool:
    return line.strip()[:1] not in {"", "#", ";"}


def _logical(lines: Sequence[str], comments: str = "#;") -> Iterator[tuple[int, str]]:
    """Lines with those that a backslash at their end joins to them, by the number of the first."""
    joined, start = "", 0
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r")
        if joined and line.lstrip()[:1] in set(comments):
            continue  # systemd and ifupdown: a comment does not end a continued line
        start = start or number
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        yield start, (joined + line).strip()
        joined, start = "", 0
    if joined:
        yield start, joined.strip()


def _not_run(found: Extracted, number: int, line: str, when: str) -> None:
    if _RULES.search(line):
        found.note(number, line, f"this runs {when}; it is not among the loaded rules")


# -- systemd


_RUN_AT_START = ("ExecStartPre", "ExecStart", "ExecStartPost")
_KEY = re.compile(r"([A-Za-z]\w*)\s*=\s*(.*)\Z")
_SHELLS = frozenset({"sh", "bash", "dash", "ash"})


def _unit(lines: Sequence[str], found: Extracted, _: int) -> None:
    """`systemd.service(5)`: words are quoted much as in a shell, but nothing else is a shell's."""
    given: dict[str, list[int]] = {}
    for number, line in _logical(lines):
        match = _KEY.match(line)
        if match is None:
            continue
        key, value = match[1], match[2]
        if key == "Environment":
            words = _unit_words(value)
            found.commands[number - 1] = " ".join(_quoted(word) for word in words if "=" in word)
        elif key in _RUN_AT_START:
            if not value:
                for earlier in given.pop(key, ()):
                    found.commands[earlier - 1] = ""
                continue
            given.setdefault(key, []).append(number)
            found.commands[number - 1] = _unit_command(value)
        elif key.startswith("Exec"):
            _not_run(found, number, line, "when the unit stops" if "Stop" in key else f"by {key} only")


def _unit_command(value: str) -> str:
    """Return a value of `ExecStart=` as a line of a shell."""
    made: list[str] = []
    part: list[str] = []
    for word in [*_unit_words(value), ";"]:
        if word != ";":
            part.append(word)
        elif part:
            made.append(_unit_call(part))
            part = []
    return "; ".join(made)


def _unit_call(words: list[str]) -> str:
    head = words[0].lstrip("-:+!|@")
    words = [head, *words[2 if "@" in words[0][: len(words[0]) - len(head)] else 1 :]]
    if head.rpartition("/")[2] in _SHELLS:
        at = next((i for i, word in enumerate(words) if re.fullmatch(r"-[a-z]*c", word)), None)
        if at is not None and at + 1 < len(words):
            return words[at + 1].replace("$$", "$").replace("\n", "; ").strip("; ")
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """Return a word for a shell that is to be one word there, but for its variables."""
    if re.search(r"\$(?:\{|[A-Za-z_])", word.replace("$$", "")):
        name = re.fullmatch(r"\$[A-Za-z_]\w*", word)
        return word if name else '"' + re.sub(r'(["\\`])', r"\\\1", word).replace("$$", r"\$") + '"'
    return shlex.quote(word.replace("$$", "$"))


_ESCAPES = {"s": " ", "n": "\n", "t": "\t"}


def _unit_words(value: str) -> list[str]:
    words: list[str] = []
    now: list[str] = []
    quote, started, place = "", False, 0
    while place < len(value):
        char = value[place]
        place += 1
        if char == "\\" and place < len(value):
            after = value[place]
            place += 1
            now.append(_ESCAPES.get(after, after))
            started = True
        elif char == quote:
            quote = ""
        elif not quote and char in "\"'":
            quote, started = char, True
        elif not quote and char.isspace():
            if now or started:
                words.append("".join(now).replace("%%", "%"))
            now, started = [], False
        else:
            now.append(char)
    if now or started:
        words.append("".join(now).replace("%%", "%"))
    return words


# -- wg-quick and ifupdown: values are lines of a shell


def _wg_quick(lines: Sequence[str], found: Extracted, _: int) -> None:
    """`wg-quick(8)`: bash runs the value; `%i` is the interface's name, which only the file's name says."""
    for number, line in enumerate(lines, 1):
        match = _KEY.match(line.partition("#")[0].strip())
        key = match[1].lower() if match else ""
        if match and key in {"preup", "postup"}:
            found.commands[number - 1] = match[2]
        elif key in {"predown", "postdown"}:
            _not_run(found, number, line.strip(), "when the interface goes down")


_UP = frozenset({"pre-up", "up", "post-up"})
_DOWN = frozenset({"down", "pre-down", "post-down"})


def _interfaces(lines: Sequence[str], found: Extracted, _: int) -> None:
    """`interfaces(5)`: a shell runs the value, with `$IFACE` set."""
    for number, line in _logical(lines, "#"):
        head, rest = [*line.split(None, 1), "", ""][:2]
        if head == "iface":
            found.commands[number - 1] = f"IFACE={shlex.quote(rest.split()[0] if rest else '')}"
        elif head in _UP:
            found.commands[number - 1] = rest
        elif head in _DOWN:
            _not_run(found, number, line, "when the interface goes down")
        elif head in {"source", "source-directory"}:
            found.note(number, line, "another file, which is not read")


# -- firewalld


_WORD = {"ipv4": "iptables", "ipv6": "ip6tables"}
_OTHER = "firewalld's own rules are not read: `lbctl import --from nftables` reads what firewalld has loaded"


class _Direct:
    """firewalld's direct rules in the order of their priorities, each of them once."""

    def __init__(self) -> None:
        self._priorities: dict[tuple[str, ...], list[int]] = {}
        self._seen: set[tuple[str, ...]] = set()

    def rule(self, ipv: str, table: str, name: str, priority: int, words: str) -> str:
        """Return the command for `--add-rule`; "" for a rule that is there already."""
        if (ipv, table, name, words) in self._seen:
            return ""
        self._seen.add((ipv, table, name, words))
        known = self._priorities.setdefault((ipv, table, name), [])
        place = bisect_right(known, priority)
        where = f"-A {name}" if place == len(known) else f"-I {name} {place + 1}"
        known.insert(place, priority)
        return f"{_WORD[ipv]} -t {table} {where} {words}"


def _direct_xml(lines: Sequence[str], found: Extracted, first: int) -> None:
    """`firewalld.direct(5)`."""
    direct = _Direct()
    opened: list[tuple[str, dict[str, str], int]] = []
    content: list[str] = []
    parser = expat.ParserCreate()

    def start(name: str, given: dict[str, str]) -> None:
        opened.append((name, given, parser.CurrentLineNumber))
        content.clear()

    def end(name: str) -> None:
        _, given, number = opened.pop()
        ipv, table = given.get("ipv", ""), given.get("table", "filter")
        place = shlex.quote(given.get("chain", ""))
        words = " ".join("".join(content).split())
        content.clear()
        if name == "direct":
            return
        priority = given.get("priority", "0")
        command = ""
        if ipv in _WORD and name == "passthrough":
            command = f"{_WORD[ipv]} {words}"
        elif ipv in _WORD and name == "chain":
            command = f"{_WORD[ipv]} -t {shlex.quote(table)} -N {place}"
        elif ipv in _WORD and name == "rule" and re.fullmatch("-?[0-9]{1,9}", priority):
            command = direct.rule(ipv, shlex.quote(table), place, int(priority), words)
        else:
            found.cannot(number, lines[number - 1].strip(), name, "neither for IPv4 nor for IPv6")
        earlier = found.commands[number - 1]
        found.commands[number - 1] = "; ".join(filter(None, (earlier, command)))

    def declared(*_: object) -> None:
        raise expat.ExpatError("a document type is not expected here")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = content.append
    parser.StartDoctypeDeclHandler = declared
    try:
        parser.Parse("\n".join(lines), True)
    except expat.ExpatError as error:
        number = getattr(error, "lineno", first)
        found.refuse(number, lines[number - 1].strip(), f"{found.form}: {error}")


_DIRECT = re.compile(
    r"(?:[\w/]*/)?firewall-cmd\s+(?P<options>(?:-\S+\s+)*?)--direct\s+(?:"
    r"--add-rule\s+(?P<ipv>ipv[46])\s+(?P<table>\w+)\s+(?P<name>\S+)\s+(?P<priority>-?[0-9]{1,9})\s+"
    r"|--add-chain\s+(?P<chain_ipv>ipv[46])\s+(?P<chain_table>\w+)\s+"
    r"|(?:--add-)?passthrough\s+(?P<passed>ipv[46])\s+|--passthrough\s+(?P<through>ipv[46])\s+)"
)


def _firewall_cmd(lines: Sequence[str]) -> Extracted:
    """A script with calls of firewall-cmd: those for direct rules become what firewalld makes of them."""
    found = Extracted(form="a script of firewall-cmd", commands=list(lines))
    direct = _Direct()
    for number, line in enumerate(lines, 1):
        if "firewall-cmd" not in line or line.lstrip()[:1] == "#":
            continue
        match = _DIRECT.search(line)
        if match is None:
            if re.search(r"--add-(?:forward|masq|rich|rule)|--set-target|--direct", line):
                found.cannot(number, line.strip(), "firewall-cmd", _OTHER)
            found.commands[number - 1] = ""
            continue
        rest = line[match.end() :]
        if match["ipv"]:
            priority = int(match["priority"])
            made = direct.rule(match["ipv"], match["table"], match["name"], priority, rest)
        elif match["chain_ipv"]:
            made = f"{_WORD[match['chain_ipv']]} -t {match['chain_table']} -N {rest}"
        else:
            made = f"{_WORD[match['passed'] or match['through']]} {rest}"
        found.commands[number - 1] = line[: match.start()] + made if made else ""
    return found


# -- OpenWrt


def _fragment(lines: Sequence[str], found: Extracted, first: int) -> None:
    """A file of `/etc/nftables.d`, which fw4 includes inside its table."""
    found.commands = list(lines)
    found.commands[first - 1] = f"table inet fw4 {{ {lines[first - 1]}"
    # The brace stands behind the last line, which ends without a comment.
    found.commands[-1] = f"{found.commands[-1].partition('#')[0]} }}"
    found.note(first, "", "read as a part of `table inet fw4`, without what fw4 adds to that")


# -- what is refused, with what to do instead


def _refused(message: str) -> Callable[[Sequence[str], Extracted, int], None]:
    def refuse(lines: Sequence[str], found: Extracted, first: int) -> None:
        found.refuse(first, lines[first - 1].strip(), message)

    return refuse


_LISTED = (
    "the output of `iptables -L`, which does not show all that a rule asks: use `iptables-save`, or "
    "`lbctl import --from iptables-legacy` (or iptables-nft) on that host"
)
_IPVS = (
    "services of IPVS, which are not packet filter rules: write each with "
    "`lbctl init --listen ADDRESS:PORT/tcp --to REAL-SERVER:PORT,…`"
)

#: What a file is, how its first line begins, what else it must hold, and what takes its commands.
_FORMS: tuple[
    tuple[str, re.Pattern[str], re.Pattern[str] | None, Callable[[Sequence[str], Extracted, int], None]], ...
] = (
    (
        "a unit of systemd",
        re.compile(r"\[(?:Unit|Service|Install)\]\Z"),
        re.compile(r"(?m)^\s*Exec\w+\s*="),
        _unit,
    ),
    (
        "a file of wg-quick",
        re.compile(r"\[(?:Interface|Peer)\]\Z"),
        re.compile(r"(?mi)^\s*(?:P(?:ost|re)(?:Up|Down)|PrivateKey|ListenPort)\s*="),
        _wg_quick,
    ),
    (
        "a file of network interfaces",
        re.compile(r"(?:auto|allow-\S+|iface|source|source-directory|mapping|no-auto-down)\s"),
        re.compile(r"(?m)^\s*iface\s+\S+"),
        _interfaces,
    ),
    ("firewalld's direct rules", re.compile(r"<\?xml|<direct\b"), re.compile(r"<direct\b"), _direct_xml),
    (
        "a file of firewalld",
        re.compile(r"<\?xml|<(?:zone|policy|service|ipset)\b"),
        re.compile(r"<(?:zone|policy|service|ipset)\b"),
        _refused(_OTHER),
    ),
    ("a fragment of OpenWrt", re.compile(r"(?:chain|set|map)\s+[\w.-]+\s*\{"), None, _fragment),
    (
        "OpenWrt's settings",
        re.compile(r"config\s+(?:defaults|zone|forwarding|redirect|rule|nat|include|ipset)\b"),
        None,
        _refused("OpenWrt's settings are not read: `fw4 print | lbctl import -` reads what it makes of them"),
    ),
    ("a list", re.compile(r"Chain \S+ \((?:policy \w+|\d+ references)"), None, _refused(_LISTED)),
    ("a list", re.compile(r"-A\s+-[tuf]\s|IP Virtual Server version"), None, _refused(_IPVS)),
)
