"""What changes from one intent to another, key by key; and how it is shown."""

from __future__ import annotations

from dataclasses import fields, replace
from fractions import Fraction
from ipaddress import IPv4Address, ip_network
from typing import Any

import pytest

from lbctl.cli.changes import change_rows, flow_lines, setting_rows
from lbctl.config import dump, json_schema, revive
from lbctl.model import (
    Check,
    Endpoint,
    Family,
    HttpProbe,
    Intent,
    KeyChange,
    Listener,
    Protocol,
    Scheduler,
    Service,
    SourceNat,
    StaleFlow,
    State,
    given_settings,
    intent_changes,
    service_changes,
)

LISTENER = Listener(protocol=Protocol.TCP, port=80)
WEB = Service(name="web", listeners=(LISTENER,), endpoints=(Endpoint(port=8001), Endpoint(port=8002)))
#: What another host could take over.
FAR = replace(
    WEB, scheduler=Scheduler.MAGLEV, endpoints=(Endpoint(port=80, address=IPv4Address("10.0.0.1")),)
)
UNBALANCED = (
    "Existing UDP flows to 53/udp, which this host has answered itself so far, are balanced from their next "
    "packet on."
)
MOVED = Listener(protocol=Protocol.TCP, port=81, address=IPv4Address("192.0.2.1"))
#: Field → another value of it, and both sides as the intent file has them.
OTHER: dict[str, tuple[Any, Any, Any]] = {
    "listeners": ((MOVED,), ("80/tcp",), ("192.0.2.1:81/tcp",)),
    "scheduler": (Scheduler.MAGLEV, "round-robin", "maglev"),
    "local_clients": (False, True, False),
    "seed": (5, None, 5),
    "affinity": (3 * 3600, None, "3h"),
    "source_nat": (SourceNat.NEVER, "hairpin", "never"),
    "allow": ((ip_network("10.0.0.0/8"), ip_network("192.0.2.7/32")), None, ("10.0.0.0/8", "192.0.2.7")),
    "deny": ((ip_network("192.0.2.7/32"),), None, ("192.0.2.7",)),
    "interfaces": (("eth0", "ppp*"), None, ("eth0", "ppp*")),
    "takeover": (True, False, True),
    "exclude": ((ip_network("198.51.100.0/24"),), None, ("198.51.100.0/24",)),
    "endpoints": ((Endpoint(port=8001), Endpoint(port=8003)), ("8001", "8002"), ("8001", "8003")),
}


@pytest.mark.parametrize("field", OTHER)
def test_each_field_is_one_key_of_the_file(field: str) -> None:
    value, before, after = OTHER[field]
    one = FAR if field == "takeover" else WEB
    other = replace(one, **{field: value})
    [change] = service_changes(one, other)
    assert (change.before, change.after, change.endpoint) == (before, after, None)
    assert change.key in json_schema()["$defs"]["ServiceTable"]["properties"]
    [back] = service_changes(other, one)
    assert (back.before, back.after) == (after, before)


def test_no_field_is_forgotten() -> None:
    """A key that is added to the intent is compared by itself; what it looks like is tested here."""
    assert {field.name for field in fields(Service)} - {"name"} >= OTHER.keys()
    assert service_changes(WEB, replace(WEB)) == ()


def test_a_check_that_is_added_is_one_change() -> None:
    check = Check(probe=HttpProbe(path="/healthz"))
    [change] = service_changes(WEB, replace(WEB, check=check))
    assert (change.key, change.before, change.after) == ("check", None, "http")
    [change] = service_changes(replace(WEB, check=check), WEB)
    assert (change.key, change.before, change.after) == ("check", "http", None)


def test_keys_of_a_check() -> None:
    before = replace(WEB, check=Check(probe=HttpProbe(path="/")))
    after = replace(WEB, check=Check(probe=HttpProbe(path="/healthz"), interval=2500, rise=4))
    after = replace(after, health=replace(WEB.health, max_down=Fraction(1, 2), slow_start=30_000))
    assert [change_rows([each])[0] for each in service_changes(before, after)] == [
        ("check.path", "/", "→", "/healthz"),
        ("check.interval", "2s", "→", "2500ms"),
        ("check.rise", "2", "→", "4"),
        ("health.max-down", "none", "→", "50%"),
        ("health.slow-start", "0s", "→", "30s"),
    ]


def test_order_matters_for_endpoints_alone() -> None:
    both = replace(WEB, listeners=(LISTENER, MOVED))
    assert service_changes(both, replace(both, listeners=(MOVED, LISTENER))) == ()
    [change] = service_changes(WEB, replace(WEB, endpoints=WEB.endpoints[::-1]))
    assert (change.key, change.after) == ("endpoints", ("8002", "8001"))


