"""The engine against a naive interpreter, and both syntaxes against each other, on random programs."""

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from lbctl.model import Analysis
from lbctl_iptables.reading import read as read_saved
from lbctl_netfilter.analyse import Analyser
from lbctl_netfilter.ir import FamilyProgram
from lbctl_netfilter.log import Log
from lbctl_nftables.reading.read import read as read_native
from support.interpreter import DROPPED, UNTOUCHED, Packet, chances, shares
from support.programs import PACKETS, NoCorrections, answer, draws, native, programs, saved
from support.twins import differences

#: The same programs in each run.
EXAMPLES = settings(
    deadline=None,
    max_examples=3 * settings.default.max_examples,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def analysed(program: FamilyProgram) -> Analysis:
    log = Log()
    analysis = Analyser(log, NoCorrections(), program.rules)
    analysis.add(program)
    return Analysis(format="nft", services=analysis.services, unsupported=tuple(log.unsupported))


Counting = Callable[[FamilyProgram, Packet], dict[str, Fraction]]


def disagreements(reading: Analysis, program: FamilyProgram, how: Counting) -> list[str]:
    """Where a reading says another share than is counted; what has no endpoint is one."""
    wrong = [] if reading.accept else ["refused"]
    for packet in PACKETS:
        try:
            said = answer(reading, packet)
        except ValueError as error:
            wrong.append(f"a condition that is not spelled as documented: {error}")
            continue
        found = how(program, packet)
        none = sum((found.pop(end, Fraction(0)) for end in (UNTOUCHED, DROPPED)), start=Fraction(0))
        if said is not None and said != found | ({"none": none} if none else {}):
            wrong.append(f"{packet}: said {said}, counted {found}")
    return wrong


LAWS: dict[str, tuple[st.SearchStrategy[FamilyProgram], Callable[[FamilyProgram], list[str]]]] = {
    "counters, as the engine has them": (
        programs(),
        lambda each: disagreements(analysed(each), each, shares),
    ),
    "draws, as the engine has them": (
        programs(draws()),
        lambda each: disagreements(analysed(each), each, chances),
    ),
    "counters, as iptables": (programs(), lambda each: disagreements(read_saved(saved(each)), each, shares)),
    "counters, as nft": (programs(), lambda each: disagreements(read_native(native(each)), each, shares)),
    "both syntaxes": (
        programs(),
        lambda each: differences(read_saved(saved(each)), read_native(native(each))),
    ),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("law", LAWS)
def test_random_programs(law: str) -> None:
    strategy, wrong = LAWS[law]
    failing: list[tuple[str, list[str]]] = []

    @EXAMPLES
    @given(program=strategy)
    def run(program: FamilyProgram) -> None:
        if found := wrong(program):
            failing.append((saved(program), found))

    run()
    text, found = min(failing, key=lambda each: len(each[0]), default=("", []))
    assert found == [], f"{len(failing)} programs fail; the smallest:\n{text}"


def test_most_is_answered() -> None:
    """A law that is asked of no exact service holds always."""
    answered = [0, 0]

    @EXAMPLES
    @given(program=programs())
    def run(program: FamilyProgram) -> None:
        reading = analysed(program)
        answered[0] += len(PACKETS)
        answered[1] += sum(answer(reading, packet) is not None for packet in PACKETS)

    run()
    assert answered[1] > answered[0] / 2
