"""Each wrong ladder has one correction with all fixes in it, which changes no other service."""

from fractions import Fraction

import pytest

from lbctl.engine.migrate.read import read_rules
from lbctl.model import Analysis, Severity
from lbctl.spi import backends
from support.mistakes import MISTAKES, OTHER, PORT, Mistake

#: What iptables stores a probability in.
STORED = 1 << 31


def read(text: str) -> Analysis:
    return read_rules(text.encode(), backends())


def bystander(reading: Analysis) -> list[object]:
    return [
        (each.selector, each.hooks, each.backends, each.slots, each.exact)
        for each in reading.services
        if each.dport == str(OTHER)
    ]


def wrong_with(mistake: Mistake) -> list[str]:
    reading = read(mistake.text)
    about = [
        each for each in reading.findings if each.line in mistake.lines and each.severity is not Severity.INFO
    ]
    corrections = {each.corrected for each in about if each.corrected}
    wrong = [] if corrections else ["nothing is corrected"]
    if len(corrections) > 1:
        wrong.append(f"{len(corrections)} corrections: {corrections}")
    for rules in corrections:
        again = read(mistake.corrected(rules))
        wrong += [] if again.accept else [f"refused: {rules}"]
        left = {each.code for each in again.findings} & {each.code for each in about}
        wrong += [f"still {code}: {rules}" for code in left]
        mine = [each for each in again.services if each.dport == str(PORT)]
        if [[x.share for x in each.backends] for each in mine] != [equal_shares(mistake)]:
            wrong.append(f"other shares: {rules}: {[each.backends for each in mine]}")
        if bystander(again) != bystander(reading):
            wrong.append(f"another service is changed: {rules}")
        wrong += [
            f"another tool: {rule}" for rule in rules if mistake.tool and not called(rule, mistake.tool)
        ]
    return wrong


def equal_shares(mistake: Mistake) -> list[Fraction]:
    """Equal parts; those of draws in iptables by the nearest probabilities that it can store."""
    if mistake.form == "nft" or mistake.kind != "equal draws on each line":
        return [Fraction(1, mistake.count)] * mistake.count
    shares, left = [], Fraction(1)
    for count in range(mistake.count, 0, -1):
        shares.append(left * Fraction(round(Fraction(STORED, count)), STORED))
        left -= shares[-1]
    return shares


def called(rule: str, tool: str) -> bool:
    """True for a command that calls the tool, by whatever path."""
    return any(word.rpartition("/")[2] == tool.rpartition("/")[2] for word in rule.split()[:2])


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_correction_is_one_and_whole(mistake: Mistake) -> None:
    assert wrong_with(mistake) == []
