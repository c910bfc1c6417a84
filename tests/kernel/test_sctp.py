"""What of SCTP the conformance suite does not show: its checksum, its own turns, what status tells."""

import pytest

from lbctl.conformance.network import HOST4
from lbctl.conformance.sctp import INIT, Packet, crc32c
from support.network import Network, intent, service

LOCAL = (8001, 8002, 8003)


def test_the_checksum_is_the_one_of_the_standard() -> None:
    """RFC 3720, appendix B.4."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_a_packet_is_read_as_it_was_written_and_not_when_it_is_damaged() -> None:
    asked = Packet(source=1, destination=2, kind=INIT, verification=0, tag=5)
    answer = asked.answered(b"8001")
    assert Packet.of(asked.to_bytes()) == asked
    assert Packet.of(answer.to_bytes()) == answer
    assert (answer.source, answer.destination, answer.verification, answer.cookie) == (2, 1, 5, b"8001")
    with pytest.raises(ValueError, match="wrong checksum"):
        Packet.of(b"\0\x09" + asked.to_bytes()[2:])


def test_other_protocols_on_the_same_port_have_their_own_turns(
    network: Network, options: tuple[str, ...]
) -> None:
    network.local_endpoints(LOCAL, "tcp", "sctp")
    text = intent(service("all", ["80/tcp", "80/sctp"], *map(str, LOCAL)))
    assert network.lbctl("apply", "--yes", *options, config=text).code == 0
    for _ in range(3):
        for kind in ("tcp", "sctp"):
            assert network.ask(network.client, HOST4, 80, 3, kind=kind) == [str(port) for port in LOCAL]
    [told] = network.lbctl("status", "--output", "json", *options, config=text).json["services"]
    assert [e["connections"] for e in told["endpoints"]] == [6, 6, 6]
    # The kernel waits for the rest of the handshake.
    assert [e["established"] for e in told["endpoints"]] == [0, 0, 0]
