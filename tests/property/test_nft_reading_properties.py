"""What lbctl renders for nftables reads back as what was meant, by the reader of anybody's rules."""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from lbctl.engine.migrate.intent import imported
from lbctl.model import DEFAULT_OWNER, Endpoint, Intent, Scheduler, Service
from lbctl.spi import Capabilities
from lbctl_nftables import backend as nftables, dialect
from lbctl_nftables.dialect import CAPABILITIES
from support.intents import forgetful, intents
from support.reading import assert_same, lets_in

#: A Maglev table is large, and a busy machine slow.
PATIENT = settings(deadline=None, max_examples=20)
MODERN = dialect.speaking(CAPABILITIES, dialect.Dialect.MODERN)
CLASSIC = dialect.speaking(CAPABILITIES, dialect.Dialect.CLASSIC)


@pytest.mark.parametrize("can", [MODERN, CLASSIC], ids=lambda can: can.dialect)
@PATIENT
@given(intent=intents(everything=True))
def test_rendered_rules_read_as_the_intent(can: Capabilities, intent: Intent) -> None:
    intent = intent if can is MODERN else forgetful(intent)
    assert_same(nftables.read(nftables.render(nftables.compile(intent, can))), intent)


@PATIENT
@given(intent=intents(everything=True, owner=DEFAULT_OWNER))
def test_what_is_imported_renders_to_the_same(intent: Intent) -> None:
    """All but what rules cannot tell: who drains or waits, and by what table a hash is filled."""
    services = tuple(all_active(service) for service in intent.services)
    # Where nobody of a family is let in, no rule leads to an endpoint.
    kept = (each for each in services if all(lets_in(each, family) for family in each.families))
    intent = replace(intent, services=tuple(kept))
    text = nftables.render(nftables.compile(intent, MODERN))
    made = imported(nftables.read(text), text.split("\n"))
    assert made.notes == ()
    assert_same(nftables.read(nftables.render(nftables.compile(made.intent, MODERN))), intent)


def all_active(service: Service) -> Service:
    hashed = service.scheduler is Scheduler.MAGLEV
    return replace(
        service,
        scheduler=Scheduler.SOURCE_HASH if hashed else service.scheduler,
        endpoints=tuple(
            Endpoint(port=each.port, address=each.address, name=each.name, weight=each.weight)
            for each in service.endpoints
        ),
    )
