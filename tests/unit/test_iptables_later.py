"""What the reader of iptables says of the rules behind the hook that gives an endpoint."""

import pytest

from lbctl.engine.migrate.intent import imported
from lbctl.model import SourceNat
from lbctl_iptables.reading import read

WEB = "-A PREROUTING -d 192.0.2.1/32 -p tcp -m tcp --dport 80"
LADDER = (
    f"{WEB} -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 10.0.0.1:8080",
    f"{WEB} -j DNAT --to-destination 10.0.0.2:8080",
)
ALWAYS, HAIRPIN, NEVER = SourceNat.ALWAYS, SourceNat.HAIRPIN, SourceNat.NEVER


def tables(**rules: tuple[str, ...]) -> str:
    """A dump with these tables."""
    return "".join(
        "\n".join([f"*{name}", *(f":{hook} ACCEPT [0:0]" for hook in HOOKS[name]), *lines, "COMMIT", ""])
        for name, lines in rules.items()
    )


HOOKS = {
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}


def behind(*rules: str) -> SourceNat | None:
    reading = read(tables(nat=(*LADDER, *rules)))
    return next(service.source_nat for service in reading.services if service.action == "dnat")


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ((), NEVER),
        (("-j MASQUERADE",), ALWAYS),
        (("-d 10.0.0.0/24 -p tcp -m tcp --dport 8080 -j SNAT --to-source 10.0.0.254",), ALWAYS),
        (("-m conntrack --ctstate DNAT -j MASQUERADE",), ALWAYS),
        (("-m conntrack --ctorigdst 192.0.2.1 --ctorigdstport 80 -j MASQUERADE",), ALWAYS),
        (("-m conntrack --ctorigdst 192.0.2.9 -j MASQUERADE",), NEVER),
        # Another port, another network: not for these connections.
        (("-d 10.0.0.0/24 -p tcp -m tcp --dport 80 -j MASQUERADE",), NEVER),
        (("-p tcp -m tcp ! --dport 8080 -j MASQUERADE",), NEVER),
        (("-s 10.0.0.0/24 ! -d 10.0.0.0/24 -j MASQUERADE",), NEVER),
        (("-s 10.0.0.0/24 -d 10.0.0.0/24 -j MASQUERADE",), HAIRPIN),
        (("-s 10.0.0.0/24 -d 10.0.0.1/32 -p tcp -m tcp --dport 8080 -j MASQUERADE",), HAIRPIN),
        (
            ("-s 10.0.0.1/32 -d 10.0.0.1/32 -j MASQUERADE", "-s 10.0.0.2/32 -d 10.0.0.2/32 -j MASQUERADE"),
            HAIRPIN,
        ),
        (("! -o lo -m addrtype --src-type LOCAL -j MASQUERADE",), HAIRPIN),
        # Where the way out or a client far away decides, an intent has no word for it.
        (("-o eth0 -j MASQUERADE",), None),
        (("-s 198.51.100.0/24 -j MASQUERADE",), None),
        # Only the others: what an earlier rule lets go keeps its source.
        (("-s 10.0.0.0/24 -j RETURN", "-j MASQUERADE"), None),
        (("-d 10.0.0.0/8 -j ACCEPT", "-j MASQUERADE"), NEVER),
        (("-d 10.0.0.1/32 -j MASQUERADE",), None),
        (("-s 10.0.0.0/24 -j ACCEPT", "-j MASQUERADE"), None),
        # A mark that only some have.
        (("-s 10.0.0.0/24 -j MARK --set-xmark 0x1/0xff", "-m mark --mark 0x1 -j MASQUERADE"), None),
        (("-s 10.0.0.0/24 -j MARK --set-xmark 0x1/0xff", "-m mark --mark 0x2 -j RETURN"), NEVER),
        (("-m statistic --mode nth --every 2 --packet 0 -j MASQUERADE",), None),
    ],
)
def test_when_the_source_is_replaced(rules: tuple[str, ...], found: SourceNat | None) -> None:
    assert behind(*(f"-A POSTROUTING {rule}" for rule in rules)) is found


