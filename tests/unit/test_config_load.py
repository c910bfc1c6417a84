"""Intent files that are right: what they mean, where they are looked for, how they are merged."""

from __future__ import annotations

import os
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from lbctl.config import dump, find, load, load_merged, loads
from lbctl.config.listeners import MAX_RANGES
from lbctl.errors import IntentError, NoIntentFile
from lbctl.model import Endpoint, Intent, Listener, Protocol, Scheduler, Service, SourceNat, State
from support.effort import calls, cpu_seconds

CONTRACT = """\
schema = 1
owner = "lbctl"                      # optional

[[service]]
name = "web"
listen = "80/tcp"
endpoints = ["8001", "8002", "8003"]
scheduler = "round-robin"
local-clients = true

[[service]]
name = "api"
listen = ["192.0.2.10:443/tcp", "[2001:db8::10]:443/tcp"]
scheduler = "source-hash"
seed = 0x5eed
affinity = "3h"
source-nat = "always"
allow = ["198.51.100.0/24", "2001:db8::7"]
[[service.endpoint]]
name = "a"
address = "10.0.0.11:8443"
weight = 3
state = "active"
[[service.endpoint]]
address = "[2001:DB8::0011]:8443"
state = "backup"
"""

MEANING = Intent(
    services=(
        Service(
            name="web",
            listeners=(Listener(protocol=Protocol.TCP, port=80),),
            endpoints=(Endpoint(port=8001), Endpoint(port=8002), Endpoint(port=8003)),
        ),
        Service(
            name="api",
            listeners=(
                Listener(protocol=Protocol.TCP, port=443, address=IPv4Address("192.0.2.10")),
                Listener(protocol=Protocol.TCP, port=443, address=IPv6Address("2001:db8::10")),
            ),
            endpoints=(
                Endpoint(port=8443, address=IPv4Address("10.0.0.11"), name="a", weight=3),
                Endpoint(port=8443, address=IPv6Address("2001:db8::11"), state=State.BACKUP),
            ),
            scheduler=Scheduler.SOURCE_HASH,
            seed=0x5EED,
            affinity=10800,
            source_nat=SourceNat.ALWAYS,
            allow=(IPv4Network("198.51.100.0/24"), IPv6Network("2001:db8::7/128")),
        ),
    )
)


def service(text: str) -> Service:
    (one,) = loads("schema = 1\n[[service]]\n" + text).services
    return one


def test_the_example_of_the_contract() -> None:
    assert loads(CONTRACT) == MEANING


def test_dump_is_what_a_person_would_write() -> None:
    assert (
        dump(MEANING)
        == """\
schema = 1

[[service]]
name = "web"
listen = "80/tcp"
endpoints = ["8001", "8002", "8003"]

[[service]]
name = "api"
listen = ["192.0.2.10:443/tcp", "[2001:db8::10]:443/tcp"]
scheduler = "source-hash"
seed = 0x5eed
affinity = "3h"
source-nat = "always"
allow = ["198.51.100.0/24", "2001:db8::7"]
[[service.endpoint]]
name = "a"
address = "10.0.0.11:8443"
weight = 3
[[service.endpoint]]
address = "[2001:db8::11]:8443"
state = "backup"
"""
    )


def test_dump_writes_a_row_of_ports_as_one() -> None:
    one = service('name = "web"\nlisten = "80/tcp"\nendpoints = ["7", "8001-8008", "9001", "9002"]')
    assert 'endpoints = ["7", "8001-8008", "9001", "9002"]' in dump(Intent(services=(one,)))


def test_json_of_the_same_shape(tmp_path: Path) -> None:
    text = '{"schema": 1, "service": [{"name": "web", "listen": "80/tcp", "endpoints": [8001, "8002-8003"]}]}'
    expected = Intent(services=MEANING.services[:1])
    assert loads(text) == expected
    path = tmp_path / "lbctl.json"
    path.write_text("\ufeff \n" + text)
    assert load(path) == expected


@pytest.mark.parametrize("text", ["schema = 1", "schema = 1\r\n", "\ufeffschema = 1\n", '{"schema": 1}'])
def test_an_intent_without_services(text: str) -> None:
    assert loads(text) == Intent()


def test_both_ways_of_giving_endpoints_are_joined() -> None:
    one = service(
        'name = "web"\nlisten = "80/tcp"\nendpoints = [8001, "8002"]\n'
        '[[service.endpoint]]\naddress = "8003"\nweight = 2'
    )
    assert [(e.to, e.weight) for e in one.endpoints] == [("8001", 1), ("8002", 1), ("8003", 2)]


