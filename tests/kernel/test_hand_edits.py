"""Whatever somebody changes by hand in what is ours is seen, and taken back."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from lbctl import engine
from lbctl.config import loads
from lbctl.conformance.network import HOST4, HOST6
from lbctl.host import LocalHost
from lbctl.host.netns import Namespace
from support.network import intent, service

TEXT = intent(
    service("web", "80/tcp", "8001", "8002", "8003"),
    service(
        "api",
        [f"{HOST4}:443/tcp", f"[{HOST6}]:443/tcp"],
        *("10.0.0.1:80", "10.0.0.2:80", "[2001:db8::5]:80"),
        scheduler="source-hash",
        affinity="1h",
        allow=["198.51.100.0/24", "2001:db8::/32"],
    ),
)

#: Commands of nft.
COMMANDS = [
    "add rule ip lbctl service-web accept",
    "insert rule ip lbctl output tcp dport 80 drop",
    "flush chain ip lbctl prerouting",
    "delete table ip lbctl",
    "add table ip lbctl { flags dormant; }",
    "add table ip6 lbctl { flags dormant; }",
    "add table ip lbctl { flags dormant; }; flush chain ip lbctl output",
    "add table ip lbctl { flags dormant; }; add chain ip lbctl mine",
    "delete element ip lbctl services { 192.0.2.1 . tcp . 443 }; add table ip lbctl { flags dormant; }",
    "add chain ip lbctl own { type filter hook input priority 0; }; add table ip lbctl { flags dormant; }",
    "add chain ip lbctl mine; add rule ip lbctl mine drop",
    "add chain ip lbctl forward { type filter hook forward priority 0; policy drop; }",
    "add chain ip lbctl prerouting { policy drop; }",
    "add element ip lbctl ports { tcp . 99 : goto service-web }",
    "delete element ip lbctl ports { tcp . 80 }",
    "add element ip lbctl allow-api { 203.0.113.0/24 }",
    "add element ip lbctl endpoints-api { 10.0.0.9 . 80 }",
    "add element ip lbctl affinity-api { 192.0.2.9 timeout 1h : 10.0.0.9 . 80 }",
    "add element ip lbctl links { lo . 77 }",
    "add map ip lbctl extra { type inet_service : verdict; }",
    "add set ip lbctl extra { type ipv4_addr; }",
    "add counter ip lbctl some",
    "add quota ip lbctl some { over 1 mbytes }",
    "add limit ip lbctl some { rate 1/second }",
]
#: What one reads in a listing of the table, and what it is made to be.
LISTED = [
    ("priority dstnat - 1", "priority dstnat - 2"),
    ("hook output priority -101", "hook output priority -102"),
    ("priority filter - 1; policy accept", "priority filter - 1; policy drop"),
    ("\tmap services {\n", "\tmap services {\n\t\tsize 100\n"),
    ("\tmap services {\n", "\tmap services {\n\t\ttimeout 1h\n"),
    ("\tmap learned-ports {\n", "\tmap learned-ports {\n\t\tflags interval\n"),
    ("\tset endpoints-api {\n", "\tset endpoints-api {\n\t\tflags timeout\n"),
    ("\tset endpoints-api {\n", "\tset endpoints-api {\n\t\ttimeout 1h\n"),
    ("\tset links {\n", "\tset links {\n\t\ttimeout 1h\n"),
    ("\t\tsize 1024\n", "\t\tsize 2048\n"),
    ("\t\tsize 65536\n", "\t\tsize 100\n"),
    ("flags dynamic,timeout\n", "flags dynamic,timeout\n\t\ttimeout 2h\n"),
    ("timeout 1h :", "timeout 2h :"),
    ('comment "web/8001" : 8001', 'comment "web/8001" : 9999'),
    ('comment "web/8001"', 'comment "web/8009"'),
    ("numgen inc mod 3", "numgen random mod 3"),
    ("numgen inc mod 3", "numgen inc mod 2"),
    ("ip saddr != @allow-api return", "ip saddr @allow-api return"),
]


def rung(number: int, *, every: int, packet: int, to: int, note: str = "") -> str:
    nth = f"-m statistic --mode nth --every {every} --packet {packet}"
    return f"-t nat -R LBCTL-web {number} -p tcp {nth} {note} -j REDIRECT --to-ports {to}"


#: Commands of iptables.
RULES = [
    "-t nat -A LBCTL-web -j ACCEPT",
    "-t nat -F LBCTL",
    "-t nat -N LBCTL-mine",
    "-t nat -D PREROUTING 1",
    "-t nat -I OUTPUT 1 -j LBCTL",
    "-t nat -R PREROUTING 1 -p tcp -j LBCTL",
    "-t nat -I PREROUTING 1 -p tcp -j LBCTL-web",
    rung(1, every=3, packet=0, to=9999),
    rung(1, every=4, packet=0, to=8001),
    rung(2, every=2, packet=1, to=8002),
    rung(1, every=3, packet=0, to=8001, note="-m comment --comment web/8001"),
    "-t nat -A POSTROUTING -j LBCTL-HAIRPIN",
    "-t filter -F LBCTL-REFUSE",
    "-t filter -I LBCTL 1 -j RETURN",
    "-t filter -D FORWARD 1",
    "-t filter -A INPUT -j LBCTL-REFUSE",
    "-t filter -N LBCTL-mine",
]


class Scene:
    """A namespace of its own, whose kernel holds the intent."""

    def __init__(self, folder: Path, backend: str, driver: str) -> None:
        self.host = LocalHost(folder)
        self.session = engine.open_session(self.host, backend=backend, driver=driver)
        self.intent = loads(TEXT)
        self.apply()
        self.clean = self.rules(driver)

    def run(self, *words: str, stdin: str = "") -> str:
        done = self.host.run(words, stdin=stdin)
        assert done.code == 0, (words, stdin, done.err)
        return done.out

    def apply(self) -> None:
        engine.apply(self.session, (engine.plan(self.session, self.intent),))

    def rules(self, driver: str) -> str:
        """All rules, as the tool shows them that is not lbctl's."""
        if driver in {"legacy", "nf_tables"}:
            flavour = {"nf_tables": "nft"}.get(driver, driver)
            shown = "".join(self.run(f"{word}-{flavour}-save") for word in ("iptables", "ip6tables"))
            return re.sub(r"^#.*\n| \[\d+:\d+\]", "", shown, flags=re.MULTILINE)
        return "".join(
            sorted(re.split(r"^(?=table )", self.run("nft", "-s", "list", "ruleset"), flags=re.MULTILINE))
        )

    def is_seen_and_taken_back(self, driver: str) -> bool:
        if engine.drift(self.session, self.intent).in_sync:
            return False
        self.apply()
        return engine.drift(self.session, self.intent).in_sync and self.rules(driver) == self.clean


