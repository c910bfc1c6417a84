"""Migrations between two stores in memory: all that can go wrong, at each step, without a kernel."""

from __future__ import annotations

import pytest

from lbctl import engine
from lbctl.errors import ApplyFailed, LbctlError, Stale, StateUnknown
from support.desk import FIRST, LAST, STORIES, Rules, Story, read_intent
from support.network import service

each_story = pytest.mark.parametrize("story", STORIES, ids=str)
#: No story has more effects.
MANY = 60
#: A rule that another process adds.
NEW = "ipv4 any:24/tcp drop"


@each_story
def test_services_migrate_and_return(story: Story) -> None:
    desk = story.desk()
    before, actions = desk.rules, desk.actions
    planned = desk.planned(story.target)
    assert desk.rules == before
    assert engine.run_migration(planned.target, planned) == ()
    after = desk.rules
    assert after[story.source] == ((), (FIRST, LAST))
    assert {text.split()[0] for text in after[story.target].managed} == (
        {"[lbctl/tcp-80]", "[lbctl/udp-53]"} if story.foreign else {"[lbctl/web]", "[lbctl/kept]"}
    )
    assert after[story.target].foreign == before[story.target].foreign
    assert desk.actions == [*actions, "migrate"]
    assert desk.holds_what_is_on_record
    again = desk.plan(story.target)
    assert again is None or not again.changed
    desk.roll_back()
    assert (desk.rules, desk.actions[-1]) == (before, "rollback")


def test_an_endpoint_drained_by_command_stays_drained_in_another_store() -> None:
    desk = STORIES[0].desk()
    engine.operate(engine.drain(desk.session("left"), "lbctl", ["web/8002"]))
    planned = desk.planned("right")
    _, plan = planned.plan
    assert plan.effective is not None
    assert [each.endpoint for each in plan.effective.overrides] == ["8002"]
    engine.run_migration(planned.target, planned)
    web = [text for text in desk.rules["right"].managed if text.startswith("[lbctl/web]")]
    assert [text.partition(" to ")[2] for text in web] == ["8001 8003"] * 2
    desk.roll_back()
    engine.operate(engine.activate(desk.session("left"), "lbctl", ["web/8002"]))
    assert desk.rules == STORIES[0].desk().rules


@each_story
def test_a_step_that_fails_leaves_all_as_it_was(story: Story) -> None:
    ends = []
    for number in range(1, MANY):
        desk = story.desk()
        before, planned = desk.rules, desk.planned(story.target)
        desk.effects.fail(number, ApplyFailed("it does not work"))
        try:
            notes = engine.run_migration(planned.target, planned)
        except ApplyFailed:
            assert (desk.rules, desk.pending) == (before, False)
            ends.append("restored")
            desk.migrate(story.target)
        else:
            ends.append("noted" if notes else "done")
            assert notes in ((), ("Not in the history yet: it does not work",))
            desk.recover()
        assert desk.rules[story.source] == ((), (FIRST, LAST))
        assert desk.holds_what_is_on_record
        if ends[-1] == "done":
            break
    assert ends[-1] == "done"
    assert {"restored", "noted"} <= set(ends)


@each_story
def test_a_migration_that_dies_at_any_step_is_finished_or_reverted(story: Story) -> None:
    ends = set()
    for effects in range(MANY):
        desk = story.desk()
        before, planned = desk.rules, desk.planned(story.target)
        if desk.effects.survives(effects, lambda p=planned: engine.run_migration(p.target, p)):
            break
        was_pending = desk.pending
        notes = desk.recover()
        assert (len(notes), desk.pending) == (was_pending, False)
        done = desk.rules[story.source] == ((), (FIRST, LAST))
        assert done or desk.rules == before
        assert desk.holds_what_is_on_record
        ends.add(done)
        if not done:
            desk.migrate(story.target)
        desk.roll_back()
        assert desk.rules == before
    assert ends == {True, False}
    assert effects > 5


@each_story
def test_rolling_back_over_a_migration_by_number(story: Story) -> None:
    """Foreign rules return with it; where they are in place again, only a migration removes them."""
    desk = story.desk()
    before = desk.rules
    desk.migrate(story.target)
    desk.apply(story.target, read_intent(service("web", "80/tcp", "9001")))
    if not story.foreign:
        desk.roll_back(to=1)
        assert (desk.rules, desk.holds_what_is_on_record) == (before, True)
        desk.roll_back(to=3)
        assert desk.holds_what_is_on_record
        assert "9001" in "".join(desk.rules[story.target].managed)
        return
    desk.roll_back(to=0)
    assert desk.rules == before
    with pytest.raises(ApplyFailed, match="foreign rules were migrated to reach number 2"):
        desk.roll_back(to=2)
    desk.migrate(story.target)
    desk.roll_back(to=3)
    assert desk.rules == before


