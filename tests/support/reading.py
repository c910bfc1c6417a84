"""What a reading of rendered rules must say, held against the intent behind them."""

from collections.abc import Mapping
from fractions import Fraction
from ipaddress import collapse_addresses, ip_address, summarize_address_range

from lbctl.model import AnalysedService, Analysis, Family, Intent, Listener, Scheduler, Service

MODES = {
    Scheduler.ROUND_ROBIN: "nth",
    Scheduler.RANDOM: "random",
    Scheduler.SOURCE_HASH: "hash",
    Scheduler.MAGLEV: "hash",
}
#: True of what lbctl renders, and no mistake: one counter for all listeners of a service.
HARMLESS = {"shared-counter"}


def selector(family: Family, listener: Listener) -> tuple[str, str, str, str]:
    dst = "local" if listener.address is None else str(listener.address)
    return family, listener.protocol, dst, str(listener.port)


def expected(intent: Intent) -> dict[tuple[str, str, str, str], tuple[Service, Family]]:
    return {
        selector(family, listener): (service, family)
        for service in intent.services
        for family in service.families
        for listener in service.listeners_of(family)
        # Where nobody of a family is let in, no rule leads to an endpoint.
        if lets_in(service, family)
    }


def lets_in(service: Service, family: Family) -> bool:
    own = not service.allow or any(Family.of(network) is family for network in service.allow)
    return own or not service.slots(family)


def shares(found: AnalysedService) -> Mapping[str, Fraction]:
    return {backend.to: backend.share for backend in found.backends}


def assert_same(reading: Analysis, intent: Intent) -> None:
    assert reading.accept
    assert reading.unsupported == ()
    assert {finding.code for finding in reading.findings} <= HARMLESS
    wanted = expected(intent)
    found = {(s.family, s.proto, s.dst, s.dport): s for s in reading.services}
    assert len(found) == len(reading.services)
    assert found.keys() == wanted.keys()
    for key, (service, family) in wanted.items():
        check(found[key], service, family)


def narrowed(found: AnalysedService) -> set[str]:
    """The clients that a service has, as single addresses and networks; ranges as the networks in them."""
    made: set[str] = set()
    for part in (found.when or {}).get("src", "").split(","):
        first, dash, last = part.partition("-")
        if dash:
            inside = summarize_address_range(ip_address(first), ip_address(last))  # type: ignore[type-var]
            made |= {str(n.network_address) if n.num_addresses == 1 else str(n) for n in inside}
        elif part:
            made.add(part)
    assert set(found.when or {}) <= {"src"}
    return made


def collapsed(service: Service, family: Family) -> set[str]:
    """The allowed networks as rules have them; all addresses are no condition."""
    mine = [network for network in service.allow if Family.of(network) is family]
    made = list(collapse_addresses(mine))  # type: ignore[type-var]
    if any(not network.prefixlen for network in made):
        return set()
    one = {network: str(network.network_address) for network in made if network.num_addresses == 1}
    return {one.get(network, str(network)) for network in made}


def check(found: AnalysedService, service: Service, family: Family) -> None:
    slots = tuple(endpoint.to for endpoint in service.slots(family))
    assert found.name == service.name
    if not slots:
        assert (found.mode, found.backends, found.leak) == ("none", (), 1)
        return
    assert found.leak == 0
    assert shares(found) == {to: service.shares(family)[to] for to in set(slots)}
    assert found.hooks == (("prerouting", "output") if service.local_clients else ("prerouting",))
    assert found.action == ("dnat" if service.remote else "redirect")
    assert found.source_nat == (service.source_nat if service.remote else None)
    if service.affinity:
        assert found.affinity is not None
        assert found.affinity.kind == "map"
        assert found.affinity.seconds == service.affinity
    assert narrowed(found) == collapsed(service, family)
    if len(set(slots)) == 1:
        assert found.mode == "single"
        return
    assert found.mode == MODES[service.scheduler]
    if found.mode in {"nth", "hash"}:
        assert found.slots == slots
    if found.mode == "hash":
        assert found.hash_seed == service.hash_seed
        assert found.exact