@pytest.fixture
def scene(tmp_path: Path, way: tuple[str, ...]) -> Iterator[Scene]:
    namespace = Namespace(LocalHost())
    with namespace.entered():
        yield Scene(tmp_path, way[1], way[3])
    namespace.close()


def edits(scene: Scene, way: tuple[str, ...]) -> Iterator[tuple[str, Callable[[], object]]]:
    if way[1] == "iptables":
        tool = {"legacy": "iptables-legacy", "nf_tables": "iptables-nft"}[way[3]]
        for words in RULES:
            yield words, partial(scene.run, tool, *words.split())
        return
    for words in COMMANDS:
        yield words, partial(scene.run, "nft", *words.split(" "))
    listed = scene.run("nft", "list", "table", "ip", "lbctl")
    # nft 1.1 has a name for this priority in the hook output too.
    listed = listed.replace("hook output priority dstnat - 1", "hook output priority -101")
    for old, new in LISTED:
        assert old in listed
        text = "delete table ip lbctl\n" + listed.replace(old, new, 1)
        yield new, partial(scene.run, "nft", "-f", "-", stdin=text)


def test_every_hand_edit_is_seen_and_taken_back(scene: Scene, way: tuple[str, ...]) -> None:
    missed = []
    for what, edit in edits(scene, way):
        edit()
        if not scene.is_seen_and_taken_back(way[3]):
            missed.append(what)
            scene.session = engine.open_session(scene.host, backend=way[1], driver=way[3])
            engine.remove(scene.session, "lbctl")
            scene.apply()
    assert missed == []
