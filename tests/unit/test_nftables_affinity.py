"""Which entries of a map of clients go, of those that nft lists."""

from typing import Any

from lbctl_nftables.affinity import strangers


def test_a_client_that_the_kernel_lists_twice_is_forgotten_once() -> None:
    def listed(client: str, endpoint: str, seconds: int) -> Any:
        return [
            {"elem": {"val": client, "timeout": 60, "expires": seconds}},
            {"concat": [endpoint, 80]},
        ]

    soon, twice, stays = (
        listed("192.0.2.1", "10.0.0.11", 5),
        listed("192.0.2.2", "10.0.0.11", 50),
        listed("192.0.2.3", "10.0.0.12", 9),
    )
    found = strangers({"elem": [soon, twice, stays, twice]}, {"10.0.0.12 . 80"})
    assert [entry.client for entry in found] == ["192.0.2.2", "192.0.2.1"]
