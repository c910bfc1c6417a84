"""Endpoints from DNS: SRV records, or A and AAAA records with the port of the intent file (RFC 2782, 6891).

A name that begins with an underscore is asked for SRV records: those of the lowest priority are active, the
others backups; a weight of 0 is one of 1 there, a small one. Answers of 1232 bytes come by UDP, larger ones
by TCP. They are asked for again when they expire, but neither at once nor only tomorrow. A name that does
not exist, or has no such records, is an empty answer; anything else that goes wrong is none.
"""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

import dns.asyncresolver
import dns.exception
import dns.name
import dns.resolver

from lbctl.agent.sources.source import SourceFailed
from lbctl.agent.sources.text import endpoint_at
from lbctl.model import MAX_WEIGHT, Endpoint, State, host_and_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from dns.rdtypes.IN.SRV import SRV

    from lbctl.agent.sources.source import Access, Answer

    _Address = IPv4Address | IPv6Address

local = False
#: Seconds after which an answer is asked for again, whatever its TTL says.
_FLOOR, _CEILING = 1.0, 60.0
#: Seconds that each question adds to the shortest pause: SRV records may lead to many names.
_EACH = 0.01
#: Seconds for one question, all servers and repetitions included.
_PATIENCE = 5.0
#: Bytes of an answer by UDP: what passes without fragments (DNS flag day 2020).
_EDNS = 1232
#: Names that the SRV records of one answer may lead to.
_MOST_TARGETS = 1024
#: Names whose addresses are asked for at once.
_AT_ONCE = 16


async def answers(name: str, access: Access) -> AsyncGenerator[Answer, None]:  # noqa: ARG001
    """Yield the endpoints of a name, asked for at the servers of /etc/resolv.conf."""
    while True:
        try:
            resolver = dns.asyncresolver.Resolver()
        except dns.exception.DNSException as error:
            raise SourceFailed(f"/etc/resolv.conf: {error}") from error
        found, seconds = await look_up(name, resolver)
        yield found
        await asyncio.sleep(seconds)


async def look_up(name: str, resolver: dns.asyncresolver.Resolver) -> tuple[Answer, float]:
    """Return the endpoints of a name, and the seconds until they are to be asked for again."""
    resolver.use_edns(0, 0, _EDNS)
    resolver.cache = None
    host, port = host_and_port(name)
    question = _Question(resolver)
    if host.startswith("_"):
        found = await question.services(host)
    else:
        found = tuple(Endpoint(address=each, port=port) for each in await question.addresses(host))
    return found, min(max(question.ttl, _FLOOR, question.asked * _EACH), _CEILING)


class _Question:
    """The questions behind one answer.

    `ttl` is the least time to live of what was found, and `asked` the number of questions.
    """

    def __init__(self, resolver: dns.asyncresolver.Resolver) -> None:
        self._resolver = resolver
        self.ttl = _CEILING
        self.asked = 0

    async def services(self, host: str) -> Answer:
        """Return the endpoints of SRV records, those of the lowest priority active."""
        answer = await self._ask(host, "SRV")
        records: list[SRV] = [each for each in answer or () if each.target != dns.name.root]
        if answer is None or not records:
            return ()
        targets = dict.fromkeys(each.target for each in records)
        if len(targets) > _MOST_TARGETS:
            raise SourceFailed(f"SRV records lead to more than {_MOST_TARGETS} names")
        # Not those that came along: a server leaves out of them what has no room, without a sign.
        limit = asyncio.Semaphore(_AT_ONCE)
        found_addresses = await asyncio.gather(*(self._limited(limit, t.to_text()) for t in targets))
        addresses = dict(zip(targets, found_addresses, strict=True))
        best = min(each.priority for each in records)
        found: dict[str, Endpoint] = {}
        for each in sorted(records, key=lambda each: (each.priority, -each.weight)):
            for address in addresses[each.target]:
                endpoint = endpoint_at(
                    str(address),
                    each.port,
                    weight=min(max(each.weight, 1), MAX_WEIGHT),
                    state=State.ACTIVE if each.priority == best else State.BACKUP,
                )
                found.setdefault(endpoint.to, endpoint)
        return tuple(found.values())

    async def _limited(self, limit: asyncio.Semaphore, host: str) -> tuple[_Address, ...]:
        async with limit:
            return await self.addresses(host)

    async def addresses(self, host: str) -> tuple[_Address, ...]:
        """Return the addresses of a host, of both families."""
        answers = await asyncio.gather(self._ask(host, "A"), self._ask(host, "AAAA"))
        return tuple(ip_address(record.address) for answer in answers for record in answer or ())

    async def _ask(self, host: str, kind: str) -> dns.resolver.Answer | None:
        """Return the records of a kind; None if the name has none of it. Raises `SourceFailed`."""
        self.asked += 1
        try:
            # Names are absolute: search domains would make the answer depend on the host.
            name = dns.name.from_text(host)
            # The limit of dnspython 2.9 is on the clock that people set.
            async with asyncio.timeout(_PATIENCE):
                answer = await self._resolver.resolve(name, kind, lifetime=2 * _PATIENCE)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            self.ttl = _FLOOR
            return None
        except (TimeoutError, dns.exception.Timeout) as error:
            raise SourceFailed(f"no DNS server answers for {host} {kind}") from error
        except (dns.exception.DNSException, ValueError) as error:
            raise SourceFailed(f"DNS {host} {kind}: {error}") from error
        self.ttl = min(self.ttl, float(answer.rrset.ttl if answer.rrset is not None else 0))
        return answer
