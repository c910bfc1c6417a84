"""Which connections existing rules are for, as keys of an intent: in both syntaxes the same."""

from dataclasses import replace

import pytest

from lbctl.config import dump
from lbctl.engine.migrate.intent import Imported, imported
from lbctl_iptables import backend as iptables
from lbctl_nftables import backend as nftables

NAT = "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n"
LADDER = (
    "{where} -p {proto} -m {proto} --dport {ports} -m statistic --mode nth --every 2 --packet 0 -j {one}",
    "{where} -p {proto} -m {proto} --dport {ports} -j {other}",
)
LOCAL = {"one": "REDIRECT --to-ports 8001", "other": "REDIRECT --to-ports 8002"}
KEPT = {"one": "DNAT --to-destination 10.0.0.1", "other": "DNAT --to-destination 10.0.0.2"}


def rules(
    *before: str, where: str = "-A PREROUTING", proto: str = "tcp", ports: str = "80", **to: str
) -> str:
    ladder = [line.format(where=where, proto=proto, ports=ports, **(to or LOCAL)) for line in LADDER]
    return NAT + "".join(f"{line}\n" for line in (*before, *ladder)) + "COMMIT\n"


def table(body: str) -> str:
    return (
        "table ip nat {\n\tchain prerouting {\n\t\ttype nat hook prerouting priority -100; policy accept;\n"
        f"{body}\n\t}}\n}}\n"
    )


def made(text: str) -> Imported:
    backend = iptables if text.startswith("*") else nftables
    return imported(backend.read(text), text.split("\n"))


def keys(text: str) -> dict[str, object]:
    found = made(text)
    assert found.lost == ()
    assert found.unread == ()
    [service] = found.intent.services
    shown = {
        "listen": [str(listener) for listener in service.listeners],
        "endpoints": [endpoint.to for endpoint in service.endpoints],
        "interfaces": list(service.interfaces),
        "allow": [str(network) for network in service.allow],
        "deny": [str(network) for network in service.deny],
        "exclude": [str(network) for network in service.exclude],
    }
    return {key: value for key, value in shown.items() if value}


WEB = {"listen": ["80/tcp"], "endpoints": ["8001", "8002"]}
PICK = "redirect to :numgen inc mod 2 map { 0 : 8001, 1 : 8002 }"
RANGE = {"listen": ["20000-50000/udp"], "endpoints": ["10.0.0.1", "10.0.0.2"]}
KEEP = "dnat to numgen inc mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (rules(where="-A PREROUTING -i eth0"), {**WEB, "interfaces": ["eth0"]}),
        (table(f'iifname "eth0" tcp dport 80 {PICK}'), {**WEB, "interfaces": ["eth0"]}),
        (rules(where="-A PREROUTING -i ppp+"), {**WEB, "interfaces": ["ppp*"]}),
        (table(f'iifname {{ "eth0", "eth1" }} tcp dport 80 {PICK}'), {**WEB, "interfaces": ["eth0", "eth1"]}),
        (rules("-A PREROUTING -s 192.0.2.0/24 -j RETURN"), {**WEB, "deny": ["192.0.2.0/24"]}),
        (table(f"ip saddr 192.0.2.0/24 accept\ntcp dport 80 {PICK}"), {**WEB, "deny": ["192.0.2.0/24"]}),
        (rules("-A PREROUTING -d 198.51.100.7/32 -j ACCEPT"), {**WEB, "exclude": ["198.51.100.7/32"]}),
        (
            table(f"ip daddr {{ 198.51.100.7, 198.51.100.9 }} return\ntcp dport 80 {PICK}"),
            {**WEB, "exclude": ["198.51.100.7/32", "198.51.100.9/32"]},
        ),
        (rules(where="-A PREROUTING ! -d 10.0.0.0/8"), {**WEB, "exclude": ["10.0.0.0/8"]}),
        (rules(proto="udp", ports="20000:50000", **KEPT), RANGE),
        (table(f"udp dport 20000-50000 {KEEP}"), RANGE),
        (
            rules(ports="80", **KEPT),
            {"listen": ["80/tcp"], "endpoints": ["10.0.0.1", "10.0.0.2"]},
        ),
        (
            table(f"tcp dport {{ 80, 443 }} {KEEP}"),
            {"listen": ["80/tcp", "443/tcp"], "endpoints": ["10.0.0.1", "10.0.0.2"]},
        ),
        (
            # A port of the endpoint's own: one listener for each.
            rules(ports="80:81"),
            {"listen": ["80/tcp", "81/tcp"], "endpoints": ["8001", "8002"]},
        ),
    ],
)
def test_what_rules_are_for(text: str, expected: dict[str, object]) -> None:
    assert keys(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (rules(where="-A PREROUTING ! -i eth0"), "iif is ! eth0"),
        (rules(where="-A PREROUTING -m mark --mark 0x1"), "mark is"),
        (rules(ports="1000:3000"), "more than 64 ports"),
    ],
)
def test_what_an_intent_cannot_ask_for_is_named(text: str, reason: str) -> None:
    found = made(text)
    assert not found.intent.services
    assert reason in " ".join(found.notes)


