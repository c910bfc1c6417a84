"""How soon a change in etcd is in the kernels of a fleet: three balancers, three members, on one machine.

A published intent, and an endpoint that a source finds: from just before it is written to etcd until the
last kernel reports that rules have changed.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbctl.agent.etcd import Client
from lbctl.agent.fleet.publisher import Publisher
from lbctl.config import loads
from lbctl.demo.fleet import BALANCERS, ENDPOINTS, INTENT, MEMBERS, NAME, DemoFleet
from lbctl.host import LocalHost
from lbctl.model import EtcdAccess

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from programs import Programs
    from sizes import Size

#: Seconds of quiet before each change.
QUIET = 1.0
_NETFILTER, _NETLINK, _ADD_MEMBERSHIP, _TABLES = 12, 270, 1, 7
#: Without checks: a new endpoint would wait for its first one.
PLAIN = INTENT.split("[service.check]")[0]
SOURCE = '[service.discover]\nsource = "etcd"\nname = "/services/web/"\nwithin = ["10.0.0.0/24"]\n'


def part(size: Size, _programs: Programs, _folder: Path) -> dict[str, Any]:
    """Return the times of both kinds of change, in milliseconds."""
    etcd = shutil.which("etcd")
    if etcd is None:
        return {"absent": "etcd is missing (`make test-servers` unpacks it)"}
    with DemoFleet(Path(etcd)) as fleet, ExitStack() as stack:
        fleet.start_etcd()
        for name in BALANCERS:
            fleet.start_balancer(name)
        kernels = [stack.enter_context(_changes_of(fleet, name)) for name in BALANCERS]
        with fleet.hosts["hub"].entered():
            return asyncio.run(_measured(kernels, size.failures))


def _changes_of(fleet: DemoFleet, name: str) -> socket.socket:
    """Return a socket that hears of each change of the rules of a balancer."""
    with fleet.hosts[name].entered():
        heard = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETFILTER)
    heard.bind((0, 0))
    heard.setsockopt(_NETLINK, _ADD_MEMBERSHIP, _TABLES)
    return heard


async def _measured(kernels: list[socket.socket], count: int) -> dict[str, Any]:
    access = EtcdAccess(endpoints=tuple(f"http://{address}:2379" for address in MEMBERS.values()))
    client = await Client.of(access)
    publisher = Publisher(client=client, host=LocalHost(), name=NAME, author="bench", seal=lambda _: None)

    async def publish(number: int) -> None:
        current = await publisher.current()
        intent = loads(PLAIN.replace(f'"{ENDPOINTS[0]}:8080", ', "") if number % 2 else PLAIN)
        await publisher.publish(publisher.next_of(current, intent, ""), current)

    async def register(number: int) -> None:
        key = f"/services/web/{ENDPOINTS[5]}:8080"
        await (client.put(key, f"{ENDPOINTS[5]}:8080") if number % 2 else client.delete(key))

    async def follow_source() -> None:
        current = await publisher.current()
        listed = ", ".join(f'"{each}:8080"' for each in ENDPOINTS)
        text = PLAIN.replace(listed, f'"{ENDPOINTS[0]}:8080"') + SOURCE
        # An answer without endpoints would be doubted.
        await client.put("/services/web/stays", f"{ENDPOINTS[1]}:8080")
        await publisher.publish(publisher.next_of(current, loads(text), ""), current)

    await publish(0)
    await _settle(kernels)
    published = [await _time(kernels, publish, number) for number in range(1, count + 1)]
    await follow_source()
    await _settle(kernels)
    found = [await _time(kernels, register, number) for number in range(1, count + 1)]
    return {"published": _summary(published), "discovered": _summary(found)}


async def _settle(kernels: list[socket.socket]) -> None:
    await asyncio.sleep(5)
    for each in kernels:
        _drain(each)


def _drain(heard: socket.socket) -> None:
    try:
        while heard.recv(1 << 16):
            pass
    except BlockingIOError:
        return


async def _time(
    kernels: list[socket.socket], change: Callable[[int], Awaitable[None]], number: int
) -> list[float]:
    """Return after how many milliseconds each kernel has changed."""
    await asyncio.sleep(QUIET)
    for each in kernels:
        _drain(each)
    loop = asyncio.get_running_loop()
    began = time.monotonic()

    async def changed(heard: socket.socket) -> float:
        async with asyncio.timeout(30):
            await loop.sock_recv(heard, 1 << 16)
        return (time.monotonic() - began) * 1000

    waiting = [asyncio.create_task(changed(each)) for each in kernels]
    await change(number)
    return list(await asyncio.gather(*waiting))


def _summary(times: list[list[float]]) -> dict[str, float]:
    """Return the median and the largest of what the first, and the last kernel of each change took."""
    first, last = [min(each) for each in times], [max(each) for each in times]
    return {
        "changes": len(times),
        "first_ms": round(statistics.median(first), 1),
        "last_ms": round(statistics.median(last), 1),
        "worst_ms": round(max(last), 1),
    }
