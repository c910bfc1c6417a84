"""Both readers see the same kernel: nft's JSON, and its text where nft was built without JSON."""

from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from lbctl import engine
from lbctl.conformance.network import HOST4
from lbctl.host import LocalHost
from lbctl.model import Endpoint, Intent, Listener, Protocol, Service, SourceNat
from lbctl_nftables import backend as nftables
from support.hosts import HostWithoutJson, OldHost, OldHostWithoutJson
from support.intents import forgetful, intents
from support.network import Network

DRIVERS = pytest.mark.parametrize("driver", ["libnftables", "nft"])
DIALECTS = pytest.mark.parametrize(
    ("full", "bare"),
    [(LocalHost, HostWithoutJson), (OldHost, OldHostWithoutJson)],
    ids=["modern", "classic"],
)
PATIENT = settings(deadline=None, suppress_health_check=list(HealthCheck))


def session(host: LocalHost, driver: str) -> engine.Session:
    return engine.open_session(host, backend="nftables", driver=driver)


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize(
    ("driver", "full", "bare"),
    [("libnftables", LocalHost, HostWithoutJson), ("nft", OldHost, OldHostWithoutJson)],
    ids=["libnftables-modern", "nft-classic"],
)
@settings(PATIENT, max_examples=8)
@given(intent=intents(owner="lbctl", everything=True))
def test_any_intent_reads_the_same_both_ways(
    folder: Path, driver: str, full: type[LocalHost], bare: type[LocalHost], intent: Intent
) -> None:
    with_json, without = session(full(folder), driver), session(bare(folder), driver)
    intent = intent if with_json.capabilities.affinity else forgetful(intent)
    try:
        # Planned and applied by the one, so that its text alone must do.
        engine.apply(without, (engine.plan(without, intent),))
        assert not engine.plan(without, intent).changed
        by_json, by_text = with_json.observe("lbctl"), without.observe("lbctl")
        assert by_text == by_json
        assert dict(by_text.by_key) == dict(without.compile(intent).by_key)
        counts = [nftables.stats(each.host, driver, "lbctl") for each in (with_json, without)]
        assert counts[0] == counts[1]
    finally:
        engine.apply(without, engine.removal(without, "lbctl", everywhere=False))
    assert not with_json.observe("lbctl")


SERVICE = Service(
    name="web",
    listeners=(Listener(protocol=Protocol.TCP, port=80),),
    endpoints=tuple(Endpoint(address=ip_address(f"10.0.0.{n}"), port=80) for n in (11, 12, 13)),
    source_nat=SourceNat.ALWAYS,
)
#: What somebody else might put into our table.
STRANGE = """
table ip lbctl {
    comment "not ours"
    counter mine {
        comment "a } b"
    }
    set others {
        typeof ip saddr . tcp dport
        flags timeout
        timeout 1h30m
        elements = { 192.0.2.1 . 80 timeout 2h comment "x, { y" }
    }
    chain others {
        type filter hook input priority filter + 7; policy drop;
        ip saddr { 192.0.2.1, 192.0.2.2 } tcp dport vmap { 80 : accept, 81 : drop } comment "a ; b"
        iifname "lo" counter packets 5 bytes 6 accept
    }
}
"""


@DRIVERS
@DIALECTS
def test_what_others_put_in_is_seen_and_taken_out(
    network: Network, driver: str, full: type[LocalHost], bare: type[LocalHost]
) -> None:
    with network.host.entered():
        without = session(bare(network.folder), driver)
        intent = Intent(services=(SERVICE,))
        engine.apply(without, (engine.plan(without, intent),))
        network.tool("nft", "-f", "-", stdin=STRANGE)
        plan = engine.plan(without, intent)
        seen = {change.key[1:] for change in plan.changes}
        assert {("foreign", "counter", "mine"), ("set", "others"), ("chain", "others")} <= seen
        json_keys = {item.key for item in session(full(network.folder), driver).observe("lbctl").items}
        assert json_keys - {("ip", "foreign", "comment", '"not')} <= {
            item.key for item in without.observe("lbctl").items
        }
        engine.apply(without, (plan,))
        assert not engine.plan(without, intent).changed
    assert "others" not in network.rules()


@DRIVERS
@DIALECTS
def test_status_without_json(
    network: Network, driver: str, full: type[LocalHost], bare: type[LocalHost]
) -> None:
    network.remote_endpoints(80)
    with network.host.entered():
        without = session(bare(network.folder), driver)
        engine.apply(without, (engine.plan(without, Intent(services=(SERVICE,))),))
    network.ask(network.client, HOST4, 80, 7)
    with network.host.entered():
        found = engine.status(without, Intent(services=(SERVICE,)))
        counted = [nftables.stats(host(network.folder), driver, "lbctl") for host in (full, bare)]
    assert found.drift.in_sync
    assert [endpoint.connections for endpoint in found.services[0].endpoints] == [3, 2, 2]
    assert all(endpoint.bytes > 0 for endpoint in found.services[0].endpoints)
    assert counted[0] == counted[1]
