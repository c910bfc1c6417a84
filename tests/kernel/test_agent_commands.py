"""Commands beside an agent that knows of a failed endpoint, and policies of a service."""

import re
import threading
import time
from collections.abc import Callable
from fractions import Fraction

from lbctl.conformance.network import HOST4, HOST6
from support.agents import (
    BOTH_BACKENDS,
    NFT,
    PORTS,
    AgentProcess,
    Processes,
    Serving,
    asked,
    checked,
    health,
    wanted,
)
from support.network import Network, intent, service

#: For IPv4 alone, as the processes listen.
LISTEN = f"{HOST4}:80/tcp"
WEB = intent(service("web", LISTEN, *map(str, PORTS)) + checked("tcp"))
TWO = intent(service("web", LISTEN, "8001", "8002") + checked("tcp"))
RENAMED = WEB.replace('"web"', '"shop"')


@BOTH_BACKENDS
def test_no_command_brings_a_failed_endpoint_back(
    network: Network,
    processes: Processes,
    serving: Serving,
    way: tuple[str, ...],
) -> None:
    agent = serving(WEB, *way)
    assert network.lbctl("apply", "--yes", *way, config=TWO).code == 0
    assert network.lbctl("apply", "--yes", *way, config=WEB).code == 0
    agent.wait(lambda: set(wanted(agent)) == {"8001", "8002", "8003"})
    processes.kill(8002)
    agent.lost("8002")
    for words, config in (
        (("apply", *way), WEB),
        (("drain", "web/8003"), None),
        (("activate", "web/8003"), None),
        (("weight", "web/8001", "2"), None),
        (("weight", "web/8001", "--reset"), None),
        (("apply", *way), RENAMED),
        (("rollback",), None),
        (("apply", *way), WEB),
    ):
        done = network.lbctl(*words, "--yes", config=config)
        assert done.code == 0, done.err
        assert "8002" not in asked(network, 4)
    # An endpoint that is new to the agent serves after its first pass.
    shares = {"8001": "1/2", "8002": "0/1", "8003": "1/2"}
    agent.wait(lambda: wanted(agent) == shares, "8003 does not serve again")
    tried: list[int] = []
    words = ("apply", "--yes", "--trial", "2s", *way)
    trial = threading.Thread(target=lambda: tried.append(network.lbctl(*words, config=TWO).code))
    trial.start()
    while trial.is_alive():
        assert asked(network, 2).keys() <= {"8001", "8003"}
    assert tried == [8]
    agent.wait(lambda: wanted(agent) == shares, "the end of the trial is not followed")
    assert asked(network, 4) == {"8001": 2, "8003": 2}


def test_a_migration_is_followed_and_keeps_a_failed_endpoint_out(
    network: Network, processes: Processes, serving: Serving
) -> None:
    agent = serving(WEB, *NFT)
    processes.kill(8002)
    agent.lost("8002")
    assert network.lbctl("migrate", "--to", "iptables", "--driver", "legacy", "--yes", config=WEB).code == 0
    assert asked(network, 4) == {"8001": 2, "8003": 2}
    agent.wait(lambda: agent.status["backend"] == "iptables", "the migration is not followed")
    assert asked(network, 4) == {"8001": 2, "8003": 2}
    assert "lbctl" not in network.tool("nft", "list", "tables")
    processes.start(8002)
    agent.wait(lambda: wanted(agent)["8002"] == "1/3", "does not come back")
    assert asked(network, 6) == {"8001": 2, "8002": 2, "8003": 2}


