"""kill -9: each family is then old or new, and the next command leaves nothing in between."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from itertools import count, cycle
from pathlib import Path

import pytest

from lbctl import engine
from lbctl.config import loads
from lbctl.engine import Session
from lbctl.model import Family, Intent, Program, diff
from lbctl.spi import backends
from support.crash import Killed, Killer, MortalHost, Scene
from support.network import intent, service

REMOTE4 = ["10.0.0.1:80", "10.0.0.2:80"]
REMOTE6 = ["[2001:db8:2::1]:80", "[2001:db8:2::2]:80"]
BOTH = ["192.0.2.1:443/tcp", "[2001:db8::1]:443/tcp"]
FIRST = intent(service("web", "80/tcp", "8001"))
OLD = intent(
    service("web", "80/tcp", "8001", "8002", allow=["198.51.100.0/24"]),
    service("api", BOTH, REMOTE4[0], REMOTE6[0]),
    service("gone", "53/udp", "5301"),
)
NEW = intent(
    service("web", "80/tcp", "8001", "8002", "8003", allow=["198.51.100.0/24", "2001:db8:9::/48"]),
    service("api", BOTH, *REMOTE4, *REMOTE6),
    service("come", "54/tcp", "5401", allow=["203.0.113.7/32"]),
)
OLD_INTENT, NEW_INTENT = loads(OLD, "old"), loads(NEW, "new")
#: How often lbctl is killed on each way to the kernel.
KILLS = int(os.environ.get("LBCTL_KILLS", "3"))


@pytest.fixture
def scene(tmp_path: Path, way: tuple[str, ...]) -> Iterator[Scene]:
    made = Scene(tmp_path, way)
    made.apply(FIRST)
    made.apply(OLD)
    yield made
    made.close()


def balanced(scene: Scene, program: Program, family: Family) -> object:
    """How the services of a family are balanced."""
    [backend] = (each for each in backends() if each.name == scene.way[1])
    lifted = backend.lift(program)
    assert lifted.unsupported == ()
    return {(s.name, s.listener): s for s in lifted.services if s.family is family}


def is_old_or_new(scene: Scene, old: Intent, new: Intent) -> None:
    """Each family balances as one of two intents says."""
    held, was, will = scene.held, scene.compiled(old), scene.compiled(new)
    for family in Family:
        assert balanced(scene, held, family) in [balanced(scene, it, family) for it in (was, will)]
    known = {item.key for program in (was, will) for item in program.items}
    assert {item.key for item in held.items} <= known


def is_whole(scene: Scene, wanted: Intent) -> None:
    """The kernel holds an intent, the history knows, and nobody else's rules have changed."""
    assert diff(scene.held, scene.compiled(wanted)) == ()
    assert (scene.on_record, scene.is_pending) == (wanted, False)
    assert scene.foreign() == scene.others


def go_on(scene: Scene, command: str) -> Intent:
    """The next command after a crash: it succeeds, and what it leads to is what then holds."""
    options = ("--yes", "--wait", "20s")
    if command == "rollback":
        done = scene.lbctl("rollback", *options)
        wanted = scene.on_record
    else:
        text = {"the same": NEW, "another": OLD}[command]
        done = scene.lbctl("apply", *options, *scene.way, config=text)
        wanted = loads(text, "intent")
    assert done.code == 0, done.err
    is_whole(scene, wanted)
    return wanted


def kill_at_each_step(scene: Scene, before: str, work: Callable[[Session], object]) -> None:
    """Have `work`, which leads from one intent to the other one, killed at each of its steps."""
    nexts = cycle(["the same", "another", "rollback"])
    said = set()
    for effects in count():
        for text in (OLD, NEW) if before == NEW else (OLD,):
            scene.apply(text)
        with scene.namespace.entered():
            session = scene.session(MortalHost(scene.folder, effects))
            try:
                work(session)
                session.memory.save()
            except Killed:
                pass
            else:
                break
        is_old_or_new(scene, OLD_INTENT, NEW_INTENT)
        plan = scene.lbctl("plan", "--output", "json", *scene.way, config=OLD)
        assert (plan.json["interrupted"] is not None) == scene.is_pending
        said.add("Interrupted: " in plan.err)
        go_on(scene, next(nexts))
    assert effects > 4
    assert said == {True, False}


def test_apply_is_killed_at_each_step(scene: Scene) -> None:
    def apply(session: Session) -> None:
        engine.apply(session, (engine.plan(session, NEW_INTENT),), record=True)

    kill_at_each_step(scene, OLD, apply)


