"""Direct server return on a switch: real hosts, real connections, nothing tracked by the balancer."""

import json
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbctl.conformance.network import Responder
from lbctl_nftables import layout
from support.agents import AgentProcess, checked
from support.examples import SEGMENT
from support.network import intent, service
from support.segment import CLIENTS4, PATIENCE, SERVERS4, SERVERS6, SERVICE4, SERVICE6, Segment, tally

LISTEN = [f"{at}:80/{kind}" for at in (SERVICE4, f"[{SERVICE6}]") for kind in ("tcp", "udp")]
EVERY = (*SERVERS4, *SERVERS6)


@pytest.fixture
def segment(tmp_path: Path) -> Iterator[Segment]:
    made = Segment(tmp_path)
    yield made
    made.close()


def direct(*endpoints: str, **keys: object) -> str:
    return service("far", LISTEN, *endpoints, forward="dsr", **keys)


def apply(segment: Segment, text: str) -> None:
    done = segment.lbctl("apply", "--yes", config=text)
    assert done.code == 0, done.err + done.out
    # What was written reads back as it was meant, and has the shares that were asked for.
    planned = segment.lbctl("plan", "--exit-code", "--rules", config=text)
    assert planned.code == 0, planned.out


def status(segment: Segment) -> dict[str, dict[str, object]]:
    [found] = segment.lbctl("status", "--output", "json").json["services"]
    return {endpoint["to"]: endpoint for endpoint in found["endpoints"]}


def tracked(segment: Segment) -> int:
    return len(segment.balancer.run("conntrack", "-L").splitlines())


@pytest.mark.parametrize("driver", ["libnftables", "nft"])
def test_round_robin_is_exact_for_each_family_and_protocol(segment: Segment, driver: str) -> None:
    text = intent(direct(*EVERY))
    assert segment.lbctl("apply", "--yes", "--driver", driver, config=text).code == 0
    for address in (SERVICE4, SERVICE6):
        start = SERVERS4.index(segment.ask(1, address)[0])
        order = (SERVERS4[start + 1 :] + SERVERS4[: start + 1]) * 10
        assert segment.ask(30, address) == list(order)
        answers = segment.datagrams(6, 3, address)
        assert all(len(set(heard)) == 1 for heard in answers), answers
        assert tally(heard[0] for heard in answers) == [2, 2, 2]
    found = status(segment)
    assert sum(int(str(each["connections"])) for each in found.values()) == 74
    assert tracked(segment) == 0
    # The switch knows the client behind its own port alone: the balancer sends with its own MAC address.
    assert segment.port_of(segment.mac(segment.client)) == {"client"}


@pytest.mark.parametrize("scheduler", ["source-hash", "maglev"])
def test_a_hash_leads_a_client_to_one_server_whatever_it_sends(segment: Segment, scheduler: str) -> None:
    apply(segment, intent(direct(*EVERY, scheduler=scheduler)))
    chosen = {client: segment.ask(1, source=client)[0] for client in CLIENTS4}
    assert min(tally(chosen.values())) >= 4
    for client in CLIENTS4[:5]:
        assert set(segment.ask(3, source=client)) == {chosen[client]}
    assert {answer for heard in segment.datagrams(3, 3) for answer in heard} == {chosen[CLIENTS4[0]]}
    assert len(set(segment.ask(5, SERVICE6))) == 1
    assert tracked(segment) == 0
    counts = status(segment)
    # Connections are counted, and not their packets: 40 + 15 of TCP, 9 datagrams.
    assert sum(int(str(counts[server]["connections"])) for server in SERVERS4) == 64
    assert {each["established"] for each in counts.values()} == {None}


@pytest.mark.parametrize("address", [SERVICE4, SERVICE6])
def test_a_hash_for_one_protocol_counts_connections_and_not_packets(segment: Segment, address: str) -> None:
    listen = f"[{address}]:80/tcp" if ":" in address else f"{address}:80/tcp"
    apply(segment, intent(service("far", listen, *EVERY, forward="dsr", scheduler="source-hash")))
    [server] = set(segment.ask(5, address))
    held = segment.connect(address)
    assert [held.say() for _ in range(3)] == [server] * 3
    counted = [int(str(each["connections"])) for each in status(segment).values()]
    assert sum(counted) == max(counted) == 6
    assert tracked(segment) == 0