def test_once_the_agent_has_ended_a_plan_says_what_it_brings_back(
    network: Network, processes: Processes, serving: Serving
) -> None:
    agent = serving(WEB)
    processes.kill(8002)
    agent.lost("8002")
    assert "web/8002" not in network.lbctl("plan", config=WEB).out
    assert agent.stop() == 0
    planned = network.lbctl("plan", config=WEB)
    assert "web/8002 (ipv4) is down since" in planned.out + planned.err
    assert "but gets connections: the agent that found this has ended" in planned.out + planned.err
    # Nobody reads what --yes shows.
    applied = network.lbctl("apply", "--yes", config=WEB)
    assert applied.code == 0
    assert "and stays out: --ignore-health adds it" in applied.out + applied.err
    assert "8002" not in asked(network, 4)
    shown = network.lbctl("status", "--exit-code", config=WEB)
    assert (shown.code, "left out since the last agent found them down: web/8002;" in shown.out) == (0, True)
    assert network.lbctl("drain", "web/8003", "--yes").code == 0
    assert asked(network, 4) == {"8001": 4}
    assert network.lbctl("activate", "web/8003", "--yes").code == 0
    assert network.lbctl("apply", "--yes", config=TWO).code == 0
    # What the agent left is no change by another program.
    assert network.lbctl("rollback", "--yes").code == 0
    assert asked(network, 4) == {"8001": 2, "8003": 2}
    assert network.lbctl("apply", "--yes", "--ignore-health", config=WEB).code == 0
    assert asked(network, 3)["refused"] == 1


@BOTH_BACKENDS
def test_a_new_endpoint_serves_after_its_first_pass_whoever_adds_it(
    network: Network, processes: Processes, serving: Serving, way: tuple[str, ...]
) -> None:
    agent = serving(WEB, *way)
    four = intent(service("web", LISTEN, *map(str, PORTS), "8004") + checked("tcp"))
    assert network.lbctl("apply", "--yes", *way, config=four).code == 0
    assert asked(network, 30).keys() == {"8001", "8002", "8003"}
    agent.wait(lambda: health(agent, "8004") == "down", "not checked")
    assert asked(network, 30).keys() == {"8001", "8002", "8003"}
    processes.start(8004)
    agent.wait(lambda: wanted(agent)["8004"] == "1/4", "does not serve")
    assert asked(network, 8) == {"8001": 2, "8002": 2, "8003": 2, "8004": 2}


def test_removed_rules_stay_removed_whatever_checks_find(
    network: Network, processes: Processes, serving: Serving
) -> None:
    agent = serving(WEB)
    assert network.lbctl("remove", "--yes").code == 0
    processes.kill(8002)
    time.sleep(1.5)
    processes.start(8002)
    time.sleep(1)
    assert "lbctl" not in network.rules()
    assert agent.process.poll() is None
    assert network.lbctl("apply", "--yes", config=WEB).code == 0
    agent.wait(
        lambda: agent.status.get("services") and set(wanted(agent).values()) == {"1/3"}, "not followed"
    )


def test_agents_of_two_owners_keep_their_own_rules(
    network: Network, processes: Processes, started: Callable[..., AgentProcess]
) -> None:
    processes.start(*PORTS)
    agent = started(WEB)
    path = network.folder / "other.toml"
    path.write_text(intent(service("api", f"{HOST4}:81/tcp", "8001", "8003") + checked("tcp"), owner="other"))
    other = AgentProcess(network, config=path, port=9098).ready()
    try:
        other.wait(lambda: health(other, "8003") == "up")
        network.tool("nft", "flush", "ruleset")
        agent.wait(lambda: agent.status["agent"]["repairs"] == 1, "not repaired")
        other.wait(lambda: other.status["agent"]["repairs"] == 1, "not repaired")
        processes.kill(8003)
        agent.lost("8003")
        other.lost("8003")
        assert asked(network, 4) == {"8001": 2, "8002": 2}
        assert asked(network, 4, 81) == {"8001": 4}
        assert network.lbctl("remove", "--yes", "--owner", "other").code == 0
        time.sleep(1)
        assert asked(network, 4) == {"8001": 2, "8002": 2}
    finally:
        other.kill()


