"""Run on a platform: two ports of a host over three processes each, from the first apply to the removal.

    python -m matrix.origin BACKEND DRIVER

Prints the outcome as JSON. Each step is a command of lbctl, and real connections that must arrive in exact
round robin.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lbctl.conformance.network import HOST4, HOST6
from lbctl.conformance.site import Failed, expect
from matrix.result import Outcome
from support.network import Network, intent, service

HTTP, HTTPS = ("8001", "8002", "8003"), ("8101", "8102", "8103")
#: With the endpoint that the change adds.
MORE = (*HTTP, "8004")


def main(backend: str, driver: str) -> None:
    """See the module."""
    options = ("--backend", backend, "--driver", driver)
    wrong = ""
    with tempfile.TemporaryDirectory() as folder:
        network = Network(Path(folder))
        try:
            _life(network, options)
        except Failed as error:
            wrong = str(error)
        network.close()
    print(json.dumps(str(Outcome.of(wrong))))


def _life(network: Network, options: Sequence[str]) -> None:
    """Raise `Failed` at the first step that goes wrong."""
    network.local_endpoints(map(int, (*MORE, *HTTPS)))
    before = network.rules()
    _command(network, "apply", "--yes", *options, config=text(HTTP))
    _in_sync(network, options, HTTP)
    for address in (HOST4, HOST6):
        expect(_ask(network, address, 80, 6), [*HTTP, *HTTP], f"port 80 of {address}")
        expect(_ask(network, address, 443, 4), [*HTTPS, HTTPS[0]], f"port 443 of {address}")
    _command(network, "apply", "--yes", *options, config=text(MORE))
    _in_sync(network, options, MORE)
    for address in (HOST4, HOST6):
        expect(Counter(_ask(network, address, 80, 8)), Counter(MORE * 2), f"port 80 of {address}, changed")
        expect(_ask(network, address, 443, 2), [*HTTPS[1:]], f"port 443 of {address}, unchanged")
    _command(network, "remove", "--yes", *options)
    expect(network.rules(), before, "rules after the removal")
    expect(_ask(network, HOST4, 80, 1), ["refused"], "port 80 after the removal")


def text(http: Sequence[str]) -> str:
    """The intent file, with the endpoints of port 80."""
    return intent(service("http", "80/tcp", *http), service("https", "443/tcp", *HTTPS))


def _in_sync(network: Network, options: Sequence[str], http: Sequence[str]) -> None:
    _command(network, "status", "--exit-code", *options, config=text(http))


def _command(network: Network, *words: str, config: str | None = None) -> None:
    done = network.lbctl(*words, config=config)
    expect(done.code, 0, f"exit code of lbctl {words[0]} ({done.err.strip() or done.out.strip()})")


def _ask(network: Network, address: str, port: int, count: int) -> list[str]:
    return network.ask(network.client, address, port, count)


if __name__ == "__main__":
    main(*sys.argv[1:])
