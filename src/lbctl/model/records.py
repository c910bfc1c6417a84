"""What was written down as JSON, read back and checked like any other input: one reader, with types."""

from __future__ import annotations

import json
import math
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeAlias

from lbctl.errors import Damaged

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A type of JSON (`bool`, `int`, `float`, `str`), a union of such types, `[shape]` for a list of any length,
#: `(shape, shape)` for a list of just these, `{"key": shape}` for an object with just these keys.
Shape: TypeAlias = "type | UnionType | list[Shape] | tuple[Shape, ...] | dict[str, Shape]"


def read_record(
    text: str, shape: Shape, what: str = "", *, defaults: Mapping[str, object] | None = None
) -> Any:
    """Return the JSON value in a text; raise `Damaged` if it is none, or of another shape.

    `what` is named in the message. `defaults` has the keys that an object may lack, with their values.
    """
    try:
        value = json.loads(text)
        if defaults and type(value) is dict:
            value = {**defaults, **value}
        return check_record(value, shape)
    except (ValueError, RecursionError):
        fault = "not JSON"
    except Damaged as error:
        fault = error.message
    raise Damaged(f"{what} is damaged: {fault}" if what else fault)


def check_record(value: Any, shape: Shape, place: str = "") -> Any:
    """Return a value; raise `Damaged` if it is of another shape."""
    match shape:
        case list():
            for number, each in enumerate(_list(value, place)):
                check_record(each, shape[0], f"{place}[{number}]")
        case tuple():
            if len(_list(value, place)) != len(shape):
                raise Damaged(f"{_named(place)}not a list of {len(shape)}")
            for number, (each, wanted) in enumerate(zip(value, shape, strict=True)):
                check_record(each, wanted, f"{place}[{number}]")
        case dict():
            if type(value) is not dict:
                raise Damaged(f"{_named(place)}not an object")
            if odd := sorted(value.keys() ^ shape.keys()):
                raise Damaged(f"{_named(place)}{'missing' if odd[0] in shape else 'unknown'} key {odd[0]!a}")
            for key, wanted in shape.items():
                check_record(value[key], wanted, f"{place}.{key}".removeprefix("."))
        case _:
            _check_scalar(value, shape, place)
    return value


def _list(value: Any, place: str) -> list[Any]:
    if type(value) is not list:
        raise Damaged(f"{_named(place)}not a list")
    return value


def _check_scalar(value: Any, shape: type | UnionType, place: str) -> None:
    kinds = shape.__args__ if isinstance(shape, UnionType) else (shape,)
    if type(value) in kinds or (type(value) is int and float in kinds):
        if float in kinds and type(value) in {int, float} and not _is_finite(value):
            raise Damaged(f"{_named(place)}not a finite number")
        return
    names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
    raise Damaged(f"{_named(place)}not of type {names}")


def _is_finite(value: float) -> bool:
    """Return False for what JSON does not have but Python reads, and for integers beyond any float."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _named(place: str) -> str:
    return f"{place}: " if place else ""
