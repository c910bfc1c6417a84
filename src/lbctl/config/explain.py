"""What pydantic found, in words: each of its errors becomes a message and a hint.

Imported only where a document has a mistake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lbctl.config import access
from lbctl.config.agent import AgentTable
from lbctl.config.checks import CheckTable, HealthTable
from lbctl.config.discover import DiscoverTable
from lbctl.config.follow import FollowTable
from lbctl.config.schema import MAX_SEED, EndpointTable, IntentTable, ServiceTable
from lbctl.config.values import InvalidValue, nearest, show, show_key
from lbctl.config.words import key_hint
from lbctl.model import MAX_WEIGHT

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from lbctl.config.table import TableModel
    from lbctl.config.values import Place

_MISSING = {
    "schema": "write `schema = 1` on the first line",
    "name": 'give the service a name of its own, like `name = "web"`',
    "listen": 'write where it is reached: `listen = "80/tcp"`',
    "address": 'write where connections go: `address = "10.0.0.11:8443"` or `address = "8001"`',
}
_LISTS = {
    "service": "each service is a table of its own, opened with [[service]] in double brackets",
    "endpoint": "a list of addresses is the key `endpoints`; each [[service.endpoint]] is a table of its own",
    "endpoints": 'write a list: `endpoints = ["8001", "8002"]`',
    "allow": 'write a list: `allow = ["198.51.100.0/24"]`',
    "deny": 'write a list: `deny = ["203.0.113.7"]`',
    "interfaces": 'write a list: `interfaces = ["eth0"]`',
    "exclude": 'write a list: `exclude = ["203.0.113.11"]`',
    "check": 'write `check = "tcp"`, or a table opened with [service.check]',
    "health": "write a table, opened with [service.health]",
    "offload": 'write a list: `offload = ["eth0", "eth1"]`',
    "agent": "write a table, opened with [agent]",
    "discover": "write a table, opened with [service.discover]",
    **{key: f"write a table, opened with [{key}]" for key in (*access.TABLES, "follow")},
    "listen-within": 'write a list: `listen-within = ["192.0.2.0/24"]`',
    "endpoints-within": 'write a list: `endpoints-within = ["10.0.0.0/8"]`',
    "within": 'write a list: `within = ["10.0.0.0/8"]`',
}
#: What an empty list would mean, and what to write instead.
_EMPTY_LISTS = {
    "allow": ("no client would be served", "leave `allow` out to serve all"),
    "deny": ("no client is refused", "leave `deny` out"),
    "interfaces": ("no connection would be balanced", "leave `interfaces` out to balance those of all"),
    "exclude": ("no address is left alone", "leave `exclude` out"),
    "listen-within": ("no listener would be accepted", "name the networks of the listeners"),
    "endpoints-within": ("no endpoint would be accepted", "name the networks of the endpoints"),
    "offload": ("no connection would be offloaded", "leave `offload` out"),
    "within": ("no address would be right", "leave `within` out for the default"),
}
_RANGES = {
    "weight": (1, MAX_WEIGHT, "weights are relative, like 1, 2 and 3"),
    "seed": (0, MAX_SEED, "leave it out for one that is derived from the name"),
}
_TABLES: tuple[tuple[type[TableModel], str], ...] = (
    (IntentTable, "the top of the file, above the first [[service]]"),
    (ServiceTable, "its [[service]], above the first [[service.endpoint]]"),
    (EndpointTable, "a [[service.endpoint]]"),
    (CheckTable, "a [service.check]"),
    (HealthTable, "a [service.health]"),
    (AgentTable, "the [agent] table"),
    (DiscoverTable, "a [service.discover]"),
    *((table, f"the [{key}] table") for key, (table, _) in access.TABLES.items()),
    (FollowTable, "the [follow] table"),
)


def explain(error: ErrorDetails) -> tuple[str, str]:
    """Message and hint of one of pydantic's errors; its place is `place_of(error)`."""
    place = place_of(error)
    value: object = error["input"]
    key = next((str(part) for part in reversed(place) if isinstance(part, str)), "")
    match error["type"]:
        case "value_error":
            cause = error.get("ctx", {}).get("error")
            if isinstance(cause, InvalidValue):
                return _named(place, cause.message), cause.hint
        case "missing":
            hint = "add it" if {"discover", "follow"} & set(place) else _MISSING.get(key, "add it")
            return f"`{key}` is missing", hint
        case "extra_forbidden":
            return f"unknown key {show_key(key)}", _unknown(place, key)
        case "list_type":
            return f"`{key}` is {show(value)}, not a list", _LISTS.get(key, "write a list in [ ]")
        case "too_short":
            effect, hint = _EMPTY_LISTS[key]
            return f"`{key}` is empty: {effect}", hint
        case "too_long":
            most = error["ctx"]["max_length"]
            many = 'a name that ends in *, like "ppp*", is many'
            hint = "name those of clients and endpoints" if key == "offload" else many
            return f"`{key}` has more than {most} entries", hint
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"`{key}` holds {show(value)}, not a table", _LISTS.get(key, "write a table")
        case "bool_type":
            return f"`{key}` is {show(value)}, not true or false", "write true or false, without quotes"
        case _ if key in _RANGES:
            low, high, hint = _RANGES[key]
            if key == "weight" and type(value) is int and value == 0:
                hint = '`state = "drain"` keeps an endpoint from new connections'
            return f"{key} {show(value)} is not a whole number from {low} to {high}", hint
    return f"`{key}`: {show(value)} cannot be used", str(error["msg"])


