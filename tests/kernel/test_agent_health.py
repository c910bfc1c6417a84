"""What checks do on the real kernel, with real processes that end, refuse, answer badly and come back.

What users of other health checkers suffer from, and the tests of it, here and in other files:

- one bad check takes everything down:
  `test_where_all_fail_all_are_kept_and_this_is_said`,
  test_agent_commands `test_at_most_a_part_of_a_service_is_taken_out`
- a restart of the checker marks all down:
  `test_a_killed_agent_changes_nothing_and_the_next_one_knows_what_it_knew`
- a restored state that is ambiguous:
  unit/test_verdicts `test_each_owner_has_its_say`
- an "up" overrides a failing check:
  `test_health_never_overrules_the_operator_nor_the_operator_health`
- two owners of one weight:
  unit/test_effective `test_a_weight_of_the_operator_goes_before_that_of_the_file`
- flapping:
  unit/test_agent_loop `test_a_flapping_endpoint_changes_the_rules_ever_more_rarely`, test_agent_kills
- a check of the wrong thing:
  unit/test_readiness `test_only_what_puts_the_rules_in_doubt_makes_a_host_not_ready`
- UDP clients stay at a dead member:
  `test_udp_clients_of_a_failed_endpoint_are_placed_anew`
- a blip ends sessions:
  `test_open_connections_end_only_where_the_service_says_so`
- affinity keeps clients at a dead member:
  `test_a_client_that_was_kept_is_not_kept_at_a_failed_endpoint`
- hosts that disagree:
  `test_little_is_changed_where_the_table_is_a_hash`,
  unit/test_health `test_first_checks_are_spread_and_later_ones_do_not_fall_into_step`
- a first check that passes too early:
  unit/test_health `test_new_endpoints_wait_for_their_first_pass`
- backups and the last resort contradict each other:
  test_agent_commands `test_backups_serve_before_all_down_decides`
- a member returns cold:
  test_agent_commands `test_a_returning_endpoint_gets_its_share_step_by_step`
"""

import json
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lbctl.conformance.network import HOST4, SERVERS4
from support.agents import PORTS, AgentProcess, Processes, Serving, asked, checked, health, wanted
from support.network import Network, intent, service

CHECKED = service("web", "80/tcp", *map(str, PORTS)) + checked("tcp")
WEB = intent(CHECKED)


def test_a_process_that_ends_loses_its_share_and_gets_it_back(
    network: Network, processes: Processes, serving: Serving, way: tuple[str, ...]
) -> None:
    agent = serving(WEB, *way)
    assert asked(network, 6) == {"8001": 2, "8002": 2, "8003": 2}
    processes.kill(8002)
    agent.wait(lambda: wanted(agent)["8002"] == "0/1", "keeps its share")
    assert asked(network, 20) == {"8001": 10, "8003": 10}
    processes.start(8002)
    agent.wait(lambda: wanted(agent)["8002"] == "1/3", "does not get its share back")
    assert asked(network, 30) == {"8001": 10, "8002": 10, "8003": 10}
    assert "web/8002 (ipv4) is down" in agent.said
    # The other family may have followed in the same step.
    assert re.search(r"8002( \(ipv4\))? 1/3 -> 0", agent.said)


def test_where_all_fail_all_are_kept_and_this_is_said(
    network: Network, processes: Processes, serving: Serving
) -> None:
    agent = serving(WEB)
    processes.kill(*PORTS)
    agent.wait(lambda: all(health(agent, str(port)) == "down" for port in PORTS))
    agent.wait(lambda: set(wanted(agent).values()) == {"1/3"}, "not kept")
    assert "kept by all-down" in str(agent.status["agent"]["checks"])


def test_where_all_fail_and_the_service_says_so_connections_are_refused(
    network: Network, processes: Processes, serving: Serving, way: tuple[str, ...]
) -> None:
    agent = serving(intent(CHECKED + '[service.health]\nall-down = "reject"\n'), *way)
    processes.kill(*PORTS)
    agent.wait(lambda: set(wanted(agent).values()) == {"0/1"}, "not refused")
    assert asked(network, 1) == {"refused": 1}


