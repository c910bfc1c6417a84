"""What changes from one intent to another, key by key: one comparison of any two services.

The keys are those of the intent file. They come from the fields of `Service` and `Endpoint`, so that a new
field is compared without a word here.
"""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias

from lbctl.model.check import Check
from lbctl.model.discovery import Discovery
from lbctl.model.kinds import State
from lbctl.model.text import duration
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lbctl.model.endpoints import Endpoint
    from lbctl.model.intent import Intent, Service

#: A value as the intent file has it; None where the key is not given, and () never: an empty list is None.
Value: TypeAlias = str | int | bool | tuple[str, ...] | None

#: Fields that have another name in the file; others differ by the dash alone.
_KEYS = {"listeners": "listen"}
#: Fields whose own fields stand in the file where the field itself would.
_INLINE = frozenset({"probe", "tls"})
#: What stands in no file, or is compared by itself.
_LEFT_OUT = frozenset({"name", "endpoints", "limits", "hops", "deals"})
#: Lists whose order has a meaning: round robin takes endpoints in it.
_ORDERED = frozenset({"endpoints"})
#: Numbers of seconds, and of milliseconds.
_SECONDS = frozenset({"affinity"})
_MILLISECONDS = frozenset(
    {"check.interval", "check.fast-interval", "check.timeout", "check.hold", "health.slow-start"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """One key with its values on both sides; that of an endpoint (`Endpoint.to`), else of the service.

    `service` is the key of a whole service that is added (`before` is None) or removed.
    """

    key: str
    before: Value
    after: Value
    endpoint: str | None = None


def service_changes(before: Service, after: Service) -> tuple[KeyChange, ...]:
    """Return the keys in which two services differ, those of the service first; () for equal ones.

    Endpoints on both sides are compared by what they are sent connections as (`Endpoint.to`).
    """
    if before is after or before == after:
        return ()
    found = list(_differences(_settings(before), _settings(after)))
    old = {endpoint.to: endpoint for endpoint in before.endpoints}
    for endpoint in after.endpoints:
        was = old.get(endpoint.to)
        if was is not None and was != endpoint:
            found += _differences(_own(was), _own(endpoint), endpoint=endpoint.to)
    return tuple(found)


def given_settings(service: Service) -> tuple[KeyChange, ...]:
    """Return the keys of a service that are not at their defaults, beside its listeners and endpoints.

    Of the endpoints, those with a state of their own; shares show their weights. () for most services, which
    takes no more than a look at each field.
    """
    found: list[KeyChange] = []
    for field in fields(service):
        value, default = getattr(service, field.name), field.default
        if default is not MISSING and field.name not in _LEFT_OUT and value != default:
            found += _differences(
                dict(_entries("", field.name, default)), dict(_entries("", field.name, value))
            )
    found += [
        KeyChange(key="state", before=str(State.ACTIVE), after=str(endpoint.state), endpoint=endpoint.to)
        for endpoint in service.endpoints
        if endpoint.state is not State.ACTIVE
    ]
    return tuple(found)


def intent_changes(before: Intent, after: Intent) -> Mapping[str, tuple[KeyChange, ...]]:
    """Return the changed keys of each service that differs, by its name; those of `after` come first."""
    old = {service.name: service for service in before.services}
    new = {service.name: service for service in after.services}
    found: dict[str, tuple[KeyChange, ...]] = {}
    for name in dict.fromkeys((*new, *old)):
        was, will = old.get(name), new.get(name)
        if was is None or will is None:
            found[name] = (
                KeyChange(key="service", before=name if was else None, after=name if will else None),
            )
        elif changes := service_changes(was, will):
            found[name] = changes
    return found


def _differences(
    before: Mapping[str, Value], after: Mapping[str, Value], *, endpoint: str | None = None
) -> Iterator[KeyChange]:
    for key in dict.fromkeys((*after, *before)):
        table = key.partition(".")[0]
        # A check that is added or removed is one change, whatever is in it.
        if table != key and any(table in side and side[table] is None for side in (before, after)):
            continue
        was, will = before.get(key), after.get(key)
        if _compared(key, was) != _compared(key, will):
            yield KeyChange(key=key, before=was, after=will, endpoint=endpoint)


def _compared(key: str, value: Value) -> object:
    return frozenset(value) if isinstance(value, tuple) and key not in _ORDERED else value


def _settings(service: Service) -> dict[str, Value]:
    """Return the keys of a service itself; of its endpoints, only which there are."""
    endpoints = tuple(endpoint.to for endpoint in service.endpoints)
    return {"check": None, **dict(_flat("", service)), "endpoints": endpoints}


def _own(endpoint: Endpoint) -> dict[str, Value]:
    """Return the keys of an endpoint besides its address."""
    return {
        "name": endpoint.name,
        "weight": endpoint.weight,
        "state": str(endpoint.state),
        "mac": endpoint.mac or None,
    }


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Value]]:
    """Yield the fields of a dataclass as keys of the file: `check.interval` for one in another."""
    for field in fields(value):
        if prefix or field.name not in _LEFT_OUT:
            yield from _entries(prefix, field.name, getattr(value, field.name))


def _entries(prefix: str, name: str, value: Any) -> Iterator[tuple[str, Value]]:
    """Yield one field as keys of the file."""
    key = f"{prefix}{_KEYS.get(name, name.replace('_', '-'))}"
    if not is_dataclass(value):
        yield key, _value(key, value)
    elif name in _INLINE:
        yield from _flat(prefix, value)
    else:
        if isinstance(value, Check):
            yield key, str(value.kind)
        elif isinstance(value, Discovery):
            yield key, str(value)
        yield from _flat(f"{key}.", value)


def _value(key: str, value: Any) -> Value:
    if value is None or value == ():
        return None
    if isinstance(value, tuple):
        return tuple(_address(str(each)) for each in value)
    if isinstance(value, Fraction):
        return f"{float(value):.0%}"
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if key in _SECONDS:
        return duration(value)
    if key in _MILLISECONDS:
        return f"{value}ms" if value % 1000 else duration(value // 1000)
    return value if type(value) in {bool, int} else str(value)


def _address(text: str) -> str:
    """Return a network of one address as that address, as the file has it."""
    return text.removesuffix("/32" if ":" not in text else "/128")