def test_weights_backups_and_a_dice(segment: Segment) -> None:
    def endpoints(*states: str) -> str:
        tables = (
            f'[[service.endpoint]]\naddress = "{server}"\nweight = {weight}\nstate = "{state}"\n'
            for server, weight, state in zip(SERVERS4, (3, 1, 2), states, strict=True)
        )
        return "".join(tables)

    far = service("far", f"{SERVICE4}:80/tcp", forward="dsr")
    apply(segment, intent(far + endpoints("active", "active", "active")))
    assert tally(segment.ask(12)) == [6, 2, 4]
    apply(segment, intent(far + endpoints("active", "active", "backup")))
    assert tally(segment.ask(8)) == [6, 2, 0]
    apply(segment, intent(far + endpoints("drain", "drain", "backup")))
    assert tally(segment.ask(3)) == [0, 0, 3]
    dice = service("far", f"{SERVICE4}:80/tcp", forward="dsr", scheduler="random")
    apply(segment, intent(dice + endpoints("active", "active", "active")))
    held = [segment.connect() for _ in range(60)]
    found = tally(each.server for each in held)
    # Each is within six standard deviations of its share: 30, 10 and 20 of 60.
    assert all(
        abs(got - wanted) <= 6 * (wanted * (60 - wanted) / 60) ** 0.5
        for got, wanted in zip(found, (30, 10, 20), strict=True)
    ), found
    assert [each.server for each in held] != [each.server for each in held[:6]] * 10
    assert [each.say() for each in held] == [each.server for each in held]


def test_the_hook_is_behind_filters_at_ingress_and_before_others(segment: Segment) -> None:
    apply(segment, intent(direct(*EVERY)))
    head = 'type filter hook ingress device "eth0" priority'
    segment.balancer.run(
        "nft",
        f"table netdev t {{ chain before {{ {head} 0; ip saddr {CLIENTS4[1]} counter drop; }};"
        f"chain behind {{ {head} 100; tcp dport 80 counter drop; }}; }}",
    )
    for address in (SERVICE4, SERVICE6):
        assert tally(segment.ask(3, address)) == [1, 1, 1]
    with segment.client.entered(), socket.socket() as dropped:
        dropped.bind((CLIENTS4[1], 0))
        dropped.setblocking(False)
        dropped.connect_ex((SERVICE4, 80))
        until = time.monotonic() + PATIENCE
        while "packets 0 " in segment.balancer.run("nft", "list", "chain", "netdev", "t", "before"):
            assert time.monotonic() < until
    assert sum(int(str(each["connections"])) for each in status(segment).values()) == 6
    assert "packets 0 " in segment.balancer.run("nft", "list", "chain", "netdev", "t", "behind")


def test_the_example_balances_as_it_says(segment: Segment) -> None:
    apply(segment, (SEGMENT / "lbctl.toml").read_text())
    assert min(tally(segment.ask(1, source=client)[0] for client in CLIENTS4)) >= 4
    assert set(segment.ask(2, SERVICE6)) < set(SERVERS4)


def test_the_agent_follows_a_mac_address_that_changes(segment: Segment) -> None:
    apply(segment, intent(direct(*EVERY)))
    agent = AgentProcess(segment).ready()  # type: ignore[arg-type]
    try:
        segment.servers[0].ip("link", "set", "eth0", "address", "02:00:00:00:00:99")
        for address in (SERVERS4[0], SERVERS6[0]):
            segment.balancer.ip("neigh", "replace", address, "dev", "eth0", "use")
            segment.balancer.ip("neigh", "del", address, "dev", "eth0")
            segment.balancer.ip("neigh", "replace", address, "dev", "eth0", "use")
        listing = ("nft", "list", "map", "netdev", "lbctl.ip")
        page = f"picks-{layout.home('far')[0]:02x}"
        agent.wait(lambda: "0x20000000099" in segment.balancer.run(*listing, page), "not followed")
    finally:
        agent.stop()
    assert tally(segment.ask(6)) == [2, 2, 2]


