"""What a plan of a migration decides, and what it leaves to the user, for rules of any kind."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest

from lbctl import engine
from lbctl.cli import migration
from lbctl.cli.options import Color
from lbctl.cli.output import Style
from lbctl.engine import Agreement, SharePolicy
from lbctl.engine.migrate import view
from lbctl.errors import ApplyFailed, IntentError, NoBackend, Unsupported
from lbctl.model import Remembered
from support.backends import MigratingPaper, Paper
from support.desk import FIRST, LAST, WRITTEN, Desk, read_intent
from support.faults import MortalHost
from support.network import service

HASHED = service("web", "80/tcp", "8001", "8002", scheduler="source-hash", seed=7)
WEB = service("web", "80/tcp", "8001", "8002")
LADDER = ("ipv4 local:80/tcp nth to 8001 -", "ipv4 local:80/tcp nth to 8002")


def holding(*rules: str, at: str = "left") -> Desk:
    """A host with foreign rules in one store."""
    desk = Desk()
    desk.paper(at).foreign = list(rules)
    return desk


def slots(desk: Desk, at: str = "right") -> dict[str, list[str]]:
    """Where each service of a store sends connections, as the words of its IPv4 rules say."""
    rules = [text.split() for text in desk.rules[at].managed if " ipv4 " in text]
    return {words[0].strip("[]").partition("/")[2]: words[words.index("to") + 1 :] for words in rules}


def test_nothing_to_migrate() -> None:
    assert Desk().plan("right") is None
    assert holding(FIRST, LAST).plan("right") is None


def test_a_source_without_balancing_rules_is_named() -> None:
    desk = holding(*LADDER)
    third = MigratingPaper(name="middle", driver="brush", rank=3)
    session = engine.open_session(desk.host, backend="middle", installed=[desk.left, desk.right, third])
    nothing = "Nothing to migrate: no balancing rules"
    assert engine.plan_migration(session, "lbctl", source="right") is None
    assert engine.nothing_to_migrate(session, "lbctl", "right") == (
        f"{nothing} in right. left has some: --from left."
    )
    desk.left.foreign = []
    assert engine.nothing_to_migrate(session, "lbctl", "right") == f"{nothing} in right."
    assert engine.nothing_to_migrate(session, "lbctl", None) == f"{nothing} outside middle."
    desk.left.foreign = ["nothing that is known"]
    assert engine.nothing_to_migrate(session, "lbctl", None) == (
        f"{nothing} outside middle. left has 1 rule that is not understood and may balance "
        "(a line: it is no rule on paper): see lbctl import --from left."
    )


def test_unmatched_traffic_is_a_decision() -> None:
    leaking = "ipv4 local:80/tcp nth to 8001 8002 -"
    desk = holding(leaking)
    with pytest.raises(IntentError, match=r"33.3 % of its connections \(1/3\) are unmatched") as caught:
        desk.plan("right")
    assert "--fix gives each endpoint the same share" in str(caught.value.hint)
    fixed = desk.planned("right", policy=SharePolicy.FIX)
    assert [fixed.agreement(pair) for pair in fixed.pairs if pair.a] == [Agreement.EQUALISED]
    engine.run_migration(fixed.target, fixed)
    assert slots(desk) == {"tcp-80": ["8001", "8002"]}
    desk.roll_back()
    assert desk.left.foreign == [leaking]
    desk.migrate("right", policy=SharePolicy.KEEP)
    assert slots(desk) == {"tcp-80": ["8001", "8002", "80"]}


def test_what_is_left_to_do_for_the_next_boot() -> None:
    desk = holding(*LADDER)
    moved = desk.planned("right")
    enable = "remove them there, and enable lbctl.service, which applies /etc/lbctl/lbctl.toml."
    assert view.boot_note(moved) == (
        f"If a script or unit of this host loads the removed rules at boot, {enable}"
    )
    desk.host.files["/etc/paper"] = ""
    assert view.boot_note(moved) == f"At boot, /etc/paper may load the removed rules again: {enable}"
    desk.host.files["/etc/systemd/system/multi-user.target.wants/lbctl.service"] = ""
    assert view.boot_note(moved) == (
        "At boot, /etc/paper may load the removed rules again: remove them there."
    )
    # Rules managed by lbctl are in no file.
    engine.run_migration(moved.target, moved)
    assert view.boot_note(desk.planned("left")) is None


def test_a_mistake_is_a_decision() -> None:
    desk = holding("ipv4 local:80/tcp nth to 8001 8002", "ipv4 local:80/tcp nth to 8003")
    with pytest.raises(IntentError, match=r"never-reached \(line 2\): line 1 takes all connections"):
        desk.plan("right")
    planned = desk.planned("right", policy=SharePolicy.KEEP)
    assert planned.foreign is not None
    assert [found.code for found in planned.foreign.findings] == ["never-reached"]
    for policy, answer in ((SharePolicy.KEEP, "kept as it is"), (SharePolicy.FIX, "fixed")):
        shown = migration._text(desk.planned("right", policy=policy), Style(Color.NEVER), rules=False)
        assert f"error: never-reached ({answer}): line 1 takes all connections" in shown
    engine.run_migration(planned.target, planned)
    assert (slots(desk), desk.left.foreign) == ({"tcp-80": ["8001", "8002"]}, [])


def test_shares_that_depend_on_something_can_only_be_fixed() -> None:
    desk = holding("ipv4 local:80/tcp if weather nth to 8001 8002")
    with pytest.raises(IntentError, match="its shares depend on weather"):
        desk.plan("right")
    with pytest.raises(IntentError, match="shares that depend on weather cannot be kept"):
        desk.plan("right", policy=SharePolicy.KEEP)
    desk.migrate("right", policy=SharePolicy.FIX)
    assert slots(desk) == {"tcp-80": ["8001", "8002"]}


@pytest.mark.parametrize("name", ["0x1", "line 1", "1", "line-1"])
def test_what_cannot_be_migrated_is_excluded_by_its_name(name: str) -> None:
    marks = "ipv4 local:90/tcp mark nth to 0x1 0x2"
    desk = holding(marks, *LADDER)
    with pytest.raises(IntentError, match="0x1 cannot be migrated: it chooses by mark") as caught:
        desk.plan("right")
    assert caught.value.hint == '--exclude "0x1" leaves it where it is'
    planned = desk.planned("right", exclude=[name])
    assert planned.foreign is not None
    [retained] = planned.foreign.retained
    assert (retained.name, retained.rules, retained.reason) == ("0x1", (marks,), "excluded")
    engine.run_migration(planned.target, planned)
    assert desk.left.foreign == [marks]


def test_more_rules_than_are_shown_are_counted() -> None:
    desk = holding(*(f"ipv4 local:1-5000/tcp nth to {port} -" for port in range(8001, 8007)), *LADDER)
    with pytest.raises(IntentError, match="… and 2 more"):
        desk.plan("right")


def test_a_rule_that_no_reader_understands_stays_if_excluded() -> None:
    desk = holding("every second one to 8001", *LADDER)
    with pytest.raises(IntentError, match="line 1 cannot be migrated: a line: it is no rule on paper"):
        desk.plan("right")
    with pytest.raises(IntentError, match='there is no "line 9" here') as caught:
        desk.plan("right", exclude=["line 9"])
    assert caught.value.hint == "one of line 1, tcp-80"
    desk.migrate("right", exclude=["line 1"])
    assert desk.left.foreign == ["every second one to 8001"]


def test_a_service_that_is_excluded_stays() -> None:
    desk = holding(*WRITTEN)
    desk.migrate("right", exclude=["tcp-80"])
    assert desk.left.foreign == [line for line in WRITTEN if "53/udp" not in line]
    assert desk.plan("right", exclude=["tcp-80"]) is None


def test_what_another_program_writes_stays() -> None:
    docker = "[docker] ipv4 any:8080/tcp nth to 172.17.0.2:80 172.17.0.3:80"
    desk = holding(docker, *LADDER)
    planned = desk.planned("right")
    assert planned.foreign is not None
    [retained] = planned.foreign.retained
    assert retained.reason == "docker writes these rules, and would do so again"
    assert view.untouched_rules(planned) == (docker,)
    engine.run_migration(planned.target, planned)
    assert desk.left.foreign == [docker]


def test_what_stands_behind_a_narrower_rule_stays() -> None:
    narrow = "ipv4 local:80/tcp from 10.0.0.0/8 nth to 9000"
    planned = holding(narrow, *LADDER, "ipv4 local:81/tcp nth to 8101 8102").planned("right")
    assert planned.foreign is not None
    [retained] = planned.foreign.retained
    assert "is not migrated, and its rules come first: lbctl would match its connections" in retained.reason


def test_rules_that_serve_what_stays_too_cannot_be_separated() -> None:
    shared = "ipv4 local:80/tcp,local:81/tcp nth to 8001 -"
    desk = holding(shared, "ipv4 local:80/tcp nth to 8002", "[docker] ipv4 local:81/tcp nth to 8003")
    with pytest.raises(ApplyFailed, match=r"of local:80/tcp \(ipv4\) serve local:81/tcp \(ipv4\) too"):
        desk.plan("right")


def test_a_service_that_the_target_has_is_only_removed() -> None:
    desk = holding(*LADDER)
    desk.apply("right", read_intent(WEB))
    planned = desk.planned("right")
    assert dict(planned.twins) == {"tcp-80": "web"}
    agreements = {planned.agreement(pair) for pair in planned.pairs}
    assert agreements == {Agreement.EQUAL, Agreement.PRESENT}
    assert any("web of lbctl does the same as tcp-80" in note for note in view.notes(planned))
    engine.run_migration(planned.target, planned)
    assert (slots(desk), desk.left.foreign) == ({"web": ["8001", "8002"]}, [])


def test_a_service_of_the_target_that_does_something_else_is_a_decision() -> None:
    desk = holding(*LADDER)
    desk.apply("right", read_intent(service("web", "80/tcp", "8001", "8003")))
    with pytest.raises(IntentError, match="listen in the same place and do not do the same") as caught:
        desk.plan("right")
    assert caught.value.hint == '--exclude "tcp-80" leaves those where they are'


def test_a_name_that_the_target_has_is_a_decision() -> None:
    desk = holding("ipv4 local:90/tcp nth to 8001 8002")
    desk.apply("right", read_intent(service("tcp-90", "91/tcp", "8001")))
    with pytest.raises(IntentError, match='there is a service "tcp-90" in right already'):
        desk.plan("right")


def test_services_beside_those_of_the_target() -> None:
    desk = holding(*LADDER)
    desk.apply("right", read_intent(service("dns", "53/udp", "5301")))
    desk.migrate("right")
    assert slots(desk) == {"dns": ["5301"], "tcp-80": ["8001", "8002"]}
    desk.roll_back()
    assert (slots(desk), desk.left.foreign) == ({"dns": ["5301"]}, list(LADDER))


def test_where_rules_come_from_is_asked_for_only_if_there_are_two_places() -> None:
    desk = Desk()
    third = MigratingPaper(desk.effects, name="third", driver="brush", rank=3)
    desk.left.foreign, third.foreign = list(LADDER), list(LADDER)

    def plan(source: str | None) -> object:
        papers = [desk.left, desk.right, third]
        session = engine.open_session(desk.host, backend="right", installed=papers)
        return engine.plan_migration(session, "lbctl", source=source)

    refusals: dict[str | None, tuple[str, str | None]] = {
        None: ("left and third hold rules that balance", "--from names the one to migrate"),
        "right": ("right is the target of the migration", None),
        "fourth": ('"fourth" is not a store of rules', "one of left, third"),
    }
    for source, (message, hint) in refusals.items():
        with pytest.raises(IntentError, match=message) as caught:
            plan(source)
        assert caught.value.hint == hint
    assert plan("third") is not None


def test_options_for_foreign_rules_are_for_them_only() -> None:
    desk = Desk()
    desk.apply("left", read_intent(WEB))
    options: tuple[dict[str, object], ...] = ({"exclude": ["web"]}, {"policy": SharePolicy.FIX})
    for option in options:
        with pytest.raises(IntentError, match="are managed by lbctl, and are migrated as they are"):
            desk.plan("right", **option)


def test_what_was_applied_is_added_if_the_source_lost_it() -> None:
    desk = Desk()
    desk.apply("left", read_intent(WEB, service("dns", "53/udp", "5301")))
    items = desk.left.held["lbctl"].items
    desk.left.held["lbctl"] = type(desk.left.held["lbctl"])("lbctl", items[1:])
    planned = desk.planned("right")
    assert planned.drifted == {"web"}
    assert any(
        "left does not hold web as applied: what was applied is added" in n for n in view.notes(planned)
    )
    assert {planned.agreement(pair) for pair in planned.pairs} == {Agreement.EQUAL, Agreement.RESTORED}
    engine.run_migration(planned.target, planned)
    assert desk.holds_what_is_on_record


def test_a_file_that_the_source_does_not_hold_is_refused() -> None:
    desk = Desk()
    desk.apply("left", read_intent(WEB))
    desk.host.shelf.clear()
    with pytest.raises(ApplyFailed, match="left differs from the intent file"):
        desk.plan("right", intent=read_intent(service("web", "80/tcp", "8001")))
    assert desk.planned("right", intent=read_intent(WEB)).origin == "the intent file"


def test_without_a_history_the_rules_say_what_they_were_made_from() -> None:
    desk = Desk()
    desk.apply("left", read_intent(WEB))
    desk.host.shelf.clear()
    planned = desk.planned("right")
    assert planned.origin == "the existing rules"
    engine.run_migration(planned.target, planned)
    assert desk.actions == ["apply", "migrate"]
    desk.roll_back()
    assert slots(desk, "left") == {"web": ["8001", "8002"]}


def test_rules_that_no_intent_gives_are_not_guessed() -> None:
    desk = Desk()
    desk.left.distort = lambda text: text.replace("8002", "8002 -")
    with pytest.raises(ApplyFailed):
        desk.apply("left", read_intent(WEB))
    session = desk.session("left")
    program = session.compile(read_intent(WEB))
    items = [item._replace(text=item.text.replace("8002", "8002 -")) for item in program.items]
    desk.left.held["lbctl"] = type(program)("lbctl", items)
    with pytest.raises(ApplyFailed, match="no intent is known that gives the rules in left"):
        desk.plan("right")


@pytest.mark.parametrize("at", ["left", "right"])
def test_clients_keep_their_endpoints(at: str) -> None:
    to = "right" if at == "left" else "left"
    desk = Desk()
    desk.apply(at, read_intent(service("web", "80/tcp", "8001", "8002", affinity="1h")))
    source = desk.paper(at)
    [rule, _] = desk.rules[at].managed
    source.kept[rule] = {"192.0.2.9": ("8002", 60), "192.0.2.10": ("9000", 60)}
    # While the rules are added, another client comes.
    desk.effects.before_next(to, lambda: source.kept[rule].update({"192.0.2.11": ("8001", 3600)}))
    desk.migrate(to)
    assert set(desk.paper(to).clients(desk.host, "", "lbctl")) == {
        Remembered("web", "ipv4", "192.0.2.9", "8002", 60),
        Remembered("web", "ipv4", "192.0.2.11", "8001", 3600),
    }


def test_clients_of_foreign_rules_keep_their_endpoints() -> None:
    rule = "ipv4 192.0.2.1:80/tcp keep 60 nth to 8001 8002"
    desk = holding(rule)
    desk.left.kept[rule] = {"192.0.2.9": ("8002", 12)}
    desk.migrate("right")
    assert desk.right.clients(desk.host, "", "lbctl") == (
        Remembered("tcp-80", "ipv4", "192.0.2.9", "8002", 12),
    )


def test_another_hash_needs_the_users_consent() -> None:
    desk = Desk()
    desk.left.remaps = False
    desk.apply("left", read_intent(HASHED))
    with pytest.raises(Unsupported, match="source-hash"):
        desk.plan("right")
    planned = desk.planned("right", allow_remap=True)
    assert [str(pair.verdict) for pair in planned.pairs] == ["same shares, other clients"] * 2
    engine.run_migration(planned.target, planned)
    assert desk.holds_what_is_on_record
    desk.roll_back()
    assert slots(desk, "left") == {"web": ["8001", "8002"]}


def test_the_same_hash_needs_none() -> None:
    desk = Desk()
    desk.left.remaps = desk.right.remaps = False
    desk.apply("left", read_intent(HASHED))
    planned = desk.planned("right")
    assert {planned.agreement(pair) for pair in planned.pairs} == {Agreement.EQUAL}


def test_what_is_shown_before_agreeing() -> None:
    desk = holding(*WRITTEN)
    planned = desk.planned("right")
    assert view.untouched(planned) == (FIRST, LAST)
    gone = [f"-{line}" for line in WRITTEN[1:4]]
    come, went = view.diffs(planned)
    assert [line for line in went if line.startswith("-ip")] == gone
    assert [line.split()[0] for line in come if line.startswith("+[")] == ["+[lbctl/tcp-80]"] * 2 + [
        "+[lbctl/udp-53]"
    ] * 2
    (target, added), (source, removed) = view.scripts(planned)
    assert (target, source) == ("right", "left")
    assert removed.splitlines() == [f"erase {line}" for line in WRITTEN[1:4]]
    assert len(added.splitlines()) == 4
    notes = view.notes(planned)
    assert "left forgets the clients of rules that leave it" in notes
    assert "ipv6 tcp local 80 will be balanced, and is not now" in notes
    assert view.restored(planned) == ()
    engine.run_migration(planned.target, planned)
    way, _ = engine.roll_back(desk.session("left"), "lbctl")
    assert isinstance(way, engine.Migration)
    assert view.restored(way) == WRITTEN[1:4]
    (_, back), (_, away) = view.scripts(way)
    assert back == ""
    assert len(away.splitlines()) == 4


def test_a_family_that_is_not_balanced_now_is_named() -> None:
    assert "IPv6 will be balanced too" in view.notes(holding(*LADDER).planned("right"))


def test_a_backend_without_a_reader_or_migrator_migrates_nothing() -> None:
    host, right = MortalHost(Desk().effects), Desk().right
    plain = Paper()
    session = engine.open_session(host, backend="paper", installed=[plain])
    engine.apply(session, (engine.plan(session, read_intent(WEB)),), record=True)
    session = engine.open_session(host, backend="right", installed=[plain, right])
    planned = engine.plan_migration
    with pytest.raises(ApplyFailed, match="backend paper cannot read rules"):
        planned(session, "lbctl")
    plain.held.clear()
    with pytest.raises(ApplyFailed, match="backend paper cannot remove foreign rules"):
        planned(session, "lbctl", source="paper")


@pytest.mark.parametrize("name", ["left", "right"])
def test_a_store_that_can_no_longer_be_reached_is_named(name: str) -> None:
    desk = holding(*LADDER)
    desk.migrate("right")
    desk.paper(name).usable = False
    other = "right" if name == "left" else "left"
    with pytest.raises(NoBackend, match="can no longer be"):
        desk.roll_back(other)


SHARES: dict[str, Callable[[], Fraction]] = {
    "ipv4 local:80/tcp random to 8001 8001 8002": lambda: Fraction(2, 3),
    "ipv4 local:80/tcp nth to 8001 8002 8001 8003": lambda: Fraction(1, 2),
}


@pytest.mark.parametrize("rule", SHARES)
def test_shares_stay_what_they_are(rule: str) -> None:
    planned = holding(rule).planned("right")
    [pair] = [pair for pair in planned.pairs if pair.a]
    assert pair.shares["8001"] == (SHARES[rule](),) * 2
