"""One rule, as several versions of nft list it."""

import pytest

from lbctl_nftables import spell

ENTRY = {"elem": {"val": {"payload": {"protocol": "ip", "field": "saddr"}}, "timeout": 93784}}
PLACE = {
    "concat": [
        {"payload": {"protocol": "ip", "field": "daddr"}},
        {"payload": {"protocol": "tcp", "field": "dport"}},
    ]
}
UPDATE = {"map": {"op": "update", "elem": ENTRY, "data": PLACE, "map": "@affinity-web"}}
TEXT = "update @affinity-web { ip saddr timeout 1d2h3m4s : ip daddr . tcp dport }"


@pytest.mark.parametrize("listed", [UPDATE, TEXT])
def test_an_update_of_a_map(listed: object) -> None:
    wanted = "update @affinity-web { ip saddr timeout 93784s : ip daddr . tcp dport }"
    assert spell.rule([listed]) == wanted


@pytest.mark.parametrize(
    ("shown", "seconds"),
    [("5s", 5), ("1m", 60), ("59m59s", 3599), ("3h", 10800), ("1d", 86400), ("30d", 2592000)],
)
def test_times_are_in_seconds(shown: str, seconds: int) -> None:
    text = "update @affinity-web {{ ip saddr timeout {} : tcp dport }}"
    assert spell.rule([text.format(shown)]) == text.format(f"{seconds}s")


def test_what_is_not_ours_differs_from_all_that_is() -> None:
    for other in (
        {"map": {"op": "update", "elem": ENTRY, "data": PLACE, "map": "@a", "stmt": [{"counter": None}]}},
        "update @affinity-web { ip saddr timeout 500ms : tcp dport }",
    ):
        assert "timeout 0s" not in spell.rule([other])
        assert spell.rule([other]) != spell.rule([UPDATE])


@pytest.mark.parametrize("more", [{}, {"family": "ip6"}])
def test_a_port_beside_a_map_of_addresses(more: dict[str, str]) -> None:
    address = {"map": {"key": {"payload": {"protocol": "ip6", "field": "saddr"}}, "data": "@affinity-web"}}
    listed = {"dnat": {**more, "addr": address, "port": 80}}
    assert spell.rule([listed]) == "dnat ip6 to ip6 saddr map @affinity-web : 80"
