"""Untrusted text: numbers, names and files of any kind and size end in an answer, never in an exception."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lbctl.cli.options import size
from lbctl.engine.migrate.intent import imported
from lbctl.engine.migrate.read import read_rules
from lbctl.errors import IntentError
from lbctl.host.files import read_bounded
from lbctl.model import NAME, decimal
from lbctl.spi import backends

#: What is no number of a rule, or one that no field holds: other scripts' digits, thousands of them, signs.
SCRIPTS = ("\u00b2", "\u0663", "\uff18", "\u00bd", "\U0001d7d9")
ODD = (*SCRIPTS, "1" * 5000, "9" * 20, "-1", "+1", "1_0", "0x" + "f" * 5000, "08", "1e9", "", " ")

SHELL = (
    "iptables -t nat -I PREROUTING {} -p tcp --dport 80 -j DNAT --to-destination 10.0.0.1:80",
    "iptables -t nat -A PREROUTING -p tcp -j ACCEPT\niptables -t nat -D PREROUTING {}",
    "iptables -t nat -A PREROUTING -p tcp -j ACCEPT\niptables -t nat -R PREROUTING {} -j ACCEPT",
    "iptables -w {} -t nat -A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 8001",
)
SAVED = (
    "-p tcp --dport {} -j REDIRECT --to-ports 8001",
    "-p tcp --dport 80 -j REDIRECT --to-ports {}",
    "-p tcp --dport 80 -j DNAT --to-destination 10.0.0.1:{}",
    "-p tcp --dport 80 -j DNAT --to-destination 10.0.0.1-10.0.0.{}",
    "-p tcp -m multiport --dports 80,{} -j REDIRECT --to-ports 8001",
    "-d 10.0.0.0/{} -p tcp --dport 80 -j REDIRECT --to-ports 8001",
    "-p tcp --dport 80 -m statistic --mode nth --every {} --packet 0 -j REDIRECT --to-ports 8001",
    "-p tcp --dport 80 -m statistic --mode nth --every 2 --packet {} -j REDIRECT --to-ports 8001",
    "-p tcp --dport 80 -m statistic --mode random --probability {} -j REDIRECT --to-ports 8001",
    "-p tcp --dport 80 -m nth --every {} --packet {} -j REDIRECT --to-ports 8001",
    "-p tcp --dport 80 -m random --average {} -j REDIRECT --to-ports 8001",
    "-p tcp --dport 80 -m mark --mark {}/{} -j REDIRECT --to-ports 8001",
    "-p tcp --dport 80 -j MARK --set-xmark {}/0x1",
    "-p tcp --dport 80 -m recent --update --seconds {} -j REDIRECT --to-ports 8001",
    "-m cluster --cluster-total-nodes {} --cluster-local-node 1 --cluster-hash-seed {} -j DNAT --to 10.0.0.1",
    "-p {} -j REDIRECT --to-ports 8001",
    "-p tcp --dport 80 -m u32 --u32 {} -j REDIRECT --to-ports 8001",
)
NFT = (
    "tcp dport {} redirect to :8001",
    "tcp dport 80 redirect to :{}",
    "tcp dport 80 redirect to :numgen inc mod {} map {{ 0 : 8001, 1 : 8002 }}",
    "tcp dport 80 redirect to :numgen inc mod 2 offset {} map {{ 0 : 8001, 1 : 8002 }}",
    "tcp dport 80 redirect to :numgen inc mod 2 map {{ 0 : 8001, {} : 8002 }}",
    "tcp dport 80 numgen inc mod 2 {} redirect to :8001",
    "tcp dport 80 redirect to :jhash ip saddr mod 2 seed {} map {{ 0 : 8001, 1 : 8002 }}",
    "ip daddr 10.0.0.0/{} tcp dport 80 redirect to :8001",
    "tcp dport 80 meta mark {} redirect to :8001",
    "tcp dport 80 meta mark & {} == {} redirect to :8001",
    "tcp dport 80 meta mark set {} redirect to :8001",
    "tcp dport 80 limit rate {}/second redirect to :8001",
    "tcp dport 80 dnat to 10.0.0.1:{}",
    "meta random & {} < {} tcp dport 80 redirect to :8001",
)
NFT_TEXT = (
    "table ip t {{\n chain c {{\n type nat hook prerouting priority {};\n tcp dport 80 redirect\n }}\n}}\n",
    "table ip t {{\n set s {{\n  type ipv4_addr; timeout {}s; size {}\n }}\n}}\n",
    "add rule ip t c position {} tcp dport 80 redirect to :8001\n",
    "add rule ip t c index {} tcp dport 80 redirect to :8001\n",
    "delete rule ip t c handle {}\n",
    '{{"nftables": [{{"chain": {{"family": "ip", "table": "t", "name": "c", "prio": {}}}}}]}}\n',
)


def texts(odd: str) -> list[str]:
    rules = [
        "\n".join(["*nat", ":PREROUTING ACCEPT [0:0]", f"-A PREROUTING {rule}", "COMMIT", ""])
        for rule in SAVED
    ]
    wrapped = (
        f"table ip t {{{{\n chain c {{{{\n  type nat hook prerouting priority -100\n  {x}\n }}}}\n}}}}\n"
        for x in NFT
    )
    return [each.replace("{{", "{{").format(*[odd] * 4) for each in (*rules, *SHELL, *wrapped, *NFT_TEXT)]


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_numbers_of_any_kind_are_answered(odd: str) -> None:
    for text in texts(odd):
        reading = read_rules(text.encode(), backends())
        imported(reading, text.split("\n"))


def test_the_texts_are_rules_where_their_numbers_are() -> None:
    read = [read_rules(text.encode(), backends()) for text in texts("2")]
    assert sum(bool(reading.services) for reading in read) > len(read) / 2


def test_a_number_is_one_of_at_most_so_many_ascii_digits() -> None:
    assert [decimal(text) for text in ("0", "80", "0080", "4294967295")] == [0, 80, 80, 4294967295]
    assert [decimal(text) for text in ("", *SCRIPTS, "-1", "+1", "1_0", "1 ", "1" * 11)] == [None] * 11
    assert (decimal("65535", 5), decimal("165535", 5)) == (65535, None)


@pytest.mark.parametrize("count", [12, 13, 15, 40])
@pytest.mark.parametrize("syntax", ["iptables", "nft"])
def test_names_have_at_most_63_letters(count: int, syntax: str) -> None:
    ports = [str(10000 + 7 * number) for number in range(count)]
    ladder = "-m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 10.0.0.1:80"
    if syntax == "nft":
        rule = "dnat to numgen inc mod 2 map { 0 : 10.0.0.1 . 80, 1 : 10.0.0.2 . 80 }"
        text = (
            "table ip t {\nchain c {\ntype nat hook prerouting priority -100\n"
            f"tcp dport {{ {', '.join(ports)} }} {rule}\n}}\n}}\n"
        )
    else:
        # A multiport match takes 15 ports at most.
        lists = [",".join(ports[at : at + 15]) for at in range(0, count, 15)]
        rules = [
            f"-A PREROUTING -p tcp -m multiport --dports {each} {what}"
            for each in lists
            for what in (ladder, "-j DNAT --to-destination 10.0.0.2:80")
        ]
        text = "\n".join(["*nat", *rules, "COMMIT", ""])
    found = imported(read_rules(text.encode(), backends()))
    assert found.lost == ()
    names = [service.name for service in found.intent.services]
    assert names
    assert all(NAME.match(name) for name in names)
    assert sum(len(service.listeners) for service in found.intent.services) == count


def test_only_regular_files_and_pipes_are_read(tmp_path: Path) -> None:
    for source, kind in (("/dev/zero", "device"), (str(tmp_path), "directory")):
        with pytest.raises(IntentError, match=kind):
            read_bounded(source)
    with pytest.raises(IntentError, match="No such file"):
        read_bounded(str(tmp_path / "x"))
    with pytest.raises(IntentError, match="null"):
        read_bounded("a\0b")
    assert read_bounded("/dev/null") == b""
    path = tmp_path / "rules"
    path.write_bytes(b"x" * 100)
    assert read_bounded(str(path), 100) == b"x" * 100
    with pytest.raises(IntentError, match="larger than 99 bytes"):
        read_bounded(str(path), 99)
    begin, end = os.pipe()
    os.write(end, b"rules")
    os.close(end)
    assert read_bounded(f"/dev/fd/{begin}") == b"rules"
    os.close(begin)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full"])
def test_a_device_as_standard_input_is_refused_at_once(device: str) -> None:
    program = Path(sys.executable).with_name("lbctl")
    with Path(device).open("rb") as endless:
        done = subprocess.run(
            [program, "import", "-"], stdin=endless, capture_output=True, text=True, timeout=60
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert "standard input is a device" in done.stderr


def test_sizes() -> None:
    assert [size(text) for text in ("1", "512K", "64M", "64MiB", "2G")] == [
        1,
        512 << 10,
        64 << 20,
        64 << 20,
        2 << 30,
    ]
