"""The agent as Prometheus metrics: names and labels stand in docs/reference.md, and are stable."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from lbctl.documents.agent import AgentDocument, AgentStatusDocument
    from lbctl.documents.status import CountedDocument

CONTENT_TYPE = CONTENT_TYPE_LATEST
_ENDPOINT = ("service", "endpoint", "family")
#: The value of a gauge that has one sample for each state.
_HEALTH = {"up": 1.0, "down": 0.0}


def exposition(document: AgentStatusDocument) -> bytes:
    """Return a document as Prometheus reads it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(document))
    return generate_latest(registry)


class _Collector:
    """Gives out one document; asked once."""

    def __init__(self, document: AgentStatusDocument) -> None:
        self._document = document

    def collect(self) -> Iterator[Metric]:
        document = self._document
        yield from _services(document)
        yield _gauge("lbctl_drift", "1 if the kernel differs from the intent", float(not document["in_sync"]))
        agent = document.get("agent")
        if agent is not None:
            yield from _agent(agent)


def _services(document: AgentStatusDocument) -> Iterator[Metric]:
    wanted = _endpoint_gauge("wanted_share_ratio", "Share of new connections by the slots of the kernel")
    actual = _endpoint_gauge("actual_share_ratio", "Share of new connections since the service last changed")
    established = _endpoint_gauge("established_connections", "Established connections")
    weight = GaugeMetricFamily(
        "lbctl_endpoint_weight", "Weight of the endpoint", labels=("service", "endpoint")
    )
    state = GaugeMetricFamily(
        "lbctl_endpoint_state", "1 for the state of the endpoint", labels=("service", "endpoint", "state")
    )
    connections = CounterMetricFamily("lbctl_endpoint_connections", "New connections", labels=_ENDPOINT)
    for service in document.get("services", ()):
        for endpoint in service["endpoints"]:
            labels = (service["name"], endpoint["name"])
            weight.add_metric(labels, endpoint["weight"])
            state.add_metric((*labels, endpoint["state"]), 1)
            for family, counted in endpoint["families"].items():
                where = (*labels, family)
                connections.add_metric(where, counted["connections"])
                _add_shares(where, counted, wanted, actual)
                if counted["established"] is not None:
                    established.add_metric(where, counted["established"])
    yield from (wanted, actual, established, weight, state, connections)


def _add_shares(
    where: tuple[str, ...], counted: CountedDocument, wanted: GaugeMetricFamily, actual: GaugeMetricFamily
) -> None:
    for family, share in ((wanted, counted["wanted"]), (actual, counted["actual"])):
        if share is not None:
            family.add_metric(where, float(Fraction(share)))


def _agent(agent: AgentDocument) -> Iterator[Metric]:
    build = GaugeMetricFamily("lbctl_build_info", "Version of the agent", labels=("version",))
    build.add_metric((agent["version"],), 1)
    yield build
    yield _gauge("lbctl_agent_ready", "1 if the rules are in place", agent["ready"])
    yield _gauge("lbctl_agent_paused", "1 while the agent is paused", agent["paused_until"] is not None)
    yield _counter("lbctl_applies", "Changes that the agent made to the kernel", agent["applies"])
    yield _counter("lbctl_repairs", "Differences that the agent repaired", agent["repairs"])
    yield _counter("lbctl_apply_failures", "Changes that failed", agent["failures"])
    if agent["apply_seconds"] is not None:
        yield _gauge("lbctl_apply_seconds", "Duration of the last change", agent["apply_seconds"])
    if agent["conntrack"] is not None:
        yield _gauge("lbctl_conntrack_entries", "Tracked connections", agent["conntrack"]["used"])
        yield _gauge("lbctl_conntrack_limit", "Limit of tracked connections", agent["conntrack"]["limit"])
    up = _endpoint_gauge("up", "1 for an endpoint that passes its check, 0 for one that fails")
    seconds = _endpoint_gauge("check_duration_seconds", "Duration of the last check")
    for check in agent["checks"]:
        where = (check["service"], check["endpoint"], check["family"])
        # An alert on what no client can reach would never end.
        if check["health"] in _HEALTH and (check["expected"] or check["health"] != "down"):
            up.add_metric(where, _HEALTH[check["health"]])
        if check["seconds"] is not None:
            seconds.add_metric(where, check["seconds"])
    age = GaugeMetricFamily(
        "lbctl_source_age_seconds", "Age of the last good answer of a source", labels=("service", "source")
    )
    well = GaugeMetricFamily(
        "lbctl_source_up",
        "1 for a source whose last answer was good, 0 for one that fails",
        labels=("service", "source"),
    )
    for source in agent["sources"]:
        place = (source["service"], source["kind"])
        if source["age"] is not None:
            age.add_metric(place, source["age"])
        if source["age"] is not None or source["error"] is not None:
            well.add_metric(place, float(source["error"] is None))
    yield from (up, seconds, age, well)


def _endpoint_gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"lbctl_endpoint_{name}", text, labels=_ENDPOINT)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))


def _counter(name: str, text: str, value: int) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)