@pytest.mark.parametrize("way", [("--backend", "iptables", "--driver", "legacy")])
def test_rollback_is_killed_at_each_step(scene: Scene) -> None:
    def roll_back(session: Session) -> None:
        plan, target = engine.roll_back(session, "lbctl")
        engine.apply(session, (plan,), record=True, back_to=target)

    kill_at_each_step(scene, NEW, roll_back)


def test_a_kill_at_any_moment(scene: Scene) -> None:
    killer = Killer(scene, random.Random(f"{scene.way}"))
    nexts = cycle(["the same", "another", "rollback"])
    words = ("apply", "--yes", "--wait", "20s", *scene.way)
    killer.measure(lambda: scene.start(*words, config=NEW))
    present = NEW_INTENT
    done = pending = 0
    while done < KILLS:
        text, wanted = (OLD, OLD_INTENT) if present == NEW_INTENT else (NEW, NEW_INTENT)
        done += killer.kill(scene.start(*words, config=text))
        is_old_or_new(scene, present, wanted)
        pending += scene.is_pending
        present = go_on(scene, next(nexts))
    print(f"{' '.join(scene.way)}: {done} kills, {pending} of them while the kernel was changed")


@pytest.mark.parametrize("way", [("--backend", "iptables", "--driver", "legacy")])
def test_a_trial_that_is_killed_between_the_families_is_reverted(scene: Scene) -> None:
    """After the trial and what is pending were written, and three of six tables were changed."""
    with scene.namespace.entered():
        session = scene.session(MortalHost(scene.folder, 6))
        with pytest.raises(Killed):
            engine.try_out(session, engine.plan(session, NEW_INTENT), 1)
        tried = engine.read_trial(session.host, "lbctl")
        assert tried is not None
    is_old_or_new(scene, OLD_INTENT, NEW_INTENT)
    v4, v6 = (
        balanced(scene, scene.held, family) == balanced(scene, scene.compiled(NEW_INTENT), family)
        for family in Family
    )
    assert (v4, v6) == (True, False)
    while not session.host.clock() > tried.deadline + 2:
        session.host.sleep(0.05)
    is_whole(scene, OLD_INTENT)


@pytest.mark.parametrize(
    "way", [("--backend", "iptables", "--driver", each) for each in ("legacy", "nf_tables")]
)
def test_a_migration_is_killed_at_any_moment(scene: Scene) -> None:
    """There and back: each family is whole in one place at least, and then all is in one alone."""
    ways = {"iptables": scene.way, "nftables": ("--backend", "nftables", "--driver", "libnftables")}
    sides = {name: scene.by(way) for name, way in ways.items()}
    other = {"iptables": "nftables", "nftables": "iptables"}
    killer = Killer(scene, random.Random(f"migrate {scene.way}"))
    nexts = cycle(["migrate", "apply", "rollback"])

    def move(to: str) -> tuple[str, ...]:
        return ("migrate", "--to", to, "--yes", "--wait", "20s", "--driver", ways[to][3])

    def places() -> set[str]:
        return {name for name, side in sides.items() if side.held}

    killer.measure(lambda: scene.start(*move("nftables"), config=OLD))
    done = pending = 0
    while done < KILLS:
        for side in sides.values():
            if side.held:
                side.apply(OLD)
        [at] = places()
        done += killer.kill(scene.start(*move(other[at]), config=OLD))
        for family in Family:
            found = [balanced(side, side.held, family) for side in sides.values()]
            wanted = [balanced(side, side.compiled(OLD_INTENT), family) for side in sides.values()]
            assert all(f in ({}, w) for f, w in zip(found, wanted, strict=True))
            assert any(found)
        pending += scene.is_pending
        match next(nexts):
            case "migrate":
                ended = scene.lbctl(*move(other[at]), config=OLD)
            case "apply":
                ended = scene.lbctl("apply", "--yes", "--wait", "20s", *ways[at], config=NEW)
                if ended.code == 5:
                    # It was finished: the rules are in the other place, which the error names.
                    assert "still holds the rules" in ended.err
                    ended = scene.lbctl("apply", "--yes", *ways[other[at]], config=NEW)
            case _:
                ended = scene.lbctl("rollback", "--yes", "--wait", "20s")
        assert ended.code == 0, ended.err
        for name in places() or {at}:
            is_whole(sides[name], scene.on_record)
        assert len(places()) == (1 if scene.on_record.services else 0)
        if not places():
            sides[at].apply(OLD)
    print(f"migrate, {scene.way[3]}: {done} kills, {pending} of them while the kernel was changed")