def test_endpoints_on_both_sides() -> None:
    after = replace(
        WEB,
        endpoints=(
            Endpoint(port=8001, weight=3),
            Endpoint(port=8002, weight=3, state=State.DRAIN, name="old"),
            Endpoint(port=8003, weight=9),
        ),
    )
    changes = service_changes(WEB, after)
    assert [(each.key, each.endpoint) for each in changes] == [
        ("endpoints", None),
        ("weight", "8001"),
        ("name", "8002"),
        ("weight", "8002"),
        ("state", "8002"),
    ]
    assert change_rows(changes[1:])[0] == ("weight of 8001-8002", "1", "→", "3")


def test_whole_intents() -> None:
    api, dns = replace(WEB, name="api"), replace(WEB, name="dns")
    before, after = Intent(services=(WEB, api)), Intent(services=(replace(WEB, seed=1), dns))
    assert intent_changes(before, after) == {
        "web": (KeyChange(key="seed", before=None, after=1),),
        "dns": (KeyChange(key="service", before=None, after="dns"),),
        "api": (KeyChange(key="service", before="api", after=None),),
    }
    assert intent_changes(before, before) == {}


@pytest.mark.parametrize(
    ("key", "before", "after", "row"),
    [
        ("allow", None, ("10.0.0.0/8",), ("allow", "everyone", "→", "10.0.0.0/8")),
        ("affinity", "3h", None, ("affinity", "3h", "→", "none")),
        ("local-clients", True, False, ("local-clients", "true", "→", "false")),
        ("seed", None, 7, ("seed", "from the name", "→", "7")),
        (
            "allow",
            tuple(f"10.{n}.0.0/16" for n in range(40)),
            tuple(f"10.{n}.0.0/16" for n in range(1, 41)),
            ("allow", "40 (10.0.0.0/16 removed)", "→", "40 (10.40.0.0/16 added)"),
        ),
    ],
)
def test_rows(key: str, before: Any, after: Any, row: tuple[str, ...]) -> None:
    assert change_rows([KeyChange(key=key, before=before, after=after)]) == [row]


def test_flows_that_end() -> None:
    dns = Listener(protocol=Protocol.UDP, port=53)
    flows = [StaleFlow(family=Family.IPV4, listener=dns, to=to) for to in ("5301", "5302", None)]
    flows += [StaleFlow(family=Family.IPV6, listener=dns, to=None)]
    assert list(flow_lines(flows)) == [
        "Existing UDP flows through 53/udp to 5301-5302 end: their next packets follow the new rules.",
        UNBALANCED,
    ]
    many = [
        StaleFlow(family=Family.IPV4, listener=replace(dns, port=1 + 2 * n, last_port=0), to="9")
        for n in range(1000)
    ]
    assert len(list(flow_lines(many))) == 5


def test_tcp_connections_that_a_check_cuts() -> None:
    flow = StaleFlow(family=Family.IPV4, listener=LISTENER, to="8001")
    assert list(flow_lines([flow])) == [f"Established connections through {LISTENER} to 8001 are cut."]


def test_settings_of_a_new_service() -> None:
    assert given_settings(WEB) == ()
    drained = replace(WEB.endpoints[0], state=State.DRAIN)
    service = replace(
        WEB,
        scheduler=Scheduler.SOURCE_HASH,
        local_clients=False,
        affinity=10800,
        deny=(ip_network("10.1.0.0/16"),),
        check=Check(probe=HttpProbe()),
        endpoints=(drained, *WEB.endpoints[1:]),
    )
    assert setting_rows(given_settings(service)) == [
        ("scheduler", "source-hash"),
        ("local-clients", "false"),
        ("affinity", "3h"),
        ("deny", "10.1.0.0/16"),
        ("check", "http"),
        (f"state of {drained.to}", "drain"),
    ]


def test_a_recorded_intent_shares_what_is_the_same() -> None:
    services = tuple(
        replace(WEB, name=f"s{n}", listeners=(replace(LISTENER, port=n, last_port=0),)) for n in range(1, 9)
    )
    old = Intent(services=services)
    named = replace(services[2], endpoints=(Endpoint(port=1, name="a", weight=2), Endpoint(port=2)))
    new = Intent(services=(services[5], named, *services[3:5]), mark=0x11)
    back = revive(dump(old), new, "history 1")
    assert back == old
    assert back.services[3] is services[3]
    assert revive(dump(new), old, "history 2") == new
    assert revive(dump(Intent()), old, "history 3") == Intent()
