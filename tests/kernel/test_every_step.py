"""Every state of the kernel between two intents balances each service as the old one or as the new one.

The steps of a delta are loaded one by one, as `apply` loads them, and what the kernel then holds is read back
and lifted. That is what connections see that begin between two steps. A packet that is under way *while* a
step commits goes by the rules from before it and looks up the elements from after it: that mixture is lifted
too, and may have no slot without an endpoint either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from lbctl import engine
from lbctl.host import LocalHost
from lbctl.host.netns import Namespace
from lbctl.model import (
    Endpoint,
    Family,
    Intent,
    LiftedProgram,
    LiftedService,
    Listener,
    Program,
    Protocol,
    Scheduler,
    Service,
    State,
    takeover_obstacles,
)
from lbctl.model.maglev import SIZES
from lbctl_nftables import backend, drivers, script
from support.intents import SCHEDULERS, endpoints, intents, mixed_ports

DRIVER = "libnftables"
OWNER = "lbctl"
SLOW = settings(
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

Place: TypeAlias = tuple[str, Family, Listener]


class BadStep(AssertionError):
    """A state that is neither the old one nor the new one, or has a hole."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """The rules of one namespace."""

    session: engine.Session

    def apply(self, intent: Intent) -> None:
        engine.apply(self.session, (engine.plan(self.session, intent),))

    def observe(self) -> Program:
        return self.session.observe(OWNER)

    def load(self, text: str) -> None:
        drivers.load(self.session.host, DRIVER, text)

    def steps(self, intent: Intent) -> Sequence[str]:
        """What `apply` would load, one transaction after the other."""
        plan = engine.plan(self.session, intent)
        return [text for text in script.transactions(OWNER, plan.changes, plan.after) if text]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    host = LocalHost(tmp_path_factory.mktemp("state"))
    namespace = Namespace(host)
    with namespace.entered():
        yield Kernel(engine.open_session(host, driver=DRIVER, installed=[backend]))
    namespace.close()


def by_place(lifted: LiftedProgram) -> Mapping[Place, LiftedService]:
    assert lifted.unsupported == ()
    return {(s.name, s.family, s.listener): s for s in lifted.services}


def serving(services: Mapping[Place, LiftedService], place: Place) -> LiftedService | None:
    """What `services` hold at `place`: for it alone, or by a range of the same service that contains it."""
    if found := services.get(place):
        return found
    name, family, listener = place
    for (other, its_family, wider), service in services.items():
        if (other, its_family) == (name, family) and contains(wider, listener):
            return replace(service, listener=listener)
    return None


def contains(wider: Listener, listener: Listener) -> bool:
    return (
        wider.protocol is listener.protocol
        and wider.address in (None, listener.address)
        and wider.port <= listener.port
        and listener.last_port <= wider.last_port
    )


def by_listener(services: LiftedProgram | Mapping[Place, LiftedService]) -> Mapping[str, LiftedService]:
    found = services.services if isinstance(services, LiftedProgram) else services.values()
    return {f"{s.family} {s.listener}": s for s in found}


def under_way(before: Program, after: Program) -> Program:
    """What a packet meets that began before a step and looks elements up after it."""
    old = {item.key: item for item in before.items if item.key[1] == "rules"}
    rest = [
        # A chain that is new has no rules yet for such a packet.
        old.get(item.key, item._replace(text="")) if item.key[1] == "rules" else item
        for item in after.items
    ]
    return Program(OWNER, tuple(rest))


def goes_step_by_step(kernel: Kernel, first: Intent, second: Intent, steps: Sequence[str]) -> None:
    """Load `steps`, which lead from one intent to the other; raises `BadStep`."""
    compiled = (kernel.session.compile(intent) for intent in (first, second))
    old, new = (by_place(backend.lift(program)) for program in compiled)
    present = kernel.observe()
    for number, text in enumerate(steps):
        before, present = present, _after(kernel, text)
        state = by_place(backend.lift(present))
        for place in {*old, *new, *state}:
            present_one = serving(state, place)
            if present_one not in (serving(old, place), serving(new, place)):
                raise BadStep(f"step {number}: {place} is {present_one}")
        mixed = by_listener(backend.lift(under_way(before, present)))
        now, was, will = by_listener(state), by_listener(old), by_listener(new)
        # Whichever service has the listener: it may have got another name.
        for at in was.keys() & will.keys():
            if was[at].leak == will[at].leak == 0:
                if now[at].leak:
                    raise BadStep(f"step {number}: {at} leaks")
                if mixed[at].leak:
                    raise BadStep(f"while step {number} commits: {at} leaks, {mixed[at].slots}")
    if by_place(backend.lift(present)) != new:
        raise BadStep("the last step does not lead to the new intent")


def _after(kernel: Kernel, text: str) -> Program:
    kernel.load(text)
    return kernel.observe()


def light(intent: Intent) -> Intent:
    """Without the longer tables of Maglev, each of which takes seconds to be loaded and read."""
    services = (
        replace(s, scheduler=Scheduler.SOURCE_HASH)
        if s.scheduler is Scheduler.MAGLEV and any(len(s.slots(f)) > SIZES[0] for f in s.families)
        else s
        for s in intent.services
    )
    return Intent(services=tuple(services), owner=OWNER)


def from_one_to_the_other(kernel: Kernel, first: Intent, second: Intent) -> None:
    first, second = light(first), light(second)
    try:
        kernel.apply(first)
        goes_step_by_step(kernel, first, second, kernel.steps(second))
        assert not engine.plan(kernel.session, second).changed
    finally:
        kernel.apply(Intent())


@settings(SLOW, max_examples=10)
@given(
    first=intents(owner=OWNER, everything=True, selective=True, max_services=3),
    second=intents(owner=OWNER, everything=True, selective=True, max_services=3),
)
def test_between_any_two_intents(kernel: Kernel, first: Intent, second: Intent) -> None:
    from_one_to_the_other(kernel, first, second)


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[Intent, Intent]:
    """An intent and one with the same services, of which some have another scheduler, endpoints, or name."""
    first = draw(intents(owner=OWNER, min_services=1, max_services=3, everything=True, selective=True))
    services = []
    for service in first.services:
        changed = replace(service, takeover=False)
        if draw(st.booleans()):
            changed = replace(changed, scheduler=draw(st.sampled_from(SCHEDULERS)))
        if draw(st.booleans()):
            states = st.sampled_from([State.ACTIVE, State.ACTIVE, *State])
            families = frozenset(service.families)
            if any(listener.is_range for listener in service.listeners):
                some = draw(endpoints(families, local=False, states=states, bare=True))
            else:
                some = draw(endpoints(families, local=draw(st.booleans()), states=states))
            kept = None if mixed_ports(some) else changed.affinity
            changed = replace(changed, endpoints=some, affinity=kept)
        if not any(
            takeover_obstacles(changed.scheduler, changed.source_nat, changed.listeners, changed.endpoints)
        ):
            changed = replace(changed, takeover=draw(st.booleans()))
        if draw(st.integers(0, 3)) == 0:
            changed = replace(changed, name=f"{changed.name[:50]}-new")
        services.append(changed)
    return first, Intent(services=tuple(services), owner=OWNER)


@settings(SLOW, max_examples=15)
@given(pair=neighbours())
def test_between_intents_that_differ_in_little(kernel: Kernel, pair: tuple[Intent, Intent]) -> None:
    from_one_to_the_other(kernel, *pair)


def web(*ports: int) -> Intent:
    service = Service(
        name="web",
        listeners=(Listener(protocol=Protocol.TCP, port=80),),
        endpoints=tuple(Endpoint(port=port) for port in ports),
    )
    return Intent(services=(service,))


def clear_first(steps: Sequence[str]) -> Sequence[str]:
    return steps[::-1]


def all_at_once(steps: Sequence[str]) -> Sequence[str]:
    return ["".join(steps)]


@pytest.mark.parametrize(
    ("bad_order", "complaint"),
    [(clear_first, "step 0: .*web.* is"), (all_at_once, "while step 0 commits: .* leaks")],
)
def test_a_bad_order_is_found(
    kernel: Kernel, bad_order: Callable[[Sequence[str]], Sequence[str]], complaint: str
) -> None:
    """Slots that go before the rule that picks them, and slots that go together with it."""
    first, second = web(8001, 8002, 8003), web(8001)
    try:
        kernel.apply(first)
        steps = kernel.steps(second)
        assert len(steps) == 2
        with pytest.raises(BadStep, match=complaint):
            goes_step_by_step(kernel, first, second, bad_order(steps))
    finally:
        kernel.apply(Intent())


def test_a_service_with_another_name_is_prepared(kernel: Kernel) -> None:
    """A packet that is under way may meet the new chain with no rules in it, unless these came before."""
    first = web(8001, 8002)
    second = Intent(services=(replace(first.services[0], name="site"),))
    try:
        kernel.apply(first)
        steps = kernel.steps(second)
        assert len(steps) == 3
        with pytest.raises(BadStep, match=r"while step 0 commits: .* leaks"):
            goes_step_by_step(kernel, first, second, ["".join(steps[:2]), steps[2]])
        kernel.apply(first)
        goes_step_by_step(kernel, first, second, kernel.steps(second))
    finally:
        kernel.apply(Intent())


def test_networks_grow_while_another_service_gets_another_name(kernel: Kernel) -> None:
    """The set of networks must not get its new ones before the old one, which they contain, is gone."""
    one, more = (ip_network(text) for text in ("192.0.2.1/32", "192.0.2.0/24"))
    [moving] = web(8001).services
    api = replace(moving, name="api", listeners=(Listener(protocol=Protocol.TCP, port=81),))
    first = Intent(services=(moving, replace(api, allow=(one,))))
    second = Intent(services=(replace(moving, name="site"), replace(api, allow=(more,))))
    from_one_to_the_other(kernel, first, second)


def test_a_range_takes_over_the_port_it_contains(kernel: Kernel) -> None:
    """Between two steps the port is served by the range, with its new endpoints."""
    first = web(8001)
    everywhere = Listener(protocol=Protocol.TCP, port=1, last_port=65535)
    kept = Endpoint(port=None, address=ip_address("10.0.0.1"))
    [service] = first.services
    second = Intent(services=(replace(service, listeners=(everywhere,), endpoints=(kept,)),))
    from_one_to_the_other(kernel, first, second)
    from_one_to_the_other(kernel, second, first)


def test_a_port_gives_way_to_a_range_elsewhere(kernel: Kernel) -> None:
    """The old port goes with the old rules: it is never served by the endpoints of the range."""
    first = web(8001)
    [service] = first.services
    elsewhere = Listener(protocol=Protocol.TCP, port=50, last_port=60)
    kept = Endpoint(port=None, address=ip_address("10.0.0.1"))
    second = Intent(services=(replace(service, listeners=(elsewhere,), endpoints=(kept,)),))
    from_one_to_the_other(kernel, first, second)
    from_one_to_the_other(kernel, second, first)
