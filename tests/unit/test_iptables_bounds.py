"""Large and hostile rules: their cost is bounded by their length, and nothing is given up without a word.

No clock: the reader counts its own work, and refuses what takes more than rules of that number may.
"""

from fractions import Fraction

import pytest
from hypothesis import given, strategies as st

from lbctl.model import Family
from lbctl_iptables.reading import read
from lbctl_iptables.reading.grammar import Spec
from lbctl_iptables.reading.rule import IptRule, Store
from lbctl_iptables.reading.sequence import Rules
from lbctl_netfilter.population import EXACT_BITS, START, Population, bits, turns


def nat(*rules: str, chains: int = 0) -> str:
    head = ["*nat", ":PREROUTING ACCEPT [0:0]", *(f":c{i} - [0:0]" for i in range(chains))]
    return "\n".join([*head, *rules, "COMMIT", ""])


def address(number: int) -> str:
    return f"10.0.{number >> 8}.{number & 255}"


def test_rules_for_other_sources_cost_a_service_nothing() -> None:
    rules = [
        f"-A PREROUTING -s {address(i)} -p tcp --dport 80 -m statistic --mode nth --every 2 --packet 0 "
        f"-j REDIRECT --to-ports {8000 + i}"
        for i in range(1500)
    ]
    # Each asked for each would be seven times the work that so few rules may make.
    reading = read(nat(*rules))
    assert reading.accept
    assert len(reading.services) == len(rules)
    assert {service.leak for service in reading.services} == {Fraction(1, 2)}


def test_a_source_that_is_sent_past_a_service_is_found_among_many_rules() -> None:
    rules = [f"-A PREROUTING -s {address(i)} -p tcp --dport 81 -j REDIRECT --to-ports 1" for i in range(50)]
    rules += [
        "-A PREROUTING -s 10.9.9.9 -j RETURN",
        "-A PREROUTING -s 10.0.0.0/8 -p tcp --dport 80 -j REDIRECT --to-ports 2",
        "-A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 3",
    ]
    services = {service.backends[0].to: service for service in read(nat(*rules)).services}
    # Other clients have an endpoint of their own, in a rule before it.
    assert services["3"].when == {"src": "! 10.9.9.9, ! 10.0.0.0/8"}
    assert services["2"].when == {"src": "10.0.0.0/8, ! 10.9.9.9"}


def test_chains_of_any_depth_are_followed_and_their_loops_found() -> None:
    deep = [f"-A c{i} -j c{i + 1}" for i in range(3000)]
    ends = ["-A PREROUTING -p tcp --dport 80 -j c0", "-A c3000 -p tcp -j REDIRECT --to-ports 8001"]
    (service,) = read(nat(*ends, *deep, chains=3001)).services
    assert [backend.to for backend in service.backends] == ["8001"]
    looped = read(nat(*ends, *deep, "-A c3000 -j c0", chains=3001))
    assert not looped.accept
    assert [(found.code, found.line) for found in looped.findings] == [("chain-loop", 6006)]


def test_chains_that_double_their_ways_are_refused() -> None:
    doubled = [f"-A c{i} -j c{i + 1}" for i in range(40) for _ in range(2)]
    reading = read(
        nat("-A PREROUTING -j c0", *doubled, "-A c40 -p tcp -j REDIRECT --to-ports 8001", chains=41)
    )
    assert not reading.accept
    assert [lost.reason for lost in reading.unsupported] == [
        "chain PREROUTING: chains with too many paths are not followed"
    ]


def test_shares_of_many_draws_stay_small_and_complete() -> None:
    draw = "-m statistic --mode random --probability"
    rules = [
        f"-A PREROUTING -p tcp --dport 80 {draw} {1 / (601 - i):.11f} -j REDIRECT --to-ports {8000 + i}"
        for i in range(600)
    ]
    (service,) = read(nat(*rules)).services
    assert sum((backend.share for backend in service.backends), service.leak) == 1
    assert max(backend.share.denominator.bit_length() for backend in service.backends) <= EXACT_BITS + 1
    assert all(abs(backend.share - Fraction(1, 601)) < Fraction(1, 10**6) for backend in service.backends)


