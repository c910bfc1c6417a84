"""Migrations on trial between two stores in memory: confirmed, not confirmed, and without their reverter."""

from __future__ import annotations

import pytest

from lbctl import engine
from lbctl.engine.record import trial
from lbctl.errors import ApplyFailed, Reverted, Stale, StateUnknown
from support.desk import FIRST, LAST, STORIES, Desk, Rules, Story

each_story = pytest.mark.parametrize("story", STORIES, ids=str)
MANY = 60


def tried(story: Story) -> tuple[Desk, dict[str, Rules], trial.Trial]:
    """A host with a migration on trial, and what it held before."""
    desk = story.desk()
    before = desk.rules
    return desk, before, desk.try_out(story.target)


@each_story
def test_what_is_confirmed_stays(story: Story) -> None:
    desk, _, on_trial = tried(story)
    desk.host.events.append((30, lambda: engine.confirm(desk.host, "lbctl")))
    assert desk.watch(on_trial).state == "confirmed"
    assert desk.host.uptime < 31
    assert desk.rules[story.source] == ((), (FIRST, LAST))
    assert desk.holds_what_is_on_record


@each_story
def test_what_is_not_confirmed_is_reverted_in_time(story: Story) -> None:
    desk, before, on_trial = tried(story)
    migrated = desk.rules
    assert migrated[story.source] == ((), (FIRST, LAST))
    seen = []
    desk.host.events.append((59.8, lambda: seen.append(desk.rules)))
    ended = desk.watch(on_trial)
    assert (seen, ended.state, desk.rules) == ([migrated], "reverted", before)
    assert 60 <= desk.host.uptime < 60.5
    assert "the trial was not confirmed and was reverted to" in ended.report
    with pytest.raises(Reverted, match="was not confirmed"):
        engine.confirm(desk.host, "lbctl")
    desk.migrate(story.target)
    assert desk.rules == migrated


@each_story
def test_a_rollback_ends_a_trial(story: Story) -> None:
    desk, before, on_trial = tried(story)
    with pytest.raises(Stale, match="a trial of owner"):
        desk.migrate(story.source)
    desk.roll_back()
    assert (desk.watch(on_trial).state, desk.rules, desk.host.uptime) == ("reverted", before, 0)


@each_story
def test_a_trial_without_its_reverter_is_reverted_by_the_next_command(story: Story) -> None:
    desk, before, _ = tried(story)
    desk.host.uptime += 61
    found = engine.unsettled(desk.host, "lbctl")
    assert found.due
    assert found.trial is not None
    assert found.trial.standing is trial.Standing.ABANDONED
    [note] = desk.recover()
    assert "The process that had to revert a trial is gone" in note
    assert (desk.rules, desk.recover()) == (before, ())


@each_story
def test_who_waits_reverts_if_the_reverter_is_gone(story: Story) -> None:
    desk, before, on_trial = tried(story)
    assert engine.await_end(desk.session("left"), on_trial).state == "reverted"
    assert desk.rules == before


@each_story
def test_a_reverter_that_is_refused_tries_again_until_it_gives_up(story: Story) -> None:
    desk, before, on_trial = tried(story)
    desk.paper(story.target).refusals = 3
    assert (desk.watch(on_trial).state, desk.rules) == ("reverted", before)
    desk, before, on_trial = tried(story)
    migrated = desk.rules
    desk.paper(story.target).refusals = 1000
    ended = desk.watch(on_trial)
    assert (ended.state, desk.rules) == ("failed", migrated)
    assert ended.report.startswith("the trial could not be reverted: ")
    desk.paper(story.target).refusals = 0
    desk.roll_back()
    assert desk.rules == before


@each_story
def test_a_store_that_is_gone_is_named_by_the_next_command(story: Story) -> None:
    desk, _, _ = tried(story)
    migrated = desk.rules
    desk.host.uptime += 61
    desk.paper(story.source).usable = False
    with pytest.raises(StateUnknown, match="can no longer be"):
        desk.recover(story.target)
    assert desk.rules == migrated


@each_story
def test_a_trial_that_dies_at_any_step_is_reverted(story: Story) -> None:
    for effects in range(MANY):
        desk = story.desk()
        before = desk.rules
        if desk.effects.survives(effects, lambda d=desk: d.try_out(story.target)):
            break
        on_trial = engine.read_trial(desk.host, "lbctl")
        if on_trial is not None:
            desk.host.uptime = on_trial.deadline
            desk.watch(on_trial)
        desk.recover()
        assert (desk.rules, desk.pending) == (before, False)
        assert desk.holds_what_is_on_record
    assert effects > 5


@each_story
def test_a_revert_that_dies_at_any_step_is_finished(story: Story) -> None:
    for effects in range(MANY):
        desk, before, on_trial = tried(story)
        desk.host.uptime = on_trial.deadline
        if desk.effects.survives(effects, lambda d=desk, t=on_trial: d.watch(t)):
            break
        engine.await_end(desk.session("left"), on_trial)
        desk.recover()
        assert (desk.rules, desk.pending) == (before, False)
    assert effects > 3


@each_story
def test_a_migration_that_fails_leaves_no_trial(story: Story) -> None:
    desk = story.desk()
    before = desk.rules
    desk.paper(story.target).refusals = 1
    with pytest.raises(ApplyFailed, match="torn"):
        desk.try_out(story.target)
    assert (desk.rules, engine.read_trial(desk.host, "lbctl"), desk.pending) == (before, None, False)
