"""What is wrong with a service that asks for `takeover` or direct server return, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.model import DsrObstacle, Obstacle, dsr_obstacles, takeover_obstacles

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lbctl.config.drafts import ProblemReport, ServiceDraft

#: What makes `takeover` impossible → the key behind it, why, and what to write.
_OBSTACLES: Mapping[Obstacle, tuple[str, str, str]] = {
    Obstacle.SCHEDULER: (
        "scheduler",
        "only a hash of the client leads to the same endpoint on two hosts",
        'write `scheduler = "source-hash"` or "maglev", or leave `takeover` out',
    ),
    Obstacle.SOURCE_NAT: (
        "source-nat",
        'with `source-nat = "always"` endpoints reply to the host that a connection was opened through',
        'write `source-nat = "hairpin"` or "never", with replies routed through the active host',
    ),
    Obstacle.LOCAL_ENDPOINTS: (
        "endpoints",
        "processes of this host end with it",
        'give endpoints on other hosts, e.g. "10.0.0.11:8080", or leave `takeover` out',
    ),
    Obstacle.SCTP: (
        "listen",
        "the kernel tracks an SCTP association only from its handshake on",
        "listen for SCTP in a service of its own, without `takeover`",
    ),
}
#: What makes direct server return impossible, in the same way.
_DSR_OBSTACLES: Mapping[DsrObstacle, tuple[str, str, str]] = {
    DsrObstacle.ANY_ADDRESS: (
        "listen",
        "with direct server return endpoints have the listener's address, so that each listener needs one",
        'write the address, e.g. "192.0.2.21:80/tcp"',
    ),
    DsrObstacle.PROTOCOL: (
        "listen",
        "direct server return is for TCP and UDP",
        "listen for SCTP in a service of its own",
    ),
    DsrObstacle.LOCAL_ENDPOINTS: (
        "endpoints",
        "with direct server return endpoints are other hosts",
        'give their addresses, e.g. "10.0.0.31"',
    ),
    DsrObstacle.PORT: (
        "endpoints",
        "with direct server return packets keep their destination port",
        'leave the port of the endpoints out, e.g. "10.0.0.31"',
    ),
    DsrObstacle.LOCAL_CLIENTS: (
        "local-clients",
        "direct server return balances packets that arrive on an interface, and no local connections",
        "leave `local-clients` out",
    ),
    DsrObstacle.SOURCE_NAT: (
        "source-nat",
        "with direct server return the client's address stays",
        "leave `source-nat` out",
    ),
    DsrObstacle.AFFINITY: (
        "affinity",
        "direct server return has no affinity",
        'leave it out; `scheduler = "source-hash"` leads a client to one endpoint',
    ),
    DsrObstacle.SCHEDULER: (
        "scheduler",
        "with direct server return this host tracks no connections, and cannot count them",
        'write "round-robin", "random", "source-hash" or "maglev"',
    ),
    DsrObstacle.INTERFACE_PATTERN: (
        "interfaces",
        "direct server return is set up for each interface by itself",
        "write the whole name of each interface",
    ),
}


def check_takeover(draft: ServiceDraft, report: ProblemReport) -> None:
    """Note what keeps another host from taking over the connections of a service."""
    table = draft.table
    found = takeover_obstacles(table.scheduler, table.source_nat, draft.listeners, draft.endpoints)
    _report(draft, "takeover", [_OBSTACLES[obstacle] for obstacle in dict.fromkeys(found)], report)


def check_dsr(draft: ServiceDraft, report: ProblemReport) -> None:
    """Note what keeps a service from direct server return."""
    table = draft.table
    found = dsr_obstacles(
        draft.listeners,
        draft.endpoints,
        local_clients=draft.local_clients,
        translates_source="source_nat" in table.model_fields_set,
        affinity=table.affinity is not None,
        scheduler=table.scheduler,
        interfaces=table.interfaces or (),
    )
    _report(draft, "forward", [_DSR_OBSTACLES[obstacle] for obstacle in found], report)


def _report(
    draft: ServiceDraft, wanted: str, obstacles: Iterable[tuple[str, str, str]], report: ProblemReport
) -> None:
    """Note what makes a key that is set impossible, each at the key that is in its way."""
    for key, reason, hint in obstacles:
        if key not in draft.damaged:
            set_here = key.replace("-", "_") in draft.table.model_fields_set
            report.about(draft, draft.at(key if set_here else wanted), f"`{wanted}`: {reason}", hint)
