"""nft's JSON → the document that the text of the same rules gives.

Each object is turned into words, and these are read like those of a text: one reader of meaning. Words, and
no text: a name that holds a space or a semicolon is one word all the same. The shapes of nft before and
since 1.1.4 are taken.
"""

from __future__ import annotations

import json
import re
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

from lbctl_netfilter.log import Place
from lbctl_nftables.reading.document import FAMILIES, Document
from lbctl_nftables.reading.syntax import UnsupportedSyntax
from lbctl_nftables.reading.words import split

if TYPE_CHECKING:
    from lbctl_nftables.reading.syntax import Element

Json: TypeAlias = Any

_DEEPEST = 40
_COMMANDS = {"add", "create", "insert"}
_VERDICTS = {"accept", "drop", "return", "continue", "jump", "goto"}


def read_json(source: str) -> Document:
    """Return the document of a text in JSON."""
    document = Document()
    try:
        answer = json.loads(source)
    except (ValueError, RecursionError) as error:
        place = Place(getattr(error, "lineno", 1))
        document.log.refuse("unparsable-line", place, f"not valid JSON: {error}")
        return document
    objects = answer.get("nftables") if isinstance(answer, dict) else None
    if not isinstance(objects, list):
        document.log.refuse("unparsable-line", Place(1), 'there is no list "nftables" in this JSON')
        return document
    for entry in objects:
        try:
            _object(document, entry)
        except (UnsupportedSyntax, RecursionError) as strange:
            place = Place(1, json.dumps(entry))
            document.log.refuse("unparsable-line", place, f"not understood: {strange}")
    return document


def _object(document: Document, entry: Json) -> None:  # noqa: C901, PLR0912 (a case for each kind)
    if not isinstance(entry, dict) or len(entry) != 1:
        raise UnsupportedSyntax("an object that does not have exactly one kind")
    [(kind, value)] = entry.items()
    if kind in _COMMANDS and isinstance(value, dict):
        _object(document, value)
        return
    if kind == "flush" and value == {"ruleset": None}:
        document.tables.clear()
        return
    if not isinstance(value, dict):
        raise UnsupportedSyntax(kind)
    if kind == "metainfo":
        return
    family, table = value.get("family"), value.get("name" if kind == "table" else "table")
    if not isinstance(family, str) or family not in FAMILIES or not isinstance(table, str):
        raise UnsupportedSyntax(kind)
    made = document.table(family, table)
    match kind:
        case "chain":
            base = made.chain(_name(value), 1)
            base.declared = True
            base.kind, base.hook = str(value.get("type", "")), str(value.get("hook", ""))
            base.priority = value["prio"] if isinstance(value.get("prio"), int) else 0
            base.policy = str(value.get("policy", "accept"))
            base.devices = tuple([dev for dev in _listed(value.get("dev")) if isinstance(dev, str)])
        case "rule":
            name = value.get("chain")
            expressions = value.get("expr", [])
            if not isinstance(name, str) or not isinstance(expressions, list):
                raise UnsupportedSyntax("rule")
            words = [word for each in expressions for word in _statement(each, 0)]
            text = " ".join(words)
            if isinstance(value.get("comment"), str):
                words += ["comment", f'"{value["comment"]}"']
            caller = made.chain(name, 1)
            caller.rules.append(document.rule(caller, words, 1, text))
        case "set" | "map":
            members = made.set_or_map(_name(value))
            members.dynamic = "dynamic" in _listed(value.get("flags"))
            members.timeout = value["timeout"] if isinstance(value.get("timeout"), int) else None
            members.elements += _elements(document, value.get("elem", []))
        case "element":
            members = made.set_or_map(_name(value))
            members.elements += _elements(document, value.get("elem", []))
        case "table":
            made.dormant = "dormant" in _listed(value.get("flags"))
        case "counter" | "quota" | "limit" | "flowtable" | "ct helper" | "synproxy" | "secmark":
            pass
        case _:
            raise UnsupportedSyntax(kind)


def _listed(value: Json) -> list[Json]:
    """Return a list as it is, and anything else in one."""
    return value if isinstance(value, list) else [value]


def _name(value: Json) -> str:
    name = value.get("name")
    if not isinstance(name, str):
        raise UnsupportedSyntax("an object without a name")
    return name


def _elements(document: Document, listed: Json) -> tuple[Element, ...]:
    return document.grammar.elements(_braces(_listed(listed), 0))


