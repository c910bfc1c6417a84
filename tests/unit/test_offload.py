"""Offload without a kernel that has flowtables: rules, deltas, what a kernel says of them, and refusals."""

import os
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from lbctl.config import dump, load, loads
from lbctl.engine import open_session, render
from lbctl.errors import IntentError, Unsupported
from lbctl.host.fake import FakeHost
from lbctl.model import Family, Intent, Item, Limit, Program, diff
from lbctl.spi import Backend, Capabilities
from lbctl_iptables import backend as iptables
from lbctl_nftables import backend as nftables, offload, script
from lbctl_nftables.dialect import CAPABILITIES
from lbctl_nftables.kernel.values import KernelTable
from lbctl_nftables.layout import flowtable
from lbctl_nftables.listing import text_of
from lbctl_nftables.observe import observe, touched
from support.backends import Paper
from support.netlink import attribute, done, message, table

FOLDER = Path(__file__).parents[1] / "fixtures" / "offload"
INTENT = load(FOLDER / "lbctl.toml")
SERVICE = '[[service]]\nname = "web"\nlisten = "192.0.2.10:80/tcp"\nendpoints = ["10.0.0.11:8080"]\n'


def compiled(intent: Intent, previous: Program | None = None) -> Program:
    program = nftables.compile(intent, CAPABILITIES, previous=previous)
    assert isinstance(program, Program)
    return program


# -- the intent


def test_the_names_are_those_of_the_file_in_order() -> None:
    assert INTENT.offload == ("eth0", "eth1")
    assert loads(dump(INTENT)) == INTENT


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("[]", "`offload` is empty: no connection would be offloaded"),
        ('"eth0"', '`offload` is "eth0", not a list'),
        ('["eth*"]', 'interface "eth*" stands for several'),
        ('["lo"]', 'interface "lo": connections made on this host arrive on no interface'),
        ('["eth0; flush"]', 'interface "eth0; flush" is not the name of an interface'),
        ("[7]", "interface 7 is not a string"),
        ('["eth0", "eth0"]', "`offload` names an interface twice"),
        (str([f"e{n}" for n in range(33)]).replace("'", '"'), "`offload` has more than 32 entries"),
    ],
)
def test_mistakes(names: str, message: str) -> None:
    with pytest.raises(IntentError) as caught:
        loads(f"schema = 1\n[agent]\noffload = {names}\n{SERVICE}")
    [problem] = caught.value.problems
    assert problem.message.startswith(message)


@pytest.mark.parametrize("names", [("eth*",), ("eth0", "eth0"), ('x"',)])
def test_the_model_is_as_strict(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"offload|interface"):
        Intent(offload=names)


# -- the rules


def test_the_rules_for_a_host_that_has_flowtables() -> None:
    text = render(FakeHost(), INTENT, target="nft=1.0.6").rules
    path = FOLDER / "nftables.nft"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, f"{path} (UPDATE_GOLDEN=1 rewrites it)"


def test_only_translated_connections_to_other_hosts_are_offloaded() -> None:
    """No listener of processes here, of SCTP, or of direct server return has an element."""
    elements = [i.key for i in compiled(INTENT).of_kind("element") if i.key[2].startswith("offloaded")]
    assert {key[3] for key in elements if "endpoint" not in key[2]} == {
        "192.0.2.10 . tcp . 80",
        "192.0.2.10 . udp . 20000-30000",
        "udp . 443",
    }
    assert not any("sctp" in key[3] for key in elements)
    none = loads(f'schema = 1\n[agent]\noffload = ["eth0"]\n{SERVICE}'.replace("10.0.0.11:8080", "8001"))
    assert [item for item in compiled(none).items if "fl" in item.text] == []


def test_without_it_the_rules_are_as_before() -> None:
    """And it adds items of its own alone: no service changes."""
    changes = diff(compiled(replace(INTENT, offload=())), compiled(INTENT))
    assert {change.before for change in changes} == {None}
    assert {change.item.service for change in changes} == {None}
    assert nftables.lift(compiled(INTENT)) == nftables.lift(compiled(replace(INTENT, offload=())))


def test_a_change_of_health_leaves_it() -> None:
    before = compiled(INTENT)
    down = replace(INTENT.services[0], limits=frozenset({Limit(family=Family.IPV4, to="10.0.0.11:8080")}))
    after = compiled(replace(INTENT, services=(down, *INTENT.services[1:])), before)
    assert not any("offload" in " ".join(change.key) for change in diff(before, after))
    other = compiled(replace(INTENT, offload=("eth2",)), before)
    assert {change.key for change in diff(before, other)} == {
        (word, "flowtable", "flows") for word in ("ip", "ip6")
    }


def test_it_comes_and_goes_by_a_delta() -> None:
    off, on = compiled(replace(INTENT, offload=())), compiled(INTENT)
    coming, going = diff(off, on), diff(on, off)
    assert script.is_delta(coming)
    assert script.is_delta(going)
    added = "".join(script.transactions("lbctl", coming, on)).splitlines()
    assert added.index("add flowtable ip lbctl flows {") < added.index("\tchain offload-flows {")
    removed = "".join(script.transactions("lbctl", going, off)).splitlines()
    places = [
        removed.index(f"{words} ip lbctl {name}")
        for words, name in (
            ("flush chain", "offload-flows"),
            ("delete chain", "offload-flows"),
            ("delete flowtable", "flows"),
        )
    ]
    assert places == sorted(places)
    # Other interfaces: the kernel takes none out of a flowtable that rules use.
    moved = compiled(replace(INTENT, offload=("eth0", "eth2")))
    assert not script.is_delta(diff(on, moved))


