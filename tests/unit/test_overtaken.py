"""Commands beside an agent that changes the kernel between their plan and the change."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from lbctl import engine
from lbctl.engine.change.keep import Keeper
from lbctl.engine.record import verdicts
from lbctl.errors import Stale
from lbctl.model import Family, Health, Verdict
from support.desk import Desk, read_intent
from support.network import service

if TYPE_CHECKING:
    from lbctl.engine import Session
    from lbctl.model import Intent

CHECK = 'check = "tcp"\n'
THREE = read_intent(service("web", "192.0.2.1:80/tcp", "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80") + CHECK)
FOUR = read_intent(
    service("web", "192.0.2.1:80/tcp", "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80") + CHECK,
    service("api", "192.0.2.1:81/tcp", "10.0.0.4:80"),
)
FAILS = "10.0.0.2:80"


class Beside(Desk):
    """A desk with an agent, which finds out what it is told and carries it out when it is asked to."""

    def __init__(self, *, live: bool = True) -> None:
        super().__init__()
        self.apply("left", THREE)
        self.keeper = Keeper(self.host, "lbctl", lambda: self.session("left"))
        if live:
            self.host.busy.add("lbctl.agent")
        self.find(Health.UP)
        self.keeper.keep()

    def find(self, health: Health) -> None:
        """Have it on record that an endpoint is up, or down."""
        self.own = {
            (each.name, Family.IPV4): Verdict(
                health=health if each.to == FAILS else Health.UP, since=0.0, result="", count=3, serving=True
            )
            for each in THREE.services[0].endpoints
        }
        verdicts.Register(self.host, "lbctl").write({"web": self.own})

    @property
    def slots(self) -> set[str]:
        return {
            to
            for paper in (self.left, self.right)
            if "lbctl" in paper.held
            for each in paper.lift(paper.held["lbctl"]).services
            for to in each.shares
        }


def unattended(session: Session) -> Session:
    return replace(session, unattended=True)


def planned(desk: Beside, wanted: Intent, *, asked: bool) -> tuple[Session, engine.Session]:
    session = desk.session("left")
    return (session if asked else unattended(session)), engine.plan(session, wanted)


@pytest.mark.parametrize("asked", [True, False])
def test_an_agent_does_not_overtake_an_apply(asked: bool) -> None:
    desk = Beside()
    desk.find(Health.DOWN)
    session, plan = planned(desk, FOUR, asked=asked)
    assert desk.keeper.keep().changed
    engine.apply(session, (plan,), record=True)
    assert desk.slots == {"10.0.0.1:80", "10.0.0.3:80", "10.0.0.4:80"}
    assert desk.holds_what_is_on_record
    assert not desk.keeper.keep().changed


@pytest.mark.parametrize("asked", [True, False])
def test_an_endpoint_that_fails_and_returns_does_not_overtake_an_apply(asked: bool) -> None:
    desk = Beside()
    session, plan = planned(desk, FOUR, asked=asked)
    for health in (Health.DOWN, Health.UP, Health.DOWN):
        desk.find(health)
        assert desk.keeper.keep().changed
    desk.find(Health.UP)
    engine.apply(session, (plan,), record=True)
    assert FAILS in desk.slots
    assert desk.holds_what_is_on_record


def test_a_person_who_agreed_is_asked_again_where_no_agent_runs() -> None:
    desk = Beside(live=False)
    session, plan = planned(desk, FOUR, asked=True)
    desk.left.held["lbctl"] = desk.left.held["lbctl"].only(())
    with pytest.raises(Stale, match="changed since the plan"):
        engine.apply(session, (plan,), record=True)
    engine.apply(unattended(session), (plan,), record=True)
    assert desk.holds_what_is_on_record


def test_another_command_is_not_overruled_by_a_person_who_did_not_see_it() -> None:
    desk = Beside()
    session, plan = planned(desk, THREE, asked=True)
    assert not plan.changed
    session, plan = planned(desk, FOUR, asked=True)
    desk.apply("left", read_intent(service("other", "192.0.2.1:82/tcp", "10.0.0.5:80")))
    with pytest.raises(Stale, match="changed since the plan"):
        engine.apply(session, (plan,), record=True)
    assert desk.slots == {"10.0.0.5:80"}


@pytest.mark.parametrize("asked", [True, False])
def test_an_agent_does_not_overtake_a_removal(asked: bool) -> None:
    desk = Beside()
    session = desk.session("left")
    [(place, plan)] = engine.removal(session if asked else unattended(session), "lbctl", everywhere=False)
    desk.find(Health.DOWN)
    assert desk.keeper.keep().changed
    engine.apply(place, (plan,), record=True)
    assert desk.slots == set()


@pytest.mark.parametrize("asked", [True, False])
def test_an_agent_does_not_overtake_a_migration(asked: bool) -> None:
    desk = Beside()
    session = desk.session("right")
    made = engine.plan_migration(session if asked else unattended(session), "lbctl")
    assert made is not None
    desk.find(Health.DOWN)
    assert desk.keeper.keep().changed
    engine.run_migration(made.target, made)
    assert not desk.left.held.get("lbctl")
    assert desk.slots == {"10.0.0.1:80", "10.0.0.3:80"}


def test_what_is_on_record_a_moment_before_the_kernel_holds_it_is_waited_for() -> None:
    desk = Beside()
    desk.apply("left", FOUR)
    desk.find(Health.DOWN)
    desk.host.events = [(desk.host.uptime + 1.0, desk.keeper.keep)]
    way, target = engine.roll_back(desk.session("left"), "lbctl")
    engine.go_back(desk.session("left"), way, target)
    assert desk.slots == {"10.0.0.1:80", "10.0.0.3:80"}
    desk.find(Health.UP)
    desk.host.events = [(desk.host.uptime + 1.0, desk.keeper.keep)]
    operation = engine.drain(desk.session("left"), "lbctl", ["web/10.0.0.1:80"])
    assert not operation.drifted
    desk.find(Health.DOWN)
    assert desk.keeper.keep().changed
    engine.operate(operation)
    assert desk.slots == {"10.0.0.3:80"}


def test_an_agent_that_does_not_carry_out_is_not_waited_for_for_ever() -> None:
    desk = Beside()
    desk.find(Health.DOWN)
    began = desk.host.uptime
    assert engine.drain(desk.session("left"), "lbctl", ["web/10.0.0.1:80"]).drifted
    assert 1.0 < desk.host.uptime - began < 30.0
