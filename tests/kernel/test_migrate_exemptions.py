"""Migrating rules with exemptions: what was exempt stays exempt, or migrate refuses and names the service."""

import pytest

from support.field_cases import CASES
from support.network import Network
from support.places import answering

NAMES = [
    name for name in CASES if name.startswith(("exempt:", "negated:")) and "iptables" in CASES[name].texts
]
#: Exemptions that migrate does not yet keep. One that it does must leave this list.
NOT_YET: frozenset[str] = frozenset()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flavour", ["legacy", "nft"])
def test_what_is_exempt_stays_exempt(network: Network, name: str, flavour: str) -> None:
    answering(network)
    case = CASES[name]
    network.tool(f"iptables-{flavour}-restore", stdin=case.texts["iptables"])
    before = network.rules()
    store = f"iptables-{flavour}"
    done = network.lbctl("migrate", "--to", "nftables", "--from", store, "--yes")
    wrong = []
    if done.code:
        # Refused, or nothing that balances: nothing is changed.
        wrong += [] if network.rules() == before else ["refused, and something was changed"]
    for ask in case.asks:
        shares = {to: share * ask.count for to, share in ask.shares.items()}
        found = network.ask(network.client, ask.to, ask.port, ask.count, source=ask.source)
        counts = {to: found.count(to) for to in dict.fromkeys(found)}
        if counts != shares:
            wrong.append(f"{ask.to}:{ask.port} from {ask.source}: {counts} instead of {shares}")
    if f"{flavour}-{name}" in NOT_YET:
        assert wrong, f"{name} is right: take it off the list"
    else:
        assert wrong == [], done.out + done.err