def place_of(error: ErrorDetails) -> Place:
    """Return where an error is in the document: without the shape of an entry, which pydantic names too."""
    place: Place = error["loc"]
    match place:
        case ("service", int(), "endpoints", int(), "text" | "table", *_):
            return (*place[:4], *place[5:])
    return place


def _named(place: Place, message: str) -> str:
    """Names and addresses say what they are of."""
    match place:
        case ("service", int(), "name"):
            return f"the service name {message}"
        case ("service", int(), "endpoint" | "endpoints", int(), "name"):
            return f"the endpoint name {message}"
        case ("service", int(), "endpoint" | "endpoints", int(), "address"):
            return f"address {message.removeprefix('endpoint ')}"
    return message


def _unknown(place: Place, key: str) -> str:
    table = _table(place)
    known = [alias for field in table.model_fields.values() if (alias := field.alias)]
    for other, where in _TABLES:
        if other is not table and any(field.alias == key for field in other.model_fields.values()):
            return f"`{key}` belongs to {where}"
    if hint := key_hint(key, known):
        return hint
    near = nearest(key.lower().replace("_", "-"), known)
    listed = ", ".join(f"`{word}`" for word in known)
    return f"did you mean `{near}`?" if near else f"known here: {listed}"


def _table(place: Place) -> type[TableModel]:
    """Return the table that a key is in."""
    match place:
        case ("service", int(), "check", _, *_):
            return CheckTable
        case ("service", int(), "health", _, *_):
            return HealthTable
        case ("agent", _, *_):
            return AgentTable
        case ("service", int(), "discover", _, *_):
            return DiscoverTable
        case (str(key), _, *_) if key in access.TABLES:
            return access.TABLES[key][0]
        case ("follow", _, *_):
            return FollowTable
    depth = sum(1 for part in place if isinstance(part, int))
    return _TABLES[min(depth, 2)][0]


def without(raw: dict[str, Any], errors: list[Place]) -> tuple[dict[str, Any], frozenset[str]]:
    """Return a service's table without its mistakes, and the keys that lost something.

    What is left is valid, so that checks across values and services can still run on it. A name or listener
    that must be there gets a stand-in, for the checks to leave alone: its key is among those that lost
    something, and the stand-in of `listen` is a text where the rest of a list is one.
    """
    damaged = {str(place[0]) for place in errors if place}
    entries = {place[:2] for place in errors if len(place) > 1 and isinstance(raw.get(str(place[0])), list)}
    whole = {str(place[0]) for place in errors if place and place[:2] not in entries}
    kept: dict[str, Any] = {"name": "x", "listen": "1/tcp"}
    for key, value in raw.items():
        if key in whole:
            continue
        if key in damaged:
            rest = [entry for i, entry in enumerate(value) if (key, i) not in entries]
            if rest:
                kept[key] = rest
        else:
            kept[key] = value
    return kept, frozenset(damaged)
