"""Both sides of each pair of equal rules are rules that the kernel takes."""

import pytest

from support.network import Network
from support.twins import PAIRS, UNEQUAL, native, saved


@pytest.mark.parametrize("name", [name for name in PAIRS if name not in UNEQUAL])
def test_both_sides_load(network: Network, name: str) -> None:
    for flavour in ("iptables-legacy", "iptables-nft"):
        network.tool(f"{flavour}-restore", "--test", stdin=saved(*PAIRS[name]))
    network.tool("nft", "--check", "-f", "-", stdin=native(*PAIRS[name]))
