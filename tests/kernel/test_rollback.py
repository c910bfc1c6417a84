"""Rollback on the real kernel: what was not touched keeps its counters."""

from typing import Any

from lbctl.conformance.network import HOST4
from support.network import Network, intent, service

API = service("api", "81/tcp", "8004")
OLD = intent(service("web", "80/tcp", "8001", "8002"), API)
NEW = intent(service("web", "80/tcp", "8001", "8002", "8003"), API)


def counts(network: Network, way: tuple[str, ...], config: str) -> Any:
    status = network.lbctl("status", *way, "--output", "json", config=config).json
    assert status["in_sync"]
    return {s["name"]: {e["to"]: e["connections"] for e in s["endpoints"]} for s in status["services"]}


def test_what_a_rollback_leaves_and_breaks_is_said(network: Network) -> None:
    network.local_endpoints((8001, 8002))
    config = intent(service("web", "80/tcp", "8001", "8002"))
    assert network.lbctl("apply", "--yes", config=config).code == 0
    assert network.lbctl("weight", "web/8001", "3", config=config).code == 0
    back = network.lbctl("rollback", "--yes", config=config)
    assert back.code == 0
    assert "Drains and weights by command are not part of the history, and stay: web/8001." in back.err
    # No rule is left, as after a remove.
    assert "Warning: established connections will break unless other NAT rules remain." in back.err


def test_back_to_the_state_before(network: Network, way: tuple[str, ...]) -> None:
    nothing = network.rules()
    network.local_endpoints(range(8001, 8005))
    assert network.lbctl("apply", "--yes", *way, config=OLD).code == 0
    old = network.rules()
    assert network.lbctl("apply", "--yes", *way, config=NEW).code == 0
    assert network.ask(network.client, HOST4, 81, 3) == ["8004"] * 3
    assert network.ask(network.client, HOST4, 80, 3) == ["8001", "8002", "8003"]
    back = network.lbctl("rollback", "--yes", "--output", "json")
    assert (back.code, back.json["to"], back.json["applied"]) == (0, 1, True)
    assert [s["action"] for s in back.json["services"]] == ["change", "none"]
    assert network.rules() == old
    assert counts(network, way, OLD) == {"web": {"8001": 1, "8002": 1}, "api": {"8004": 3}}
    actions = [e["action"] for e in network.lbctl("history", "--output", "json").json["history"]]
    assert actions == ["apply", "apply", "rollback"]
    assert network.lbctl("rollback", "--yes").code == 0
    assert network.lbctl("status", *way, "--output", "json", config=OLD).json["in_sync"] is False
    if way[1] != "iptables":
        assert network.rules() == nothing
    none = network.lbctl("rollback", "--yes")
    assert (none.code, none.out) == (5, "")
    assert "nothing to roll back to" in none.err
