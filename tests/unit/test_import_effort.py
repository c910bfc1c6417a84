"""What the import of a large text takes: work that grows with the text, and no list of its lines."""

import random
from collections.abc import Iterator

import pytest

from lbctl.config import dump
from lbctl.engine.migrate.intent import imported
from lbctl.engine.migrate.read import SourceLines
from lbctl_iptables.reading import read as read_saved
from lbctl_iptables.reading.grammar import _Parser, parse
from lbctl_nftables.reading.read import read as read_native
from support.effort import calls
from support.fuzzed_rules import saved

RUNGS = 3


def _ladders(services: int) -> Iterator[str]:
    yield "*nat\n:PREROUTING ACCEPT [0:0]"
    for service in range(services):
        for left in range(RUNGS, 0, -1):
            pick = f"-m statistic --mode nth --every {left} --packet 0 " if left > 1 else ""
            yield (
                f"-A PREROUTING -d 10.0.{service >> 8}.{service & 255}/32 -p tcp -m tcp --dport 80 {pick}"
                f"-j DNAT --to-destination 192.168.{service >> 8}.{left}:80"
            )
    yield "COMMIT\n"


def _chains(services: int) -> Iterator[str]:
    yield "table ip nat {"
    for service in range(services):
        yield f"chain web-{service} {{"
        yield f"numgen random mod 2 vmap {{ 0 : goto one-{service}, 1 : goto two-{service} }}\n}}"
        for number, name in enumerate(("one", "two")):
            to = f"192.168.{service >> 8}.{number}:80"
            rules = f"ip saddr 10.1.0.1 meta mark set 1\ntcp dport 80 dnat to {to}"
            yield f"chain {name}-{service} {{\n{rules}\n}}"
    yield "chain services {"
    for service in range(services):
        yield f"ip daddr 10.0.{service >> 8}.{service & 255} tcp dport 80 goto web-{service}"
    yield "}"
    for hook in ("prerouting", "output"):
        yield f"chain {hook} {{\ntype nat hook {hook} priority dstnat;\njump services\n}}"
    yield "}\n"


@pytest.mark.parametrize(("read", "rules"), [(read_saved, _ladders), (read_native, _chains)])
def test_work_grows_with_the_text(read, rules) -> None:  # type: ignore[no-untyped-def]
    def work(services: int) -> int:
        text = "\n".join(rules(services))
        made = []
        number = calls(lambda: made.append(imported(read(text), text.split("\n"))))
        assert len(made[0].intent.services) == services
        return number

    work(8)  # what is remembered from now on
    once, twice = work(200), work(400)
    assert twice < 2.2 * once


def test_lines_are_those_of_the_text() -> None:
    text = "one\r\n\u00fcber\n\nlast"
    for each in (text, text + "\n"):
        assert list(SourceLines(b"\xef\xbb\xbf" + each.encode())) == each.split("\n")
    assert SourceLines(text.encode())[1:3] == ["\u00fcber", ""]


def test_an_intent_is_printed_with_the_lines_that_it_was_read_from() -> None:
    text = "\n".join(_ladders(1))
    found = imported(read_saved(text), SourceLines(text.encode()))
    assert found.comments == imported(read_saved(text), text.split("\n")).comments
    assert f"# line 3: {text.splitlines()[2]}\n" in dump(found.intent, found.comments)


def test_what_iptables_save_writes_is_what_people_write() -> None:
    lines = [line for seed in range(200) for line in saved(random.Random(seed)).splitlines()]
    lines += [
        "-A SERVICES ! -s 10.244.0.0/16 -d 10.0.0.1/32 ! -i eth0 -p tcp -m tcp --dport 80 -j WEB",
        "-A WEB -p udp -g ELSEWHERE",
        "-A WEB -j RETURN",
        "-A WEB ! -s 10.0.0.1/32",
    ]
    rules = [tuple(line.split()) for line in lines if line.startswith("-A ") and '"' not in line]
    for words in rules:
        quick, general = parse(words), _Parser(words).parsed()
        quick.words = general.words = ()
        assert quick == general
