"""A plan says what changes, and what is wrong with the host: against a real kernel and real processes."""

import socket

import pytest

from support.network import Network, intent, service

WEB = intent(service("web", "80/tcp", "8001", "8002"))
SILENT = "connections will be refused"


def endpoint(address: str, weight: int = 1) -> str:
    return f'[[service.endpoint]]\naddress = "{address}"\nweight = {weight}\n'


def changes(network: Network, way: tuple[str, ...], config: str) -> list[tuple[str, object, object]]:
    [found] = network.lbctl("plan", "--output", "json", *way, config=config).json["services"]
    return [(each["key"], each["before"], each["after"]) for each in found["changes"]]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"allow": ["198.51.100.0/24"]}, "allow  everyone  →  198.51.100.0/24"),
        ({"scheduler": "random"}, "scheduler  round-robin  →  random"),
        ({"affinity": "3h"}, "affinity  none  →  3h"),
        ({"local-clients": False}, "local-clients  true  →  false"),
    ],
)
def test_each_key(network: Network, way: tuple[str, ...], options: dict[str, object], line: str) -> None:
    network.local_endpoints((8001, 8002))
    assert network.lbctl("apply", "--yes", *way, config=WEB).code == 0
    after = intent(service("web", "80/tcp", "8001", "8002", **options))
    shown = network.lbctl("plan", *way, config=after).out
    assert line in shown
    assert "same shares" not in shown
    assert len(changes(network, way, after)) == 1
    assert network.lbctl("apply", "--yes", *way, config=after).code == 0
    assert changes(network, way, after) == []


def test_what_is_removed_stands_in_the_order_of_the_file(network: Network, way: tuple[str, ...]) -> None:
    """Also where weights are by command: the kernel lists services by name, and endpoints by their slots."""
    network.local_endpoints((8001, 8002))
    both = intent(service("web", "80/tcp", "8001", "8002"), service("api", "81/tcp", "8001", affinity="3h"))
    assert network.lbctl("apply", "--yes", *way, config=both).code == 0
    assert network.lbctl("weight", "web/8002", "3").code == 0
    assert "\n  affinity 3h\n" in network.lbctl("status", *way, config=both).out
    shown = network.lbctl("remove", "--yes", *way).out
    rows = [line.split()[:2] for line in shown.splitlines() if line[:1] == "-" or "→" in line]
    assert rows == [["-", "web"], ["8001", "1/4"], ["8002", "3/4"], ["-", "api"], ["8001", "1"]]


def test_allow_shuts_others_out(network: Network, way: tuple[str, ...]) -> None:
    network.local_endpoints((8001, 8002))
    assert network.lbctl("apply", "--yes", *way, config=WEB).code == 0
    assert network.ask(network.client, "192.0.2.1", 80, 2) == ["8001", "8002"]
    after = intent(service("web", "80/tcp", "8001", "8002", allow=["10.0.0.0/8"]))
    done = network.lbctl("apply", "--yes", *way, config=after)
    assert "    allow  everyone  →  10.0.0.0/8\n" in done.out
    assert network.ask(network.client, "192.0.2.1", 80) == ["refused"]


def test_a_listener_that_moves(network: Network, way: tuple[str, ...]) -> None:
    network.local_endpoints((8001, 8002))
    assert network.lbctl("apply", "--yes", *way, config=WEB).code == 0
    after = intent(service("web", "81/tcp", "8001", "8002"))
    shown = network.lbctl("plan", *way, config=after).out
    assert "~ web  81/tcp\n    listen  80/tcp  →  81/tcp\n    no longer balanced: " in shown
    assert "balanced: clients of 80/tcp\n" in shown
    assert "    8001  1/2  →  1/2\n    8002  1/2  →  1/2\n" in shown
    assert changes(network, way, after) == [("listen", ["80/tcp"], ["81/tcp"])]