def test_chains_and_marks_lead_to_it() -> None:
    chains = (":a - [0:0]", ":b - [0:0]", "-A POSTROUTING -j a", "-A b -s 10.0.0.0/24 -j MASQUERADE")
    assert behind(*chains, "-A a -g b", "-A a -j MASQUERADE") is HAIRPIN
    assert behind(*chains, "-A a -j b", "-A a -j MASQUERADE") is ALWAYS
    leaving = (":c - [0:0]", "-A c -s 198.51.100.0/24 -j ACCEPT", "-A POSTROUTING -j MASQUERADE")
    assert behind(leaving[0], "-A POSTROUTING -j c", *leaving[1:]) is None
    marking = WEB + " -j MARK --set-xmark 0x{}/0xff"
    asking = ("-A POSTROUTING -m mark ! --mark 0x4/0x4 -j RETURN", "-A POSTROUTING -j MASQUERADE")
    for mark, found in (("4", ALWAYS), ("6", ALWAYS), ("3", NEVER)):
        [service] = read(tables(nat=(marking.format(mark), *LADDER, *asking))).services
        assert service.source_nat is found
        # The mark of another table, and one that the connection has kept.
        text = tables(mangle=(marking.format(mark),), nat=(*LADDER, *asking))
        assert read(text).services[0].source_nat is found
        kept = "-A PREROUTING -j CONNMARK --save-mark --nfmask 0x5 --ctmask 0xff"
        asked = asking[0].replace("-m mark", "-m connmark")
        text = tables(mangle=(marking.format(mark), kept), nat=(*LADDER, asked, asking[1]))
        assert read(text).services[0].source_nat is found


def test_a_part_of_a_text_does_not_say_never() -> None:
    assert read("\n".join(LADDER)).services[0].source_nat is None
    assert read("\n".join((*LADDER, "-A POSTROUTING -j MASQUERADE"))).services[0].source_nat is ALWAYS


def test_an_intent_has_it() -> None:
    reading = read(tables(nat=(*LADDER, "-A POSTROUTING -j MASQUERADE")))
    [service] = imported(reading).intent.services
    assert service.source_nat is ALWAYS


def test_what_an_intent_cannot_hold_is_listed() -> None:
    reading = read(tables(nat=(*LADDER, "-A POSTROUTING -o eth0 -j MASQUERADE")))
    assert [(each.source_nat, each.source_lines) for each in reading.services] == [(None, (8,))]
    notes = [note for note in imported(reading).notes if "replaced" in note]
    assert notes == ["tcp-80: the client address is replaced for some connections only (line 8)"]


MARKED = tuple(
    f"{WEB} -m statistic --mode nth --every 2 --packet {turn} -j MARK --set-xmark 0x{turn + 1}/0xffffffff"
    for turn in range(2)
)


def test_who_is_refused_for_a_mark_has_no_endpoint() -> None:
    refusing = "-A FORWARD -m mark --mark 0x1 -j DROP"
    reading = read(tables(mangle=MARKED, nat=LADDER, filter=(refusing,)))
    found = next(service for service in reading.services if service.action == "dnat")
    assert {each.to: str(each.share) for each in found.backends} == {"10.0.0.2:8080": "1/2"}
    assert (str(found.leak), found.leak_to) == ("1/2", "DROP in line 22")
    for harmless in (
        "-A FORWARD -m mark --mark 0x9 -j DROP",
        "-A INPUT -m mark --mark 0x1 -j DROP",
        "-A FORWARD -s 10.9.0.0/16 -m mark --mark 0x1 -j DROP",
        "-A FORWARD -d 192.0.2.1/32 -m mark --mark 0x1 -j DROP",
    ):
        reading = read(tables(mangle=MARKED, nat=LADDER, filter=(harmless,)))
        assert [str(s.leak) for s in reading.services if s.action == "dnat"] == ["0"], harmless


def test_a_source_is_chosen_by_the_mark_of_an_earlier_hook() -> None:
    picking = "-A PREROUTING -i eth1 -m statistic --mode nth --every 3 --packet 0 -j MARK --set-xmark 0x1/0xf"
    kept = "-A PREROUTING -i eth1 -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff"
    sources = (
        "-A POSTROUTING -m connmark --mark 0x1 -j SNAT --to-source 192.0.2.1",
        "-A POSTROUTING -m mark --mark 0x0/0xf -j SNAT --to-source 192.0.2.2",
    )
    reading = read(tables(mangle=(picking, kept), nat=("-A PREROUTING -j ACCEPT", *sources)))
    found = next(service for service in reading.services if service.action == "snat")
    assert (found.hooks, found.when, found.mode) == (("postrouting",), {"iif": "eth1"}, "nth")
    assert found.slots == ("192.0.2.1", "192.0.2.2", "192.0.2.2")
    assert [(step.where.partition(":")[0], str(step.share), str(step.taken)) for step in found.path] == [
        ("prerouting", "1", "1/3"),
        ("prerouting", "1", "1"),
        ("prerouting", "1", "1"),
        ("postrouting", "1", "1/3"),
        ("postrouting", "2/3", "2/3"),
    ]
    # One source for all is no choice.
    reading = read(tables(mangle=(picking, kept), nat=("-A POSTROUTING -j MASQUERADE", *sources)))
    assert "snat" not in {service.action for service in reading.services}