def test_lists_make_no_more_rules_than_the_text_is_long() -> None:
    many = ",".join(address(i) for i in range(64))
    rules = [
        f"-A PREROUTING -s {many} -d {many} -p tcp --dport {i + 1} -j REDIRECT --to-ports 1" for i in range(5)
    ]
    reading = read(nat(*rules))
    assert not reading.accept
    assert [lost.line for lost in reading.unsupported] == [4, 5, 6, 7]
    one = [f"-A PREROUTING -d {many} -p tcp --dport {i + 1} -j REDIRECT --to-ports 1" for i in range(40)]
    assert len(read(nat(*one)).services) == 64 * 40


def test_ranges_of_endpoints_are_bounded() -> None:
    wide = "-j DNAT --to-destination 10.0.0.0-10.0.15.255:1-4 --random"
    reading = read(nat(*(f"-A PREROUTING -p tcp --dport {i + 1} {wide}" for i in range(20))))
    assert [lost.line for lost in reading.unsupported] == list(range(3, 23))


def rule(number: int) -> IptRule:
    return IptRule(number, "", (), Spec(target=str(number % 7)), "nat", "C", Store(Family.IPV4))


COMMANDS = st.lists(st.tuples(st.sampled_from("aaiird="), st.integers(0, 99)), max_size=60)


@given(commands=COMMANDS)
def test_a_sequence_is_a_list(commands: list[tuple[str, int]]) -> None:
    sequence, wanted = Rules(), [rule(i) for i in range(2040)]
    for each in wanted:
        sequence.append(each)
    for number, (command, at) in enumerate(commands):
        new = rule(number)
        match command:
            case "a":
                sequence.append(new)
                wanted.append(new)
            case "i":
                sequence.insert(at, new)
                wanted.insert(at, new)
            case "r":
                sequence.replace(at, new)
                wanted[at] = new
            case "d":
                sequence.delete(len(wanted) - 1 - at)
                del wanted[len(wanted) - 1 - at]
            case _:
                sequence.delete_like(new)
                del wanted[next(i for i, each in enumerate(wanted) if each.key() == new.key())]
    assert list(sequence) == wanted
    assert len(sequence) == len(wanted)


def test_a_counter_takes_its_turns_among_the_places_that_come_to_it() -> None:
    # Of three places the first and the last come: in three rounds, the first, third and fifth of six.
    assert [bits(each) for each in turns(0b101, length=3, rounds=3, every=2, groups=(((0, 0),),))] == [
        [0, 3, 6]
    ]
    assert [bits(each) for each in turns(0b111, 3, 2, 6, (((4, 4),),))] == [[4]]


def test_states_of_one_connection_add_up() -> None:
    other = START._replace(mark=1)
    stream = Population(2, {START: {1: 0b11}})
    half, rest = stream.part(Fraction(1, 2))
    assert Population.collect(2, [*rest.parts(), (other, Fraction(1, 2), 0b11)]).sequence("ab") == []
    assert rest.joined(half.repeated(2)).states[START] == {1: 0b1111}
    assert stream.joined(half).mass == Fraction(3, 2)
    assert Population.of([START, other, START]).sequence("ab") == ["a", "b", "a"]


def test_services_beyond_the_bound_are_refused_with_their_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbctl_netfilter.analyse.MOST_SERVICES", 3)
    rule = "-A PREROUTING -d 10.0.0.{0}/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.1.0.1:80\n"
    rules = [rule.format(number) for number in range(1, 6)]
    assert read(f"*nat\n{''.join(rules[:3])}COMMIT\n").accept
    reading = read(f"*nat\n{''.join(rules)}COMMIT\n")
    assert (reading.accept, len(reading.services)) == (False, 3)
    assert [lost.line for lost in reading.unsupported] == [5]
