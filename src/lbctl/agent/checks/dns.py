"""DNS checks: one query by UDP, and by TCP where the answer is cut off. The protocol is dnspython's."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import dns.asyncbackend
import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from lbctl.agent.checks import outcomes

if TYPE_CHECKING:
    from lbctl.agent.health import Outcome, Target
    from lbctl.model import Address, DnsProbe


async def check(target: Target, probe: DnsProbe, where: Address) -> Outcome:
    """Return how a query ended; raises OSError."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    kind = dns.rdatatype.from_text(probe.type)
    query = dns.message.make_query(probe.name, kind)
    try:
        answer, _ = await dns.asyncquery.udp_with_fallback(
            query,
            str(where),
            timeout=target.check.timeout / 1000,
            port=target.port or 53,
            backend=_backend(),
            ignore_unexpected=True,
        )
    except dns.exception.Timeout:
        return outcomes.of_timeout(loop.time() - began)
    except dns.exception.DNSException as error:
        return outcomes.failed(f"not DNS: {type(error).__name__}", loop.time() - began)
    seconds = loop.time() - began
    code = answer.rcode()
    if code != dns.rcode.NOERROR:
        return outcomes.failed(f"DNS {dns.rcode.to_text(code)}", seconds)
    if not any(found.rdtype == kind for found in answer.answer):
        return outcomes.failed(f"DNS: no {probe.type} record", seconds)
    return outcomes.passed(f"DNS {probe.type} answered", seconds)


@lru_cache(maxsize=1)
def _backend() -> Any:
    # Found out by looking at the stack otherwise, for each query.
    return dns.asyncbackend.get_backend("asyncio")
