"""What lbctl renders for nftables reads back as what was meant, by the reader of anybody's rules."""

import pytest
from hypothesis import given, settings

from lbctl.model import Intent
from lbctl.spi import Capabilities
from lbctl_nftables import backend as nftables
from lbctl_nftables import dialect
from lbctl_nftables.probe import CAPABILITIES
from support.intents import forgetful, intents
from support.reading import assert_same

#: A Maglev table is large, and a busy machine slow.
PATIENT = settings(deadline=None, max_examples=20)
MODERN = dialect.speaking(CAPABILITIES, dialect.MODERN)
CLASSIC = dialect.speaking(CAPABILITIES, dialect.CLASSIC)


@pytest.mark.parametrize("can", [MODERN, CLASSIC], ids=lambda can: can.dialect)
@PATIENT
@given(intent=intents(everything=True))
def test_rendered_rules_read_as_the_intent(can: Capabilities, intent: Intent) -> None:
    intent = intent if can is MODERN else forgetful(intent)
    assert_same(nftables.read(nftables.render(nftables.compile(intent, can))), intent)