def test_a_listener_that_an_intent_cannot_have_takes_no_other_with_it() -> None:
    jumps = "-A PREROUTING -p udp -m udp --dport {} -j WEB\n"
    ladder = (
        "-A WEB -p udp -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 10.0.0.1:99\n"
        "-A WEB -p udp -j DNAT --to-destination 10.0.0.2:99\n"
    )
    text = f"{NAT}:WEB - [0:0]\n{jumps.format('20500')}{jumps.format('20000:50000')}{ladder}COMMIT\n"
    found = made(text)
    [service] = found.intent.services
    assert [str(each) for each in service.listeners] == ["20500/udp"]
    assert [each.to for each in service.endpoints] == ["10.0.0.1:99", "10.0.0.2:99"]
    assert [(each.dport, reason) for each, reason in found.lost] == [("20000-50000", "more than 64 ports")]
    assert not found.complete
    # Endpoints without a port serve both.
    found = made(text.replace(":99", ""))
    [service] = found.intent.services
    assert [str(each) for each in service.listeners] == ["20500/udp", "20000-50000/udp"]
    assert found.complete


def test_local_connections_are_joined_with_those_of_an_interface() -> None:
    jumps = (
        "-A PREROUTING -i eth0 -p tcp -m tcp --dport 80 -j WEB\n"
        "-A OUTPUT -p tcp -m tcp --dport 80 -m addrtype --dst-type LOCAL -j WEB\n"
    )
    ladder = (
        "-A WEB -p tcp -m statistic --mode nth --every 2 --packet 0 -j REDIRECT --to-ports 8001\n"
        "-A WEB -p tcp -j REDIRECT --to-ports 8002\n"
    )
    both = NAT + ":WEB - [0:0]\n" + jumps.replace("-i eth0", "-i eth0 -m addrtype --dst-type LOCAL") + ladder
    found = made(both + "COMMIT\n")
    [service] = found.intent.services
    assert service.local_clients
    assert service.interfaces == ("eth0",)
    assert 'interfaces = ["eth0"]' in dump(found.intent)


@pytest.mark.parametrize(
    "own", ["-o lo", "-m addrtype --dst-type LOCAL", "-o lo -m addrtype --dst-type LOCAL"]
)
def test_rules_for_local_connections_alone_are_part_of_the_service(own: str) -> None:
    arriving = rules()
    text = arriving.replace("COMMIT\n", "") + rules(where=f"-A OUTPUT {own}").replace(NAT, "")
    found = made(text)
    assert found.complete
    [service] = found.intent.services
    assert service.local_clients
    assert found.lines[service.name] == (6, 7, 8, 9)
    # What is balanced otherwise is another service.
    [other] = made(text.replace("8002", "8003", 1)).intent.services
    assert not other.local_clients


def test_rules_for_some_local_connections_are_no_part_of_the_service() -> None:
    text = rules().replace("COMMIT\n", "") + rules(where="-A OUTPUT -d 127.0.0.1/32").replace(NAT, "")
    [service] = made(text).intent.services
    assert not service.local_clients


def test_a_service_of_local_connections_alone_is_said_to_become_more() -> None:
    [note] = made(rules(where="-A OUTPUT -o lo")).notes
    assert "also takes connections that arrive" in note


def test_no_service_of_local_connections_is_left_out() -> None:
    text = rules().replace("COMMIT\n", "") + rules(where="-A OUTPUT -o lo").replace(NAT, "")
    reading = iptables.read(text)
    arriving, own = reading.services
    twin = replace(own, lines=(98, 99))
    for services in ((own, twin), (arriving, own, twin)):
        found = imported(replace(reading, services=services))
        named = {line for lines in found.lines.values() for line in lines}
        named |= {line for service, _ in found.lost for line in service.lines}
        assert named == {line for each in services for line in each.lines}
