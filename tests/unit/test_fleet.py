"""Publications, what a host makes of them, and what it reports. Pure but for ssh-keygen."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from lbctl.agent.fleet import keys, publication, report, signing
from lbctl.agent.fleet.acceptance import Accepted, PublicationRefused, accept, candidate
from lbctl.agent.fleet.local import load_local
from lbctl.agent.fleet.publication import Publication
from lbctl.agent.fleet.publisher import with_override, without_override
from lbctl.agent.fleet.report import HostReport, HostStanding, ServiceHealth, Stand, overall, stand, standing
from lbctl.agent.fleet.reporter import Reporter
from lbctl.agent.fleet.signing import NotSigned
from lbctl.config import loads
from lbctl.errors import Damaged, IntentError
from lbctl.host import LocalHost
from lbctl.model import EtcdAccess, Follow, Intent, Override, State

TEXT = """schema = 1
[[service]]
name = "web"
listen = "192.0.2.1:80/tcp"
endpoints = ["10.0.0.1:80", "10.0.0.2:80"]
"""
FOLLOW = Follow(
    intent="edge", listen_within=(ip_network("192.0.2.0/24"),), endpoints_within=(ip_network("10.0.0.0/8"),)
)
ETCD = EtcdAccess(endpoints=("http://192.0.2.9:2379",))
LOCAL = Intent(owner="here", etcd=ETCD, follow=FOLLOW)
DRAIN = Override(service="web", endpoint="10.0.0.1:80", drained=True, who="root", since=1.0)


def made(revision: int = 7, **keys: Any) -> Publication:
    values: dict[str, Any] = {
        "name": "edge",
        "time": "2026-11-30T10:00:00+00:00",
        "author": "root@a",
        "text": TEXT,
    }
    return Publication(revision=revision, **{**values, **keys})


def text_of(found: Publication, signature: str | None = None) -> str:
    return publication.write(found.body(), signature)


def test_a_publication_is_read_as_it_was_written() -> None:
    every = made(message="why", overrides=(DRAIN,), hosts=("lb1",), origin=3)
    sealed = publication.read(text_of(every, "sealed"))
    assert (sealed.publication, sealed.body, sealed.signature) == (every, every.body(), "sealed")


@pytest.mark.parametrize(
    "keys",
    [
        {"name": "../x"}, {"revision": 0}, {"revision": 2**60}, {"origin": 7}, {"origin": 0},
        {"author": "a\nb"}, {"message": "\x1b[2J"}, {"message": "x" * 501}, {"hosts": ("a/b",)},
        {"overrides": (DRAIN, DRAIN)},
    ],
)  # fmt: skip
def test_values_that_are_none_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        made(**keys)


def damaged(change: Any) -> str:
    outer = json.loads(text_of(made()))
    body = json.loads(outer["body"])
    change(outer, body)
    if isinstance(outer.get("body"), str):
        outer["body"] = json.dumps(body)
    return json.dumps(outer)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", '"x"', "[" * 100_000, "{}", "x" * (publication.MAX_TEXT + 1),
        damaged(lambda outer, body: outer.update(format_version=2)),
        damaged(lambda outer, body: outer.update(more=1)),
        damaged(lambda outer, body: outer.update(body=5)),
        damaged(lambda outer, body: outer.update(signature=5)),
        damaged(lambda outer, body: body.update(revision="7")),
        damaged(lambda outer, body: body.update(revision=True)),
        damaged(lambda outer, body: body.update(revision=0)),
        damaged(lambda outer, body: body.update(exec=["/bin/sh"])),
        damaged(lambda outer, body: body.pop("hosts")),
        damaged(lambda outer, body: body.update(overrides=[{"service": "web"}])),
    ],
)  # fmt: skip
def test_a_text_that_is_no_publication_is_damaged_and_refused(text: str) -> None:
    with pytest.raises(Damaged):
        publication.read(text)
    with pytest.raises(PublicationRefused):
        taken(text)


def taken(text: str, *, host: str = "lb1", floor: int = 0, local: Intent = LOCAL, **bounds: Any) -> Accepted:
    follow = replace(FOLLOW, **bounds)
    return accept(
        text, local, follow, host=host, floor=floor, verify=lambda body, signature, signers: "alice"
    )


def test_services_come_from_the_publication_and_all_else_from_the_host() -> None:
    accepted = taken(text_of(made()))
    assert accepted.intent == replace(LOCAL, services=loads(TEXT).services, follow=None)
    assert (accepted.canary, accepted.signer) == (False, None)
    assert taken(text_of(made()), signed_by="/etc/signers").signer == "alice"


@pytest.mark.parametrize(
    ("found", "arguments", "why"),
    [
        (made(name="other"), {}, 'it was published as "other", not as "edge"'),
        (made(6), {"floor": 7}, "it is older than revision 7"),
        (made(6), {"least_revision": 7}, "it is older than revision 7"),
        (made(hosts=("lb2",)), {}, "it is a canary for other hosts"),
        (made(hosts=("lb1",)), {"floor": 7}, "it is a canary for other hosts"),
        (made(text="schema = 1\n"), {}, "it has no services"),
        (made(text='schema = 1\nowner = "x"\n'), {}, "`owner` cannot be published"),
        (made(text=TEXT.replace("10.0.0.1", "11.0.0.1")), {}, "endpoint 11.0.0.1:80 is not in a network"),
        (made(text=TEXT.replace("192.0.2.1", "192.0.3.1")), {}, "listener 192.0.3.1:80/tcp is not in"),
        (made(text=TEXT + "new-key = 1\n"), {}, "unknown key `new-key`"),
        (made(text="["), {}, "edge"),
    ],
)
def test_a_publication_beyond_the_bounds_is_refused(
    found: Publication, arguments: dict[str, Any], why: str
) -> None:
    with pytest.raises(PublicationRefused) as raised:
        taken(text_of(found), **arguments)
    assert why in raised.value.message
    assert raised.value.revision == found.revision


def test_the_same_revision_is_taken_again_and_a_canary_only_by_its_hosts() -> None:
    assert taken(text_of(made(7)), floor=7).publication.revision == 7
    assert taken(text_of(made(8, hosts=("lb1",))), floor=7).canary


def found(current: Publication | None, canary: Publication | None = None, **more: str) -> dict[str, str]:
    texts = {keys.current("edge"): current, keys.canary("edge"): canary}
    return {key: text_of(each) for key, each in texts.items() if each is not None} | more


def test_a_canary_comes_first_on_its_hosts_alone() -> None:
    now, tried = made(7), made(8, hosts=("lb1",))
    assert candidate({}, "edge", "lb1") is None
    assert candidate(found(now), "edge", "lb1") == text_of(now)
    assert candidate(found(now, tried), "edge", "lb1") == text_of(tried)
    assert candidate(found(now, tried), "edge", "lb2") == text_of(now)
    assert candidate(found(None, tried), "edge", "lb1") == text_of(tried)
    # One that is not newer, and one that cannot be read, are no canaries.
    assert candidate(found(now, made(7, hosts=("lb1",))), "edge", "lb1") == text_of(now)
    broken = found(now) | {keys.canary("edge"): "{"}
    assert candidate(broken, "edge", "lb1") == text_of(now)


def test_drains_and_weights_of_the_fleet_change_the_intent() -> None:
    weight = Override(service="web", endpoint="10.0.0.2:80", weight=5, who="root", since=1.0)
    gone = Override(service="gone", endpoint="10.0.0.2:80", weight=5, who="root", since=1.0)
    [service] = made(overrides=(DRAIN, weight, gone)).intent().services
    assert [(e.state, e.weight) for e in service.endpoints] == [(State.DRAIN, 1), (State.ACTIVE, 5)]


def test_overrides_of_one_endpoint_are_joined_and_ended_apart() -> None:
    weight = replace(DRAIN, drained=False, weight=3)
    [both] = with_override((DRAIN,), weight)
    assert (both.drained, both.weight) == (True, 3)
    [left] = without_override((both,), DRAIN.place, drain=True, weight=False)
    assert (left.drained, left.weight) == (False, 3)
    assert without_override((left,), DRAIN.place, drain=False, weight=True) == ()
    assert without_override((both,), ("web", "other"), drain=True, weight=True) == (both,)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def allow(folder: Path, public: Path, options: str = "") -> str:
    path = folder / "signers"
    kind, material, *_ = public.with_suffix(".pub").read_text().split()
    path.write_text(f"alice@example.org {options}{kind} {material}\n")
    path.chmod(0o644)
    return str(path)


def test_a_signature_is_of_one_text_and_an_allowed_signer(tmp_path: Path, key: Path) -> None:
    host, body = LocalHost(), made().body()
    signature = signing.sign(host, body, key)
    signers = allow(tmp_path, key)
    assert signing.verify(host, body, signature, signers) == "alice@example.org"
    here = allow(tmp_path, key, f'namespaces="{signing.NAMESPACE}" ')
    assert signing.verify(host, body, signature, here) == "alice@example.org"
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    wrong: tuple[tuple[str, str | None], ...] = (
        (body + " ", signature),
        (body, None),
        (body, "no signature"),
        (body, "x" * 100_000),
        (body, signing.sign(host, body, other)),
        (body, signature.replace("A", "B")),
    )
    for text, seal in wrong:
        with pytest.raises(NotSigned):
            signing.verify(host, text, seal, signers)
    # Signed for something else: git, for instance.
    command = ["ssh-keygen", "-Y", "sign", "-n", "git", "-f", key]
    done = subprocess.run(command, input=body, text=True, capture_output=True, check=True)
    with pytest.raises(NotSigned):
        signing.verify(host, body, done.stdout, signers)
    Path(signers).chmod(0o666)
    with pytest.raises(NotSigned, match="can be written by other users"):
        signing.verify(host, body, signature, signers)
    with pytest.raises(IntentError, match="not signed with"):
        signing.sign(host, body, tmp_path / "missing")


def test_an_unsigned_publication_is_refused_where_signatures_are_asked_for(tmp_path: Path, key: Path) -> None:
    host = LocalHost()
    signers = allow(tmp_path, key)
    follow = replace(FOLLOW, signed_by=signers)

    def take(text: str) -> Accepted:
        def verify(body: str, signature: str | None, file: str) -> str:
            return signing.verify(host, body, signature, file)

        return accept(text, LOCAL, follow, host="lb1", floor=0, verify=verify)

    found = made()
    signature = signing.sign(host, found.body(), key)
    assert take(text_of(found, signature)).signer == "alice@example.org"
    # A signature is good for its revision and its hosts alone.
    for other in (made(8), made(hosts=("lb1",)), made(text=TEXT.replace("10.0.0.1", "10.0.0.9"))):
        with pytest.raises(PublicationRefused, match="its signature is not by a signer"):
            take(text_of(other, signature))
    with pytest.raises(PublicationRefused, match="it is not signed"):
        take(text_of(found))


HOST = HostReport(
    host="lb1", version="1", started="2026", revision=7, newest=7, follows=True, in_sync=True,
    services=(ServiceHealth(name="web", up=2),),
)  # fmt: skip


def test_a_report_is_read_as_it_was_written() -> None:
    every = replace(HOST, refused="why", problems=("a", "b"), canary=True, tables={"web": "0a"})
    assert report.read(report.write(every), "lb1") == every
    assert report.read(report.write(HOST), "lb1") == HOST
    for text, host in ((report.write(HOST), "lb2"), ("{", "lb1"), ("x" * (report.MAX_TEXT + 1), "lb1")):
        with pytest.raises(Damaged):
            report.read(text, host)
    loud = replace(HOST, problems=("\x1b[2J" + "x" * 1000,) * 100)
    problems = report.read(report.write(loud), "lb1").problems
    assert len(problems) == 8
    assert all(len(each) <= 400 and each.isprintable() for each in problems)


def down(up: int, failing: int) -> tuple[ServiceHealth, ...]:
    return (ServiceHealth(name="web", up=up, down=failing),)


@pytest.mark.parametrize(
    ("keys", "expected", "why"),
    [
        ({}, Stand.GOOD, "in sync"),
        ({"revision": 6}, Stand.WAITING, "not carried out yet"),
        ({"in_sync": False}, Stand.WAITING, "not in sync yet"),
        ({"revision": 6, "refused": "no"}, Stand.BAD, "no"),
        ({"revision": 6, "newest": 6, "refused": "an older one"}, Stand.WAITING, "not carried out yet"),
        ({"problems": ("new",)}, Stand.BAD, "new"),
        ({"problems": ("old",)}, Stand.GOOD, "in sync"),
        ({"follows": False}, Stand.BAD, "another intent was applied on it"),
        ({"services": down(1, 1)}, Stand.BAD, "1 endpoints of web fail their checks, 0 before"),
        ({"services": down(0, 2)}, Stand.BAD, "no endpoint of web passes its checks"),
        (
            {"services": (ServiceHealth(name="new", down=2),)},
            Stand.BAD,
            "no endpoint of new passes its checks",
        ),
        ({"services": (ServiceHealth(name="new", unknown=2),)}, Stand.GOOD, "in sync"),
    ],
)
def test_how_a_canary_stands(keys: dict[str, Any], expected: Stand, why: str) -> None:
    before = replace(HOST, problems=("old",))
    found, text = stand(7, before, replace(HOST, **keys))
    assert (found, text[: len(why)]) == (expected, why)


def test_a_canary_is_as_good_as_its_worst_host() -> None:
    good, bad, waits = (Stand.GOOD, "x"), (Stand.BAD, "y"), (Stand.WAITING, "z")
    assert overall({"a": good, "b": good}) == (Stand.GOOD, "a: x")
    assert overall({"a": good, "b": waits}) == (Stand.WAITING, "b: z")
    assert overall({"a": waits, "b": bad}) == (Stand.BAD, "b: y")
    assert stand(7, HOST, None) == (Stand.BAD, "its agent no longer reports")


def test_failing_before_is_no_fault_of_the_canary() -> None:
    before = replace(HOST, services=down(0, 2))
    assert stand(7, before, replace(HOST, services=down(0, 2))) == (Stand.GOOD, "in sync")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, HostStanding.IN_SYNC),
        ({"refused": "no", "in_sync": False}, HostStanding.REFUSED),
        ({"follows": False}, HostStanding.DIVERGED),
        ({"in_sync": False}, HostStanding.OUT_OF_SYNC),
        ({"revision": 6}, HostStanding.BEHIND),
        ({"revision": None, "follows": False, "in_sync": False}, HostStanding.BEHIND),
        ({"problems": ("x",)}, HostStanding.PROBLEM),
        ({"canary": True, "revision": 8}, HostStanding.CANARY),
        ({"canary": True, "revision": 9}, HostStanding.BEHIND),
    ],
)
def test_where_a_host_stands(keys: dict[str, Any], expected: HostStanding) -> None:
    assert standing(replace(HOST, **keys), 7, 8) is expected
    assert standing(None, 7) is HostStanding.SILENT


def test_tables_that_differ_between_hosts_of_one_revision_are_named() -> None:
    one = replace(HOST, tables={"web": "a"})
    assert report.uneven((one, replace(one, host="lb2"), None)) == ()
    assert report.uneven((one, replace(one, tables={"web": "b"}))) == ("web",)
    assert report.uneven((one, replace(one, tables={"web": "b"}, revision=8))) == ()


TABLES = """schema = 1
[etcd]
endpoints = ["http://192.0.2.9:2379"]
[follow]
intent = "edge"
listen-within = ["192.0.2.0/24"]
endpoints-within = ["10.0.0.0/8"]
"""


def test_the_local_file_bounds_and_is_of_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "lbctl.toml"
    path.write_text(TABLES)
    path.chmod(0o644)
    local = load_local([path])
    assert (local.follow, local.etcd) == (FOLLOW, ETCD)
    assert load_local([path], "other").follow == replace(FOLLOW, intent="other")
    path.chmod(0o664)
    with pytest.raises(IntentError, match="can be written by other users"):
        load_local([path])
    path.chmod(0o644)
    for text, why in (
        (TABLES + TEXT.removeprefix("schema = 1\n"), "has services and a .follow. table"),
        (TABLES.replace('[etcd]\nendpoints = ["http://192.0.2.9:2379"]\n', ""), "has no .etcd. table"),
    ):
        path.write_text(text)
        with pytest.raises(IntentError, match=why):
            load_local([path])
    path.write_text(TEXT)
    assert load_local([path]).follow is None
    with pytest.raises(IntentError, match=r"has no \[follow\] table"):
        load_local([path], "edge")


def test_an_idle_reporter_leaves_the_loop_to_others() -> None:
    async def story() -> None:
        reporter = Reporter(lambda: None, lambda host: HOST, lambda place, text: None)
        task = asyncio.create_task(reporter.run())
        for _ in range(3):
            reporter.wake()
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(story())
