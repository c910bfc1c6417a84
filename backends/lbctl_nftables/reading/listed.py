"""nft's JSON → the document that the text of the same rules gives.

Each object is turned into words, and these are read like those of a text: one reader of meaning. Words, and
no text: a name that holds a space or a semicolon is one word all the same. The shapes of nft before and
since 1.1.4 are taken.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

from lbctl_nftables.reading.document import FAMILIES, Document
from lbctl_nftables.reading.syntax import UnsupportedSyntax
from lbctl_nftables.reading.words import split

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl_nftables.reading.syntax import Element

Json: TypeAlias = Any

_DEEPEST = 40
_COMMANDS = {"add", "create", "insert"}
_PLAIN = {"accept", "drop", "return", "continue"}


def read_json(source: str) -> Document:
    """The document of a text in JSON."""
    document = Document()
    try:
        answer = json.loads(source)
    except (ValueError, RecursionError) as error:
        document.log.refuse("unparsable-line", getattr(error, "lineno", 1), "", f"this is no JSON: {error}")
        return document
    objects = answer.get("nftables") if isinstance(answer, dict) else None
    if not isinstance(objects, list):
        document.log.refuse("unparsable-line", 1, "", 'there is no list "nftables" in this JSON')
        return document
    for entry in objects:
        try:
            _object(document, entry)
        except (UnsupportedSyntax, RecursionError) as strange:
            document.log.refuse("unparsable-line", 1, json.dumps(entry)[:400], f"not understood: {strange}")
    return document


def _object(document: Document, entry: Json) -> None:
    if not isinstance(entry, dict) or len(entry) != 1:
        raise UnsupportedSyntax("an object with other than one kind")
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
            chain = made.chain(_name(value), 1)
            chain.declared = True
            chain.kind, chain.hook = str(value.get("type", "")), str(value.get("hook", ""))
            chain.priority = value["prio"] if isinstance(value.get("prio"), int) else 0
            chain.policy = str(value.get("policy", "accept"))
        case "rule":
            name = value.get("chain")
            expressions = value.get("expr", [])
            if not isinstance(name, str) or not isinstance(expressions, list):
                raise UnsupportedSyntax("rule")
            words = [word for each in expressions for word in _statement(each, 0)]
            text = " ".join(words)
            if isinstance(value.get("comment"), str):
                words += ["comment", f'"{value["comment"]}"']
            chain = made.chain(name, 1)
            chain.rules.append(document.rule(chain, words, 1, text))
        case "set" | "map":
            members = made.set_or_map(_name(value))
            flags = value.get("flags", [])
            members.dynamic = "dynamic" in (flags if isinstance(flags, list) else [flags])
            members.timeout = value["timeout"] if isinstance(value.get("timeout"), int) else None
            members.elements += _elements(document, value.get("elem", []))
        case "element":
            members = made.set_or_map(_name(value))
            members.elements += _elements(document, value.get("elem", []))
        case "table" | "counter" | "quota" | "limit" | "flowtable" | "ct helper" | "synproxy" | "secmark":
            pass
        case _:
            raise UnsupportedSyntax(kind)


def _name(value: Json) -> str:
    name = value.get("name")
    if not isinstance(name, str):
        raise UnsupportedSyntax("an object without a name")
    return name


def _elements(document: Document, listed: Json) -> tuple[Element, ...]:
    entries = listed if isinstance(listed, list) else [listed]
    return document.grammar.elements(list(_braces(entries, 0)))


def _braces(entries: list[Json], depth: int) -> Iterator[str]:
    yield "{"
    for number, entry in enumerate(entries):
        if number:
            yield ","
        if isinstance(entry, list) and len(entry) == 2:
            yield from _value(entry[0], depth)
            yield ":"
            yield from _data(entry[1], depth)
        else:
            yield from _value(entry, depth)
    yield "}"


def _data(value: Json, depth: int) -> Iterator[str]:
    if isinstance(value, dict) and (_PLAIN | {"jump", "goto"}) & value.keys():
        yield from _statement(value, depth)
    else:
        yield from _value(value, depth)


def _statement(statement: Json, depth: int) -> Iterator[str]:
    """The words of one statement."""
    if depth > _DEEPEST:
        raise UnsupportedSyntax("deeply nested JSON")
    match statement:
        case {"match": {"left": left, "right": right, **rest}}:
            yield from _value(left, depth)
            op = rest.get("op", "==")
            if op != "in":
                yield str(op)
            yield from _bits(right, depth) if isinstance(left, dict) and "&" in left else _value(right, depth)
        case {"vmap": {"key": key, "data": data}}:
            yield from _value(key, depth)
            yield "vmap"
            yield from _value(data, depth)
        case {"jump": {"target": str(target)}} | {"goto": {"target": str(target)}}:
            yield next(iter(statement))
            yield f'"{target}"'
        case {"dnat": value} | {"snat": value} | {"redirect": value} | {"masquerade": value}:
            yield from _nat(next(iter(statement)), value if isinstance(value, dict) else {}, depth)
        case {"mangle": {"key": key, "value": value}}:
            yield from _value(key, depth)
            yield "set"
            yield from _value(value, depth)
        case {"set": {"op": str(op), "elem": element, "set": str(name)}}:
            yield from (op, "@", name.removeprefix("@"), "{")
            yield from _value(element, depth)
            yield "}"
        case {"map": {"op": str(op), "elem": element, "data": data, "map": str(name)}}:
            yield from (op, "@", name.removeprefix("@"), "{")
            yield from _value(element, depth)
            yield ":"
            yield from _value(data, depth)
            yield "}"
        case {"counter": _}:
            yield "counter"
        case {"log": _}:
            yield "log"
        case {"notrack": _}:
            yield "notrack"
        case {"reject": _}:
            yield "reject"
        case {"limit": {"rate": rate, "per": per, **rest}}:
            unit, burst_unit = rest.get("rate_unit", "packets"), rest.get("burst_unit", "packets")
            yield from ("limit", "rate", *(["over"] if rest.get("inv") else []), str(rate))
            yield from (*(() if unit == "packets" else (str(unit),)), "/", str(per))
            if rest.get("burst"):
                yield from ("burst", str(rest["burst"]), str(burst_unit))
        case {"comment": str(text)}:
            yield from ("comment", f'"{text}"')
        case {"accept": _} | {"drop": _} | {"return": _} | {"continue": _}:
            yield next(iter(statement))
        case str():
            # A statement that nft 1.0.6 has no JSON for comes as text.
            yield from split(statement)
        case _:
            yield from ("?", json.dumps(statement, sort_keys=True))


def _nat(kind: str, value: dict[str, Json], depth: int) -> Iterator[str]:
    yield kind
    family = value.get("family")
    if family in ("ip", "ip6"):
        yield family
    if "addr" in value or "port" in value:
        yield "to"
    if "addr" in value:
        yield from _value(value["addr"], depth)
    if "port" in value:
        yield ":"
        yield from _value(value["port"], depth)
    flags = value.get("flags", [])
    yield from (flag for flag in (flags if isinstance(flags, list) else [flags]) if isinstance(flag, str))


def _value(value: Json, depth: int) -> Iterator[str]:
    """The words of an expression."""
    depth += 1
    if depth > _DEEPEST:
        raise UnsupportedSyntax("deeply nested JSON")
    match value:
        case bool():
            yield str(int(value))
        case int():
            yield str(value)
        case str() if value.startswith("@") and len(value) > 1:
            yield from ("@", value[1:])
        case str():
            plain = value and all(letter.isalnum() or letter in "_./:-*" for letter in value)
            yield value if plain else f'"{value}"'
        case list():
            for number, each in enumerate(value):
                if number:
                    yield ","
                yield from _value(each, depth)
        case {"concat": list(parts)}:
            for number, part in enumerate(parts):
                if number:
                    yield "."
                yield from _value(part, depth)
        case {"set": list(entries)}:
            yield from _braces(entries, depth)
        case {"set": one}:
            yield from _braces([one], depth) if not isinstance(one, str) else _value(one, depth)
        case {"range": [first, last]}:
            yield from (*_value(first, depth), "-", *_value(last, depth))
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            yield f"{address}/{length}"
        case {"elem": {"val": key, **rest}}:
            yield from _value(key, depth)
            if isinstance(rest.get("timeout"), int):
                yield from ("timeout", f"{rest['timeout']}s")
            if isinstance(rest.get("comment"), str):
                yield from ("comment", f'"{rest["comment"]}"')
        case {"map": {"key": key, "data": data}}:
            yield from _value(key, depth)
            yield "map"
            yield from _value(data, depth)
        case {"meta": {"key": str(key)}}:
            yield from ("meta", key)
        case {"payload": {"protocol": str(protocol), "field": str(field)}}:
            yield from (protocol, field)
        case {"ct": {"key": str(key), **rest}}:
            direction = rest.get("dir")
            yield from ("ct", *([direction] if isinstance(direction, str) else []), *key.split(" "))
        case {"fib": {"result": str(result), "flags": flags}}:
            names = [str(flag) for flag in (flags if isinstance(flags, list) else [flags])]
            yield from ("fib", *" . ".join(names).split(" "), result)
        case {"numgen": {"mode": str(mode), "mod": modulus, **rest}}:
            yield from ("numgen", mode, "mod", str(modulus), *_number("offset", rest))
        case {"jhash": {"mod": modulus, "expr": hashed, **rest}}:
            yield "jhash"
            yield from _value(hashed, depth)
            yield from ("mod", str(modulus), *_number("seed", rest), *_number("offset", rest))
        case {"symhash": {"mod": modulus, **rest}}:
            yield from ("symhash", "mod", str(modulus), *_number("offset", rest))
        case {"&": [left, right]}:
            yield from (*_value(left, depth), "&", *_bits(right, depth))
        case {"|": parts} | {"^": parts} | {"<<": parts} | {">>": parts} if isinstance(parts, list):
            for number, part in enumerate(parts):
                if number:
                    yield next(iter(value))
                yield from _value(part, depth)
        case _:
            yield from ("?", json.dumps(value, sort_keys=True))


def _bits(value: Json, depth: int) -> Iterator[str]:
    """The words of a mask, or of a value under one: several bits are a list in nft 1.0.6, `|` later."""
    match value:
        case list(parts) | {"|": list(parts)}:
            yield "("
            for number, each in enumerate(parts):
                if number:
                    yield "|"
                yield from _value(each, depth)
            yield ")"
        case _:
            yield from _value(value, depth)


def _number(name: str, rest: dict[Any, Json]) -> tuple[str, ...]:
    return (name, str(rest[name])) if isinstance(rest.get(name), int) else ()