def _braces(entries: list[Json], depth: int) -> list[str]:
    made = ["{"]
    for number, entry in enumerate(entries):
        made += [","] if number else []
        if isinstance(entry, list) and len(entry) == 2:
            made += [*_value(entry[0], depth), ":", *_data(entry[1], depth)]
        else:
            made += _value(entry, depth)
    return [*made, "}"]


def _data(value: Json, depth: int) -> list[str]:
    is_verdict = isinstance(value, dict) and not _VERDICTS.isdisjoint(value)
    return _statement(value, depth) if is_verdict else _value(value, depth)


#: Statements and expressions by their name in JSON, and their words: `$name` is an expression, `%name` stands
#: as it is; `?name` is a number, with its name in front, and `~name` a text, if they are there; `+name` is a
#: text, or several with dots between.
_STATEMENTS = {
    "vmap": "$key vmap $data", "jump": 'jump "%target"', "goto": 'goto "%target"',
    "mangle": "$key set $value", "counter": "counter", "log": "log", "notrack": "notrack", "last": "last",
    "reject": "reject",
    "comment": 'comment "%value"', "accept": "accept", "drop": "drop", "return": "return",
    "continue": "continue", "reset": "reset $value", "ct count": "ct count $val",
}  # fmt: skip
_EXPRESSIONS = {
    "map": "$key map $data", "meta": "meta %key", "payload": "%protocol %field", "ct": "ct ~dir %key",
    "fib": "fib +flags %result", "numgen": "numgen %mode mod $mod ?offset",
    "jhash": "jhash $expr mod $mod ?seed ?offset", "symhash": "symhash mod $mod ?offset",
    "rt": "rt %key", "socket": "socket %key", "osf": "osf %key", "tcp option": "tcp option %name ~field",
    "ip option": "ip option %name ~field", "sctp chunk": "sctp chunk %name ~field",
    "exthdr": "exthdr %name", "ipsec": "ipsec %dir ?spnum ~family %key",
}  # fmt: skip
_PLACE = re.compile(r"[$%?~+](\w+)")


def _filled(template: str, values: dict[str, Json], depth: int) -> list[str]:
    """Return the words of a template; raise `UnsupportedSyntax` if something for it is missing."""
    made: list[str] = []
    for part in template.split(" "):
        found = _PLACE.search(part)
        value = values.get(found[1]) if found else None
        match found[0][0] if found else "":
            case "":
                made.append(part)
            case "$" if value is not None:
                made += _value(value, depth)
            case "%" if isinstance(value, str):
                made += [part.replace(f"%{found[1]}", value)] if part[0] == '"' else value.split(" ")  # type: ignore[index]
            case "+":
                made += " . ".join(map(str, value if isinstance(value, list) else [value])).split(" ")
            case "?":
                made += [found[1], str(value)] if isinstance(value, int) else []  # type: ignore[index]
            case "~":
                made += value.split(" ") if isinstance(value, str) else []
            case _:
                raise UnsupportedSyntax(part)
    return made


def _named(table: dict[str, str], value: Json, depth: int) -> list[str] | None:
    """Return the words of something by its name; None if it is not in the table, or is shaped otherwise."""
    for name, inner in value.items() if isinstance(value, dict) and len(value) == 1 else ():
        if name in table:
            try:
                return _filled(table[name], inner if isinstance(inner, dict) else {"value": inner}, depth)
            except UnsupportedSyntax:
                return None
    return None


def _unknown(value: Json) -> list[str]:
    return ["?", json.dumps(value, sort_keys=True)]


def _statement(statement: Json, depth: int) -> list[str]:
    """Return the words of one statement."""
    known = _named(_STATEMENTS, statement, depth)
    if known is not None:
        return known
    match statement:
        case {"match": {"left": left, "right": right, **rest}}:
            op = str(rest.get("op", "=="))
            masked = isinstance(left, dict) and "&" in left
            values = _bits(right, depth) if masked else _value(right, depth)
            return [*_value(left, depth), *([] if op == "in" else [op]), *values]
        case {"dnat": value} | {"snat": value} | {"redirect": value} | {"masquerade": value}:
            return _nat(next(iter(statement)), value if isinstance(value, dict) else {}, depth)
        case {"set": {"op": str(op), "elem": element, "set": str(name), **rest}}:
            inner = rest.get("stmt")
            each = [_statement(one, depth + 1) for one in (inner if isinstance(inner, list) else ())]
            return [op, "@", name.removeprefix("@"), "{", *_value(element, depth), *chain(*each), "}"]
        case {"map": {"op": str(op), "elem": element, "data": data, "map": str(name)}}:
            pair = [*_value(element, depth), ":", *_value(data, depth)]
            return [op, "@", name.removeprefix("@"), "{", *pair, "}"]
        case {"fwd": {"dev": device, **rest}} | {"dup": {"dev": device, **rest}}:
            return _sent(next(iter(statement)), device, rest, depth)
        case {"limit": {"rate": rate, "per": per, **rest}}:
            return _limit(str(rate), str(per), rest)
        case {"quota": {"val": value, "val_unit": str(unit), **rest}}:
            return ["quota", *(["over"] if rest.get("inv") else []), str(value), unit]
        case str():
            # A statement that nft 1.0.6 has no JSON for comes as text.
            return split(statement)
    return _unknown(statement)


