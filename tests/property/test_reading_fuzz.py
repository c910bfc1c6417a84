"""Whatever bytes come in, every reader ends soon, fails only in words, drops nothing and says nothing false.

A number names a text, and a failure shows it. LBCTL_FUZZ_FROM is the first one, LBCTL_FUZZ_TEXTS how many
there are, and LBCTL_FUZZ_SECONDS the CPU time that is spent in any case: for long runs by hand.
"""

import os
from random import Random
from time import process_time

import pytest

from support.breaks import SEEDS
from support.fuzz import Maker, judged, judged_intent

SECONDS = float(os.environ.get("LBCTL_FUZZ_SECONDS", "0"))
FROM = int(os.environ.get("LBCTL_FUZZ_FROM", "0"))
TEXTS = int(os.environ.get("LBCTL_FUZZ_TEXTS", "3000"))


HALF = "-p tcp -m statistic --mode nth --every 2 --packet 0"
#: Found by the tests below: what was done for each part of them once went through all parts.
LONG = {
    "rules that nobody comes to": ["*nat", *["-A OUTPUT -p tcp -j REDIRECT --to-ports 1"] * 2500, "COMMIT"],
    "commands in one line": ["iptables x -t nat -N C;" * 8000],
    "words in one line, none of them iptables": ["*raw", "COMMIT", "a;" * 80_000],
    "a rule many times in a chain of draws": [
        "*nat",
        "-A OUTPUT -j C0",
        *(f"-A C{i} {HALF} -j C{i + 1}" for i in range(300) for _ in range(300 if i == 68 else 1)),
        "-A C300 -p tcp -j REDIRECT --to-ports 1",
        "COMMIT",
    ],
}


@pytest.mark.parametrize("lines", LONG.values(), ids=LONG)
def test_long_texts(lines: list[str]) -> None:
    judged("\n".join(lines).encode())


@pytest.mark.parametrize("data", SEEDS)
def test_real_shapes(data: bytes) -> None:
    judged(data)
    judged_intent(data)


@pytest.mark.timeout(60 + 10 * SECONDS)
def test_broken_texts() -> None:
    begin, number = process_time(), FROM
    while number < FROM + TEXTS or process_time() - begin < SECONDS:
        data = Maker(Random(number)).data()
        try:
            judged(data)
            judged_intent(data)
        except Exception as error:
            raise AssertionError(f"text {number}, {data[:2000]!r}: {error!r}") from error
        number += 1


def test_every_rule_is_somewhere() -> None:
    """Of texts with one rule a line: in a service, counted, or listed as not understood or wrong."""
    for number in range(300):
        text = Maker(Random(number)).saved()
        reading = judged(text.encode())
        rules = {line for line, rule in enumerate(text.split("\n"), 1) if rule.startswith("-A ")}
        told = {line for service in reading.services for line in service.lines}
        told |= {each.line for each in (*reading.unsupported, *reading.findings)}
        # What only remembers clients is a part of a service, and takes none.
        told |= {line for line in rules if "-m recent" in text.split("\n")[line - 1]}
        assert len(rules - told) <= reading.untouched_rules, text
