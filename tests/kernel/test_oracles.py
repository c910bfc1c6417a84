"""What the real tools load is read, never refused as a whole; what is not understood touches nothing else."""

from fractions import Fraction
from random import Random

import pytest

from lbctl.engine.migrate.read import read_rules
from lbctl.errors import ApplyFailed
from lbctl.model import Analysis
from lbctl.spi import backends
from support import extensions, fuzzed_rules, nft_samples
from support.network import Network

#: Seeds of random texts, of which most must be such as the tools load.
SEEDS = range(120)
#: Samples that the readers do not yet read beside rules that they do not touch.
NOT_YET: frozenset[str] = frozenset()


def read(text: str) -> Analysis:
    return read_rules(text.encode(), backends())


def loads(network: Network, text: str, *tools: str) -> bool:
    """True if one of the tools takes a text."""
    for tool in tools:
        option = ("--check", "-f", "-") if tool == "nft" else ("--test",)
        try:
            network.tool(tool, *option, stdin=text)
        except ApplyFailed:
            continue
        return True
    return False


def restores(program: str) -> tuple[str, str]:
    return f"{program}-legacy-restore", f"{program}-nft-restore"


def wrong_with(text: str) -> list[str]:
    """What is wrong with the reading of a text that loads, in which the bystander's ladder stands."""
    reading = read(text)
    wrong = (
        []
        if reading.accept
        else [f"refused: {[x.message for x in reading.findings if x.severity == 'error']}"]
    )
    mine = [each for each in reading.services if each.dport == str(fuzzed_rules.BYSTANDER)]
    halves = {f"10.0.0.{number}:443": Fraction(1, 2) for number in (1, 2)}
    if len(mine) != 1:
        return [*wrong, f"{len(mine)} services of the bystander"]
    [service] = mine
    if {each.to: each.share for each in service.backends} != halves or not service.exact:
        wrong.append(f"the bystander: {service.backends}, depends on {service.depends_on}")
    last = text.count("\n", 0, text.index(f"dport {fuzzed_rules.BYSTANDER}"))
    wrong += [f"unsupported: line {each.line}" for each in reading.unsupported if each.line > last]
    return wrong


@pytest.mark.parametrize("sample", nft_samples.SAMPLES, ids=str)
def test_what_nft_takes_is_read(network: Network, sample: nft_samples.Sample) -> None:
    if loads(network, sample.native, "nft"):
        assert read(sample.native).accept
    if sample.family == "ip" and sample.where == nft_samples.PORT and sample.hook == nft_samples.NAT:
        rule = sample.line if sample.statement else f"{sample.line} dnat to 10.0.0.9"
        judged(f"nft: {sample}", network, fuzzed_rules.beside_native([rule]), "nft")


@pytest.mark.parametrize("command", nft_samples.COMMANDS)
def test_commands_that_nft_takes_are_read(network: Network, command: str) -> None:
    text = f"{fuzzed_rules.beside_native([])}{command}\n"
    assert loads(network, text, "nft")
    assert wrong_with(text) == []


@pytest.mark.parametrize("sample", extensions.SAMPLES, ids=str)
def test_what_iptables_takes_is_read(network: Network, sample: extensions.Sample) -> None:
    tools = restores(sample.program)
    if loads(network, sample.saved, *tools) and f"whole: {sample}" not in NOT_YET:
        assert read(sample.saved).accept
    if sample.program == extensions.IPV4 and sample.proto == extensions.TCP and sample.table == "nat":
        end = "" if sample.target else "-j DNAT --to-destination 10.0.0.9"
        rule = " ".join(f"-A {sample.chain} {sample.proto} {sample.text} {end}".split())
        judged(f"iptables: {sample}", network, fuzzed_rules.beside_saved([rule]), *tools)


def judged(name: str, network: Network, text: str, *tools: str) -> None:
    wrong = wrong_with(text) if loads(network, text, *tools) else []
    if name in NOT_YET:
        assert wrong, f"{name} is right: take it off the list"
    else:
        assert wrong == [], text


#: Generators of random texts, each with the tools that may take one.
GENERATED = {
    "nft": (fuzzed_rules.native, ("nft",)),
    "iptables": (fuzzed_rules.saved, restores("iptables")),
    "iptables as people write it": (fuzzed_rules.written, restores("iptables")),
}


@pytest.mark.parametrize("name", GENERATED)
def test_random_rules_that_load_are_read(network: Network, name: str) -> None:
    generate, tools = GENERATED[name]
    loaded = 0
    for seed in SEEDS:
        text = generate(Random(seed))
        if loads(network, text, *tools):
            loaded += 1
            assert wrong_with(text) == [], f"seed {seed}: {text}"
    assert loaded > len(SEEDS) / 3
