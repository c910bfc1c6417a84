"""What an agent could show: one service with an endpoint that passes and one that fails."""

from lbctl.documents.agent import AgentDocument, AgentStatusDocument, CheckDocument
from lbctl.documents.status import (
    CountedDocument,
    HealthDocument,
    StatusEndpointDocument,
    StatusServiceDocument,
)


def status_document(*, reason: str = "down: HTTP 503 x3 since 12:01:07") -> AgentStatusDocument:
    return AgentStatusDocument(
        backend="nftables",
        driver="libnftables",
        in_sync=True,
        drift={"gone": None, "services": [], "rules": [], "elsewhere": []},
        applied=1,
        rolled_back=None,
        interrupted=None,
        trial=None,
        stores=[],
        services=[
            StatusServiceDocument(
                name="web",
                listen=["80/tcp"],
                scheduler="round-robin",
                deviation="0/1",
                connections=40,
                since=None,
                endpoints=[endpoint("a", 30), endpoint("b", 10, reason)],
            )
        ],
        agent=AgentDocument(
            version="0.2.0",
            owner="lbctl",
            host="lb1",
            started="2026-11-30T12:00:00+00:00",
            now="2026-11-30T12:01:10+00:00",
            intent="/etc/lbctl/lbctl.toml",
            ready=True,
            problems=[],
            notice=None,
            paused_until=None,
            applies=2,
            repairs=1,
            failures=0,
            apply_seconds=0.02,
            checked=2,
            failing=1,
            conntrack={"used": 1200, "limit": 65536},
            checks=[check("a", "up", ""), check("b", "down", reason)],
            sources=[],
            rates=[
                {"service": "web", "endpoint": "a", "interval": 1.0, "values": [0, 3, 8, 6.5, 9]},
                {"service": "web", "endpoint": "b", "interval": 1.0, "values": [2, 3, 1, 0, 0]},
            ],
        ),
    )


def endpoint(name: str, connections: int, reason: str = "") -> StatusEndpointDocument:
    counted = CountedDocument(
        wanted="1/2",
        by_weight="1/2",
        actual=f"{connections // 10}/4",
        connections=connections,
        established=3,
        packets=connections,
        bytes=60 * connections,
    )
    return StatusEndpointDocument(
        name=name,
        to=f"10.0.0.{ord(name)}:80",
        state="active",
        weight=1,
        admin="active",
        operator=None,
        source=None,
        health=HealthDocument(
            state="down" if reason else "up",
            result="HTTP 503" if reason else "HTTP 200",
            since="2026-11-30T12:01:07+00:00",
            old=False,
        ),
        reason=reason or "up: HTTP 200 since 2026-11-30T12:01:07+00:00",
        mark=None,
        families={"ipv4": counted},
        **counted,
    )


def check(endpoint: str, health: str, reason: str) -> CheckDocument:
    return CheckDocument(
        service="web",
        endpoint=endpoint,
        family="ipv4",
        kind="http",
        health=health,
        since="2026-11-30T12:01:07+00:00",
        result="HTTP 503" if health == "down" else "HTTP 200",
        seconds=0.004,
        reason=reason,
    )
