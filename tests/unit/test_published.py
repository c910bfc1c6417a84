"""What a published intent may say, and what a host accepts of one."""

from dataclasses import fields, replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from lbctl.config import loads
from lbctl.config.render import dump
from lbctl.errors import IntentError
from lbctl.model import (
    Announcements,
    Check,
    Endpoint,
    EtcdAccess,
    ExecProbe,
    Family,
    Follow,
    HealthPolicy,
    HttpProbe,
    Intent,
    Limit,
    Service,
    TlsOptions,
    refusals,
    unpublishable,
)
from lbctl.model.access import ConsulAccess, DockerAccess, KubernetesAccess
from lbctl.model.published import _FIELDS

FOLLOW = Follow(
    intent="edge",
    listen_within=(ip_network("192.0.2.0/24"), ip_network("2001:db8:1::/64")),
    endpoints_within=(ip_network("10.0.0.0/8"), ip_network("2001:db8:2::/64")),
    max_services=2,
    max_endpoints=4,
)
WEB = """schema = 1
[[service]]
name = "web"
listen = "192.0.2.1:80/tcp"
endpoints = ["10.0.0.1:80", "10.0.0.2:80"]
"""
#: Every key that may be published, set.
FULL = """schema = 1
[[service]]
name = "web"
listen = ["192.0.2.1:80/tcp", "[2001:db8:1::1]:80/tcp"]
scheduler = "maglev"
local-clients = false
seed = 7
affinity = "3h"
source-nat = "always"
allow = ["198.51.100.0/24"]
deny = ["203.0.113.7"]
interfaces = ["eth0"]
[[service.endpoint]]
name = "a"
address = "10.0.0.1:80"
weight = 3
[[service.endpoint]]
name = "b"
address = "[2001:db8:2::1]:80"
state = "backup"
[service.check]
kind = "https"
port = 8443
path = "/up"
host = "a.test"
status = "200"
body = "fine"
sni = "a.test"
interval = "3s"
fast-interval = "1s"
timeout = "2s"
rise = 3
fall = 4
hold = "9s"
initial = "up"
[service.health]
all-down = "reject"
max-down = "50%"
on-down = "cut"
slow-start = "30s"
[service.discover]
source = "dns"
name = "a.test:80"
weight = "source"
within = ["10.1.0.0/16"]
max = 4
allow-empty = true
"""


def of(text: str) -> Intent:
    return loads(text)


def test_everything_about_services_can_be_published() -> None:
    for text in (WEB, FULL):
        assert unpublishable(of(text)) == ()
        assert refusals(of(text), FOLLOW) == ()


#: What a host decides for itself: the fields that are not published. A field that the model learns makes
#: this test fail until someone decides where it belongs.
PRIVATE = {
    "Intent": {
        "owner",
        "mark",
        "announce",
        "offload",
        "etcd",
        "docker",
        "consul",
        "kubernetes",
        "follow",
        "hosts",
    },
    "Service": {"limits", "hops", "deals"},
    # Packets to an endpoint within the bounds would go to any host of the segment.
    "Endpoint": {"mac"},
    "TlsOptions": {"ca", "cert", "key"},
    "HealthPolicy": {"notify", "notify_user"},
}


def test_each_field_of_an_intent_is_published_or_private() -> None:
    for kind, published in _FIELDS.items():
        every = {field.name for field in fields(kind)}
        assert every - published == PRIVATE.get(kind.__name__, set()), kind


def changed(**keys: Any) -> Intent:
    intent = of(FULL)
    return replace(intent, services=(replace(intent.services[0], **keys),))


def checked(probe: Any) -> Intent:
    return changed(check=Check(probe=probe))


ETCD = EtcdAccess(endpoints=("https://192.0.2.9:2379",))


