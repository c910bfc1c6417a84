"""What plans say beside their changes, on the rules that the kernel's own tools show."""

import pytest

from support.network import Network, intent, service

WEB = intent(service("web", "80/tcp", "8001", "8002"))
TURNS = "-A OUTPUT -p udp --dport 9 -m statistic --mode nth --every 2 --packet 0 -j REDIRECT --to-ports 10"


@pytest.mark.parametrize(("driver", "told"), [("legacy", True), ("iptc", True), ("nf_tables", False)])
def test_a_plan_tells_whose_counters_start_over(network: Network, driver: str, told: bool) -> None:
    way = ("--output", "json", "--driver", driver)
    network.local_endpoints((8001, 8002))
    assert network.lbctl("plan", *way, config=WEB).json["notes"] == []
    flavour = "nft" if driver == "nf_tables" else "legacy"
    network.tool(f"iptables-{flavour}", "-t", "nat", *TURNS.split())
    notes = network.lbctl("plan", *way, config=WEB).json["notes"]
    assert [note.split(": ")[1] for note in notes] == (
        ["those of lbctl are carried over, those of 1 foreign rule start over."] if told else []
    )
    applied = network.lbctl("apply", "--yes", *way, config=WEB)
    assert (applied.code, applied.json["notes"]) == (0, notes)
    # Nothing is written now, so nothing starts over.
    assert network.lbctl("plan", *way, config=WEB).json["notes"] == []
