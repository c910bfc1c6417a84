"""Known pairs of links: what crosses them is asked nothing more about its source, and all else still is."""

from lbctl.conformance.network import CLIENT4, HOST4, INSIDE4, NEIGHBOUR4, SERVERS4
from support.network import Network, intent, service

WEB = intent(service("web", [f"{HOST4}:80/tcp", f"{INSIDE4}:80/tcp"], *(f"{each}:80" for each in SERVERS4)))


def test_who_needs_another_source_gets_it_whatever_crossed_before(network: Network) -> None:
    responder = network.remote_endpoints(80)
    path = network.folder / "lbctl.toml"
    path.write_text(WEB)

    def seen(*asking: object, **options: object) -> set[str]:
        responder.peers.clear()
        answers = network.ask(*asking, 6, **options)  # type: ignore[arg-type]
        assert set(answers) == set(SERVERS4)
        return set(responder.peers)

    def in_sync() -> bool:
        return bool(network.lbctl("status", "--output", "json", config=path).json["in_sync"])

    def crossed() -> str:
        return network.tool("nft", "list", "set", "ip", "lbctl", "crossed-links")

    assert network.lbctl("apply", "--yes", "--backend", "nftables", config=path).code == 0
    assert "elements" not in crossed()
    for _ in range(2):
        assert seen(network.client, HOST4, 80) == {CLIENT4}
        assert crossed().count(" . ") == 2, "the declaration, and one pair"
        # This host's own, and a neighbour of the endpoints, whose packets go back out where they came in.
        assert seen(network.host, HOST4, 80) == {INSIDE4}
        assert seen(network.server, INSIDE4, 80, source=NEIGHBOUR4) == {INSIDE4}
        assert crossed().count(" . ") == 2
    assert in_sync()
    # A pair that packets do not add: of a link with itself.
    network.tool("nft", "add element ip lbctl crossed-links { lo . lo }")
    assert not in_sync()
    assert network.lbctl("apply", "--yes", "--backend", "nftables", config=path).code == 0
    assert in_sync()
