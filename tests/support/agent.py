"""What an agent could show: one service with an endpoint that passes and one that fails."""

from dataclasses import dataclass

from lbctl.documents.agent import AgentDocument, AgentStatusDocument, CheckedDocument
from lbctl.documents.status import (
    AgentSummaryDocument,
    CountedDocument,
    HealthDocument,
    StatusEndpointDocument,
    StatusServiceDocument,
)


@dataclass
class Shown:
    """A source of pages that shows what a test has it show."""

    shown: AgentStatusDocument

    async def document(self) -> AgentStatusDocument:
        return self.shown

    def summary(self) -> AgentSummaryDocument:
        return self.shown["agent"]


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


def showcase() -> AgentStatusDocument:
    """What the page of the documentation shows: two endpoints that serve, one that fails, one that drains."""
    document = status_document()
    counted = {"a": ("1/2", "1/2"), "b": ("0/1", "0/1"), "c": ("1/2", "1/2"), "d": ("0/1", "0/1")}
    [service] = document["services"]
    service["endpoints"] = [endpoint(name, 20, "") for name in counted]
    service["connections"] = 80
    for each, name in zip(service["endpoints"], counted, strict=True):
        each["name"] = each["to"] = f"10.0.0.1{ord(name) - ord('a')}:8080"
        each["families"]["ipv4"] |= dict(zip(("wanted", "actual"), counted[name], strict=True))
    _, failing, _, drained = service["endpoints"]
    failing["reason"] = "down: HTTP 503 \N{MULTIPLICATION SIGN}3 since 2026-11-30T12:01:07+00:00"
    failing["health"] = HealthDocument(
        state="down", result="HTTP 503", since="2026-11-30T12:01:07", old=False
    )
    drained["state"] = "drain"
    drained["reason"] = "operator: drained by root since 2026-11-30T11:58:12+00:00 (release 42)"
    rates = {
        "a": [3, 4, 3, 5, 4, 6, 7],
        "b": [3, 4, 4, 5, 2, 0, 0],
        "c": [4, 4, 3, 4, 5, 7, 6],
        "d": [4, 3, 1, 0, 0],
    }
    document["agent"]["rates"] = [
        {"service": "web", "endpoint": each["to"], "interval": 1.0, "values": [*map(float, rates[name])]}
        for each, name in zip(service["endpoints"], counted, strict=True)
    ]
    return document


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


def check(endpoint: str, health: str, reason: str) -> CheckedDocument:
    return CheckedDocument(
        service="web",
        endpoint=endpoint,
        family="ipv4",
        kind="http",
        health=health,
        since="2026-11-30T12:01:07+00:00",
        result="HTTP 503" if health == "down" else "HTTP 200",
        seconds=0.004,
        reason=reason,
        expected=True,
    )