def _sent(kind: str, device: Json, rest: dict[Any, Json], depth: int) -> list[str]:
    if "addr" not in rest:
        return [kind, "to", *_value(device, depth)]
    family = [rest["family"]] if isinstance(rest.get("family"), str) else []
    return [kind, *family, "to", *_value(rest["addr"], depth), "device", *_value(device, depth)]


def _limit(rate: str, per: str, rest: dict[Any, Json]) -> list[str]:
    unit, burst_unit = rest.get("rate_unit", "packets"), rest.get("burst_unit", "packets")
    burst = ["burst", str(rest["burst"]), str(burst_unit)] if rest.get("burst") else []
    amount = [rate] if unit == "packets" else [rate, str(unit)]
    return ["limit", "rate", *(["over"] if rest.get("inv") else []), *amount, "/", per, *burst]


def _nat(kind: str, value: dict[str, Json], depth: int) -> list[str]:
    family = [value["family"]] if value.get("family") in ("ip", "ip6") else []
    made = [kind, *family, *(["to"] if "addr" in value or "port" in value else [])]
    if "addr" in value:
        made += _value(value["addr"], depth)
    if "port" in value:
        made += [":", *_value(value["port"], depth)]
    return made + [flag for flag in _listed(value.get("flags")) if isinstance(flag, str)]


def _value(value: Json, depth: int) -> list[str]:  # noqa: C901, PLR0912 (a case for each form)
    """Return the words of an expression."""
    depth += 1
    if depth > _DEEPEST:
        raise UnsupportedSyntax("deeply nested JSON")
    known = _named(_EXPRESSIONS, value, depth)
    if known is not None:
        return known
    match value:
        case bool() | int():
            return [str(int(value))]
        case str() if value.startswith("@") and len(value) > 1:
            return ["@", value[1:]]
        case str():
            plain = value and all(letter.isalnum() or letter in "_./:-*" for letter in value)
            return [value if plain else f'"{value}"']
        case list(parts):
            return _between(",", parts, depth)
        case {"concat": list(parts)}:
            return _between(".", parts, depth)
        case {"set": list(entries)}:
            return _braces(entries, depth)
        case {"set": one}:
            return _value(one, depth) if isinstance(one, str) else _braces([one], depth)
        case {"range": [first, last]}:
            return [*_value(first, depth), "-", *_value(last, depth)]
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            return [f"{address}/{length}"]
        case {"elem": {"val": key, **rest}}:
            timeout = ["timeout", f"{rest['timeout']}s"] if isinstance(rest.get("timeout"), int) else []
            comment = ["comment", f'"{rest["comment"]}"'] if isinstance(rest.get("comment"), str) else []
            return [*_value(key, depth), *timeout, *comment]
        case {"payload": {"base": str(base), "offset": int(offset), "len": int(length)}}:
            return ["@", base, ",", str(offset), ",", str(length)]
        case {"&": [left, right]}:
            return [*_value(left, depth), "&", *_bits(right, depth)]
        case {"|": list(parts)} | {"^": list(parts)} | {"<<": list(parts)} | {">>": list(parts)}:
            return _between(next(iter(value)), parts, depth)
    return _unknown(value)


def _between(word: str, parts: list[Json], depth: int) -> list[str]:
    """Return the words of several expressions with one between each two."""
    made: list[str] = []
    for part in parts:
        made += [*([word] if made else []), *_value(part, depth)]
    return made


def _bits(value: Json, depth: int) -> list[str]:
    """Return the words of a mask, or of a value under one: a list in nft 1.0.6, joined by `|` later."""
    match value:
        case list(parts) | {"|": list(parts)}:
            return ["(", *_between("|", parts, depth), ")"]
    return _value(value, depth)