def test_connections_follow_a_mac_address_that_changes(segment: Segment) -> None:
    """What is learned of them holds MAC addresses."""
    text = intent(direct(*EVERY))
    apply(segment, text)
    held = [segment.connect(address) for address in (SERVICE4, SERVICE6) for _ in range(6)]
    before = [each.say() for each in held]
    assert tally(before) == [4, 4, 4]
    for number, server in enumerate(segment.servers[:2]):
        server.ip("link", "set", "eth0", "address", f"02:00:00:00:00:9{number}")
    segment.balancer.ip("neigh", "flush", "all")
    apply(segment, text)
    assert [each.say() for each in held] == before
    # They are known for as long as before: an hour after their last packet.
    listed = segment.balancer.run("nft", "list", "map", "netdev", "lbctl.ip", "flows-tcp-far")
    assert listed.count("0x200000000") == 4
    assert listed.count("expires 59m") + listed.count("expires 1h") == 6
    assert tally(segment.ask(6)) == [2, 2, 2]


def test_flows_stay_where_servers_exchange_their_mac_addresses(segment: Segment) -> None:
    text = intent(direct(*EVERY))
    apply(segment, text)
    flows = [segment.flow(address) for address in (SERVICE4, SERVICE6) for _ in range(6)]
    before = [each.say() for each in flows]
    assert tally(before) == [4, 4, 4]
    first, second = segment.servers[:2]
    cards = segment.mac(first), segment.mac(second)
    first.ip("link", "set", "eth0", "address", "02:00:00:00:00:99")
    for server, card in zip((second, first), cards, strict=True):
        server.ip("link", "set", "eth0", "address", card)
    segment.balancer.ip("neigh", "flush", "all")
    apply(segment, text)
    assert [each.say() for each in flows] == before


def test_connections_outlive_weights_drains_and_endpoints(segment: Segment) -> None:
    apply(segment, intent(direct(*EVERY)))
    held = [segment.connect() for _ in range(9)]
    assert tally(each.server for each in held) == [3, 3, 3]
    assert status(segment)[SERVERS4[0]]["established"] == 3
    drained = segment.lbctl("drain", f"far/{SERVERS4[0]}", "--yes")
    assert drained.code == 0, drained.err
    assert tally(segment.ask(10)) == [0, 5, 5]
    weighted = direct(*EVERY[1:]) + f'[[service.endpoint]]\naddress = "{SERVERS4[0]}"\nweight = 2\n'
    apply(segment, intent(weighted))
    assert tally(segment.ask(10)) == [0, 5, 5]
    apply(segment, intent(direct(SERVERS4[2], *SERVERS6)))
    assert tally(segment.ask(4)) == [0, 0, 4]
    assert [each.say() for each in held] == [each.server for each in held]
    # The client's end of a connection is known: a new one from the same port is balanced anew.
    for each in held:
        each.close()
    assert tally(segment.ask(3)) == [0, 0, 3]


def test_a_client_port_that_is_used_again_forgets_where_it_led(segment: Segment) -> None:
    apply(segment, intent(direct(*EVERY)))

    def connected() -> tuple[socket.socket, str]:
        with segment.client.entered():
            made = socket.socket()
        made.settimeout(PATIENCE)
        made.bind((CLIENTS4[0], 50000))
        made.connect((SERVICE4, 80))
        return made, made.recv(64).decode()

    first, one = connected()
    # With a reset the port is free at once.
    first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    first.close()
    second, other = connected()
    assert one != other
    second.shutdown(socket.SHUT_WR)
    assert second.recv(64) == b""
    second.close()
    # Its last ACK has reached the server that it was connected to.
    server = segment.servers[SERVERS4.index(other)]
    until = time.monotonic() + PATIENCE
    while left := server.run("ss", "-Htn", "state", "last-ack"):
        assert time.monotonic() < until, left
    closing = segment.balancer.run("nft", "list", "map", "netdev", "lbctl.ip", "closing-tcp-far")
    [card] = re.findall(r"50000 \. 192\.0\.2\.200 \. 80 .* : 0x([0-9a-f]+)", closing)
    assert card.zfill(24).startswith(segment.mac(server).replace(":", ""))


