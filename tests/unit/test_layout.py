"""Names, places and quoting: what a rule language could read otherwise never gets into it."""

import shlex
from dataclasses import replace
from ipaddress import ip_network
from itertools import pairwise, product

import pytest
from hypothesis import given, strategies as st

from lbctl.host.fake import FakeHost
from lbctl.model import (
    MAX_OWNER,
    MAX_SLOTS,
    NAME,
    Endpoint,
    Intent,
    Listener,
    Protocol,
    Service,
    check_owner,
)
from lbctl_iptables import backend, layout as iptables, spelling
from lbctl_nftables import layout as nftables

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
OWNERS = NAMES.filter(lambda name: len(name) <= MAX_OWNER)
#: Names that differ late, begin alike, or hold what joins the parts of a chain's name.
NEAR = ["web", "web-1", "w", "n" * 63, "n" * 62 + "o", "n" * 22, "n" * 23, "source", "hairpin", "a-b", "b"]
OWNED = ["lbctl", "a", "a-b", "a-b-c", "b", "b-c", "lbctl-a", "o" * 12, "lbctl-web"]

CAPABILITIES = backend.probe(FakeHost()).capabilities
_WEB = Service(
    name="web",
    listeners=(Listener(protocol=Protocol.TCP, port=80),),
    endpoints=tuple(Endpoint(port=8000 + i) for i in range(16)),
)
#: A ladder and its groups; no endpoint; chains of networks and of what is behind them.
SEVERAL = (
    _WEB,
    replace(_WEB, endpoints=()),
    replace(_WEB, allow=tuple(ip_network(f"10.{i}.0.0/16") for i in range(20))),
)

ATTACKS = [
    "web\n",
    "web\nflush ruleset",
    'web" : 1',
    "web; flush ruleset",
    "web }",
    "$(reboot)",
    "`reboot`",
    "web\\",
    "-j",
    "--comment",
    "web -j ACCEPT",
    "web\x00",
    "web\r",
    "web\u2028",
    "wéb",
    "Web",
    "web\t",
    "",
    "-web",
    "web-",
    "../web",
    "@web",
    "*nat",
    "#web",
    "n" * 64,
]


@pytest.mark.parametrize("text", ATTACKS)
def test_no_attack_is_a_name(text: str) -> None:
    assert not NAME.match(text)
    with pytest.raises(ValueError, match="is not a name"):
        Service(name=text, listeners=(), endpoints=())
    if text:
        with pytest.raises(ValueError, match="is not a name"):
            Endpoint(port=1, name=text)
    with pytest.raises(ValueError, match="is not a name"):
        check_owner(text)
    with pytest.raises(ValueError, match="is not a name"):
        Intent(owner=text)


@given(st.text())
def test_whatever_nft_takes_in_quotes_has_no_end_of_its_own(text: str) -> None:
    try:
        quoted = nftables.quote(text)
    except ValueError:
        return
    assert quoted == f'"{text}"'
    assert not set(text) & set('"\\\n')
    assert text.isascii()
    assert text.isprintable()


@pytest.mark.parametrize("text", ['a"', "a\\", "a\n", "é", "\x1b[2J", "\x7f", "n" * 129])
def test_nft_quotes_nothing_that_it_could_misread(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be quoted"):
        nftables.quote(text)


def test_the_longest_comment_fits() -> None:
    nftables.quote(f"{'s' * 63}/{'e' * 63}")


@given(st.lists(st.text(min_size=1)))
def test_iptables_reads_back_the_tokens_that_were_joined(tokens: list[str]) -> None:
    try:
        text = spelling.join(tokens)
    except ValueError:
        assert any(not token.isprintable() for token in tokens)
        return
    assert "\n" not in text
    assert spelling.split(text) == tokens


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="'"), min_size=1)))
def test_iptables_tokens_mean_the_same_to_another_reader(tokens: list[str]) -> None:
    """iptables-restore reads quotes and backslashes as a shell does within double quotes."""
    try:
        text = spelling.join(tokens)
    except ValueError:
        return
    if "$" not in text and "`" not in text:
        assert shlex.split(text) == tokens


def test_an_empty_token_is_quoted() -> None:
    assert spelling.quote("") == '""'
    assert spelling.split('-m comment --comment ""') == ["-m", "comment", "--comment", ""]


@given(OWNERS, NAMES)
def test_chains_of_iptables_are_short_and_owned(owner: str, service: str) -> None:
    for name in (
        iptables.prefix(owner),
        iptables.chain(owner, service),
        iptables.chain(owner, service, iptables.SERVED),
        iptables.chain(owner, service, "4095"),
        iptables.chain(owner, service, iptables.digest("10.0.0.1:80")),
        iptables.chain(owner, iptables.MASQUERADE),
        iptables.chain(owner, "SCTP", "2001:db8::/33:0-8191"),
    ):
        assert len(name) <= iptables.MAX_CHAIN
        assert iptables.owns(owner, name)
        # iptables refuses a chain that begins like an option or a comparison.
        assert name[0] not in "-!"
        assert spelling.quote(name) == name


