"""What the readers say of rules from the field is what the kernel does (tests/kernel/test_field_cases.py)."""

import re

import pytest

from lbctl.engine.inspect.compare import compare
from lbctl.engine.migrate.read import read_rules
from lbctl.model import Analysis
from lbctl.spi import backends
from support import findings
from support.field_cases import CASES, DIFFERENT, EQUAL, PICKING, answer, nft

#: Cases that the readers do not yet get right. One that they do must leave this list.
NOT_YET: frozenset[str] = frozenset()

SRCNAT = "type nat hook postrouting priority 100"
READ = [(name, syntax) for name, case in CASES.items() for syntax in case.texts]


def read(text: str) -> Analysis:
    return read_rules(text.encode(), backends())


def judged(name: str, wrong: list[str]) -> None:
    """Fail for what is wrong with a case; for one that is not on the list although it should be, too."""
    if name in NOT_YET:
        assert wrong, f"{name} is right: take it off the list"
    else:
        assert wrong == []


@pytest.mark.parametrize("case", [f"{name}, {syntax}" for name, syntax in READ])
def test_a_reading_says_who_answers(case: str) -> None:
    name, syntax = READ[[f"{name}, {syntax}" for name, syntax in READ].index(case)]
    wanted, text = CASES[name], CASES[name].texts[syntax]
    reading = read(text)
    wrong = [] if reading.accept else ["the text is refused"]
    for ask in wanted.asks:
        try:
            shares, services = answer(reading, ask)
        except ValueError as error:
            wrong.append(f"{ask}: a condition that is not spelled as documented: {error}")
            continue
        if wanted.exact is not False and shares != ask.shares:
            wrong.append(f"{ask}: {shares}")
        for service in services:
            if wanted.exact is not None and service.exact is not wanted.exact:
                wrong.append(f"{ask}: exact is {service.exact}")
            if wanted.depends_on and not names(service.depends_on, text, wanted.depends_on):
                wrong.append(f"{ask}: depends on {service.depends_on}")
        if wanted.exact is False and not services:
            wrong.append(f"{ask}: no service")
    found = {each.code for each in reading.findings}
    wrong += [f"no finding {code}" for code in wanted.codes - found]
    wrong += [f"finding {code}" for code in wanted.not_codes & found]
    judged(case, wrong)


def names(depends_on: str | None, text: str, part: str) -> bool:
    """True if the words name the line of the rule that holds `part`."""
    lines = [number for number, line in enumerate(text.split("\n"), 1) if part in line]
    return depends_on is not None and any(f"line {number}" in depends_on for number in lines)


@pytest.mark.parametrize("name", PICKING)
def test_what_picks_is_a_service_or_unsupported(name: str) -> None:
    wrong = []
    for text in PICKING[name].values():
        reading = read(text)
        rules = {n for n, line in enumerate(text.split("\n"), 1) if re.match(r"-A |(?:tcp|udp|ct) ", line)}
        served = {line for service in reading.services for line in service.lines}
        unread = {each.line for each in reading.unsupported}
        wrong += [] if reading.accept else ["the text is refused"]
        wrong += [] if rules <= served | unread else ["neither a service nor unsupported"]
    judged(f"picks: {name}", wrong)


@pytest.mark.parametrize("name", EQUAL)
def test_equal_rules_are_equal(name: str) -> None:
    one, other = map(read, EQUAL[name])
    judged(f"equal: {name}", [] if one.services and compare(one, other).equal else ["not equal"])


@pytest.mark.parametrize("name", DIFFERENT)
def test_rules_that_exempt_more_are_not_equal(name: str) -> None:
    one, other = map(read, DIFFERENT[name])
    judged(f"different: {name}", ["equal"] if compare(one, other).equal else [])


