"""What hosts that take over each other's connections must have in common, and whose packets they drop."""

import re
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from lbctl.config import load, loads
from lbctl.model import (
    Family,
    Guarded,
    Intent,
    Limit,
    Protocol,
    Scheduler,
    Service,
    SourceNat,
    State,
    guarded,
    table_digests,
)

TEXT = """
schema = 1
[[service]]
name = "web"
listen = ["192.0.2.10:80/tcp", "192.0.2.10:80/udp", "[2001:db8::10]:80/tcp"]
endpoints = ["10.0.0.11:8080", "10.0.0.12:8080", "[2001:db8:2::11]:8080"]
scheduler = "source-hash"
takeover = true
"""
MEDIA = """
[[service]]
name = "media"
listen = ["192.0.2.10:7000-8080/udp", "192.0.2.10:8081/udp", "192.0.2.10:9000/tcp"]
endpoints = ["10.0.0.11"]
scheduler = "maglev"
takeover = true
[[service]]
name = "turns"
listen = "192.0.2.10:81/tcp"
endpoints = ["10.0.0.19:81"]
"""
INTENT = loads(TEXT)
ROOT = Path(__file__).parents[2]
[WEB] = INTENT.services


def digest(service: Service) -> str:
    return table_digests(Intent(services=(service,)))[service.name]


def test_places_of_replies_are_those_of_all_endpoints() -> None:
    drained = replace(WEB, endpoints=(replace(WEB.endpoints[0], state=State.DRAIN), *WEB.endpoints[1:]))
    for service in (WEB, drained):
        assert [str(place.address) for place in guarded([service], Family.IPV4)] == [
            "10.0.0.11",
            "10.0.0.12",
            "10.0.0.11",
            "10.0.0.12",
        ]
    [six] = guarded([WEB], Family.IPV6)
    assert six == Guarded(ip_address("2001:db8:2::11"), Protocol.TCP, 8080, 8080)


def test_places_of_services_are_disjoint() -> None:
    places = guarded(loads(TEXT + MEDIA).services, Family.IPV4)
    assert [(str(p.address), str(p.protocol), p.port, p.last_port) for p in places] == [
        ("10.0.0.11", "tcp", 8080, 8080),
        ("10.0.0.11", "tcp", 9000, 9000),
        ("10.0.0.12", "tcp", 8080, 8080),
        ("10.0.0.11", "udp", 7000, 8081),
        ("10.0.0.12", "udp", 8080, 8080),
    ]
    assert guarded([replace(WEB, takeover=False)], Family.IPV4) == ()


def test_a_digest_is_of_what_leads_a_client_to_an_endpoint() -> None:
    a, b, six = WEB.endpoints
    same = (
        replace(WEB, source_nat=SourceNat.NEVER),
        replace(WEB, local_clients=False),
        replace(WEB, interfaces=("eth1",)),
        replace(WEB, listeners=WEB.listeners[::-1]),
        replace(WEB, limits=frozenset({Limit(family=Family.IPV4, to=a.to)})),
        replace(WEB, seed=WEB.hash_seed),
    )
    others = (
        replace(WEB, name="api"),
        replace(WEB, seed=1),
        replace(WEB, scheduler=Scheduler.MAGLEV),
        replace(WEB, listeners=WEB.listeners[1:]),
        replace(WEB, endpoints=(b, a, six)),
        replace(WEB, endpoints=(a, six)),
        replace(WEB, endpoints=(a, replace(b, weight=2), six)),
    )
    drained = replace(WEB, endpoints=(a, replace(b, state=State.DRAIN), six))
    assert digest(drained) == digest(replace(WEB, endpoints=(a, six)))
    assert {digest(service) for service in same} == {digest(WEB)}
    assert len({digest(service) for service in (WEB, *others)}) == len(others) + 1
    # The same on every host and in every release: hosts of two versions compare them.
    assert digest(WEB) == "defac8270aa28421562b5548acd6919b"


def test_only_services_that_ask_for_it_have_one() -> None:
    assert list(table_digests(loads(TEXT + MEDIA))) == ["web", "media"]


@pytest.mark.parametrize(
    "change",
    [
        {"scheduler": Scheduler.ROUND_ROBIN},
        {"source_nat": SourceNat.ALWAYS},
        {"listeners": tuple(replace(x, protocol=Protocol.SCTP) for x in WEB.listeners[:1])},
        {
            "endpoints": tuple(
                replace(e, address=None, port=8000 + n, name="") for n, e in enumerate(WEB.endpoints)
            )
        },
    ],
)
def test_what_no_host_can_take_over_is_no_value(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="takeover"):
        replace(WEB, **change)  # type: ignore[arg-type]


# -- the guide


def test_the_guide_shows_what_is_installed() -> None:
    text = (ROOT / "docs" / "how-to" / "takeover.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert list(table_digests(loads(block))) == ["web"]
    setting = re.compile(r"^ *(net\.[\w.]+ = \d+)$", re.MULTILINE)
    installed = (ROOT / "examples" / "vrrp" / "90-lbctl.conf").read_text(encoding="utf-8")
    assert setting.findall(text) == setting.findall(installed)


@pytest.mark.parametrize("name", ["bgp", "vrrp"])
def test_the_examples_are_intents(name: str) -> None:
    assert list(table_digests(load(ROOT / "examples" / name / "lbctl.toml"))) == ["web"]
