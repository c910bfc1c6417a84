"""Laws of what sources read: a spoilt answer is one kind of error, and what is taken is plainly endpoints."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, TypeVar

import pytest
from hypothesis import given, strategies as st

from lbctl.agent.sources import Answer, SourceFailed, consul, docker, etcd, file as file_source, strict
from lbctl.agent.sources.kubernetes import SliceQuery
from lbctl.model import (
    NAME,
    Discovery,
    Endpoint,
    Intent,
    Listener,
    Protocol,
    Service,
    State,
    WeightOwner,
    parse_endpoint,
)
from lbctl.model.answer import merged, problem
from support.sources import container, endpoint_slice, instance

T = TypeVar("T")
A = Endpoint(address=ip_address("10.0.0.1"), port=8080, weight=3)
B = Endpoint(address=ip_address("10.0.0.2"), port=8080, state=State.DRAIN)
GROUPS = [{"targets": ["10.0.0.1:80", "[2001:db8::1]:80"], "labels": {"weight": "2", "state": "active"}}]
KEYS = {"/services/api/a": '{"address": "10.0.0.1:80", "weight": 2}', "/services/api/b": "10.0.0.2:80"}
SERVICE = Service(
    name="web",
    listeners=(Listener(protocol=Protocol.TCP, port=80),),
    endpoints=(Endpoint(address=ip_address("10.0.0.9"), port=80, name="a"),),
    discover=Discovery(source="file", name="/run/x.json", weight=WeightOwner.SOURCE),
)

TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            "10.0.0.1",
            "10.0.0.01:80",
            "::1",
            "2001:db8::1%x",
            "running",
            "paused",
            "80",
            "0",
            "-1",
            "1e3",
            "true",
        ]
    ),
)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 70_000), st.integers(), st.floats(allow_nan=False), TEXTS
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all that is in a document."""
    inner: list[tuple[Any, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [path, *(found for key, each in inner for found in places(each, (*path, key)))]


@st.composite
def spoilt(draw: st.DrawFn, document: Any) -> Any:
    """Draw a document in which up to three parts are other values, missing or there twice."""
    found = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(found)))
        if not path:
            return draw(VALUES)
        outer = found
        for key in path[:-1]:
            outer = outer[key]
        match draw(st.sampled_from(["replace", "drop", "double"])):
            case "drop":
                del outer[path[-1]]
            case "double" if isinstance(outer, list):
                outer.append(copy.deepcopy(outer[path[-1]]))
            case _:
                outer[path[-1]] = draw(VALUES)
    return found


def _etcd(keys: Any) -> Answer:
    if not isinstance(keys, dict):
        raise SourceFailed("no keys")
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in keys.items()}
    return etcd._answer("/services/api/", texts)


READERS: dict[str, tuple[Any, Callable[[Any], Answer]]] = {
    "docker": ([container(A, 1), container(B, 2)], docker.parse),
    "consul": ([instance(A, 1), instance(B, 2)], consul.parse),
    "kubernetes": (
        {
            "a": endpoint_slice("a", A, B),
            "b": endpoint_slice("b", Endpoint(address=ip_address("::5"), port=1)),
        },
        lambda found: SliceQuery.of("api:http", "shop").endpoints(found if isinstance(found, dict) else {}),
    ),
    "file": (GROUPS, lambda found: file_source.parse(json.dumps(found).encode())),
    "etcd": (KEYS, _etcd),
}


def outcome(work: Callable[[], T]) -> T | str:
    """Return what `work` returns, or the message with which it fails."""
    try:
        return work()
    except SourceFailed as error:
        return str(error)


@pytest.mark.parametrize("source", READERS)
@given(data=st.data())
def test_a_spoilt_answer_is_an_error_or_plainly_endpoints(source: str, data: st.DataObject) -> None:
    document, read = READERS[source]
    read(document)
    found = data.draw(spoilt(document))
    answer = outcome(lambda: read(found))
    if isinstance(answer, str):
        assert len(answer) < 500
        assert answer.isascii()
        return
    for each in answer:
        plain = parse_endpoint(each.to)
        assert (plain.address, plain.port) == (each.address, each.port)
        assert "%" not in each.to
        assert each.name == each.to or NAME.match(each.name)
    wrong = problem(Intent(services=(SERVICE,)), SERVICE, answer, local=True)
    if wrong is None:
        joined = merged(SERVICE, answer)
        assert len({each.to for each in joined.endpoints}) == len(joined.endpoints)
        assert len({each.name for each in joined.endpoints}) == len(joined.endpoints)
        for family in joined.families:
            assert sum(joined.shares(family).values()) in (0, 1)


@given(VALUES)
def test_strict_json_reads_what_json_writes(value: object) -> None:
    try:
        text = json.dumps(value, allow_nan=False).encode()
    except ValueError:
        return
    assert strict.document(text) == value


@given(st.binary(max_size=200))
def test_no_bytes_are_another_error(data: bytes) -> None:
    found = outcome(lambda: strict.document(data))
    assert not isinstance(found, str) or "is not JSON" in found or data.strip().startswith(b'"')
