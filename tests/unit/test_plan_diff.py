"""The one diff: what comes, what goes, in which order, and what that means for services."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, strategies as st

from lbctl.model import (
    Action,
    Change,
    Family,
    FamilyListener,
    Item,
    LiftedProgram,
    LiftedService,
    Listener,
    Part,
    Plan,
    Program,
    Protocol,
    ServiceChange,
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


def lifted(name: str, *slots: str | None, port: int = 80, family: Family = Family.IPV4) -> LiftedService:
    return LiftedService(
        name=name,
        family=family,
        listener=Listener(protocol=Protocol.TCP, port=port),
        mode="nth",
        slots=slots,
        action="redirect",
    )


V4, V6 = Family.IPV4, Family.IPV6


def endpoint_rows(change: ServiceChange, family: Family = V4) -> dict[str, tuple[Fraction | None, ...]]:
    """Endpoint → its share before and after, in halves."""
    return {
        each.to: tuple(None if share is None else 2 * share for share in each.in_family(family))
        for each in change.endpoints
        if family in each.families
    }


def test_what_happens_to_services() -> None:
    before = LiftedProgram(services=(lifted("a", "1", "2"), lifted("b", "1"), lifted("c", "1")))
    after = LiftedProgram(services=(lifted("d", "1", "2"), lifted("c", "1"), lifted("a", "2", "3")))
    changes = (Change(A, A), Change(B, None), Change(None, D))
    found = diff_services(before, after, changes)
    assert [(s.name, s.action) for s in found] == [
        ("d", Action.ADD),
        ("c", Action.NONE),
        ("a", Action.CHANGE),
        ("b", Action.REMOVE),
    ]
    by_name = {s.name: endpoint_rows(s) for s in found}
    assert by_name["d"] == {"1": (0, 1), "2": (0, 1)}
    assert list(by_name["a"].items()) == [("2", (1, 1)), ("3", (0, 1)), ("1", (1, 0))]
    assert by_name["b"] == {"1": (2, 0)}
    assert by_name["c"] == {"1": (2, 2)}


def test_a_lost_family_is_lost_in_that_family_only() -> None:
    both = (lifted("a", "1", "2"), lifted("a", "1", "2", family=V6))
    [change] = diff_services(
        LiftedProgram(services=both[1:]), LiftedProgram(services=both), (Change(None, A),)
    )
    assert change.action is Action.CHANGE
    assert change.unbalanced_before == (FamilyListener(V4, both[0].listener),)
    assert change.unbalanced_after == ()
    assert endpoint_rows(change, V4) == {"1": (0, 1), "2": (0, 1)}
    assert endpoint_rows(change, V6) == {"1": (1, 1), "2": (1, 1)}


def test_addresses_have_a_share_in_their_own_family_only() -> None:
    both = (lifted("a", "10.0.0.1:80"), lifted("a", "[2001:db8::1]:80", "[2001:db8::2]:80", family=V6))
    [change] = diff_services(LiftedProgram(), LiftedProgram(services=both), ())
    assert endpoint_rows(change, V4) == {"10.0.0.1:80": (0, 2)}
    assert endpoint_rows(change, V6) == {"[2001:db8::1]:80": (0, 1), "[2001:db8::2]:80": (0, 1)}


def test_a_lost_listener_is_named_and_changes_no_share_of_the_others() -> None:
    both = (lifted("a", "1", "2"), lifted("a", "1", "2", port=81))
    for lost in ((), (lifted("a", None, port=81),)):
        before = LiftedProgram(services=(both[0], *lost))
        [change] = diff_services(before, LiftedProgram(services=both), (Change(None, A),))
        assert change.unbalanced_before == (FamilyListener(V4, both[1].listener),)
        assert endpoint_rows(change) == {"1": (1, 1), "2": (1, 1)}
        [change] = diff_services(LiftedProgram(services=both), before, (Change(A, None),))
        assert change.unbalanced_after == (FamilyListener(V4, both[1].listener),)


def test_listeners_that_disagree_have_no_common_share() -> None:
    before = LiftedProgram(services=(lifted("a", "1", "2"), lifted("a", "1", port=81)))
    after = LiftedProgram(services=(lifted("a", "1", "2"), lifted("a", "1", "2", port=81)))
    [change] = diff_services(before, after, (Change(A, A),))
    assert endpoint_rows(change) == {"1": (None, 1), "2": (None, 1)}


def test_rules_that_are_not_understood_have_no_known_share() -> None:
    lost = replace(lifted("a"), mode="unknown")
    after = LiftedProgram(services=(lifted("a", "1", "2"),))
    [change] = diff_services(LiftedProgram(services=(lost,)), after, (Change(A, A),))
    # Perhaps they balance: who says that they do not would be inventing it.
    assert change.unbalanced_before == ()
    assert endpoint_rows(change) == {"1": (None, 1), "2": (None, 1)}


def test_a_change_of_shared_items_is_nobodys() -> None:
    same = LiftedProgram(services=(lifted("a", "1"),))
    [change] = diff_services(same, same, (Change(None, Item(("x",), "text")),))
    assert change.action is Action.NONE


def test_a_service_has_each_listener_once_though_it_is_lifted_in_two_families() -> None:
    after = LiftedProgram(
        services=(
            lifted("a", "1"),
            lifted("a", "1", port=81),
            lifted("a", "1", family=Family.IPV6),
        )
    )
    [change] = diff_services(LiftedProgram(), after, ())
    assert change.listeners == ("80/tcp", "81/tcp")
    assert endpoint_rows(change, V4) == endpoint_rows(change, V6) == {"1": (0, 2)}


def test_a_plan_without_changes_changes_nothing() -> None:
    empty = program()
    plan = Plan(backend="b", driver="d", before=empty, after=empty, changes=(), services=())
    assert not plan.changed
