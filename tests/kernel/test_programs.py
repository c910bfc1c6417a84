"""Random programs in the kernel: each connection ends where the naive interpreter says."""

from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from lbctl_netfilter.ir import FamilyProgram
from support.interpreter import UNTOUCHED, Kernel, Packet
from support.network import Network
from support.places import answering
from support.programs import PACKETS, native, programs, saved

CONNECTIONS = 24
EXAMPLES = settings(
    deadline=None,
    max_examples=12,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["iptables-legacy", "iptables-nft", "nft"])
def test_connections_end_where_the_interpreter_says(network: Network, how: str) -> None:
    answering(network)

    @EXAMPLES
    @given(program=programs(), seed=st.integers(0, 1000))
    def run(program: FamilyProgram, seed: int) -> None:
        load(network, program, how)
        kernel = Kernel(program)
        packets = [Random(seed + i).choice(OUTSIDE) for i in range(CONNECTIONS)]
        asked = [network.ask(network.client, x.dst, x.dport, source=x.src) for x in packets]
        assert asked == [[_shown(kernel.connect(packet), packet)] for packet in packets], saved(program)

    run()


OUTSIDE = [packet for packet in PACKETS if packet.iif == "outside"]


def load(network: Network, program: FamilyProgram, how: str) -> None:
    if how == "nft":
        network.tool("nft", "-f", "-", stdin=f"flush ruleset\n{native(program)}")
    else:
        network.tool(f"{how}-restore", stdin=saved(program))


def _shown(end: str, packet: Packet) -> str:
    return f"{packet.dst}:{packet.dport}" if end == UNTOUCHED else end
