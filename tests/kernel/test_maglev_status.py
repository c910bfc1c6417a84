"""What people and scripts are told of how near Maglev's tables come to the weights."""

from fractions import Fraction

from support.network import Network, intent, service


def test_the_deviation_is_told(network: Network) -> None:
    text = intent(
        service("hashed", "80/tcp", "8001", "8002", "8003", scheduler="maglev"),
        service("turns", "81/tcp", "8001", "8002"),
    )
    checked = network.lbctl("check", config=text)
    # 2039 = 680 + 680 + 679 places; a third of the table is 679 and two thirds of a place.
    line = "maglev: 2039 slots, shares within 0.04 % of the weights"
    assert checked.out.splitlines()[1:] == [f"hashed: {line}"]
    way = ("--backend", "nftables")
    shown = network.lbctl("status", *way, config=text).out.splitlines()
    assert shown.count(f"  {line}") == 1
    assert sum("by weight" in row for row in shown) == 1
    hashed, turns = network.lbctl("status", "--output", "json", *way, config=text).json["services"]
    assert hashed["deviation"] == "2/6117"
    assert [e["wanted"] for e in hashed["endpoints"]] == ["680/2039", "680/2039", "679/2039"]
    assert {e["by_weight"] for e in hashed["endpoints"]} == {"1/3"}
    assert max(abs(Fraction(e["wanted"]) - Fraction(1, 3)) for e in hashed["endpoints"]) == Fraction(2, 6117)
    assert turns["deviation"] == "0/1"
    assert [(e["wanted"], e["by_weight"]) for e in turns["endpoints"]] == [("1/2", "1/2")] * 2
