"""The table `agent` of an intent file: its paths, its mistakes, and files that are merged."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from jsonschema import Draft202012Validator

from lbctl.config import dump, load_merged, loads
from lbctl.config.render import revive
from lbctl.config.schema import json_schema
from lbctl.errors import IntentError
from lbctl.model import NO_ANNOUNCEMENTS, Announcements, Intent, Network

SERVICE = '[[service]]\nname = "web"\nlisten = "80/tcp"\nendpoints = ["8001"]\n'
PATHS = st.none() | st.text("abc/-_\"'\\ é", min_size=1, max_size=20).map(lambda text: f"/{text}")


def with_table(table: str) -> str:
    return f"schema = 1\n[agent]\n{table}\n{SERVICE}"


NETWORKS = st.sampled_from(["198.51.100.0/24", "192.0.2.7/32", "2001:db8::/32", "0.0.0.0/0"]).map(ip_network)
ROUTES = st.lists(NETWORKS, max_size=3).map(tuple)


@given(PATHS, PATHS, ROUTES)
def test_what_is_written_reads_back(track: str | None, pipe: str | None, routes: tuple[Network, ...]) -> None:
    table = Announcements(track_file=track, exabgp=pipe, exabgp_routes=routes if pipe else ())
    services = loads(f"schema = 1\n{SERVICE}").services
    intent = Intent(services=services, owner="other", announce=table)
    assert loads(dump(intent)) == intent
    assert revive(dump(intent), Intent(services=services), "<text>") == intent


def test_an_empty_table_says_nothing() -> None:
    assert loads(with_table("")).announce == NO_ANNOUNCEMENTS


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('track-file = "ready"', '<text>:3: track-file "ready" is not an absolute path'),
        ("exabgp = 7", "<text>:3: exabgp 7 is not an absolute path"),
        (
            'exabgp = "/x"\nexabgp-routes = ["10.0.0.1/8"]',
            '<text>:4: exabgp-routes: "10.0.0.1/8" has bits set beyond its prefix',
        ),
        (
            'exabgp-routes = ["10.0.0.0/8"]',
            "<text>:2: `exabgp-routes` without `exabgp`: no program announces them",
        ),
        ('exabpg = "/x"', "<text>:3: unknown key `exabpg`"),
        ('track-file = "/a/../b"', '<text>:3: track-file "/a/../b" is not an absolute path'),
    ],
)
def test_mistakes_have_their_line(table: str, message: str) -> None:
    with pytest.raises(IntentError) as caught:
        loads(with_table(table))
    [problem] = caught.value.problems
    assert f"{problem.file}:{problem.line}: {problem.message}" == message


def test_a_mistake_in_the_table_hides_none_elsewhere() -> None:
    text = with_table('track-file = "ready"').replace("8001", "no port")
    with pytest.raises(IntentError) as caught:
        loads(text)
    assert len(caught.value.problems) == 2


def test_what_is_no_table() -> None:
    with pytest.raises(IntentError) as caught:
        loads(f"schema = 1\nagent = 5\n{SERVICE}")
    assert [problem.message for problem in caught.value.problems] == ["`agent` holds 5, not a table"]


def test_merged_files_say_the_same(tmp_path: Path) -> None:
    first, other = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text(with_table('track-file = "/run/lbctl/ready"'))
    second = SERVICE.replace("web", "api").replace("80/", "81/")
    other.write_text(f"schema = 1\n{second}")
    assert load_merged((first, other)).announce.track_file == "/run/lbctl/ready"
    other.write_text(f'schema = 1\n[agent]\nexabgp = "/run/exabgp.in"\n{second}')
    with pytest.raises(IntentError) as caught:
        load_merged((first, other))
    assert caught.value.problems[0].message.startswith("agent table is not the table of ")


@pytest.mark.parametrize(
    ("table", "valid"),
    [
        ({}, True),
        ({"track-file": "/run/lbctl/ready", "exabgp": "/run/exabgp.in"}, True),
        ({"track-file": "ready"}, False),
        ({"other": "/x"}, False),
        ({"offload": ["eth0", "eth1.100"]}, True),
        ({"offload": ["eth*"]}, False),
        ({"offload": ["lo"]}, False),
        ({"offload": []}, False),
    ],
)
def test_the_schema_says_the_same(table: dict[str, str], valid: bool) -> None:
    service = {"name": "web", "listen": "80/tcp", "endpoints": ["8001"]}
    found = Draft202012Validator(json_schema()).is_valid({"schema": 1, "agent": table, "service": [service]})
    assert found is valid
