"""The one diff: what comes, what goes, in which order, and what that means for services."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.model import (
    Action,
    Change,
    EndpointChange,
    Family,
    Item,
    Lifted,
    LiftedService,
    Listener,
    Part,
    Plan,
    Program,
    Protocol,
    diff,
    diff_services,
    touched,
)

A, B, C, D = (Item((name,), "text", service=name) for name in "abcd")


def program(*items: Item) -> Program:
    return Program("lbctl", items)


def test_equal_programs_differ_in_nothing() -> None:
    assert diff(program(A, B), program(A, B)) == ()
    # The kernel lists in an order of its own.
    assert diff(program(A, B), program(B, A)) == ()


def test_what_comes_is_in_the_order_of_making_and_what_goes_in_the_reverse() -> None:
    assert diff(program(A, B), program(C, D)) == (
        Change(None, C),
        Change(None, D),
        Change(B, None),
        Change(A, None),
    )


def test_another_text_is_one_change() -> None:
    other = Item(("a",), "other", service="a")
    [change] = diff(program(A, B), program(other, B))
    assert (change.before, change.after) == (A, other)
    assert (change.item, change.key, change.service) == (other, ("a",), "a")


def test_the_owner_of_an_item_is_no_difference() -> None:
    """It is told by comments or derived, and one reader may know it where another does not."""
    assert diff(program(Item(("a",), "text")), program(A)) == ()


def test_a_change_has_an_item() -> None:
    assert Change(A, None).item is A
    with pytest.raises(ValueError, match="without items"):
        _ = Change(None, None).item


ITEMS = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("xyz"), max_size=6)


@given(ITEMS, ITEMS)
def test_carrying_out_a_diff_gives_the_other_program(old: dict[str, str], new: dict[str, str]) -> None:
    before, after = (program(*(Item((k,), v) for k, v in texts.items())) for texts in (old, new))
    held = dict(before.by_key)
    for change in diff(before, after):
        assert held.get(change.key) == change.before
        if change.after is None:
            del held[change.key]
        else:
            held[change.key] = change.after
    assert held == dict(after.by_key)
    assert {c.key for c in diff(after, before)} == {c.key for c in diff(before, after)}


#: Of each service two parts, of which a program has one.
PARTS = {
    name: tuple((Item((name,), text, name), Item((name, "more"), "text", name)) for text in "xy")
    for name in "abcdef"
}
PROGRAMS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 1), max_size=6).flatmap(
    lambda chosen: st.permutations([PARTS[name][which] for name, which in chosen.items()])
)


@given(PROGRAMS, PROGRAMS)
def test_parts_differ_as_their_items_do(old: list[Part], new: list[Part]) -> None:
    found = diff(Program("lbctl", parts=old), Program("lbctl", parts=new))
    flat = [program(*(item for part in parts for item in part)) for parts in (old, new)]
    assert found == diff(*flat)
    wanted = {part[0].service for part in (*old, *new) if not (part in old and part in new)}
    assert touched(found) == wanted


@given(PROGRAMS, st.sets(st.sampled_from("abcdef")))
def test_what_was_read_is_followed_as_what_was_compiled(parts: list[Part], names: set[str]) -> None:
    """Else the services of a kernel that a plan does not touch would seem to go."""
    shared = (Item(("shared",), "text"),)
    wanted = [*shared, *(item for part in parts for item in part if item.service in names)]
    compiled = Program("lbctl", parts=(shared, *parts))
    assert list(compiled.only(names).items) == wanted
    assert list(program(*compiled.items).only(names).items) == wanted


def lifted(name: str, *slots: str, port: int = 80, family: Family = Family.IPV4) -> LiftedService:
    return LiftedService(
        name=name,
        family=family,
        listener=Listener(protocol=Protocol.TCP, port=port),
        mode="nth",
        slots=slots,
        action="redirect",
    )


def half(to: str, before: int, after: int) -> EndpointChange:
    return EndpointChange(to=to, before=Fraction(before, 2), after=Fraction(after, 2))


def test_what_happens_to_services() -> None:
    before = Lifted(services=(lifted("a", "1", "2"), lifted("b", "1"), lifted("c", "1")))
    after = Lifted(services=(lifted("d", "1", "2"), lifted("c", "1"), lifted("a", "2", "3")))
    changes = (Change(A, A), Change(B, None), Change(None, D))
    found = diff_services(before, after, changes)
    assert [(s.name, s.action) for s in found] == [
        ("d", Action.ADD),
        ("c", Action.NONE),
        ("a", Action.CHANGE),
        ("b", Action.REMOVE),
    ]
    by_name = {s.name: s.endpoints for s in found}
    assert by_name["d"] == (half("1", 0, 1), half("2", 0, 1))
    assert by_name["a"] == (half("2", 1, 1), half("3", 0, 1), half("1", 1, 0))
    assert by_name["b"] == (half("1", 2, 0),)
    assert by_name["c"] == (half("1", 2, 2),)


def test_a_change_of_shared_items_is_nobodys() -> None:
    same = Lifted(services=(lifted("a", "1"),))
    [change] = diff_services(same, same, (Change(None, Item(("x",), "text")),))
    assert change.action is Action.NONE


def test_a_service_has_each_listener_once_though_it_is_lifted_in_two_families() -> None:
    after = Lifted(
        services=(
            lifted("a", "1"),
            lifted("a", "1", port=81),
            lifted("a", "1", family=Family.IPV6),
        )
    )
    [change] = diff_services(Lifted(), after, ())
    assert change.listeners == ("80/tcp", "81/tcp")
    assert change.endpoints == (half("1", 0, 2),)


def test_a_plan_without_changes_changes_nothing() -> None:
    empty = program()
    plan = Plan(backend="b", driver="d", before=empty, after=empty, changes=(), services=())
    assert not plan.changed