class Web:
    """One HTTP server for each address of the server, whose answers tests choose."""

    def __init__(self, network: Network) -> None:
        import threading
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        self.status = dict.fromkeys(SERVERS4, 200)
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                own = self.connection.getsockname()[0]
                body = own.encode()
                self.send_response(web.status[own])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        with network.server.entered():
            self._server = ThreadingHTTPServer(("0.0.0.0", 8080), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def web(network: Network) -> Iterator[Web]:
    made = Web(network)
    yield made
    made.close()


def test_an_endpoint_that_answers_badly_is_out_with_its_reason(
    network: Network, web: Web, started: Callable[..., AgentProcess]
) -> None:
    endpoints = [f"{address}:8080" for address in SERVERS4]
    agent = started(intent(service("web", f"{HOST4}:80/tcp", *endpoints) + checked("http", path="/healthz")))
    agent.up(*endpoints)
    web.status[SERVERS4[0]] = 503
    agent.wait(lambda: wanted(agent)[endpoints[0]] == "0/1", "not taken out")
    [reason] = [c["reason"] for c in agent.status["agent"]["checks"] if c["endpoint"] == endpoints[0]]
    assert "HTTP 503" in reason
    web.status[SERVERS4[0]] = 200
    agent.wait(lambda: wanted(agent)[endpoints[0]] != "0/1", "not taken back")


def test_health_never_overrules_the_operator_nor_the_operator_health(
    network: Network, processes: Processes, serving: Serving
) -> None:
    agent = serving(WEB)
    assert network.lbctl("drain", "web/8001", "--yes").code == 0
    agent.wait(lambda: wanted(agent) == {"8001": "0/1", "8002": "1/2", "8003": "1/2"}, "the drain is lost")
    processes.kill(8001)
    agent.wait(lambda: health(agent, "8001") == "down")
    assert network.lbctl("activate", "web/8001", "--yes").code == 0
    agent.wait(lambda: network.lbctl("status", "--brief", "--output", "json").json["in_sync"])
    assert wanted(agent) == {"8001": "0/1", "8002": "1/2", "8003": "1/2"}
    processes.start(8001)
    agent.wait(lambda: wanted(agent)["8001"] == "1/3", "does not come back")


def test_other_commands_know_what_the_agent_knows(
    network: Network, processes: Processes, serving: Serving
) -> None:
    agent = serving(WEB)
    processes.kill(8002)
    agent.wait(lambda: wanted(agent)["8002"] == "0/1")
    assert network.lbctl("plan", "--exit-code", config=WEB).code == 0
    assert network.lbctl("apply", "--yes", config=WEB).code == 0
    assert wanted(agent)["8002"] == "0/1"
    shown = network.lbctl("status", config=WEB).out
    assert "web/8002" in "".join(shown.splitlines(keepends=True)[:10])
    agent.kill()
    # A failure of a moment ago counts, although nobody would see it end: there is nobody to be asked.
    assert network.lbctl("apply", "--yes", config=WEB).code == 0
    assert "8002" not in asked(network, 6)
    assert network.lbctl("apply", "--yes", "--ignore-health", config=WEB).code == 0
    assert asked(network, 3)["refused"] == 1


def test_a_killed_agent_changes_nothing_and_the_next_one_knows_what_it_knew(
    network: Network, processes: Processes, serving: Serving, started: Callable[..., AgentProcess]
) -> None:
    agent = serving(WEB)
    processes.kill(8002)
    agent.wait(lambda: wanted(agent)["8002"] == "0/1")
    held = network.rules()
    for _ in range(3):
        agent.kill()
        assert network.rules() == held
        agent = started(WEB)
        assert wanted(agent)["8002"] == "0/1"
        assert network.rules() == held


def test_after_a_boot_the_rules_come_back_and_what_was_known_before_is_ignored(
    network: Network, processes: Processes, serving: Serving, started: Callable[..., AgentProcess]
) -> None:
    agent = serving(WEB)
    processes.kill(8002)
    agent.lost("8002")
    agent.kill()
    # A boot empties the kernel; what is left of an earlier one names that in its record.
    network.tool("nft", "flush", "ruleset")
    [record] = network.folder.rglob("lbctl.verdicts*")
    text = record.read_text()
    found = json.loads(text)
    record.write_text(text.replace(found["namespace"], f"earlier/{found['namespace']}"))
    processes.start(8002)
    agent = started(WEB)
    agent.wait(lambda: set(wanted(agent).values()) == {"1/3"}, "not restored")
    assert asked(network, 6) == {"8001": 2, "8002": 2, "8003": 2}
    assert "8002 0 -> 1/3" in agent.said
    assert "8002 (ipv4) is down" not in agent.said


def test_udp_clients_of_a_failed_endpoint_are_placed_anew(
    network: Network, started: Callable[..., AgentProcess]
) -> None:
    responders = {port: network.responder(network.host) for port in (5301, 5302)}
    for port, responder in responders.items():
        responder.listen(port, kind="udp")
        responder.start()
    text = service("dns", "53/udp", "5301", "5302") + checked("udp", send="ping")
    agent = started(intent(text))
    agent.up(*map(str, responders))
    flows = [network.flow(network.client, HOST4, 53) for _ in range(6)]
    first = [flow.say() for flow in flows]
    assert Counter(first) == {"5301": 3, "5302": 3}
    responders[5302].close()
    agent.lost("5302")
    assert [flow.say() for flow in flows] == ["5301"] * 6


def test_a_client_that_was_kept_is_not_kept_at_a_failed_endpoint(
    network: Network, processes: Processes, serving: Serving, way: tuple[str, ...]
) -> None:
    text = service("web", "80/tcp", "8001", "8002", affinity="1h") + checked("tcp")
    agent = serving(intent(text), *way, ports=(8001, 8002))
    [kept] = asked(network, 5)
    other = {"8001": "8002", "8002": "8001"}[kept]
    processes.kill(int(kept))
    agent.lost(kept)
    assert asked(network, 5) == {other: 5}


@pytest.mark.parametrize("cut", [False, True], ids=["kept", "cut"])
def test_open_connections_end_only_where_the_service_says_so(
    network: Network, web: Web, started: Callable[..., AgentProcess], cut: bool
) -> None:
    endpoints = [f"{address}:8080" for address in SERVERS4]
    policy = '[service.health]\non-down = "cut"\n' if cut else ""
    text = service("web", f"{HOST4}:80/tcp", *endpoints) + checked("http", path="/") + policy
    agent = started(intent(text))
    agent.up(*endpoints)
    with network.client.entered():
        connections = [socket.create_connection((HOST4, 80), timeout=10) for _ in endpoints]
    web.status[SERVERS4[0]] = 503
    agent.lost(endpoints[0])
    ended = 0
    for connection in connections:
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            ended += not connection.recv(1024).startswith(b"HTTP/1.")
        except OSError:
            ended += 1
        connection.close()
    assert ended == (1 if cut else 0)


def test_little_is_changed_where_the_table_is_a_hash(
    network: Network, processes: Processes, serving: Serving
) -> None:
    text = service("web", "80/tcp", *map(str, PORTS), scheduler="source-hash") + checked("tcp")
    agent = serving(intent(text))
    addresses = [f"10.0.0.{number}" for number in range(100, 160)]
    network.client.address("uplink", *(f"{address}/24" for address in addresses))
    network.host.ip("route", "replace", "10.0.0.0/24", "dev", "outside")

    def placed() -> dict[str, str]:
        found = {}
        for address in addresses:
            [found[address]] = network.ask(network.client, HOST4, 80, source=address)
        return found

    before = placed()
    processes.kill(8002)
    agent.wait(lambda: wanted(agent)["8002"] == "0/1")
    after = placed()
    moved = {address for address in addresses if before[address] != after[address]}
    assert moved == {address for address, port in before.items() if port == "8002"}
    processes.start(8002)
    agent.wait(lambda: wanted(agent)["8002"] != "0/1")
    assert placed() == before


def test_a_file_that_is_not_valid_keeps_the_checks_of_the_last_one(
    network: Network, processes: Processes, serving: Serving, tmp_path: Path
) -> None:
    agent = serving(WEB, "--follow-file")
    (network.folder / "lbctl.toml").write_text("[[service]]\nname = 7\n")
    agent.wait(lambda: "not applied" in str(agent.status["agent"]["problems"]), "the bad file is not shown")
    assert agent.get("/ready")[0] == 200  # the rules are in place and followed
    processes.kill(8003)
    agent.wait(lambda: wanted(agent)["8003"] == "0/1", "not taken out")


def test_the_history_has_what_checks_and_operators_changed(
    network: Network, processes: Processes, serving: Serving, started: Callable[..., AgentProcess]
) -> None:
    agent = serving(WEB)
    processes.kill(8002)
    agent.wait(lambda: wanted(agent)["8002"] == "0/1", "keeps its share")
    shown = network.lbctl("status", config=WEB).out.splitlines()[1]
    assert re.fullmatch(r"agent: running since 20\S+; 4 of 6 checks failing", shown)
    document = network.lbctl("status", "--output", "json", config=WEB).json
    assert (document["agent"]["failing"], document["agent"]["ready"]) == (4, True)
    assert network.lbctl("drain", "web/8003", "--yes", config=WEB).code == 0
    agent.wait(lambda: "drained by" in str(agent.status["agent"]["checks"]), "does not know of the drain")
    assert agent.stop() == 0

    def history() -> list[dict[str, object]]:
        done = network.lbctl("history", "--health", "--output", "json", config=WEB)
        assert done.code == 0, done.err
        return [
            {
                "8001": endpoints["8001"]["after"],
                "down": [to for to, each in endpoints.items() if "down: " in (each["reason"] or "")],
                "drained": [to for to, each in endpoints.items() if "drained by" in (each["reason"] or "")],
            }
            for shift in json.loads(done.out)["shifts"]
            if shift["family"] == "ipv4"
            for endpoints in [{each["to"]: each for each in shift["endpoints"]}]
        ]

    last = network.lbctl("status", config=WEB).out
    assert "no agent runs: nothing is checked" in last
    until_now = [
        {"8001": "1/3", "down": [], "drained": []},
        {"8001": "1/2", "down": ["8002"], "drained": []},
        {"8001": "1/1", "down": [], "drained": ["8003"]},
    ]
    assert history() == until_now
    # Another agent goes on with what this one knew, and with the same log.
    processes.start(8002)
    again = started(WEB)
    again.wait(lambda: wanted(again)["8002"] == "1/2", "does not get its share back")
    assert again.stop() == 0
    assert history() == [*until_now, {"8001": "1/2", "down": [], "drained": []}]
    [log] = network.folder.rglob("lbctl.events")
    assert log.stat().st_mode & 0o777 == 0o600
    replayed = network.lbctl("agent", "--replay", str(log), config=WEB)
    assert replayed.code == 0
    assert "8002  1/2 -> 0  down: " in replayed.out or "8002  1/3 -> 0  down: " in replayed.out
