"""Guides are true: the commands of docs are run on their hosts, with real connections and a real agent."""

import shutil
from contextlib import ExitStack
from pathlib import Path

from lbctl.host.netns import Namespace, PrivateHost
from support.console import end_processes, replay, shells
from support.examples import EXAMPLES
from support.network import Network

DOCS = Path(__file__).parents[2] / "docs"
PORTS = (8001, 8002, 8003, 8101, 8102, 8103)


def test_the_guide_prints_what_it_says(network: Network, tmp_path: Path) -> None:
    network.local_endpoints(PORTS)
    shutil.copy(EXAMPLES / "origin" / "iptables.rules", tmp_path / "old.rules")
    with ExitStack() as stack:
        hosts = {"old": network.host, "client": network.client}
        for name, net in (("new", "198.51.100"), ("bare", "203.0.113")):
            hosts[name] = another(network, stack, name, net)
        hosts["lab"] = Namespace(PrivateHost())
        stack.callback(hosts["lab"].close)
        replay(DOCS / "migrating.md", stack.enter_context(shells(tmp_path, hosts)))


def test_service_chains_migrate_as_the_guide_says(network: Network, tmp_path: Path) -> None:
    network.local_endpoints(PORTS[:3])
    shutil.copy(EXAMPLES / "migrate" / "service-chains.rules", tmp_path)
    with shells(tmp_path, {"": network.host}) as opened:
        replay(DOCS / "how-to" / "from-kube-proxy.md", opened)


def test_the_agent_does_what_its_guide_says(network: Network, tmp_path: Path) -> None:
    try:
        with shells(tmp_path, {"": network.host}) as opened:
            replay(DOCS / "how-to" / "agent.md", opened)
    finally:
        end_processes(network.host)


def another(network: Network, stack: ExitStack, link: str, net: str) -> Namespace:
    """A host like the old one, on another link of the client."""
    host = Namespace(PrivateHost())
    stack.callback(host.close)
    network.client.connect(link, host, "outside")
    network.client.address(link, f"{net}.2/24")
    host.address("outside", f"{net}.1/24")
    responder = network.responder(host)
    for port in PORTS:
        responder.listen(port)
    responder.start()
    return host