def test_without_a_history_the_rules_say_it(network: Network, way: tuple[str, ...]) -> None:
    network.local_endpoints((8001, 8002))
    assert network.lbctl("apply", "--yes", *way, config=WEB).code == 0
    state = network.folder / "state"
    for file in [each for each in network.folder.rglob("lbctl.0*") if each.is_file()]:
        file.unlink()
    after = intent(service("web", "81/tcp", "8001", "8002", scheduler="random"))
    assert changes(network, way, after) == [
        ("listen", ["80/tcp"], ["81/tcp"]),
        ("scheduler", "round-robin", "random"),
    ], state


def test_what_another_hand_changed_is_not_what_the_record_says(network: Network) -> None:
    """The side before is what the kernel holds, never only what was applied once."""
    way = ("--backend", "nftables", "--driver", "nft")
    network.local_endpoints((8001, 8002))
    limited = intent(service("web", "80/tcp", "8001", "8002", allow=["10.0.0.0/8"]))
    assert network.lbctl("apply", "--yes", *way, config=limited).code == 0
    # With the service's chain emptied, nobody knows what it allows.
    network.tool("nft", "flush", "chain", "ip", "lbctl", "service-web")
    found = changes(network, way, WEB)
    assert all(key != "allow" for key, _, _ in found)


def test_another_name_is_no_loss(network: Network, way: tuple[str, ...]) -> None:
    assert network.lbctl("apply", "--yes", *way, config=intent(service("web", "80/tcp", "8001"))).code == 0
    renamed = intent(service("http", "80/tcp", "8001"))
    assert "are gone" not in network.lbctl("plan", *way, config=renamed).out
    assert "are gone" not in network.lbctl("status", *way, config=renamed).out


def test_tables_that_are_gone(network: Network) -> None:
    way = ("--backend", "nftables", "--driver", "nft")
    network.local_endpoints((8001, 8002))
    first = network.lbctl("plan", *way, config=WEB)
    assert "are gone" not in first.out
    assert network.lbctl("apply", "--yes", *way, config=WEB).code == 0
    network.tool("nft", "delete", "table", "ip", "lbctl")
    lost = network.lbctl("plan", *way, config=WEB)
    assert "    not balanced now: IPv4 clients\n" in lost.out
    assert "    8001  ipv4    0  →  1/2\n" in lost.out
    assert "Note: lbctl's own tables for IPv4 are gone" in lost.out
    assert changes(network, way, WEB) == []
    network.tool("nft", "flush", "ruleset")
    both = network.lbctl("plan", *way, config=WEB).out
    assert "Note: lbctl's own tables are gone (restart, or nft flush ruleset?)" in both
    seen = network.lbctl("status", *way, config=WEB).out
    assert "lbctl's own tables are gone" in " ".join(seen.split("\n")[:4])
    assert network.lbctl("status", "--output", "json", *way, config=WEB).json["drift"]["gone"] is not None
    assert network.lbctl("apply", "--yes", *way, config=WEB).code == 0
    assert "gone" not in network.lbctl("plan", *way, config=WEB).out
    assert network.lbctl("status", "--output", "json", *way, config=WEB).json["drift"]["gone"] is None
    assert network.ask(network.client, "192.0.2.1", 80, 2) == ["8001", "8002"]


def test_dead_endpoints_are_noted_once(network: Network, way: tuple[str, ...]) -> None:
    network.local_endpoints((8001,))
    with network.host.entered():
        bound = socket.create_server(("127.0.0.1", 8003))
    with bound:
        config = intent(service("web", "192.0.2.1:80/tcp", "8001", "8002", "8003"))
        done = network.lbctl("apply", "--yes", *way, config=config)
        assert done.code == 0
        assert done.out.count("no process listens on 8002/tcp (ipv4): ") == 1
        assert done.out.count("8003/tcp listens on the loopback address only (ipv4)") == 1
        assert SILENT not in done.err
        # It is so.
        assert sorted(network.ask(network.client, "192.0.2.1", 80, 3)) == ["8001", "refused", "refused"]
        # What is wrong with the host is so with nothing to change, too.
        again = network.lbctl("plan", *way, config=config)
        assert again.out.startswith("Nothing to change")
        assert "web: no process listens on 8002/tcp (ipv4): " in again.out
    notes = network.lbctl("apply", "--yes", "--output", "json", *way, config=config).json["notes"]
    assert notes == ["web: no process listens on 8002-8003/tcp (ipv4): connections will be refused"]


