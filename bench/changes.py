"""How exact shares are, and how many connections are lost while backends change.

Shares: connections to one port over three backends; the maximum deviation from 1/3. Changes: the third
backend and a spare one take turns, while new connections arrive at a steady rate. Lost are connections that
were refused, reset, got no answer in five seconds, or did not end (while a host has no NAT rule at all, if
only for a moment, its kernel translates nothing). Proxies reload, as after a change of their file (HAProxy
and nginx's commercial edition take some changes without that).
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from programs import Programs
from traffic import BACKENDS, SPARE, Load, Site, Traffic, targets
from ways import (
    HAPROXY,
    IPTABLES,
    IPTABLES_ALIKE,
    IPTABLES_COMMANDS,
    IPTABLES_RANDOM,
    LBCTL_IPTABLES,
    LBCTL_NFTABLES,
    NFT,
    NFT_RANDOM,
    NFTLB,
    NGINX,
    Way,
)

if TYPE_CHECKING:
    from sizes import Size

SHARING = (LBCTL_NFTABLES, LBCTL_IPTABLES, NFTLB, HAPROXY, NGINX, NFT_RANDOM, IPTABLES_RANDOM, IPTABLES_ALIKE)
CHANGING = (LBCTL_NFTABLES, LBCTL_IPTABLES, NFTLB, HAPROXY, NGINX, NFT, IPTABLES, IPTABLES_COMMANDS)
#: Seconds between a change and the next one.
PAUSE = 0.02


def seen(traffic: Traffic) -> dict[str, Any]:
    """Return what became of the connections; the spare backend counts as the one that it replaces."""
    places: Counter[str] = Counter()
    for port, number in traffic.answers.items():
        places[str(BACKENDS[-1]) if port == str(SPARE) else port] += number
    started = traffic.counts["started"]
    wanted = started / len(BACKENDS)
    return {
        "connections": started,
        "answers": traffic.answers,
        "lost": traffic.lost,
        "deviation": round(max(abs(places[str(port)] - wanted) for port in BACKENDS) / started, 7),
    }


def shares(site: Site, way: Way, size: Size) -> dict[str, Any]:
    with way.start(site, BACKENDS):
        return seen(site.run(Load(requests=size.connections, concurrency=32), targets()))


def changes(site: Site, way: Way, size: Size) -> dict[str, Any]:
    kinds = ((*BACKENDS[:-1], SPARE), BACKENDS)
    with way.start(site, BACKENDS) as balancer:
        clients = site.start(Load(rate=size.rate, concurrency=4_000), targets())
        for number in range(size.changes):
            time.sleep(PAUSE)
            balancer.change(kinds[number % 2])
        time.sleep(PAUSE)
        traffic = clients.stop()
    return {"changed_by": way.changed_by, "changes": size.changes, **seen(traffic)}


def part(size: Size, programs: Programs, folder: Path) -> dict[str, Any]:
    """Way → what came of it."""
    absent = {way.name: why for way in {*SHARING, *CHANGING} if (why := way.missing())}
    found: dict[str, Any] = {"absent": absent, "rate": size.rate}
    for what, ways in ((shares, SHARING), (changes, CHANGING)):
        found[what.__name__] = {}
        for way in ways:
            if way.name not in absent:
                with Site(programs, folder) as site, site.backends((*BACKENDS, SPARE)):
                    found[what.__name__][way.name] = what(site, way, size)
    return found