def test_an_agent_that_cannot_read_the_record_does_nothing_and_says_so(
    network: Network, processes: Processes, serving: Serving
) -> None:
    agent = serving(WEB)
    agent.kill()
    [record] = network.folder.rglob("lbctl.000001")
    whole = record.read_bytes()
    record.write_bytes(whole[: len(whole) // 2])
    rules = network.rules()
    agent = AgentProcess(network, config=network.folder / "lbctl.toml")
    try:
        agent.wait(lambda: agent.get("/ready")[0] == 503, "not shown")
        agent.wait(lambda: "cannot be read" in str(agent.status["agent"]["problems"]), "not said")
        assert network.rules() == rules
        record.write_bytes(whole)
        agent.wait(lambda: agent.get("/ready")[0] == 200, "does not go on")
        processes.kill(8002)
        agent.lost("8002")
    finally:
        agent.kill()


@BOTH_BACKENDS
def test_backups_serve_before_all_down_decides(
    network: Network,
    processes: Processes,
    serving: Serving,
    way: tuple[str, ...],
) -> None:
    backup = '[[service.endpoint]]\naddress = "8003"\nstate = "backup"\n'
    first = "".join(f'[[service.endpoint]]\naddress = "{port}"\n' for port in (8001, 8002))
    agent = serving(intent(service("web", LISTEN) + checked("tcp") + first + backup), *way)
    assert asked(network, 4) == {"8001": 2, "8002": 2}
    processes.kill(8001)
    agent.lost("8001")
    assert asked(network, 4) == {"8002": 4}
    processes.kill(8002)
    agent.wait(lambda: "8003 0 -> 1" in agent.said, "the backup does not serve")
    assert asked(network, 4) == {"8003": 4}
    processes.kill(8003)
    agent.wait(lambda: health(agent, "8003") == "down")
    agent.wait(lambda: wanted(agent) == {"8001": "1/2", "8002": "1/2", "8003": "0/1"}, "not kept by all-down")
    processes.start(8002)
    agent.wait(lambda: wanted(agent) == {"8001": "0/1", "8002": "1/1", "8003": "0/1"}, "does not come back")
    assert asked(network, 4) == {"8002": 4}


def test_at_most_a_part_of_a_service_is_taken_out(
    network: Network, processes: Processes, serving: Serving
) -> None:
    ports = (8001, 8002, 8003, 8004)
    text = service("web", LISTEN, *map(str, ports)) + checked("tcp") + '[service.health]\nmax-down = "50%"\n'
    agent = serving(intent(text), ports=ports)
    for port in (8004, 8002):
        processes.kill(port)
        agent.lost(str(port))
    processes.kill(8001)
    agent.wait(lambda: health(agent, "8001") == "down")
    assert wanted(agent) == {"8001": "1/2", "8002": "0/1", "8003": "1/2", "8004": "0/1"}
    assert "kept by max-down" in str(agent.status["agent"]["checks"])


def test_families_fail_apart(
    network: Network, processes: Processes, started: Callable[..., AgentProcess]
) -> None:
    processes.start(8001)  # for IPv4 alone
    network.local_endpoints([8002])
    agent = started(intent(service("web", "80/tcp", "8001", "8002") + checked("tcp")))
    agent.wait(lambda: health(agent, "8001", "ipv6") == "down")
    agent.wait(lambda: wanted(agent, "ipv6") == {"8001": "0/1", "8002": "1/1"}, "not taken out for IPv6")
    assert wanted(agent) == {"8001": "1/2", "8002": "1/2"}
    assert asked(network, 4) == {"8001": 2, "8002": 2}
    assert network.ask(network.client, HOST6, 80, 4) == ["8002"] * 4


def test_a_returning_endpoint_gets_its_share_step_by_step(
    network: Network, processes: Processes, serving: Serving
) -> None:
    text = service("web", LISTEN, "8001", "8002") + checked("tcp")
    agent = serving(intent(text + '[service.health]\nslow-start = "4s"\n'), ports=(8001, 8002))
    assert asked(network, 4) == {"8001": 2, "8002": 2}
    processes.kill(8002)
    agent.lost("8002")
    processes.start(8002)
    while not re.search(r"8002 \S+ -> 1/2$", agent.said, re.MULTILINE):
        # All of these are served, whatever the step is.
        assert asked(network, 10).keys() <= {"8001", "8002"}
    steps = [Fraction(new) for new in re.findall(r"8002 \S+ -> (\S+)", agent.said)]
    back = steps[steps.index(Fraction(0)) + 1 :]
    assert back == sorted(back)
    assert back[0] < Fraction(1, 4)
    assert back[-1] == Fraction(1, 2)
    assert len(back) >= 4