def test_source_ports_do_not_balance() -> None:
    wrong = []
    for text in (
        "*nat\n-A POSTROUTING -p tcp -j SNAT --to-source 198.51.100.1:1024-65535\nCOMMIT\n",
        "*nat\n-A POSTROUTING -p udp -j MASQUERADE --to-ports 1024-65535\nCOMMIT\n",
        nft("udp sport 53 snat to 198.51.100.1:1024-65535", hook=SRCNAT)["nft"],
    ):
        reading = read(text)
        if (
            not reading.accept
            or reading.unsupported
            or any(len(each.backends) > 1 for each in reading.services)
        ):
            wrong.append(text)
    judged("source ports", wrong)


def test_a_script_of_both_flavours_is_read_with_a_finding() -> None:
    rule = "-t nat -A PREROUTING -p tcp --dport {} -j REDIRECT --to-ports 8001"
    reading = read(f"iptables {rule.format(80)}\niptables-legacy {rule.format(81)}\n")
    wrong = [] if reading.accept else ["refused"]
    if {each.dport for each in reading.services} != {"80", "81"}:
        wrong.append("a store is not read")
    if "mixed-backends" not in {each.code for each in reading.findings}:
        wrong.append("no finding")
    judged("both flavours", wrong)


A, B, C = (f"-j DNAT --to-destination 10.0.0.{i}:80" for i in (1, 2, 3))
TCP = "-t nat -A PREROUTING -p tcp --dport 80"
NTH = "-m statistic --mode nth --every {} --packet 0"
OUTPUT = "-t nat -A OUTPUT -p tcp --dport 81 -j REDIRECT --to-ports 1"
#: Scripts with one ladder that is wrong, each with the number of its endpoints.
BROKEN = {
    "the same turn on each line": (f"iptables {TCP} {NTH.format(3)} {{}}", (A, B, C), ""),
    "the same turn, and local connections elsewhere": (
        f"iptables {TCP} {NTH.format(3)} {{}}",
        (A, B, C),
        OUTPUT,
    ),
    "the tool of the other flavour": (f"iptables-legacy {TCP} {NTH.format(2)} {{}}", (A, B), ""),
    "draws": (f"iptables-nft {TCP} -m statistic --mode random --probability 0.5 {{}}", (A, B), ""),
    "behind sudo": (f"sudo /usr/sbin/iptables-legacy {TCP} {NTH.format(2)} {{}}", (A, B), ""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_ladder_has_one_correction_with_all_cures(name: str) -> None:
    form, ends, other = BROKEN[name]
    tool = next(word.rpartition("/")[2] for word in form.split() if "iptables" in word)
    lines = [form.format(end) for end in ends]
    apart = f"{tool} {other}\n" if other else ""
    reading = read("\n".join([*lines, ""]) + apart)
    mine = [each for each in reading.findings if each.line <= len(ends) and each.corrected]
    wrong = [] if mine else ["nothing is corrected"]
    if len({each.corrected for each in mine}) > 1:
        wrong.append(f"several corrections: {[each.corrected for each in mine]}")
    for each in mine:
        wrong += [f"another tool: {line}" for line in each.corrected if line.split()[0] != tool]
        again = read("\n".join([*each.corrected, ""]) + apart)
        left = findings.codes(again) & {found.code for found in mine}
        wrong += [f"{each.code}: still {code}" for code in left]
        shares = {
            x.to: x.share for service in again.services if service.dport == "80" for x in service.backends
        }
        if set(shares.values()) != {1 / len(ends)} and len(set(shares.values())) != 1:
            wrong.append(f"{each.code}: {shares}")
    judged(f"corrected: {name}", wrong)


def test_a_correction_leaves_other_services_as_they_are() -> None:
    text = (
        "table ip t {\nchain c {\ntype nat hook prerouting priority -100;\n"
        "meta random & 0x7fffffff < 0x40000000 tcp dport 80 dnat to 10.0.0.1:80\n"
        "fib daddr type local tcp dport 80 dnat to 10.0.0.2:80\n}\n}\n"
    )
    wrong = []
    for found in read(text).findings:
        # The first rule takes a half; without its condition it would take all.
        takes = [line for line in found.corrected if "10.0.0.1" in line]
        wrong += [line for line in takes if "random" not in line and "numgen" not in line]
    judged("corrected: a draw ahead of another service", wrong)