@pytest.mark.parametrize(
    ("intent", "place"),
    [
        (replace(of(WEB), owner="other"), "`owner`"),
        (replace(of(WEB), mark=0x30), "`mark`"),
        (replace(of(WEB), announce=Announcements(track_file="/run/x")), "`announce`"),
        (replace(of(WEB), offload=("eth0",)), "`offload`"),
        (replace(of(WEB), etcd=ETCD), "`etcd`"),
        (replace(of(WEB), docker=DockerAccess()), "`docker`"),
        (replace(of(WEB), consul=ConsulAccess()), "`consul`"),
        (replace(of(WEB), kubernetes=KubernetesAccess()), "`kubernetes`"),
        (replace(of(WEB), follow=FOLLOW), "`follow`"),
        (changed(limits=frozenset({Limit(family=Family.IPV4, to="10.0.0.1:80")})), "`limits`"),
        (changed(health=HealthPolicy(notify=("/bin/true",))), "`health.notify`"),
        (changed(health=HealthPolicy(notify_user="daemon")), "`health.notify-user`"),
        (checked(ExecProbe(argv=("/bin/true",), user="nobody")), "`check.probe`"),
        (checked(HttpProbe(tls=TlsOptions(ca="/etc/ca.pem"))), "`check.probe.tls.ca`"),
        (checked(HttpProbe(tls=TlsOptions(cert="/etc/c.pem"))), "`check.probe.tls.cert`"),
        (checked(HttpProbe(tls=TlsOptions(cert="/etc/c.pem", key="/etc/k"))), "`check.probe.tls.key`"),
    ],
)
def test_what_a_host_decides_is_refused_by_its_place(intent: Intent, place: str) -> None:
    found = unpublishable(intent)
    assert any(f"{place} cannot be published" in text for text in found), found
    assert refusals(intent, FOLLOW)[: len(found)] == found


@pytest.mark.parametrize("source", ["docker", "systemd", "file", "of-a-third-party"])
def test_a_source_that_reads_the_host_is_refused(source: str) -> None:
    names = {"docker": "a=b", "systemd": "app@*.service", "file": "/etc/x.json"}
    text = FULL.replace('"dns"', f'"{source}"').replace('"a.test:80"', f'"{names.get(source, "x")}"')
    assert f'service "web": source "{source}" cannot be published: it reads a host itself' in unpublishable(
        of(text)
    )


def test_a_new_field_and_a_new_type_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    learned = _FIELDS[Service] - {"seed"}
    monkeypatch.setitem(_FIELDS, Service, learned)  # type: ignore[arg-type]
    said = 'service "web": `{}` cannot be published: a host decides it for itself'
    assert said.format("seed") in unpublishable(of(FULL))
    assert unpublishable(of(WEB)) == ()
    odd = changed(affinity=1.5)
    assert said.format("affinity") in unpublishable(odd)


def test_no_service_is_no_intent_to_follow() -> None:
    assert refusals(Intent(), FOLLOW) == ("it has no services",)


@pytest.mark.parametrize(
    ("listen", "endpoint", "text"),
    [
        ("192.0.3.1:80/tcp", "10.0.0.1:80", "listener 192.0.3.1:80/tcp is not in a network of listen-within"),
        ("80/tcp", "10.0.0.1:80", "listener 80/tcp is not in a network of listen-within"),
        ("192.0.2.1:80/tcp", "11.0.0.1:80", "endpoint 11.0.0.1:80 is not in a network of endpoints-within"),
        ("192.0.2.1:80/tcp", "8001", "endpoint 8001 is not in a network of endpoints-within"),
        ("[2001:db8::1]:80/tcp", "[2001:db8:2::1]:80", "listener [2001:db8::1]:80/tcp is not in a network"),
        ("[2001:db8:1::1]:80/tcp", "[2001:db8::1]:80", "endpoint [2001:db8::1]:80 is not in a network"),
    ],
)
def test_addresses_beyond_the_bounds_are_refused(listen: str, endpoint: str, text: str) -> None:
    found = refusals(_one(listen, endpoint), FOLLOW)
    assert any(text in each for each in found), found


def _one(listen: str, endpoint: str) -> Intent:
    return of(f'schema = 1\n[[service]]\nname = "web"\nlisten = "{listen}"\nendpoints = ["{endpoint}"]\n')