def test_datagrams_leave_an_endpoint_that_is_removed_and_stay_at_one_that_drains(segment: Segment) -> None:
    apply(segment, intent(direct(*EVERY)))
    flows = [segment.flow(address) for address in (SERVICE4, SERVICE6) for _ in range(6)]
    before = [flow.say() for flow in flows]
    assert tally(before) == [4, 4, 4]
    assert segment.lbctl("drain", f"far/{SERVERS4[0]}", f"far/{SERVERS6[0]}", "--yes").code == 0
    assert [flow.say() for flow in flows] == before
    left = [each for each in EVERY if each not in {SERVERS4[1], SERVERS6[1]}]
    apply(segment, intent(direct(*left)))
    after = [flow.say() for flow in flows]
    assert SERVERS4[1] not in after
    assert all(now == was for now, was in zip(after, before, strict=True) if was != SERVERS4[1])


@pytest.mark.parametrize("scheduler", ["source-hash", "maglev"])
def test_a_hash_moves_connections_of_a_drained_server_alone(segment: Segment, scheduler: str) -> None:
    apply(segment, intent(direct(*EVERY, scheduler=scheduler)))
    held = [segment.connect(source=client) for client in CLIENTS4]
    before = [each.server for each in held]
    planned = segment.lbctl("drain", f"far/{SERVERS4[1]}", "--yes")
    assert planned.code == 0, planned.err
    assert "lose their established connections" in planned.out + planned.err
    after = [each.say() for each in held]
    stay = [(a, b) for a, b in zip(before, after, strict=True) if a != SERVERS4[1]]
    assert stay
    assert all(a == b for a, b in stay)
    assert {b for a, b in zip(before, after, strict=True) if a == SERVERS4[1]} == {"lost"}
    assert segment.lbctl("activate", f"far/{SERVERS4[1]}", "--yes").code == 0
    assert [segment.ask(1, source=client)[0] for client in CLIENTS4] == before


def test_new_connections_beyond_the_limit_go_by_a_hash(
    segment: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "MAX_FLOWS", 4)
    layout.declarations.cache_clear()
    try:
        text = intent(direct(*EVERY))
        apply(segment, text)
        held = [segment.connect() for _ in range(12)]
    finally:
        layout.declarations.cache_clear()
    assert len({each.server for each in held[4:]}) == 1
    assert [each.say() for each in held] == [each.server for each in held]
    diagnosis = segment.lbctl("doctor", "--output", "json", config=text)
    assert "flows-full" in {each["code"] for each in json.loads(diagnosis.out)["problems"]}


def test_a_server_with_another_mac_address_is_found_again(segment: Segment) -> None:
    text = intent(direct(*EVERY))
    apply(segment, text)
    server = segment.servers[0]
    server.ip("link", "set", "eth0", "address", "02:00:00:00:00:99")
    segment.balancer.ip("neigh", "flush", "all")
    planned = segment.lbctl("plan", "--exit-code", config=text)
    assert planned.code == 1
    apply(segment, text)
    assert tally(segment.ask(6)) == [2, 2, 2]
    # One that does not answer keeps the address that it had.
    server.ip("link", "set", "eth0", "down")
    segment.balancer.ip("neigh", "flush", "all")
    assert segment.lbctl("plan", "--exit-code", config=text).code == 0


def test_an_interface_that_is_made_anew_gets_its_rules_back(segment: Segment) -> None:
    text = intent(direct(*EVERY))
    apply(segment, text)
    segment.replug()
    planned = segment.lbctl("plan", "--exit-code", config=text)
    assert planned.code == 1, planned.out
    apply(segment, text)
    assert tally(segment.ask(6)) == [2, 2, 2]


def test_rules_that_others_change_are_seen_and_repaired(segment: Segment) -> None:
    text = intent(direct(*EVERY, scheduler="source-hash"))
    apply(segment, text)
    for change in (
        "flush chain netdev lbctl.ip ingress-eth0; delete table netdev lbctl.ip6",
        'add rule netdev lbctl.ip service-far ether daddr set 02:00:00:00:00:01 fwd to "eth0"',
        "add rule netdev lbctl.ip service-far iifname eth0 drop",
    ):
        segment.balancer.run("nft", change)
        assert segment.lbctl("plan", "--exit-code", config=text).code == 1, change
    apply(segment, text)
    assert segment.lbctl("remove", "--yes").code == 0
    assert "lbctl" not in segment.balancer.run("nft", "list", "ruleset")


def test_clients_that_are_not_allowed_are_refused(segment: Segment) -> None:
    apply(segment, intent(direct(*EVERY, deny=[CLIENTS4[1]])))
    assert len(segment.ask(3)) == 3
    with pytest.raises(ConnectionRefusedError):
        segment.ask(1, source=CLIENTS4[1])