@pytest.mark.parametrize(
    "text",
    [
        # all endpoints drained
        'listen = "80/tcp"\n[[service.endpoint]]\naddress = "8001"\nstate = "drain"',
        # a listener on any address serves the families that the endpoints have
        'listen = "80/tcp"\nendpoints = ["10.0.0.1:80"]',
        # ports serve every family
        'listen = ["192.0.2.1:80/tcp", "[2001:db8::1]:80/tcp"]\nendpoints = ["8001"]',
        # the same port of different protocols or addresses
        'listen = ["53/tcp", "53/udp", "192.0.2.1:54/tcp", "192.0.2.2:54/tcp"]\nendpoints = ["8001"]',
        # 4096 slots, and weights that reduce to few
        'listen = "80/tcp"\nendpoints = ["1-1024", "1025-2048", "2049-3072", "3073-4096"]',
        'listen = "80/tcp"\nendpoint = [{address = "1", weight = 4096}, {address = "2", weight = 4096}]',
        # the ends of ranges
        'listen = "80/tcp"\nendpoints = ["1"]\naffinity = "30d"\nseed = 0xffffffff\nallow = ["::/0"]',
    ],
)
def test_what_is_allowed(text: str) -> None:
    service('name = "web"\n' + text)


def test_files_are_merged_in_order(tmp_path: Path) -> None:
    paths = []
    for i, head in enumerate(["mark = 0x30\n", 'owner = "edge"\n', "mark = 48\n"]):
        path = tmp_path / f"{i}.toml"
        path.write_text(
            f'schema = 1\n{head}[[service]]\nname = "s{i}"\nlisten = "8{i}/tcp"\nendpoints = ["9000"]\n'
        )
        paths.append(path)
    merged = load_merged(paths)
    assert (merged.owner, merged.mark) == ("edge", 0x30)
    assert [s.name for s in merged.services] == ["s0", "s1", "s2"]


def test_the_order_of_the_search(tmp_path: Path) -> None:
    cwd, etc = tmp_path / "cwd", tmp_path / "etc"
    (etc / "conf.d").mkdir(parents=True)
    cwd.mkdir()

    def found(config: Path | None = None, **environ: str) -> tuple[Path, ...]:
        return find(config, environ, cwd, etc)

    with pytest.raises(IntentError) as caught:
        found(LBCTL_CONFIG="")
    assert caught.value.hint is not None
    assert "lbctl init" in caught.value.hint
    for name in ("b.toml", "a.toml", ".hidden.toml", "c.toml.bak"):
        (etc / "conf.d" / name).touch()
    parts = (etc / "conf.d" / "a.toml", etc / "conf.d" / "b.toml")
    assert found() == parts
    (etc / "lbctl.toml").touch()
    assert found() == (etc / "lbctl.toml", *parts)
    (cwd / "lbctl.toml").symlink_to("missing")
    assert found() == (cwd / "lbctl.toml",)
    assert found(LBCTL_CONFIG="x.toml") == (cwd / "x.toml",)
    assert found(LBCTL_CONFIG="/x.toml") == (Path("/x.toml"),)
    assert found(Path("y.toml"), LBCTL_CONFIG="x.toml") == (Path("y.toml"),)


def services(number: int) -> str:
    lines = ["schema = 1"]
    for i in range(number):
        ports = ", ".join(f'"10.1.{i & 255}.{k}:8080"' for k in range(1, 11))
        lines += [
            "[[service]]",
            f'name = "s{i}"',
            f'listen = "10.{i >> 8}.{i & 255}.1:80/tcp"',
            f"endpoints = [{ports}]",
        ]
    return "\n".join(lines)


def test_twice_the_services_take_twice_the_work() -> None:
    few, many = services(200), services(400)
    loads(few)
    assert calls(lambda: loads(many)) < 2.2 * calls(lambda: loads(few))


def test_ten_thousand_services_are_read() -> None:
    with cpu_seconds(30):
        assert len(loads(services(10_000)).services) == 10_000