def test_all_addresses_and_processes_of_a_host_have_to_be_allowed_by_name() -> None:
    both = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    local = _one("80/tcp", "8001")
    wide = replace(FOLLOW, listen_within=both, endpoints_within=(ip_network("127.0.0.0/8"),))
    assert refusals(local, wide) == ()
    assert refusals(local, replace(wide, endpoints_within=(ip_network("::1"),))) == ()
    for some in both:
        [text] = refusals(local, replace(wide, listen_within=(some,)))
        assert "listen-within" in text
    only4 = replace(FOLLOW, listen_within=both[:1])
    assert refusals(_one("80/tcp", "10.0.0.1:80"), only4) == ()
    # Who is discovered may have an IPv6 address.
    source = '[service.discover]\nsource = "dns"\nname = "a.test:80"\nwithin = ["10.0.0.0/8"]\nmax = 4\n'
    found = of(dump(_one("80/tcp", "10.0.0.1:80")) + source)
    assert refusals(found, only4) == ('service "web": listener 80/tcp is not in a network of listen-within',)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("max = 4", "max = 5", "discover.max 5 is more than max-endpoints, 4"),
        ('within = ["10.1.0.0/16"]\n', "", "discover has no `within`"),
        ('"10.1.0.0/16"', '"10.1.0.0/16", "0.0.0.0/0"', "discover.within 0.0.0.0/0 is not in a network"),
        ('"10.1.0.0/16"', '"2001:db8::/32"', "discover.within 2001:db8::/32 is not in a network"),
    ],
)
def test_sources_beyond_the_bounds_are_refused(old: str, new: str, text: str) -> None:
    found = refusals(of(FULL.replace(old, new)), FOLLOW)
    assert any(text in each for each in found), found


def test_too_many_services_or_endpoints_are_refused() -> None:
    service = of(WEB).services[0]
    many = Intent(services=tuple(replace(service, name=f"web{n}") for n in range(3)))
    assert "3 services are more than max-services, 2" in refusals(many, FOLLOW)
    assert "6 endpoints are more than max-endpoints, 4" in refusals(many, FOLLOW)
    ends = tuple(Endpoint(address=ip_address(f"10.0.0.{n}"), port=80) for n in range(1, 5))
    assert refusals(Intent(services=(replace(service, endpoints=ends),)), FOLLOW) == ()


TABLE = """schema = 1
[etcd]
endpoints = ["http://192.0.2.1:2379"]
[follow]
intent = "edge"
host = "lb1"
listen-within = ["192.0.2.0/24", "2001:db8:1::/64"]
endpoints-within = ["10.0.0.0/8"]
max-services = 2
max-endpoints = 4
least-revision = 9
signed-by = "/etc/lbctl/publishers"
"""


def test_the_table_is_read_and_dumped_again() -> None:
    intent = of(TABLE)
    assert intent.follow == Follow(
        intent="edge",
        host="lb1",
        listen_within=(ip_network("192.0.2.0/24"), ip_network("2001:db8:1::/64")),
        endpoints_within=(ip_network("10.0.0.0/8"),),
        max_services=2,
        max_endpoints=4,
        least_revision=9,
        signed_by="/etc/lbctl/publishers",
    )
    assert of(dump(intent)) == intent
    short = "".join(
        line for line in TABLE.splitlines(keepends=True) if line[:3] not in {"max", "hos", "lea", "sig"}
    )
    assert of(dump(of(short))) == of(short)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('"edge"', '"../edge"', 'intent "../edge" is not a name'),
        ('"lb1"', '"a/b"', 'host "a/b" is not a name'),
        ('["10.0.0.0/8"]', "[]", "`endpoints-within` is empty"),
        ('endpoints-within = ["10.0.0.0/8"]\n', "", "`endpoints-within` is missing"),
        ('"192.0.2.0/24"', '"192.0.2.1/24"', "listen-within"),
        ("max-services = 2", "max-services = 0", "max-services 0 is not a whole number from 1 to 10000"),
        ("least-revision = 9", "least-revision = true", "least-revision true is not a whole number"),
        ('"/etc/lbctl/publishers"', '"publishers"', "signed-by"),
        ("least-revision", "last-revision", "unknown key `last-revision`"),
    ],
)
def test_mistakes_in_the_table_are_named(old: str, new: str, text: str) -> None:
    with pytest.raises(IntentError) as raised:
        of(TABLE.replace(old, new))
    assert any(text in problem.message for problem in raised.value.problems), raised.value.problems