def test_a_translated_listener_wins_over_a_range_of_direct_return(segment: Segment) -> None:
    far = service("far", f"{SERVICE4}:70-90/tcp", *SERVERS4, forward="dsr")
    near = service("near", f"{SERVICE4}:81/tcp", f"{SERVERS4[0]}:80")
    apply(segment, intent(far, near))
    assert tally(segment.ask(6)) == [2, 2, 2]
    assert "service-near" in segment.balancer.run("nft", "list", "map", "ip", "lbctl", "services")
    listing = ("nft", "list", "map", "netdev", "lbctl.ip", "services-eth0")
    assert ". 81 : return" in segment.balancer.run(*listing)


def test_endpoints_off_the_segment_are_an_error_of_the_plan(segment: Segment) -> None:
    reasons = {
        "198.51.100.7": "no link of this host leads there",
        "192.0.2.250": "does not answer on eth0",
        "192.0.2.100": "an address of this host",
    }
    far = service("far", f"{SERVICE4}:80/tcp", *reasons, forward="dsr")
    planned = segment.lbctl("plan", config=intent(far))
    assert planned.code == 2
    for address, reason in reasons.items():
        assert f"endpoint {address}: " in planned.err
        assert reason in planned.err
    assert "lbctl" not in segment.balancer.run("nft", "list", "ruleset")


def test_a_mac_address_of_the_file_needs_no_answer(segment: Segment) -> None:
    text = service("far", f"{SERVICE4}:80/tcp", forward="dsr") + (
        f'[[service.endpoint]]\naddress = "192.0.2.250"\nmac = "{segment.mac(segment.servers[2])}"\n'
    )
    apply(segment, intent(text))
    assert segment.ask(2) == [SERVERS4[2]] * 2


def test_iptables_refuses_it_by_name(segment: Segment) -> None:
    refused = segment.lbctl("plan", "--backend", "iptables", config=intent(direct(*EVERY)))
    assert refused.code == 3
    assert "forward dsr" in refused.err


def test_a_change_of_the_way_reports_what_is_lost(segment: Segment) -> None:
    segment.balancer.write("/proc/sys/net/ipv4/ip_forward", "1")
    translated = service("far", f"{SERVICE4}:80/tcp", *SERVERS4)
    returned = service("far", f"{SERVICE4}:80/tcp", *SERVERS4, forward="dsr")
    for first, second in ((translated, returned), (returned, translated)):
        apply(segment, intent(first))
        planned = segment.lbctl("plan", config=intent(second))
        assert "established connections of far are lost" in planned.out + planned.err
    apply(segment, intent(returned))
    assert tally(segment.ask(6)) == [2, 2, 2]


def test_a_migration_leads_by_translation_and_nothing_is_lost_unsaid(segment: Segment) -> None:
    segment.balancer.write("/proc/sys/net/ipv4/ip_forward", "1")
    translated = intent(service("far", f"{SERVICE4}:80/tcp", *SERVERS4))
    returned = intent(service("far", f"{SERVICE4}:80/tcp", *SERVERS4, forward="dsr"))
    legacy = segment.lbctl("apply", "--yes", "--driver", "legacy", config=translated)
    assert legacy.code == 0, legacy.err
    refused = segment.lbctl("migrate", "--to", "nftables", "--yes", config=returned)
    assert refused.code == 5
    assert "it cannot hold" in refused.err
    assert "lbctl apply changes the service, and says what that loses" in refused.err
    held = [segment.connect() for _ in range(3)]
    moved = segment.lbctl("migrate", "--to", "nftables", "--yes", config=translated)
    assert moved.code == 0, moved.err
    assert [each.say() for each in held] == [each.server for each in held]
    lost = "established connections of far are lost"
    planned = segment.lbctl("apply", "--yes", config=returned)
    assert planned.code == 0, planned.err
    assert lost in planned.out + planned.err
    assert tally(segment.ask(6)) == [2, 2, 2]
    assert {each.say() for each in held} == {"lost"}
    refused = segment.lbctl("migrate", "--to", "iptables", "--yes", config=returned)
    assert refused.code == 3
    assert "forward dsr" in refused.err
    back = segment.lbctl("apply", "--yes", config=translated)
    assert back.code == 0, back.err
    assert lost in back.out + back.err
    moved = segment.lbctl("migrate", "--to", "iptables", "--yes", config=translated)
    assert moved.code == 0, moved.err
    assert tally(segment.ask(6)) == [2, 2, 2]