def test_no_two_chains_of_iptables_have_one_name() -> None:
    parts = ((), ("tcp",), ("1",), ("tcp", "1"), (iptables.SERVED,), (iptables.digest("80"),))
    names = [iptables.chain(owner, service, *part) for owner, service, part in product(OWNED, NEAR, parts)]
    shared = (iptables.SOURCE, iptables.HAIRPIN, iptables.MASQUERADE, iptables.REFUSE, "TCP", "UDP")
    for owner in OWNED:
        names += [iptables.prefix(owner), *(iptables.chain(owner, name) for name in shared)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("owner", ["lbctl", *("o" * length for length in range(1, MAX_OWNER + 1))])
def test_the_rules_of_a_chain_tell_its_service(owner: str) -> None:
    services = [
        replace(service, name=name, listeners=(Listener(protocol=Protocol.TCP, port=port + 100 * more),))
        for more, service in enumerate(SEVERAL)
        for port, name in enumerate((f"{'n' * length}{more}" for length in range(1, 62)), 1)
    ]
    program = backend.compile(Intent(owner=owner, services=tuple(services)), CAPABILITIES)
    for item in program.of_kind("chain"):
        name, known = item.key[3], item.service
        assert iptables.service_of(owner, name, item.text) == known
        if known is not None and len(name) < iptables.MAX_CHAIN - 1:
            # Each connection would have to pass a comment.
            assert "--comment" not in item.text


def test_only_names_that_endpoints_have_of_their_own_are_comments() -> None:
    endpoints = (Endpoint(port=8001), Endpoint(port=8002, name="b"))
    program = backend.compile(Intent(services=(replace(SEVERAL[0], endpoints=endpoints),)), CAPABILITIES)
    text = next(item.text for item in program.of_kind("chain") if item.key[3] == "LBCTL-web")
    assert text.count("--comment") == text.count(" --comment web/b -j REDIRECT --to-ports 8002") == 1


def test_no_owner_owns_the_chains_of_another() -> None:
    for owner, other in product(OWNED, OWNED):
        if owner != other:
            for name in (iptables.prefix(other), *(iptables.chain(other, x) for x in ("web", "SOURCE"))):
                assert not iptables.owns(owner, name), f"{owner} would delete {name} of {other}"


def test_chains_of_others_are_not_ours() -> None:
    for name in ("LBCTLX", "LBCTLX-web", "lbctl", "KUBE-LBCTL", "PREROUTING", "LBCTL_web", "LBCTL.", ""):
        assert not iptables.owns("lbctl", name)


@given(OWNERS, OWNERS, NAMES, NAMES)
def test_two_names_are_two_places(first: str, second: str, one: str, other: str) -> None:
    if first != second:
        assert nftables.table(first) != nftables.table(second)
    if one != other:
        assert nftables.chain(one) != nftables.chain(other)
        assert iptables.chain(first, one) != iptables.chain(first, other)
    assert nftables.service_of_chain(nftables.chain(one)) == one


def test_tables_of_nft_never_are_somebody_elses() -> None:
    for owner in ("filter", "nat", "docker", "kube-proxy", "blue"):
        assert nftables.table(owner) == f"lbctl-{owner}"
    assert nftables.table("lbctl") == "lbctl"


def test_shared_chains_of_nft_are_no_services() -> None:
    shared = (nftables.HAIRPIN, nftables.MASQUERADE, nftables.PREROUTING, nftables.OUTPUT)
    assert [nftables.service_of_chain(name) for name in shared] == [None] * len(shared)


@given(NAMES)
def test_slots_lie_within_what_the_kernel_takes(service: str) -> None:
    """nf_tables refuses a numgen whose offset and modulus exceed 32 bits; nft reads numbers as signed."""
    page, place = nftables.home(service)
    assert 0 <= page < 256
    assert nftables.page("ports", page) == f"ports-{page:02x}"
    assert nftables.offset(place) + MAX_SLOTS < 1 << 31
    assert nftables.offset(nftables.next_range(place)) + MAX_SLOTS < 1 << 31


def test_ranges_never_overlap_and_come_round() -> None:
    for place, following in pairwise(range(10)):
        assert nftables.next_range(place) == following
        assert nftables.offset(following) - nftables.offset(place) >= MAX_SLOTS
    last = (1 << 15) - 1
    assert nftables.next_range(last) == 0
