"""The addresses of the cases from the field: each port answers with its address and port."""

from support.field_cases import HOST, LOCAL, ONE, OTHER_CLIENT, PORTS, THREE, TWO
from support.network import Network


def answering(network: Network) -> None:
    """Have all of them answer."""
    for address in sorted(LOCAL - {HOST}):
        network.host.address("outside", f"{address}/32")
    network.client.address("uplink", f"{OTHER_CLIENT}/24")
    for namespace, addresses in ((network.host, sorted(LOCAL)), (network.server, (ONE, TWO, THREE))):
        responder = network.responder(namespace)
        for address in addresses:
            for port in PORTS:
                responder.listen(port, address=address, name=f"{address}:{port}")
        responder.start()