@pytest.mark.parametrize("scheduler", ["round-robin", "maglev"])
def test_the_agent_takes_an_endpoint_out_that_fails(segment: Segment, scheduler: str) -> None:
    processes = [Responder(server) for server in segment.servers]
    for server, process in zip(SERVERS4, processes, strict=True):
        process.listen(81, address=server)
        process.start()
    learns = scheduler == "round-robin"
    far = service("far", f"{SERVICE4}:80/tcp", *SERVERS4, forward="dsr", scheduler=scheduler)
    apply(segment, intent(far + checked("tcp", port=81)))
    agent = AgentProcess(segment).ready()  # type: ignore[arg-type]
    try:
        agent.wait(lambda: agent.said.count("is up") == 3, "not found to be up")
        before = {client: segment.connect(source=client) for client in CLIENTS4[:12]}
        assert min(tally(each.server for each in before.values())) >= 1
        processes[0].close()
        agent.lost(SERVERS4[0])
        after = tally(segment.ask(1, source=client)[0] for client in CLIENTS4)
        assert after[0] == 0
        assert after[1:] == [20, 20] or not learns
        # What is learned stays, since only the check has failed; with a hash, the others stay.
        stay = [each for each in before.values() if learns or each.server != SERVERS4[0]]
        assert [each.say() for each in stay] == [each.server for each in stay]
        processes[0] = Responder(segment.servers[0])
        processes[0].listen(81, address=SERVERS4[0])
        processes[0].start()
        agent.wait(lambda: f"{SERVERS4[0]} 0 -> " in agent.said, "not taken in again")
        assert [each.say() for each in stay] == [each.server for each in stay]
        if not learns:
            again = {client: segment.ask(1, source=client)[0] for client in before}
            assert again == {client: each.server for client, each in before.items()}
    finally:
        agent.stop()
        for process in processes:
            process.close()


def test_explain_compare_and_import_read_live_rules_at_ingress(segment: Segment, tmp_path: Path) -> None:
    text = intent(direct(*EVERY, scheduler="source-hash"))
    apply(segment, text)
    asked = ("explain", f"{SERVICE4}:80/tcp", "--client", CLIENTS4[0], "--output", "json")
    [trace] = segment.lbctl(*asked).json["services"]
    assert trace["action"] == "dsr"
    shares = {each["to"]: each["share"] for each in trace["backends"]}
    assert shares == dict.fromkeys(SERVERS4, "1/3")
    assert segment.ask(2, source=CLIENTS4[0]) == [trace["chosen"]] * 2
    file = tmp_path / "far.toml"
    file.write_text(text)
    assert segment.lbctl("compare", str(file), "live:nftables").code == 0
    imported = segment.lbctl("import", "--from", "nftables")
    assert imported.code == 0, imported.err
    assert 'forward = "dsr"' in imported.out
    assert segment.lbctl("remove", "--yes").code == 0
    # The same by hand, as on the wiki of nftables: the MAC addresses are known, and no endpoint's address.
    cards = [segment.mac(server) for server in segment.servers[:2]]
    rule = (
        f"ip daddr {SERVICE4} tcp dport 80 ether saddr set {segment.mac(segment.balancer)} ether daddr set "
        f'jhash ip saddr mod 3 seed 0x7 map {{ 0-1 : {cards[0]}, 2 : {cards[1]} }} fwd to "eth0"'
    )
    hook = 'type filter hook ingress device "eth0" priority 0; policy accept;'
    segment.balancer.run("nft", f"table netdev t {{ chain c {{ {hook} {rule}; }}; }}")
    [trace] = segment.lbctl(*asked).json["services"]
    shares = {each["to"]: each["share"] for each in trace["backends"]}
    assert shares == {f"mac {cards[0]}": "2/3", f"mac {cards[1]}": "1/3"}
    [server] = set(segment.ask(2, source=CLIENTS4[0]))
    assert trace["chosen"] == f"mac {cards[SERVERS4.index(server)]}"
    imported = segment.lbctl("import", "--from", "nftables")
    assert f"mac {cards[0]} (2/3)" in imported.err