def test_endpoints_on_other_hosts_without_forwarding(network: Network, way: tuple[str, ...]) -> None:
    config = intent(service("api", "192.0.2.1:443/tcp", "10.0.0.11:8443"))
    asked = ("plan", "--output", "json", *way)
    assert network.lbctl(*asked, config=config).json["notes"] == []
    network.host.write("/proc/sys/net/ipv4/ip_forward", "0")
    [note] = network.lbctl(*asked, config=config).json["notes"]
    assert note.startswith("api: this host does not forward ipv4: ")


def test_services_and_listeners_that_get_nothing(network: Network, way: tuple[str, ...]) -> None:
    network.local_endpoints((8001, 8002))
    drained = intent(service("web", "80/tcp") + endpoint("8001") + 'state = "drain"\n')
    foreign = intent(service("web", "198.51.100.77:80/tcp", "8001"))
    asked = ("plan", "--output", "json", *way)
    [note] = network.lbctl(*asked, config=drained).json["notes"]
    assert note == "web: all endpoints are drained: new connections are refused"
    [note] = network.lbctl(*asked, config=foreign).json["notes"]
    assert note.startswith("web: no link of this host has the address of 198.51.100.77:80/tcp: ")
    network.host.ip("route", "add", "local", "198.51.100.77", "dev", "lo")
    assert network.lbctl(*asked, config=foreign).json["notes"] == []


def test_a_foreign_rule_that_decides_first(network: Network) -> None:
    way = ("--backend", "nftables", "--driver", "nft")
    network.local_endpoints((8001, 8002))
    network.tool(
        "nft",
        "-f",
        "-",
        stdin="table ip other { chain pre { type nat hook prerouting priority -110; "
        "tcp dport 80 redirect to :9000; }; }",
    )
    [note] = network.lbctl("plan", "--output", "json", *way, config=WEB).json["notes"]
    assert note.startswith("web: new connections to 80/tcp (ipv4) go to 9000: a rule of nftables decides")
    done = network.lbctl("apply", "--yes", *way, config=WEB)
    assert f"Note: {note}\n" in done.out
    assert network.ask(network.client, "192.0.2.1", 80) == ["refused"]


def test_one_order_of_endpoints(network: Network, way: tuple[str, ...]) -> None:
    """That of the file, although weights deal the slots otherwise."""
    network.local_endpoints((8001, 8002, 8003))
    config = intent(service("web", "80/tcp") + endpoint("8003") + endpoint("8002", 5) + endpoint("8001", 2))
    expected = ["8003", "8002", "8001"]

    def shown(command: str, where: str | None) -> list[str]:
        document = network.lbctl(command, "--output", "json", *way, config=where).json
        [found] = document["services"]
        return [each["to"] for each in found["endpoints"]]

    assert shown("plan", config) == expected
    assert network.lbctl("apply", "--yes", *way, config=config).code == 0
    assert shown("status", config) == expected
    other = intent(service("web", "80/tcp", "8001", "8002", "8003"))
    assert network.lbctl("apply", "--yes", *way, config=other).code == 0
    back = network.lbctl("rollback", "--yes", "--output", "json").json
    assert [each["to"] for each in back["services"][0]["endpoints"]] == expected
    assert {each["key"] for each in back["services"][0]["changes"]} == {"endpoints", "weight"}


def test_many_foreign_rules_are_left_to_doctor(network: Network) -> None:
    way = ("--backend", "nftables", "--driver", "nft")
    network.local_endpoints((8001, 8002))
    rules = "".join(f"tcp dport {port} redirect to :9000\n" for port in range(80, 600))
    table = f"table ip other {{ chain pre {{ type nat hook prerouting priority -110;\n{rules} }}\n }}\n"
    network.tool("nft", "-f", "-", stdin=table)
    assert network.lbctl("plan", "--output", "json", *way, config=WEB).json["notes"] == []
    found = network.lbctl("doctor", "--output", "json", *way, config=WEB).json["problems"]
    assert "listener-taken" in {each["code"] for each in found}