def test_a_right_file_imports_nothing_that_only_mistakes_need(tmp_path: Path) -> None:
    path = tmp_path / "lbctl.toml"
    path.write_text(CONTRACT)
    code = (
        "import sys; from pathlib import Path; from lbctl.config import load; load(Path(sys.argv[1]));"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    unwanted = {"difflib", "lbctl.config.explain", "lbctl.config.locate", "typer"}
    assert not unwanted & set(done.stdout.split())


#: The module whose file system is replaced.
FILES = sys.modules["lbctl.config.files"]


class TestAsRoot:
    """./lbctl.toml, as root finds it: some directory, which is perhaps somebody else's."""

    @pytest.fixture(autouse=True)
    def root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.user = os.getuid()
        # What belongs to the user of these tests belongs to root, or to another user.
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(FILES, "_ROOT", self.user)

    @pytest.fixture
    def foreign(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(FILES, "_ROOT", self.user + 1)

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "lbctl.toml"
        path.write_text("schema = 1\n")
        path.chmod(0o644)
        return path

    def found(self, path: Path, config: Path | None = None, **environ: str) -> tuple[Path, ...]:
        return find(config, environ, path.parent, path.parent / "none")

    def refused(self, path: Path, **environ: str) -> str:
        with pytest.raises(IntentError) as caught:
            self.found(path, **environ)
        assert caught.value.hint == "if it is meant, name it: --config lbctl.toml"
        assert not isinstance(caught.value, NoIntentFile)
        return caught.value.message

    def test_its_own_is_taken(self, path: Path) -> None:
        assert self.found(path) == (path,)

    @pytest.mark.usefixtures("foreign")
    def test_that_of_another_user_is_refused(self, path: Path) -> None:
        assert self.refused(path).startswith(
            "./lbctl.toml is not used: the current directory belongs to user "
        )
        # Nobody but root says who called sudo.
        for odd in ("", "x", "-1", "²", "9" * 30, str(self.user + 2)):
            assert "belongs to user" in self.refused(path, SUDO_UID=odd)

    @pytest.mark.usefixtures("foreign")
    def test_that_of_the_user_behind_sudo_is_taken(self, path: Path) -> None:
        assert self.found(path, SUDO_UID=str(self.user)) == (path,)
        path.chmod(0o664)
        assert self.refused(path, SUDO_UID=str(self.user)).endswith("it can be written by other users")

    @pytest.mark.usefixtures("foreign")
    def test_one_that_was_named_is_taken(self, path: Path) -> None:
        assert self.found(path, path) == (path,)
        assert self.found(path, LBCTL_CONFIG="lbctl.toml") == (path,)

    @pytest.mark.parametrize("mode", [0o664, 0o646, 0o1646])
    def test_one_that_others_can_write_is_refused(self, path: Path, mode: int) -> None:
        path.chmod(mode)
        assert self.refused(path) == "./lbctl.toml is not used: it can be written by other users"

    def test_one_that_others_can_replace_is_refused(self, path: Path) -> None:
        path.parent.chmod(0o777)
        assert "the current directory can be written by other users" in self.refused(path)
        path.parent.chmod(0o1777)
        assert self.found(path) == (path,)

    def test_a_link_is_followed_to_what_others_can_write(self, path: Path) -> None:
        path.rename(path.with_name("real"))
        path.symlink_to("real")
        assert self.found(path) == (path,)
        path.chmod(0o666)
        assert self.refused(path).endswith("it can be written by other users")


def test_who_is_not_root_takes_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    path = tmp_path / "lbctl.toml"
    path.touch(mode=0o666)
    assert find(None, {}, tmp_path, tmp_path / "none") == (path,)


def test_ranges_and_endpoints_without_a_port() -> None:
    intent = loads(
        """\
schema = 1
[[service]]
name = "media"
listen = ["20000-50000/udp", "[2001:db8::1]:2000-3000/tcp"]
endpoints = ["10.0.0.11", { address = "10.0.0.12", weight = 2 }, "2001:db8::2"]
interfaces = ["eth0", "ppp*"]
deny = ["203.0.113.7"]
exclude = ["203.0.113.11", "2001:db8:9::/64"]

[[service]]
name = "inside"
listen = ["25000/udp", "203.0.113.11:20000-20010/udp"]
endpoints = ["10.0.0.9"]
"""
    )
    media, inside = intent.services
    assert [(x.port, x.last_port) for x in media.listeners] == [(20000, 50000), (2000, 3000)]
    assert [(e.to, e.port, e.weight) for e in media.endpoints] == [
        ("10.0.0.11", None, 1),
        ("10.0.0.12", None, 2),
        ("2001:db8::2", None, 1),
    ]
    assert media.keeps_port
    assert media.remote
    assert media.interfaces == ("eth0", "ppp*")
    assert [str(x) for x in (*media.deny, *media.exclude)] == [
        "203.0.113.7/32",
        "203.0.113.11/32",
        "2001:db8:9::/64",
    ]
    assert inside.listeners[1].is_range
    assert loads(dump(intent)) == intent


def test_a_range_of_endpoints_with_a_weight_and_a_state() -> None:
    text = """\
schema = 1
[[service]]
name = "web"
listen = "80/tcp"
endpoints = [{ address = "8001-8002", weight = 3 }, "8003"]
[[service.endpoint]]
address = "8010-8011"
state = "backup"
"""
    [web] = loads(text).services
    assert [(e.name, e.weight, e.state) for e in web.endpoints] == [
        ("8001", 3, State.ACTIVE),
        ("8002", 3, State.ACTIVE),
        ("8003", 1, State.ACTIVE),
        ("8010", 1, State.BACKUP),
        ("8011", 1, State.BACKUP),
    ]


def test_an_excluded_address_is_free_for_another_service() -> None:
    text = """\
schema = 1
[[service]]
name = "web"
listen = "80/tcp"
endpoints = ["8001"]
exclude = ["192.0.2.0/24"]
[[service]]
name = "other"
listen = "192.0.2.10:80/tcp"
endpoints = ["8002"]
"""
    assert len(loads(text).services) == 2
    swapped = text.replace("192.0.2.10:", "192.0.3.10:")
    with pytest.raises(IntentError, match="1 mistake"):
        loads(swapped)


def test_ranges_of_one_file_are_bounded() -> None:
    listed = ", ".join(f'"{n * 10}-{n * 10 + 1}/udp"' for n in range(1, MAX_RANGES + 2))
    text = f'schema = 1\n[[service]]\nname = "a"\nlisten = [\n{listed}]\nendpoints = ["10.0.0.1"]\n'
    with pytest.raises(IntentError) as caught:
        loads(text)
    [problem] = caught.value.problems
    assert f"more than {MAX_RANGES} listeners" in problem.message
