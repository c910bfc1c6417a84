"""What import makes of the rules that an intent became is that intent, as far as rules can hold it."""

from dataclasses import replace

from hypothesis import HealthCheck, assume, given, settings

from lbctl.engine.importing import imported
from lbctl.host.fake import FakeHost
from lbctl.model import Family, Intent, Scheduler, Service, State
from lbctl_iptables import backend as iptables
from lbctl_iptables.pick import has_same_hash
from lbctl_iptables.reading import read
from support.intents import intents

CAN = replace(iptables.probe(FakeHost()).capabilities, families=frozenset(Family), networks=(), remap=True)
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])


def ready(service: Service) -> Service:
    """The service with those of its endpoints that take new connections, and so stand in rules."""
    taken = {e for family in Family for e in service.ready(family)}
    kept = tuple(replace(e, state=State.ACTIVE) for e in service.endpoints if e in taken)
    return replace(service, endpoints=kept)


def served(service: Service) -> list[Family]:
    """The families of which some clients may come."""
    return [
        family
        for family in service.families
        if not service.allow or any(Family.of(network) is family for network in service.allow)
    ]


@PATIENT
@given(intent=intents(everything=True, max_services=3))
def test_import_gives_back_what_was_rendered(intent: Intent) -> None:
    assume(all(service.ready(f) for service in intent.services for f in service.families))
    text = iptables.render(iptables.compile(intent, CAN))
    reading = read(text)
    assert reading.accept
    assert reading.unsupported == ()
    assert {found.severity for found in reading.findings} <= {"info"}
    made = imported(reading)
    found = {service.name: service for service in made.intent.services}
    services = [service for service in map(ready, intent.services) if served(service)]
    assert found.keys() == {service.name for service in services}, made.notes
    for service in services:
        mine = found[service.name]
        assert mine.local_clients == service.local_clients
        assert mine.affinity == service.affinity
        for family in served(service):
            assert set(mine.listeners_of(family)) >= set(service.listeners_of(family))
            wanted, got = service.by_weight(), mine.by_weight()
            assert {e.to: wanted[e.to] for e in service.ready(family)} == {
                e.to: got[e.to] for e in mine.ready(family)
            }
            if len(service.ready(family)) < 2:
                continue
            assert mine.scheduler is (
                Scheduler.SOURCE_HASH if service.scheduler is Scheduler.MAGLEV else service.scheduler
            )
            if service.scheduler is Scheduler.ROUND_ROBIN or has_same_hash(service, family):
                assert [e.to for e in mine.slots(family)] == [e.to for e in service.slots(family)]
            if has_same_hash(service, family):
                assert mine.hash_seed == service.hash_seed
