"""Every finding of the reader of nft has a neighbour without it, and corrected rules where there are such."""

import pytest

from lbctl_nftables.reading.read import read
from support.findings import told_apart
from support.nft_findings import CASES, corrected_text

#: Of these, nobody can say by a rule what was meant.
NO_CORRECTION = {
    "chain-loop",
    "family-mismatch",
    "input-not-text",
    "mixed-backends",
    "partial-dump",
    "shell-construct",
    "unexpanded-variable",
    "unparsable-line",
    "unsupported-match",
}


@pytest.mark.parametrize(
    ("code", "has", "near"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)]
)
def test_a_finding_and_its_neighbour(code: str, has: str, near: str) -> None:
    for each in told_apart(read, corrected_text, code, has, near):
        assert bool(each.corrected) is (code not in NO_CORRECTION)


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("every-n-on-each-line", {"8001": "1/3", "8002": "1/3", "8003": "1/3"}),
        ("no-catch-all", {"8001": "1/2", "8003": "1/2"}),
        ("packet-out-of-range", {"8001": "1/3", "8002": "1/3", "8003": "1/3"}),
        ("dnat-range", {"10.0.0.1": "1/3", "10.0.0.2": "1/3", "10.0.0.3": "1/3"}),
        ("port-range-target", {"8001": "1/3", "8002": "1/3", "8003": "1/3"}),
        ("last-mark-wins", {"mark 0x1": "1/2", "mark 0x2": "1/2"}),
    ],
)
def test_corrected_rules_do_what_was_meant(code: str, wanted: dict[str, str]) -> None:
    has = next(has for each, has, _ in CASES if each == code)
    found = next(each for each in read(has).findings if each.code == code)
    reading = read(corrected_text(has, found))
    assert reading.findings == ()
    [service] = reading.services
    assert {each.to: str(each.share) for each in service.backends} == wanted
    assert service.leak == 0


def test_a_ladder_that_stands_behind_another_rule_counts_once() -> None:
    rules = ("redirect to :8001", "numgen inc mod 2 0 redirect to :8002", "redirect to :8003")
    text = "".join(f"tcp dport 80 {rule}\n" for rule in rules)
    reading = read(f"table ip t {{ chain c {{ type nat hook prerouting priority -100\n{text}}}\n}}\n")
    assert {found.corrected for found in reading.findings} == {
        (
            "tcp dport 80 numgen inc mod 3 0 redirect to :8001",
            "tcp dport 80 numgen inc mod 2 0 redirect to :8002",
            "tcp dport 80 redirect to :8003",
        )
    }
