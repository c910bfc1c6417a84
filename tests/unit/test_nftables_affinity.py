"""Which entries of a map of clients are removed, of those that the kernel reports."""

from ipaddress import ip_address

from lbctl_nftables.affinity import entries, has_strangers, strangers
from lbctl_nftables.kernel.values import MAP, KernelElement, Set

CLIENTS = Set(
    name="affinity-web",
    flags=MAP,
    key_types=("ipv4_addr",),
    key_size=4,
    data_types=("ipv4_addr", "inet_service"),
    data_size=8,
    is_verdict_map=False,
    size=0,
    policy=0,
    timeout=0,
    interval=0,
    statements=(),
)
EMPTY = KernelElement._make(b"" for _ in KernelElement._fields)


def place(address: str) -> bytes:
    return ip_address(address).packed + (80).to_bytes(2, "big") + bytes(2)


def client(address: str, endpoint: str, seconds: int, timeout: int = 60) -> KernelElement:
    return EMPTY._replace(
        key=ip_address(address).packed,
        value=place(endpoint),
        timeout=(timeout * 1000).to_bytes(8, "big"),
        expiration=(seconds * 1000).to_bytes(8, "big"),
    )


SOON = client("192.0.2.1", "10.0.0.11", 5)
TWICE = client("192.0.2.2", "10.0.0.11", 50)
STAYS = client("192.0.2.3", "10.0.0.12", 9)
FOR_EVER = client("192.0.2.4", "10.0.0.12", 0, timeout=0)
PLACES = [EMPTY._replace(key=place("10.0.0.12"))]


def test_a_client_that_the_kernel_lists_twice_is_forgotten_once() -> None:
    found = strangers(entries(CLIENTS, [SOON, TWICE, STAYS, TWICE]), {"10.0.0.12 . 80"})
    assert [entry.client for entry in found] == ["192.0.2.2", "192.0.2.1"]
    assert [entry.seconds for entry in found] == [50, 5]


def test_an_entry_without_end_is_none_that_a_rule_wrote() -> None:
    found = strangers(entries(CLIENTS, [STAYS, FOR_EVER]), {"10.0.0.12 . 80"})
    assert [entry.client for entry in found] == ["192.0.2.4"]


def test_strangers_are_seen_by_their_bytes() -> None:
    assert not has_strangers([], PLACES)
    assert not has_strangers([STAYS], PLACES)
    assert has_strangers([STAYS, SOON], PLACES)
    assert has_strangers([STAYS, FOR_EVER], PLACES)
    # With an IPv6 address alone in the entry, the endpoint's port is not compared.
    short = STAYS._replace(value=place("10.0.0.12")[:4])
    assert not has_strangers([short], PLACES)
