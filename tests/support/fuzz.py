"""Texts that nobody would write: grammars, real shapes that are broken, bytes; and what must hold for all.

`judged` is the one oracle. A text is made by `Maker` from numbers of a `random.Random`, so that a number
alone names it.
"""

import json
import tomllib
from collections.abc import Callable, Sequence
from fractions import Fraction
from random import Random
from time import process_time
from typing import TypeVar

from lbctl.config import dump, loads
from lbctl.documents.reading import document
from lbctl.engine.inspect.compare import compare
from lbctl.engine.migrate.intent import imported
from lbctl.engine.migrate.read import decode, read_rules
from lbctl.errors import IntentError
from lbctl.model import Analysis, Intent
from lbctl_iptables import backend as iptables
from lbctl_nftables import backend as nftables
from support.breaks import SEEDS, broken, flooded

T = TypeVar("T")

#: CPU seconds that a reader may take: for a text of up to 100 kB, and for each further one. No text of the
#: tests takes a tenth.
PATIENCE = 6.0
#: Bytes of a text that is broken and not flooded.
_LONGEST = 8000
READERS = (nftables, iptables)


class Slow(AssertionError):
    """A text that took too long."""


def judged(data: bytes) -> Analysis:
    """What `import` says of `data`, held against everything that must be true whatever it is."""
    begin = process_time()
    reading = read_rules(data, READERS)
    text, _ = decode(data)
    source = text.split("\n")
    made = imported(reading, source)
    printed = dump(made.intent, made.comments)
    json.dumps(document(reading))
    _in_time(begin, data)
    _consistent(reading, data.count(b"\n") + 1)
    _inert(reading)
    assert reading.accept or reading.findings
    assert compare(reading, reading).equal is reading.accept
    _same_intent(printed, made.intent)
    return reading


def judged_intent(data: bytes) -> Intent | None:
    """The intent in `data`; None where it is refused, with the line of each mistake."""
    begin = process_time()
    text, wrong = decode(data)
    if wrong is not None:
        return None
    try:
        made = loads(text)
    except IntentError as error:
        _in_time(begin, data)
        _told(error, text.count("\n") + 1)
        return None
    _in_time(begin, data)
    _same_intent(dump(made), made)
    return made


def _told(error: IntentError, lines: int) -> None:
    """Every mistake is told with a line of the text, in words that are inert."""
    assert error.problems
    for problem in error.problems:
        assert 1 <= problem.line <= lines
        assert str(problem).isprintable(), problem
        assert (problem.hint or "").isprintable(), problem


def _in_time(begin: float, data: bytes) -> None:
    took = process_time() - begin
    allowed = PATIENCE * max(1, len(data) / 100_000)
    if took > allowed:
        raise Slow(f"{took:.1f} s for {len(data)} bytes")


def _consistent(reading: Analysis, lines: int) -> None:
    for service in reading.services:
        parts = [backend.share for backend in service.backends]
        assert sum(parts, start=Fraction(0)) + service.leak == 1
        assert all(0 < part <= 1 for part in parts)
        assert 0 <= service.leak <= 1
        assert len({backend.to for backend in service.backends}) == len(parts)
        assert service.mode in {"nth", "random", "hash", "mixed", "single", "none"}
        assert service.exact is (service.depends_on is None)
        assert set(service.slots) <= {None, *(backend.to for backend in service.backends)}
        if service.slots and service.mode != "hash":
            for backend in service.backends:
                assert Fraction(service.slots.count(backend.to), len(service.slots)) == backend.share
        assert all(1 <= line <= lines for line in service.lines)
    for found in (*reading.findings, *reading.unsupported):
        assert 1 <= found.line <= lines
    assert reading.untouched_rules >= 0


def _inert(reading: Analysis) -> None:
    """What is made of a text, and not quoted from it, has nothing that a terminal or a shell would act on."""
    for service in reading.services:
        for value in (service.proto, service.dst, service.dport, *(each.to for each in service.backends)):
            assert value.isprintable(), value
            assert not set(value) & set("\"'\\;{}\n$`"), value
    for found in reading.findings:
        for rule in found.corrected:
            assert "\n" not in rule


def _same_intent(printed: str, intent: Intent) -> None:
    """What is printed is inert, and loads as the intent that it was made of."""
    assert printed.isascii() or all(line.isprintable() for line in printed.split("\n"))
    assert len(tomllib.loads(printed).get("service", [])) == len(intent.services)
    if intent.services:
        again = loads(printed)
        assert again == intent


