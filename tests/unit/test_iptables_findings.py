"""Every finding of the reader of iptables rules: a text that has it, and one near it that has it not."""

import pytest

from lbctl_iptables.reading import read
from support import nft_findings
from support.findings import (
    CASES,
    GOOD,
    NEW,
    ONE,
    TCP,
    A,
    B,
    C,
    chance,
    corrected_text,
    mangle,
    nth,
    table,
    told_apart,
)
from support.reference import documented_codes


@pytest.mark.parametrize(
    ("code", "has", "near"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)]
)
def test_a_finding_and_its_neighbour(code: str, has: str, near: str) -> None:
    assert told_apart(read, corrected_text, code, has, near)


def test_each_documented_code_has_a_case() -> None:
    cases = {code for code, _, _ in (*CASES, *nft_findings.CASES)}
    assert cases == documented_codes("Import")


#: Of these, nobody can say by a rule what was meant, or nothing is wrong.
NO_CORRECTION = {
    "affinity-recent",
    "chain-loop",
    "input-not-text",
    "mixed-backends",
    "partial-dump",
    "shell-construct",
    "unexpanded-variable",
    "unparsable-line",
    "unsupported-match",
    "unsupported-target",
}


def test_all_other_findings_have_corrected_rules() -> None:
    corrected = {each.code for _, has, _ in CASES for each in read(has).findings if each.corrected}
    assert corrected == {code for code, _, _ in CASES} - NO_CORRECTION


@pytest.mark.parametrize(
    ("has", "wanted"),
    [
        (
            table(f"{TCP} {nth(2)} {A}", f"{TCP} {nth(2, 1)} {B}"),
            {"10.0.0.1:80": "1/2", "10.0.0.2:80": "1/2"},
        ),
        (table(ONE, f"{TCP} {B}", f"{TCP} {C}"), {f"10.0.0.{i}:80": "1/3" for i in (1, 2, 3)}),
        (
            table(f"{TCP} -j DNAT --to-destination 10.0.0.1-10.0.0.3"),
            {f"10.0.0.{i}": "1/3" for i in (1, 2, 3)},
        ),
        (table(f"{TCP} -j REDIRECT --to-ports 8001-8003"), {f"800{i}": "1/3" for i in (1, 2, 3)}),
        (
            "".join(
                f"iptables -t nat {TCP} -m nth --counter 1 --every 3 --packet {i} {to}\n"
                for i, to in enumerate((A, B, C))
            ),
            {f"10.0.0.{i}:80": "1/3" for i in (1, 2, 3)},
        ),
        (
            mangle(f"{NEW} {nth(2)} -j MARK --set-mark 1", f"{NEW} -j MARK --set-mark 2"),
            {"mark 0x1": "1/2", "mark 0x2": "1/2"},
        ),
    ],
)
def test_corrected_rules_do_what_was_meant(has: str, wanted: dict[str, str]) -> None:
    found = [each for each in read(has).findings if each.corrected][-1]
    reading = read(corrected_text(has, found))
    assert reading.findings == ()
    [service] = reading.services
    assert {each.to: str(each.share) for each in service.backends} == wanted
    assert service.leak == 0


def test_right_rules_have_no_finding() -> None:
    for text in (
        GOOD,
        mangle(*(f"{NEW} {nth(2, i)} -j MARK --set-mark {i + 1}" for i in range(2))),
        table(f"{TCP} {chance('0.33333333349')} {A}", f"{TCP} {chance('0.5')} {B}", f"{TCP} {C}"),
        table(f"{TCP} {nth(2)} {A}", f"{TCP} {nth(2)} {B}", f"{TCP} {C}"),
    ):
        assert read(text).findings == (), text
