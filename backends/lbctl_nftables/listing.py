"""nft's text listing → the objects of its JSON, for an nft that was built without JSON.

What a table of ours can hold is parsed into the shape that `nft --json` gives, so that nobody else needs to
know which reader ran. Rules stay text, `{"text": …}`, but for their counters: the spelling of a program is
nft's own. What is not understood becomes an object of a kind that nobody knows, which is then reported as
foreign.

Only what a listing writes is read: names of ports and addresses are never asked for, priorities are numbers
or the standard names, and a comment behind `#` tells nothing of ours.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

Json: TypeAlias = Any

_WORD = re.compile(r'#[^\n]*|"[^"\n]*"|[{};,\n]|[^\s{};,"]+')
_PROTOCOLS = {"6": "tcp", "17": "udp", "132": "sctp"}
_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0}
_DURATION = re.compile(r"(?:\d+(?:ms|[dhms]))+\Z")
_VERDICTS = {"accept", "drop", "return", "continue"}
_TYPES = {
    "numgen": "integer",
    "jhash": "integer",
    "ip saddr": "ipv4_addr",
    "ip daddr": "ipv4_addr",
    "ip6 saddr": "ipv6_addr",
    "ip6 daddr": "ipv6_addr",
    "meta l4proto": "inet_proto",
    "iif": "iface_index",
    "oif": "iface_index",
    "th dport": "inet_service",
    "tcp dport": "inet_service",
    "udp dport": "inet_service",
    "sctp dport": "inet_service",
}


def objects(text: str) -> list[Json]:
    """The objects of a listing: tables, and the sets, maps, chains and rules of each."""
    found: list[Json] = []
    for statement in _statements(_WORD.findall(text)):
        match statement:
            case ["table", family, name, *body]:
                table: dict[str, Json] = {"family": family, "name": name}
                found.append({"table": table})
                found += _table(table, _inside(body)) if body else []
            case _:
                found.append(_foreign(statement))
    return found


def type_of(expression: str) -> str:
    """The type behind an expression of `typeof`; the expression itself where it is none of ours."""
    return _TYPES.get(expression) or _TYPES.get(expression.split(" ")[0], expression)


def _table(table: dict[str, Json], words: list[str]) -> Iterator[Json]:
    """The objects in a table; its flags go to `table`."""
    for statement in _statements(words):
        match statement:
            case ["flags", *flags]:
                table["flags"] = _flags(flags)
            case ["set" | "map" as kind, name, "{", *_]:
                yield {kind: {"name": name, **_set(_inside(statement[2:]))}}
            case ["chain", name, "{", *_]:
                yield from _chain(name, _inside(statement[2:]))
            case _:
                yield _foreign(statement)


def _set(words: list[str]) -> dict[str, Json]:
    made: dict[str, Json] = {}
    for statement in _statements(words):
        match statement:
            case ["type" | "typeof" as word, *types]:
                key, data = _split(types, ":")
                keys = _types(word, key)
                made["type"] = keys[0] if len(keys) == 1 else keys
                if data:
                    made["map"] = " . ".join(_types(word, data))
            case ["counter", *_]:
                made["stmt"] = [{"counter": None}]
            case ["flags", *flags]:
                made["flags"] = _flags(flags)
            case ["elements", "=", *body]:
                made["elem"] = [_element(each) for each in _listed(_inside(body))]
            case [key, value]:
                made[key] = _scalar(value)
            case _:
                made[_line(statement)] = True
    return made


def _flags(words: list[str]) -> list[str]:
    return [word for word in words if word != ","]


def _types(word: str, words: list[str]) -> list[str]:
    parts = [" ".join(part) for part in _parts(words, ".")]
    return parts if word == "type" else [type_of(part) for part in parts]


def _element(words: list[str]) -> Json:
    """One element as JSON has it: its key, with what it carries, and its data."""
    carried: dict[str, Json] = {}
    rest: list[str] = []
    words = [word for word in words if word != "\n"]
    while words:
        match words:
            case ["counter", "packets", packets, "bytes", size, *tail]:
                carried["counter"] = {"packets": _scalar(packets), "bytes": _scalar(size)}
            case ["comment", text, *tail]:
                carried["comment"] = text.strip('"')
            case ["timeout" | "expires" as word, time, *tail] if rest:
                carried[word] = _scalar(time)
            case [word, *tail]:
                rest.append(word)
        words = tail
    key, data = _split(rest, ":")
    value = _value(key)
    if carried:
        value = {"elem": {"val": value, **carried}}
    return [value, _value(data)] if data else value


def _value(words: list[str]) -> Json:
    match words:
        case ["goto" | "jump" as verdict, target]:
            return {verdict: {"target": target}}
        case [verdict] if verdict in _VERDICTS:
            return {verdict: None}
        case _:
            parts = [_scalar(" ".join(part)) for part in _parts(words, ".")]
            return parts[0] if len(parts) == 1 else {"concat": parts}


def _scalar(text: str) -> Json:
    """A number, a duration in seconds, a network, or the word itself."""
    if text.isdecimal():
        return int(text)
    if _DURATION.match(text):
        return sum(int(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+)(ms|[dhms])", text))
    address, slash, length = text.partition("/")
    if slash and length.isdecimal():
        return {"prefix": {"addr": address, "len": int(length)}}
    first, dash, last = text.partition("-")
    if dash and first[:1].isdigit() and last[:1].isalnum():
        return {"range": [first, last]}
    return text.strip('"')


def _chain(name: str, words: list[str]) -> Iterator[Json]:
    chain: dict[str, Json] = {"name": name}
    rules = []
    for statement in _statements(words):
        match statement:
            case ["type", kind, "hook", hook, "priority", *priority]:
                chain |= {"type": kind, "hook": hook, "prio": _priority(priority)}
            case ["policy", policy]:
                chain["policy"] = policy
            case ["comment", text]:
                chain["comment"] = text.strip('"')
            case _:
                rules.append({"rule": {"chain": name, "expr": list(_rule(statement))}})
    yield {"chain": chain}
    yield from rules


def _priority(words: list[str]) -> Json:
    match words:
        case [name] if name in _PRIORITIES:
            return _PRIORITIES[name]
        case [name, "+" | "-" as sign, number] if name in _PRIORITIES and number.isdecimal():
            return _PRIORITIES[name] + int(sign + number)
        case [number] if re.match(r"-?\d+\Z", number):
            return int(number)
        case _:
            return " ".join(words)


def _rule(words: list[str]) -> Iterator[Json]:
    """A rule's counters and the text between them."""
    if len(words) > 2 and words[-2] == "comment":
        # JSON tells it beside the rule's expressions, and so nobody compares it.
        words = words[:-2]
    begin = 0
    for place, word in enumerate(words):
        # A long rule is looked at word by word: copies of its rest would take quadratic time.
        if word == "counter" and words[place + 1 : place + 2] == ["packets"] and len(words) > place + 4:
            if begin < place:
                yield {"text": _spelled(words[begin:place])}
            yield {"counter": {"packets": _scalar(words[place + 2]), "bytes": _scalar(words[place + 4])}}
            begin = place + 5
    if begin < len(words):
        yield {"text": _spelled(words[begin:])}