@pytest.mark.parametrize("steps", [1, 2])
@each_story
def test_a_rollback_that_dies_at_any_step_is_finished_or_reverted(story: Story, steps: int) -> None:
    ends = set()
    for effects in range(MANY):
        desk = story.desk()
        before, to = desk.rules, len(desk.actions)
        desk.migrate(story.target)
        if steps > 1:
            desk.apply(story.target, read_intent(service("web", "80/tcp", "9001")))
        migrated = desk.rules
        if desk.effects.survives(effects, lambda desk=desk, to=to: desk.roll_back(to=to)):
            break
        desk.recover()
        assert desk.rules in (before, migrated)
        assert desk.holds_what_is_on_record
        ends.add(desk.rules == before)
        if desk.rules == migrated:
            desk.roll_back(to=to)
        assert desk.rules == before
    assert ends == {True, False}


@each_story
def test_a_recovery_that_dies_is_done_by_the_next_one(story: Story) -> None:
    for effects in range(MANY):
        desk = story.desk()
        before, planned = desk.rules, desk.planned(story.target)
        if desk.effects.survives(effects, lambda p=planned: engine.run_migration(p.target, p)):
            break
        for left in range(MANY):
            if desk.effects.survives(left, desk.recover):
                break
        assert desk.holds_what_is_on_record
        assert not desk.pending
        assert desk.rules == before or desk.rules[story.source] == ((), (FIRST, LAST))


@each_story
def test_what_was_written_wrong_is_restored(story: Story) -> None:
    desk = story.desk()
    before = desk.rules
    desk.paper(story.target).distort = lambda text: text.replace("8001", "8009")
    with pytest.raises(ApplyFailed, match="what was written differs when read back"):
        desk.migrate(story.target)
    assert (desk.rules, desk.pending) == (before, False)


@each_story
def test_what_does_not_balance_as_planned_is_restored(story: Story) -> None:
    desk = story.desk()
    before, planned = desk.rules, desk.planned(story.target)
    target = desk.paper(story.target)
    #: Rules that stand before those of lbctl, as another process adds them meanwhile.
    target.ahead = ["ipv4 local:80/tcp out nth to 9999", "ipv4 local:80/tcp nth to 9999"]
    with pytest.raises(ApplyFailed, match="the live kernel does not do what was planned") as caught:
        engine.run_migration(planned.target, planned)
    assert caught.value.hint is not None
    assert f"lbctl compare live:{story.source} live:{story.target}" in caught.value.hint
    target.ahead = []
    assert (desk.rules, desk.pending) == (before, False)


@each_story
def test_rules_that_change_between_the_steps_are_kept_and_all_else_is_restored(story: Story) -> None:
    found = set()
    for number in range(1, MANY):
        desk = story.desk()
        before, planned = desk.rules, desk.planned(story.target)
        source = desk.paper(story.source)
        desk.effects.before(number, lambda s=source: s.foreign.insert(1, NEW))
        try:
            engine.run_migration(planned.target, planned)
        except (ApplyFailed, Stale) as error:
            found.add(error.message)
            wanted = before[story.source]
        else:
            wanted = Rules((), (FIRST, LAST))
        if NEW not in source.foreign:
            break
        source.foreign.remove(NEW)
        assert desk.rules[story.source] == wanted
    changed = f"foreign rules in {story.source} changed"
    assert found == {f"{changed} meanwhile", *([f"{changed} since the plan"] if story.foreign else [])}


@each_story
def test_a_plan_that_is_out_of_date_changes_nothing(story: Story) -> None:
    desk = story.desk()
    planned = desk.planned(story.target)
    source, target = desk.paper(story.source), desk.paper(story.target)
    if story.foreign:
        source.foreign.append(NEW)
    else:
        source.held.clear()
    before = desk.rules
    with pytest.raises(LbctlError):
        engine.run_migration(planned.target, planned)
    assert (desk.rules, desk.pending, target.held.get("lbctl") or None) == (before, False, None)


@each_story
def test_a_way_back_that_fails_is_an_unknown_state_which_recovery_ends(story: Story) -> None:
    desk = story.desk()
    before, planned = desk.rules, desk.planned(story.target)
    target = desk.paper(story.target)

    def break_down() -> None:
        target.refusals = MANY
        raise ApplyFailed("it does not work")

    desk.effects.before_next(story.source, break_down)
    with pytest.raises(StateUnknown, match=r"it does not work; then rolling back failed: torn"):
        engine.run_migration(planned.target, planned)
    target.refusals = 0
    assert desk.pending
    [note] = desk.recover()
    assert "reverted now, since all old rules were still there" in note
    assert desk.rules == before


@each_story
def test_a_state_that_cannot_be_read_back_is_restored(story: Story) -> None:
    desk = story.desk()
    before, planned = desk.rules, desk.planned(story.target)
    target = desk.paper(story.target)
    target.blind = True
    with pytest.raises(StateUnknown):
        engine.run_migration(planned.target, planned)
    target.blind = False
    assert desk.pending
    desk.recover()
    assert desk.rules == before
