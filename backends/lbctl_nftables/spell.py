"""nft's JSON → the spelling that `compile` uses, so that programs can be compared as text.

JSON is read, text is written: the JSON of a list is stable enough to be understood, while what nft lists as
text is not always what it accepts. An expression that lbctl never writes keeps its JSON as its spelling;
it then differs from everything that lbctl wants, which is what it should do.
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeAlias

Json: TypeAlias = Any

#: On a host without /etc/protocols nft prints numbers.
_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
#: nft's way to write times, as in `1d2h3m4s`.
_TIME = re.compile(r"(?<= timeout )(?=\d)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?= )")
_QUOTED = {"iif", "oif", "iifname", "oifname"}


def rule(expressions: list[Json]) -> str:
    """One rule."""
    return " ".join(_statement(expression) for expression in expressions)


def element_key(value: Json) -> str:
    """The key of an element, or the data of a map."""
    match value:
        case {"concat": list(parts)}:
            return " . ".join(_part(part, is_protocol=_is_protocol(parts, i)) for i, part in enumerate(parts))
        case dict() if len(value) == 1 and next(iter(value)) in {"goto", "jump", "accept", "drop", "return"}:
            return _statement(value)
        case _:
            return _value(value)


def _is_protocol(parts: list[Json], index: int) -> bool:
    # In a listener's key the protocol stands before the port, which is last.
    return index == len(parts) - 2 and isinstance(parts[index], int)


def _part(value: Json, *, is_protocol: bool) -> str:
    return _PROTOCOLS.get(value, str(value)) if is_protocol else _value(value)


def _statement(expression: Json) -> str:
    match expression:
        case {"text": str(text)}:
            # From a listing, see there.
            return text
        case {"match": {"op": op, "left": left, "right": right}}:
            return _match(op, left, right)
        case {"vmap": {"key": key, "data": str(data)}}:
            return f"{_value(key)} vmap {data}"
        case {"vmap": {"key": key, "data": {"set": list(pairs)}}}:
            return f"{_value(key)} vmap {{ {_verdicts(pairs)} }}"
        case {"counter": None | {"packets": _, "bytes": _}}:
            return "counter"
        case {"redirect": {"port": port, **rest}} if not rest:
            return f"redirect to :{_value(port)}"
        case {"dnat": {"family": str(family), "addr": address, **rest}} if not rest:
            return f"dnat {family} to {_value(address)}"
        case {"dnat": {"addr": str(address), "port": int(port), **rest}} if set(rest) <= {"family"}:
            return f"dnat to [{address}]:{port}" if ":" in address else f"dnat to {address}:{port}"
        case {
            "dnat": {
                # With a port of its own, nft 1.0.6 leaves the family out.
                "addr": {"map": {"key": {"payload": {"protocol": str(family), "field": "saddr"}}}} as address,
                "port": int(port),
                **rest,
            }
        } if rest in ({}, {"family": family}):
            return f"dnat {family} to {_value(address)} : {port}"
        case {"masquerade": {"flags": "fully-random" | ["fully-random"], **rest}} if not rest:
            return "masquerade fully-random"
        case {"set": {"op": str(op), "elem": element, "set": str(name), **rest}} if not rest:
            return f"{op} {name} {{ {_value(element)} }}"
        case {"map": {"op": str(op), "elem": key, "data": data, "map": str(name), **rest}} if not rest:
            return f"{op} {name} {{ {_value(key)} : {_value(data)} }}"
        case str() if expression.startswith("update @"):
            # A statement that nft 1.0.6 has no JSON for comes as text.
            return _TIME.sub(_seconds, expression)
        case {"goto": {"target": str(target)}}:
            return f"goto {target}"
        case {"jump": {"target": str(target)}}:
            return f"jump {target}"
        case {"reject": {"type": "tcp reset", **rest}} if not rest:
            return "reject with tcp reset"
        case {"reject": None | {"type": "icmp" | "icmpv6", "expr": "port-unreachable"}}:
            return "reject"
        case {"return": None} | {"accept": None} | {"drop": None}:
            return str(next(iter(expression)))
        case _:
            return _unknown(expression)


def _verdicts(pairs: list[Json]) -> str:
    """The elements of an anonymous map in the order of their keys, which is not always the kernel's."""
    well_formed = all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)
    if not well_formed or not all(isinstance(key, int) for key, _ in pairs):
        return _unknown(pairs)
    ordered = sorted(pairs, key=lambda pair: pair[0])
    return ", ".join(f"{key} : {_statement(verdict)}" for key, verdict in ordered)


def _match(op: str, left: Json, right: Json) -> str:
    match left:
        case {"meta": {"key": "l4proto"}} if isinstance(right, int):
            right = _PROTOCOLS.get(right, right)
        case {"meta": {"key": key}} if key in _QUOTED and isinstance(right, str) and right[:1] != "@":
            right = f'"{right}"'
    relation = " " if op in {"==", "in"} else f" {op} "
    return f"{_value(left)}{relation}{_value(right)}"


def _value(value: Json) -> str:
    match value:
        case str() | int():
            return str(value)
        case {"concat": list(parts)}:
            return " . ".join(_value(part) for part in parts)
        case {"meta": {"key": str(key)}}:
            return key if key in _QUOTED else f"meta {key}"
        case {"payload": {"protocol": str(protocol), "field": str(field)}}:
            return f"{protocol} {field}"
        case {"fib": {"result": str(result), "flags": flags}}:
            names = flags if isinstance(flags, list) else [flags]
            return f"fib {' . '.join(names)} {result}"
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            return f"{address}/{length}"
        case {"elem": {"val": key, "timeout": int(timeout), **rest}} if not rest:
            return f"{_value(key)} timeout {timeout}s"
        case {"ct": {"key": str(key), "dir": str(direction)}}:
            return f"ct {direction} {key}"
        case {"ct": {"key": str(key)}}:
            return f"ct {key}"
        case {"map": {"key": key, "data": str(data)}}:
            return f"{_value(key)} map {data}"
        case {"jhash": {"mod": int(modulus), "seed": int(seed), "expr": hashed, **rest}} if set(rest) <= {
            "offset"
        }:
            of = f"mod {modulus} seed {seed:#x} offset {rest.get('offset', 0)}"
            return f"jhash {_value(hashed)} {of}"
        case {"numgen": {"mode": str(mode), "mod": int(modulus), **rest}} if set(rest) <= {"offset"}:
            return f"numgen {mode} mod {modulus} offset {rest.get('offset', 0)}"
        case _:
            return _unknown(value)


def _seconds(time: re.Match[str]) -> str:
    days, hours, minutes, seconds = (int(part or 0) for part in time.groups())
    return f"{((days * 24 + hours) * 60 + minutes) * 60 + seconds}s"


def _unknown(value: Json) -> str:
    return json.dumps(value, sort_keys=True)
