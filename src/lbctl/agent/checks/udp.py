"""UDP checks: one datagram, and an answer that contains what is expected."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from lbctl.agent.checks import outcomes

if TYPE_CHECKING:
    from lbctl.agent.health import Outcome, Target
    from lbctl.model import Address, UdpProbe


async def check(target: Target, probe: UdpProbe, where: Address) -> Outcome:
    """Return how an exchange ended; raises OSError."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    answer: asyncio.Future[bytes] = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Exchange(probe.send, answer), remote_addr=(str(where), target.port or 0)
    )
    try:
        data = await answer
    finally:
        transport.abort()
    seconds = loop.time() - began
    if probe.expect not in data:
        return outcomes.failed("answered, but not as expected", seconds)
    return outcomes.passed("answered", seconds)


class _Exchange(asyncio.DatagramProtocol):
    """The first answer to a datagram."""

    def __init__(self, data: bytes, answer: asyncio.Future[bytes]) -> None:
        self._data, self._answer = data, answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No instance of it in Python 3.11, though it has its methods.
        cast("asyncio.DatagramTransport", transport).sendto(self._data)

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002
        if not self._answer.done():
            self._answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc)
