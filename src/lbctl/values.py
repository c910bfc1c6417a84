"""The decorator of values: `dataclasses.dataclass`, for a quarter of the time at import.

A short command imports a hundred classes of values. For each, the standard library compiles six functions,
half a millisecond (Python 3.11; 3.13 compiles them together, in half of that). Here values share all of them
but the constructor. What a class is to its users stays: its fields, equality, hash, representation, copies
and patterns.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from dataclasses import Field, dataclass as dataclass
else:

    def dataclass(*, frozen: bool = False, slots: bool = False, kw_only: bool = False, **others: bool):
        """Return the decorator; see `dataclasses.dataclass`."""
        if not frozen or others:
            return dataclasses.dataclass(frozen=frozen, slots=slots, kw_only=kw_only, **others)
        bare = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots, kw_only=kw_only)
        return lambda cls: _complete(bare(cls))


def _complete(cls: type) -> type:
    """Add to a class with its fields what they need to be values, except for what it defines itself."""
    fields = dataclasses.fields(cls)
    own = vars(cls)
    methods: dict[str, Callable[..., Any]] = {
        "__init__": _constructor(cls, fields),
        "__repr__": _represent,
        "__setattr__": _refuse_change,
        "__delattr__": _refuse_change,
        "__getstate__": _state,
        "__setstate__": _restore,
        **_comparison([each.name for each in fields if each.compare]),
    }
    for name, method in methods.items():
        # Python itself has None for the hash of a class that defines its equality.
        if own.get(name) is None:
            setattr(cls, name, method)
    return cls


def _constructor(cls: type, fields: Sequence[Field[Any]]) -> Callable[..., None]:
    """Return the `__init__` of a class."""
    known: dict[str, Any] = {"_set_": object.__setattr__, "_absent_": dataclasses.MISSING}
    positional: list[str] = []
    keywords: list[str] = []
    body: list[str] = []
    for field in fields:
        name, value = field.name, field.name
        parameter = name
        if field.default is not dataclasses.MISSING:
            known[f"_{name}_"] = field.default
            parameter = f"{name}=_{name}_"
        elif field.default_factory is not dataclasses.MISSING:
            known[f"_{name}_"] = field.default_factory
            parameter, value = f"{name}=_absent_", f"_{name}_() if {name} is _absent_ else {name}"
        if field.init:
            (keywords if field.kw_only else positional).append(parameter)
            body.append(f" _set_(self, {name!r}, {value})")
    if keywords:
        keywords.insert(0, "*")
    if hasattr(cls, "__post_init__"):
        body.append(" self.__post_init__()")
    source = f"def __init__({', '.join(['self', *positional, *keywords])}):\n" + ("\n".join(body) or " pass")
    exec(source, known)  # noqa: S102 (names of fields)
    made: Callable[..., None] = known["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    made.__annotations__ = {each.name: each.type for each in fields if each.init} | {"return": None}
    return made


def _comparison(names: Sequence[str]) -> dict[str, Callable[..., Any]]:
    """Return the methods that compare the fields of two values."""

    def few(self: object) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in names)

    # Faster, but no tuple for one name.
    compared: Callable[[object], tuple[Any, ...]] = attrgetter(*names) if len(names) > 1 else few

    def equal(self: object, other: object) -> bool:
        return compared(self) == compared(other) if other.__class__ is self.__class__ else NotImplemented

    return {"__eq__": equal, "__hash__": lambda self: hash(compared(self))}


def _represent(self: Any) -> str:
    shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self) if f.repr)
    return f"{type(self).__qualname__}({shown})"


def _refuse_change(_self: object, name: str, *_: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot change field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, each.name) for each in dataclasses.fields(self)]


def _restore(self: Any, state: list[Any]) -> None:
    for each, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, each.name, value)
