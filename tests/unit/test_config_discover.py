"""The tables `discover` and `etcd` of an intent file."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path

import pytest

from lbctl.config import load, loads
from lbctl.config.render import dump
from lbctl.engine.record import discovered
from lbctl.errors import IntentError
from lbctl.host.fake import FakeHost
from lbctl.model import Discovered, Discovery, Endpoint, EtcdAccess, State, WeightOwner, intent_changes

SERVICE = 'schema = 1\n[[service]]\nname = "web"\nlisten = "192.0.2.1:80/tcp"\n'
FULL = """[service.discover]
source = "etcd"
name = "/services/web/"
weight = "source"
within = ["10.0.0.0/8", "2001:db8::7"]
max = 10
allow-empty = true
"""
ETCD = """schema = 1
[etcd]
endpoints = ["https://192.0.2.1:2379", "https://[2001:db8::1]:2379"]
ca = "/etc/lbctl/ca.pem"
cert = "/etc/lbctl/host.pem"
key = "/etc/lbctl/host.key"
user = "lbctl-agent"
password-file = "/etc/lbctl/password"
"""


def test_every_key_is_read_and_dumped_again() -> None:
    intent = loads(ETCD + SERVICE.removeprefix("schema = 1\n") + FULL)
    assert intent.services[0].discover == Discovery(
        source="etcd",
        name="/services/web/",
        weight=WeightOwner.SOURCE,
        within=(ip_network("10.0.0.0/8"), ip_network("2001:db8::7/128")),
        max=10,
        allow_empty=True,
    )
    assert intent.etcd == EtcdAccess(
        endpoints=("https://192.0.2.1:2379", "https://[2001:db8::1]:2379"),
        ca="/etc/lbctl/ca.pem",
        cert="/etc/lbctl/host.pem",
        key="/etc/lbctl/host.key",
        user="lbctl-agent",
        password_file="/etc/lbctl/password",
    )
    assert loads(dump(intent)) == intent


def test_changed_keys_are_named() -> None:
    old = loads(SERVICE + FULL)
    new = loads(SERVICE + FULL.replace("max = 10", "max = 20"))
    assert [(c.key, c.before, c.after) for c in intent_changes(old, new)["web"]] == [("discover.max", 10, 20)]


@pytest.mark.parametrize(
    ("table", "line", "message"),
    [
        ('source = "dns"\nname = "a b"', 5, "name 'a b' is not a name like"),
        ('source = "DNS"\nname = "x"', 6, 'source "DNS" is not the name of a source'),
        ('source = "dns"', 5, "`name` is missing"),
        ('source = "dns"\nname = "x"\nmax = 5000', 8, "max 5000 is not a whole number from 1 to 4096"),
        ('source = "dns"\nname = "x"\nwithin = []', 8, "`within` is empty: no address would be right"),
        ('source = "dns"\nname = "x"\nwithin = ["10.0.0.1/8"]', 8, "has bits set beyond its prefix"),
        ('source = "dns"\nname = "x"\nweight = "mine"', 8, 'weight "mine" is not known'),
        ('source = "dns"\nname = "x"\nuser = "x"', 8, "unknown key `user`"),
        ('source = "file"\nname = "targets.json"', 5, "is not an absolute path of a .json file"),
    ],
)
def test_mistakes_have_a_line(table: str, line: int, message: str) -> None:
    with pytest.raises(IntentError) as raised:
        loads(f"{SERVICE}[service.discover]\n{table}\n")
    [problem] = raised.value.problems
    assert problem.line == line
    assert message in problem.message


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("endpoints = []", "is not a list of 1 to 16 URLs"),
        ('endpoints = ["192.0.2.1:2379"]', "is not a URL like https://192.0.2.1:2379"),
        ('endpoints = ["http://192.0.2.1:2379"]\nuser = "x"', "needs a password-file"),
        ('endpoints = ["http://192.0.2.1:2379"]\npassword-file = "p"', "is not an absolute path"),
        ('endpoints = ["http://192.0.2.1:2379"]\npassword = "secret"', "unknown key `password`"),
    ],
)
def test_mistakes_of_the_etcd_table(table: str, message: str) -> None:
    with pytest.raises(IntentError) as raised:
        loads(f"schema = 1\n[etcd]\n{table}\n" + SERVICE.removeprefix("schema = 1\n") + FULL)
    [problem] = raised.value.problems
    assert message in problem.message


def test_a_service_needs_endpoints_or_a_source(tmp_path: Path) -> None:
    with pytest.raises(IntentError) as raised:
        loads(SERVICE)
    assert "there are no endpoints" in raised.value.problems[0].message
    path = tmp_path / "lbctl.toml"
    path.write_text(SERVICE + FULL)
    assert load(path).services[0].endpoints == ()


def test_answers_on_record_are_read_as_they_were_written() -> None:
    host = FakeHost()
    endpoints = (Endpoint(port=8001, state=State.DRAIN), Endpoint(port=8002, name="b", weight=3))
    answers = {"web": Discovered(source="systemd", name="app@*.service", endpoints=endpoints, good=5.0)}
    discovered.write(host, "lbctl", answers)
    found = discovered.read(host, "lbctl")
    assert (found, found["web"].good) == (answers, 5.0)
    discovered.write(host, "lbctl", {})
    assert discovered.read(host, "lbctl") == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format_version": 2}'])
def test_a_damaged_record_is_none(text: str) -> None:
    host = FakeHost()
    host.remember("lbctl.discovered", text)
    assert discovered.read(host, "lbctl") == {}


HOW_TO = (Path(__file__).parents[2] / "docs" / "how-to" / "discover.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", re.findall(r"(?ms)^```toml\n(.*?)^```$", HOW_TO))
def test_the_examples_of_the_guide_are_valid_and_dumped_again(text: str) -> None:
    intent = loads(text)
    assert loads(dump(intent)) == intent
    assert all(service.discover is not None for service in intent.services)


@pytest.mark.parametrize(
    ("table", "wrong"),
    [
        ('[docker]\nsocket = "docker.sock"', "an absolute path"),
        ('[docker]\nhost = "tcp://x"', "unknown key"),
        ('[consul]\nserver = "https://x/v1"', "is not a URL of a host and a port"),
        ('[consul]\nserver = "https://u:p@x:1"', "is not a URL of a host and a port"),
        ('[consul]\ntoken = "secret"', "unknown key"),
        ('[kubernetes]\nca = "/etc/ca.pem"', "files without the server that they are for"),
        ('[kubernetes]\nserver = "https://x:1"\nkubeconfig = "/etc/k"', "a kubeconfig says all"),
        ('[kubernetes]\nserver = "https://x:1"\nkey = "/etc/k"', "a key without its certificate"),
        ("docker = 5", "holds 5, not a table"),
        ('[[consul]]\nserver = "x"', "not a table"),
    ],
)
def test_a_wrong_table_of_access_is_named_with_its_line(table: str, wrong: str) -> None:
    with pytest.raises(IntentError) as raised:
        loads(f"schema = 1\n{table}\n")
    [problem] = raised.value.problems
    assert wrong in problem.message
    assert problem.line > 1
