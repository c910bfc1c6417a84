"""The examples of the repository, and hosts that are as they take for granted."""

from pathlib import Path

from lbctl.model import Intent
from support.network import Network

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*/lbctl.toml"))


def furnish(network: Network, intent: Intent) -> None:
    """Give the hosts the addresses that an example listens on, and start its endpoints."""
    here, there = network.responder(network.host), network.responder(network.server)
    for service in intent.services:
        for listener in service.listeners:
            if listener.address is not None:
                prefix = 24 if listener.address.version == 4 else 64
                network.host.address("outside", f"{listener.address}/{prefix}")
        for endpoint in service.endpoints:
            if endpoint.address is None:
                here.listen(endpoint.port, name=endpoint.to)
            else:
                there.listen(endpoint.port, address=str(endpoint.address), name=endpoint.to)
    here.start()
    there.start()