# -- who refuses


def test_iptables_refuses_by_name() -> None:
    with pytest.raises(Unsupported, match="backend iptables does not support offload") as caught:
        iptables.compile(INTENT, iptables.capabilities_for("iptables", "1.8.9"))
    assert caught.value.exit_code == 3


def test_a_kernel_without_flowtables_is_named_with_its_message() -> None:
    can = replace(CAPABILITIES, offload=False, offload_refusal="this host takes no flowtable: No such file")
    with pytest.raises(Unsupported, match="backend nftables does not support offload") as caught:
        nftables.compile(INTENT, can)
    assert caught.value.hint == "this host takes no flowtable: No such file"
    # What removes everything is never refused.
    assert not nftables.compile(replace(INTENT, services=()), can)


class Older(Paper):
    """A third party's backend that knows nothing of offload."""

    def compile(self, intent: Intent, capabilities: Capabilities) -> Program:
        return super().compile(replace(intent, offload=()), capabilities)


def test_a_backend_that_does_not_know_it_is_not_asked_to_compile() -> None:
    session = open_session(FakeHost(), installed=[cast("Backend", Older())])
    web = replace(INTENT, services=INTENT.services[:1])
    with pytest.raises(Unsupported, match="does not support offload"):
        session.compile(web)
    assert session.compile(replace(web, offload=()))


def test_an_old_nft_is_refused() -> None:
    with pytest.raises(Unsupported, match="offload") as caught:
        render(FakeHost(), replace(INTENT, services=INTENT.services[:1]), target="nft=0.9.8")
    assert caught.value.hint == "it needs nft 1.0.2"


def test_a_kernel_whose_modules_lack_it_is_not_asked() -> None:
    files = {
        "/proc/sys/kernel/osrelease": "6.1.0\n",
        "/lib/modules/6.1.0/modules.dep": "kernel/net/netfilter/nf_tables.ko:\n",
    }
    found = nftables.probe(FakeHost(files=files))
    assert not found.capabilities.offload
    assert found.facts["offload"] == "this kernel has no nft_flow_offload"
    files["/lib/modules/6.1.0/modules.dep"] += "kernel/net/netfilter/nft_flow_offload.ko:\n"
    assert nftables.probe(FakeHost(files=files)).capabilities.offload


# -- what a kernel with flowtables says


def text(kind: int, word: str) -> bytes:
    return attribute(kind, word.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    return attribute(kind, value.to_bytes(4, "big", signed=value < 0))


def kernel(*devices: str, flags: int = 0, priority: int = 0, more: bytes = b"") -> FakeHost:
    """A host whose kernel holds what `offload.probe` writes, on these interfaces."""
    links = b"".join(text(1, name) for name in devices) + more
    hook = attribute(3, number(1, 0) + number(2, priority) + attribute(3, links))
    expression = attribute(1, text(1, "flow_offload") + attribute(2, text(1, "flows")))
    about = text(1, "lbctl"), text(2, "offload-flows"), attribute(3, (7).to_bytes(8, "big"))
    dumps = {
        1: table("ip", "lbctl"),
        4: message(10 << 8 | 3, text(1, "lbctl"), text(3, "offload-flows"), family=2, flags=2),
        7: message(10 << 8 | 6, *about, attribute(4, expression), family=2, flags=2),
        23: message(
            10 << 8 | 22, text(1, "lbctl"), text(2, "flows"), hook, number(7, flags), family=2, flags=2
        ),
    }
    made = FakeHost()

    def answer(_: int, request: bytes) -> bytes:
        if request[4] == 16:
            return message(10 << 8 | 15, number(1, 77))
        if not int.from_bytes(request[6:8], "little") & 0x300:
            return dumps[4] if request[4] == 4 else done()
        family = request[16]
        return (dumps.get(request[4], b"") if family in {0, 2} else b"") + done()

    made.asked = answer
    return made


def held(host: FakeHost) -> Program:
    return observe(host, "nft", "lbctl")


def test_what_was_written_is_read_back() -> None:
    assert diff(held(kernel("lo")), offload.probe("lbctl")) == ()
    listed = text_of(kernel("eth1", "eth0"), KernelTable("ip", "lbctl"))
    assert (
        '\tflowtable flows {\n\t\thook ingress priority 0;\n\t\tdevices = { "eth0", "eth1" };\n\t}' in listed
    )
    assert "\t\tflow add @flows\n" in listed


@pytest.mark.parametrize(
    "changed",
    [
        kernel(),
        kernel("lo", "eth0"),
        kernel("lo", flags=1),
        kernel("lo", flags=2),
        kernel("lo", priority=-1),
        kernel("lo", more=text(2, "eth")),
    ],
    ids=["no interface", "another one", "hardware", "counter", "priority", "prefix of names"],
)
def test_what_another_program_changed_is_drift(changed: FakeHost) -> None:
    [drift] = diff(held(changed), offload.probe("lbctl"))
    assert drift.key == ("ip", "flowtable", "flows")
    assert touched(changed, "lbctl", [drift.key]) == {drift.key: drift.before}


def test_names_in_a_flowtable_are_quoted() -> None:
    assert flowtable(["b", "a"]) == 'hook ingress priority 0;\ndevices = { "a", "b" };'
    with pytest.raises(ValueError, match="cannot be quoted"):
        flowtable(['"'])
    assert Item(("ip", "flowtable", "flows"), flowtable(["lo"])) in offload.probe("x").items