def _spelled(words: list[str]) -> str:
    """The spelling of a program, where nft's own leaves something out or has several."""
    if "vmap" in words and words[-1] == "}":
        place = words.index("vmap") + 1
        pairs = [_line(each) for each in _listed(_inside(words[place:]))]
        if all(pair.split(" ")[0].isdecimal() for pair in pairs):
            pairs.sort(key=lambda pair: int(pair.split(" ")[0]))
        return f"{_spelled(words[:place])} {{ {', '.join(pairs)} }}"
    text = _line(words)
    text = re.sub(r"\bl4proto (6|17|132)(?= |$)", lambda m: f"l4proto {_PROTOCOLS[m[1]]}", text)
    text = re.sub(r"\bseed (0x[0-9a-f]+|\d+)", lambda m: f"seed {int(m[1], 0):#x}", text)
    text = re.sub(r"\b(numgen \w+ mod \d+|jhash .+ mod \d+ seed \S+)(?= (?!offset)|$)", r"\1 offset 0", text)
    text = re.sub(r"\btimeout (\S+)", lambda m: f"timeout {_scalar(m[1])}s", text)
    text = re.sub(r"\bdnat ip6? to (?=[0-9\[])", "dnat to ", text)
    # With a port of its own, nft 1.0.6 leaves the family out, and the space.
    text = re.sub(
        r"\bdnat (?:ip6? )?to (ip6?) saddr map (@[^\s:]+) ?: ?(\d+)$",
        r"dnat \1 to \1 saddr map \2 : \3",
        text,
    )
    return re.sub(r"\breject with icmp(v6)? (type )?port-unreachable$", "reject", text)


def _statements(words: list[str]) -> Iterator[list[str]]:
    """What is separated by line ends and semicolons outside of braces; a brace without its other one ends."""
    statement: list[str] = []
    depth = 0
    for word in words:
        if word.startswith("#"):
            continue
        depth += (word == "{") - (word == "}")
        if depth <= 0 and word in {"\n", ";"}:
            if statement:
                yield statement
            statement = []
        else:
            statement.append(word)
    if statement:
        yield statement


def _inside(words: list[str]) -> list[str]:
    """What stands between the braces that a list of words begins and ends with."""
    return words[1:-1] if words[-1:] == ["}"] else words[1:]


def _listed(words: list[str]) -> Iterator[list[str]]:
    return (part for part in _parts(words, ",") if part)


def _parts(words: list[str], separator: str) -> Iterator[list[str]]:
    part: list[str] = []
    for word in words:
        if word == separator:
            yield part
            part = []
        elif word != "\n":
            part.append(word)
    yield part


def _split(words: list[str], separator: str) -> tuple[list[str], list[str]]:
    if separator not in words:
        return words, []
    place = words.index(separator)
    return words[:place], words[place + 1 :]


def _line(words: list[str]) -> str:
    return " ".join(word for word in words if word != "\n").replace(" ,", ",")


def _foreign(statement: list[str]) -> Json:
    return {statement[0]: {"name": statement[1] if len(statement) > 1 else "", "text": _line(statement)}}