class Maker:
    """Texts of all kinds from the numbers of `random`."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._grammars: tuple[Callable[[], str], ...] = (self.saved, self.shell, self.nft)

    def data(self) -> bytes:
        """A text of any kind, whole or broken."""
        random = self._random
        made = self._pick(self._grammars)().encode() if random.random() < 0.35 else self._pick(SEEDS)
        for _ in range(random.choice([0, 1, 1, 2, 3, 5, 9])):
            made = broken(random, made)[:_LONGEST]
        return flooded(random, made) if random.random() < 0.01 else made

    # -- iptables

    def rule(self, chains: list[str]) -> str:
        """A rule that iptables would take in table nat or mangle, more or less."""
        pick, random = self._pick, self._random
        words = [f"-p {pick(['tcp', 'udp', 'sctp'])}"] if random.random() < 0.9 else []
        words += [pick(_MATCHES) for _ in range(random.choice([0, 1, 1, 2, 2, 3]))]
        words.append(f"-j {pick(chains)}" if chains and random.random() < 0.3 else pick(_TARGETS))
        return " ".join(words)

    def saved(self) -> str:
        """A dump, of which every rule is told in one line."""
        table = self._pick(["nat", "nat", "nat", "mangle", "filter", "raw"])
        hooks = ["PREROUTING", "OUTPUT"] if table != "filter" else ["INPUT", "OUTPUT"]
        own = [f"C{number}" for number in range(self._random.randint(0, 4))]
        lines = [
            f"*{table}",
            *(f":{hook} ACCEPT [0:0]" for hook in hooks),
            *(f":{name} - [0:0]" for name in own),
        ]
        lines += [
            f"-A {self._pick([*hooks, *own])} {self.rule(own)}" for _ in range(self._random.randint(0, 14))
        ]
        return "\n".join([*lines, "COMMIT", ""])

    def shell(self) -> str:
        """A script of commands."""
        lines = []
        for _ in range(self._random.randint(1, 14)):
            program = self._pick(
                ["iptables", "iptables", "ip6tables", "sudo iptables", "$IPT", "/sbin/iptables-nft"]
            )
            command = self._pick(["-A PREROUTING", "-I OUTPUT", "-D PREROUTING 1", "-R PREROUTING 1", "-A C"])
            line = f"{program} -t {self._pick(['nat', 'nat', 'mangle'])} {command} {self.rule(['C'])}"
            lines.append(self._pick([line, line, line, *_SHELL]).replace("@", line))
        return "\n".join(["IPT=iptables", "iptables -t nat -N C", *lines, ""])

    # -- nft

    def nft(self) -> str:
        """Tables as nft lists them."""
        chains = [f"c{number}" for number in range(self._random.randint(1, 4))]
        lines = [f"table {self._pick(['ip', 'inet', 'ip6'])} t {{"]
        lines += ["map m {", "type inet_proto . inet_service : verdict"]
        lines += [f"elements = {{ tcp . 80 : goto {self._pick(chains)}, udp . 53 : drop }}", "}"]
        lines += ["set s {", "type ipv4_addr", "flags dynamic,timeout", "timeout 5m", "}"]
        for name in chains:
            lines.append(f"chain {name} {{")
            if name == "c0" or self._random.random() < 0.2:
                kind = self._pick(["nat", "nat", "filter"])
                hook = self._pick(["prerouting", "output", "postrouting"])
                lines.append(
                    f"type {kind} hook {hook} priority {self._random.randint(-200, 200)}; policy accept;"
                )
            for _ in range(self._random.randint(0, 7)):
                parts = [self._pick(_CONDITIONS) for _ in range(self._random.choice([0, 1, 1, 2]))]
                verdict = self._pick(_STATEMENTS).replace("<>", self._pick(chains))
                lines.append(" ".join([*parts, verdict]))
            lines.append("}")
        return "\n".join([*lines, "}", ""])

    def _pick(self, of: Sequence[T]) -> T:
        return self._random.choice(of)


_MATCHES = (
    "--dport 80",
    "-m tcp --dport 80:90",
    "-m multiport --dports 80,443,8000:8003",
    "-m multiport --ports 53",
    "-d 10.0.0.1/32",
    "-d 10.0.0.0/8",
    "! -d 127.0.0.0/8",
    "-s 192.0.2.0/24",
    "-d 2001:db8::1",
    "-d ! 10.0.0.1",
    "-i eth0",
    "! -i lo",
    "-m addrtype --dst-type LOCAL",
    "-m conntrack --ctstate NEW",
    "-m state --state RELATED,ESTABLISHED",
    "-m statistic --mode nth --every 2 --packet 0",
    "-m statistic --mode nth --every 3 --packet 0",
    "-m statistic --mode nth --every 3 --packet 1",
    "-m statistic --mode nth ! --every 4 --packet 3",
    "-m statistic --mode nth --every 4294967295 --packet 7",
    "-m statistic --mode nth --every 97",
    "-m statistic --mode nth --every 2 --packet 2",
    "-m statistic --mode random --probability 0.5",
    "-m statistic --mode random --probability 0.33333333349",
    "-m statistic --mode random ! --probability 0.33",
    "-m statistic --mode random --probability 1e-10",
    "-m nth --counter 1 --every 3 --packet 0",
    "-m random --average 20",
    "-m cluster --cluster-total-nodes 3 --cluster-local-node 1 --cluster-hash-seed 0x5",
    "-m recent --rcheck --seconds 60 --name a --rsource",
    "-m recent --set --name a --rsource",
    "-m mark --mark 0x1/0x3",
    "-m mark ! --mark 0",
    "-m connmark --mark 2",
    "-m limit --limit 1/s",
    "-m u32 --u32 0>>22&0x3C@4=1",
    '-m comment --comment "web/a; $(id) \\" #"',
    "-m comment --comment web",
)
_TARGETS = (
    "-j DNAT --to-destination 10.0.0.1:80",
    "-j DNAT --to-destination 10.0.0.2",
    "-j DNAT --to-destination 10.0.0.1-10.0.0.9",
    "-j DNAT --to-destination 10.0.0.1:80-90 --random",
    "-j DNAT --to-destination :81",
    "-j DNAT --to-destination [2001:db8::2]:80",
    "-j DNAT --to 10.0.0.1 --to 10.0.0.2",
    "-j REDIRECT --to-ports 8001",
    "-j REDIRECT --to-ports 8001-8003",
    "-j REDIRECT",
    "-j SNAT --to-source 192.0.2.1-192.0.2.2",
    "-j MASQUERADE",
    "-j MARK --set-mark 1",
    "-j MARK --set-xmark 0x2/0x3",
    "-j CONNMARK --save-mark",
    "-j CONNMARK --restore-mark",
    "-j CONNMARK --set-mark 3",
    "-j ACCEPT",
    "-j DROP",
    "-j RETURN",
    "-j LOG",
    "-j NETMAP --to 10.0.0.0/24",
    "-j NOWHERE",
    "-g PREROUTING",
    "",
)
#: What shells do around a command, `@`.
_SHELL = (
    "for i in 1 2; do @; done",
    "if true; then @; fi",
    "@ || true",
    "@ 2>/dev/null",
    "@ # more",
    "# @",
    "echo @",
    "X=$(@)",
    "@ && @",
    "iptables-restore <<E\n*nat\n-A OUTPUT -j REDIRECT\nCOMMIT\nE",
    "f() { @; }",
    "while read a; do",
    "done",
    "iptables -t nat -F",
    "iptables -t nat -X C",
    "IPT=ip6tables",
)
_CONDITIONS = (
    "tcp dport 80",
    "tcp dport { 80, 443, 8000-8003 }",
    "udp dport != 53",
    "ip daddr 10.0.0.1",
    "ip daddr { 10.0.0.0/8, 192.0.2.1-192.0.2.9 }",
    "ip saddr != 192.0.2.0/24",
    "ip saddr @s",
    "ip6 daddr 2001:db8::1",
    "meta l4proto { tcp, udp }",
    "meta l4proto . th dport { tcp . 80, udp . 53 }",
    "fib daddr type local",
    "ct state new",
    "ct state { established, related }",
    'iifname "eth0"',
    "meta mark 1",
    "meta mark & 0xff != 0",
    "ct mark 0x2",
    "numgen inc mod 2 0",
    "numgen inc mod 3 offset 1 { 1, 2 }",
    "numgen inc mod 4294967295 7",
    "numgen random mod 3 < 2",
    "numgen random mod 2147483648 < 715827883",
    "meta random & 2147483647 < 5",
    "jhash ip saddr mod 2 seed 1 0",
    "symhash mod 4 1-2",
    "limit rate 1/second",
    "counter",
    "update @s { ip saddr }",
    "@th,0,16 80",
)
_STATEMENTS = (
    "dnat to 10.0.0.1:80",
    "dnat ip to 10.0.0.1-10.0.0.4",
    "dnat ip6 to [2001:db8::1]:80",
    "dnat to numgen inc mod 3 map { 0 : 10.0.0.1, 1 : 10.0.0.2, 2 : 10.0.0.3 }",
    "dnat ip to numgen random mod 2 map { 0 : 10.0.0.1 . 80, 1 : 10.0.0.2 . 81 }",
    "redirect to :numgen inc mod 5 map { 0 : 1, 1-2 : 2, 9 : 3 }",
    "dnat to jhash ip saddr . tcp sport mod 2 seed 0xdeadbeef map { 0 : 10.0.0.1, 1 : 10.0.0.2 }",
    "dnat to ip saddr map { 10.0.0.1 : 10.0.0.2 }",
    "redirect to :8001",
    "redirect to :8001-8003 random",
    "redirect",
    "snat to 192.0.2.1-192.0.2.2",
    "masquerade",
    "meta mark set numgen inc mod 2",
    "ct mark set jhash ip saddr mod 2 seed 1 map { 0 : 1, 1 : 2 }",
    "meta mark set ct mark",
    "meta mark set meta mark | 0x10",
    "numgen inc mod 3 vmap { 0 : jump <>, 1 : goto <>, 2 : return }",
    "tcp dport vmap { 80 : jump <>, 81-90 : drop, 443 : accept }",
    "fib daddr type local meta l4proto . th dport vmap @m",
    "jump <>",
    "goto <>",
    "return",
    "accept",
    "drop",
    'log prefix "a; \\" accept',
    'redirect to :8002 comment "web/a"',
)
