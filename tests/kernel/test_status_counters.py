"""`actual` counts since the service last changed, `connections` never fall back."""

import json
from collections import Counter
from typing import Any

import pytest

from lbctl.conformance.network import HOST4, HOST6
from support.network import Network, intent, service

PORTS = ("8001", "8002", "8003", "8004")
BESIDE = service("beside", "81/tcp", "8001", "8002")


def web_of(network: Network, way: tuple[str, ...], text: str) -> Any:
    status = network.lbctl("status", "--output", "json", *way, config=text).json
    return next(each for each in status["services"] if each["name"] == "web")


def connections(web: Any) -> dict[str, int]:
    return {each["to"]: each["connections"] for each in web["endpoints"]}


@pytest.mark.parametrize("options", [{}, {"affinity": "1h"}], ids=["plain", "affinity"])
def test_after_a_change_exact_traffic_has_exact_shares(
    network: Network, every_way: tuple[str, ...], options: dict[str, str]
) -> None:
    network.local_endpoints(tuple(map(int, PORTS)))

    def change(*ports: str) -> str:
        text = intent(service("web", "80/tcp", *ports, **options), BESIDE)
        assert network.lbctl("apply", "--yes", *every_way, config=text).code == 0
        return text

    text = change(*PORTS)
    assert web_of(network, every_way, text)["since"] is None
    if options:
        network.ask(network.client, HOST4, 80, 40)
        before = web_of(network, every_way, text)
        assert connections(before) == {"8001": 40, "8002": 0, "8003": 0, "8004": 0}
    else:
        assert Counter(network.ask(network.client, HOST4, 80, 40)) == dict.fromkeys(PORTS, 10)
        before = web_of(network, every_way, text)
        assert {each["actual"] for each in before["endpoints"]} == {"1/4"}

    text = change("8001", "8003", "8004")
    web = web_of(network, every_way, text)
    assert web["since"] is not None
    assert connections(web) == {to: n for to, n in connections(before).items() if to != "8002"}
    assert {each["families"]["ipv4"]["actual"] for each in web["endpoints"]} == {None}
    if options:
        return
    network.ask(network.client, HOST4, 80, 39)
    web = web_of(network, every_way, text)
    assert {(each["wanted"], each["actual"], each["connections"]) for each in web["endpoints"]} == {
        ("1/3", "1/3", 23)
    }

    # An endpoint that returns goes on where it was.
    text = change(*PORTS)
    assert connections(web_of(network, every_way, text)) == {"8001": 23, "8002": 10, "8003": 23, "8004": 23}
    network.ask(network.client, HOST4, 80, 8)
    network.ask(network.client, HOST6, 80, 4)
    web = web_of(network, every_way, text)
    assert {(each["wanted"], each["actual"]) for each in web["endpoints"]} == {("1/4", "1/4")}
    assert connections(web) == {"8001": 26, "8002": 13, "8003": 26, "8004": 26}
    [beside] = [
        each
        for each in network.lbctl("status", "--output", "json", *every_way, config=text).json["services"]
        if each["name"] == "beside"
    ]
    assert beside["since"] is None, "a change of one service is none of another"


def test_a_lost_record_and_rules_that_were_written_anew(network: Network, way: tuple[str, ...]) -> None:
    network.local_endpoints((8001, 8002))
    text = intent(service("web", "80/tcp", "8001", "8002"))
    for each in (intent(service("web", "80/tcp", "8001")), text):
        assert network.lbctl("apply", "--yes", *way, config=each).code == 0
    network.ask(network.client, HOST4, 80, 4)
    web = web_of(network, way, text)
    assert (web["since"] is not None, connections(web)) == (True, {"8001": 2, "8002": 2})
    [record] = network.folder.glob("**/*.counters.*")
    kept = record.read_text()
    for damaged in ("", "[1]", kept.replace("ipv4", "ipv5"), kept.replace("[1, ", "[2, "), "[" * 100_000):
        record.write_text(damaged)
        assert web_of(network, way, text)["since"] is None, damaged[:80]
    record.write_text(kept)
    assert web_of(network, way, text)["since"] == web["since"]

    # The kernel counted less than the record says: another program wrote the rules anew.
    version, namespace, [[name, since, rows]] = json.loads(kept)
    rows = [[*row[:-1], 1000] for row in rows]
    record.write_text(json.dumps([version, namespace, [[name, since, rows]]]))
    web = web_of(network, way, text)
    assert (web["since"], connections(web)) == (None, {"8001": 2, "8002": 2})

    # What is added has counters of its own.
    assert network.lbctl("remove", "--yes", *way).code == 0
    assert not record.exists()
