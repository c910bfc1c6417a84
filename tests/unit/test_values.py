"""The decorator of values makes what that of the standard library makes."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

import pytest

import lbctl
from lbctl import values
from support.network import intent, service

BACKENDS = Path(__file__).parents[2] / "backends"


def _classes(dataclass: Callable[..., Any]) -> tuple[type, ...]:
    """The same classes, made by one decorator or the other."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Value:
        """Fields of all kinds."""

        name: str
        size: int = 1
        parts: Mapping[str, int] = field(default_factory=dict)
        secret: str = field(default="x", repr=False, compare=False)
        length: int = field(init=False, repr=False, compare=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "length", len(self.name))

    @dataclass(frozen=True, slots=True)
    class Pair:
        """Fields by place."""

        first: int
        second: tuple[int, ...] = ()

    @dataclass(frozen=True)
    class One:
        """One field, and no slots."""

        only: float

    @dataclass(frozen=True, slots=True)
    class Nothing:
        """No field."""

    @dataclass(frozen=True, slots=True)
    class Own:
        """With methods of its own."""

        text: str

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Own) and self.text.lower() == other.text.lower()

        def __repr__(self) -> str:
            return f"<{self.text}>"

    return Value, Pair, One, Nothing, Own


STANDARD, OURS = _classes(dataclasses.dataclass), _classes(values.dataclass)
NAN = float("nan")
CALLS: tuple[tuple[int, tuple[Any, ...], dict[str, Any]], ...] = (
    (0, (), {"name": "a"}),
    (0, (), {"name": "a", "size": 2, "parts": (), "secret": "y"}),
    (0, (), {"name": "a", "size": 2, "parts": (), "secret": "z"}),
    (1, (1,), {}),
    (1, (1, (2,)), {}),
    (1, (1,), {"second": (2,)}),
    (2, (NAN,), {}),
    (2, (1.0,), {}),
    (3, (), {}),
    (4, ("A",), {}),
    (4, ("a",), {}),
)
MISTAKES: tuple[tuple[int, tuple[Any, ...], dict[str, Any]], ...] = (
    (0, ("a",), {}),
    (0, (), {}),
    (0, (), {"name": "a", "length": 1}),
    (1, (), {}),
    (1, (1, (), 3), {}),
    (3, (1,), {}),
)


def _made(classes: tuple[type, ...]) -> list[Any]:
    return [classes[which](*places, **names) for which, places, names in CALLS]


def test_values_look_and_compare_alike() -> None:
    standard, ours = _made(STANDARD), _made(OURS)
    assert list(map(repr, ours)) == list(map(repr, standard))
    assert [dataclasses.astuple(each) for each in ours] == [dataclasses.astuple(each) for each in standard]
    assert [[a == b for b in ours] for a in ours] == [[a == b for b in standard] for a in standard]
    assert ours[3] != standard[3]
    assert ours[3].__eq__(1) is NotImplemented


def test_equal_values_have_equal_hashes() -> None:
    ours = _made(OURS)
    assert hash(ours[1]) == hash(ours[2])
    assert len({ours[3], ours[4], ours[5], ours[8]}) == 3
    with pytest.raises(TypeError, match="unhashable type: 'dict'"):
        hash(ours[0])


def _signature(made: type) -> list[tuple[object, ...]]:
    """The parameters of a class, without what stands for a default that is made anew."""
    return [
        (p.name, p.kind, p.annotation, p.default if isinstance(p.default, int | str | tuple) else None)
        for p in inspect.signature(made).parameters.values()
    ]


def test_classes_look_alike() -> None:
    for standard, ours in zip(STANDARD, OURS, strict=True):
        assert _signature(ours) == _signature(standard)
        assert ours.__match_args__ == standard.__match_args__  # type: ignore[attr-defined]
        assert getattr(ours, "__slots__", None) == getattr(standard, "__slots__", None)
        assert ours.__doc__ == standard.__doc__


@pytest.mark.parametrize(("which", "places", "names"), MISTAKES)
def test_the_same_calls_are_mistakes(which: int, places: tuple[Any, ...], names: dict[str, Any]) -> None:
    with pytest.raises(TypeError) as standard:
        STANDARD[which](*places, **names)
    with pytest.raises(TypeError) as ours:
        OURS[which](*places, **names)
    assert str(ours.value) == str(standard.value)


def test_a_value_cannot_be_changed() -> None:
    pair = OURS[1](1)
    for change in (
        lambda: setattr(pair, "first", 2),
        lambda: setattr(pair, "third", 2),
        lambda: delattr(pair, "first"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()
    assert dataclasses.replace(pair, first=2) == OURS[1](2)


def test_values_are_copied_and_pickled() -> None:
    for value in _made(OURS):
        assert copy.copy(value) == value
    assert copy.deepcopy(OURS[0](name="abc")).length == 3
    [endpoint] = lbctl.loads(intent(service("web", "80/tcp", "8001"))).service("web").endpoints
    assert pickle.loads(pickle.dumps(endpoint)) == endpoint


def test_each_default_is_made_anew() -> None:
    first, second = OURS[0](name="a"), OURS[0](name="a")
    assert first.parts == second.parts == {}
    assert first.parts is not second.parts


def test_other_classes_are_the_standard_librarys() -> None:
    @values.dataclass(slots=True, kw_only=True)
    class Changing:
        """No value."""

        count: int = 0

    changing = Changing()
    changing.count += 1
    assert changing == Changing(count=1)

    @values.dataclass(frozen=True, slots=True, order=True)
    class Ordered:
        """With an order."""

        number: int

    assert Ordered(1) < Ordered(2)


def test_all_values_are_made_by_it() -> None:
    sources = [*Path(lbctl.__file__).parent.rglob("*.py"), *BACKENDS.rglob("*.py")]
    others = [path for path in sources if "dataclasses import dataclass" in path.read_text("utf-8")]
    assert others == []
