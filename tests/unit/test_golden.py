"""Each story's intent, its rules in both languages and its plan, as people will read them.

UPDATE_GOLDEN=1 writes the texts anew; read the difference before it is committed.
"""

import os
from ipaddress import ip_network
from pathlib import Path
from types import ModuleType

import pytest

from lbctl.cli.options import Color
from lbctl.cli.output import Style, plan_text
from lbctl.config import load
from lbctl.engine import render
from lbctl.errors import NoBackend, Unsupported
from lbctl.host.fake import FakeHost
from lbctl.model import Family, Intent, Plan, Program, diff, diff_services
from lbctl_iptables import backend as iptables
from lbctl_nftables import backend as nftables, dialect

GOLDEN = Path(__file__).parents[1] / "golden"
#: Stories that are told in the dialect of older hosts as well.
CLASSIC = {"minimal", "weighted", "dual-stack", "source-nat", "selected"}
STORIES = sorted(folder.name for folder in GOLDEN.iterdir())
#: Story → texts for tools that are not here: the file's name without its end, and the family it is for.
TARGETS: dict[str, dict[str, Family | None]] = {
    "minimal": {"iptables=1.4.21": None, "nft=0.9.8": None, "nft=1.1.7": None},
    "source-nat": {"iptables=1.4.21": None, "iptables=1.6.1": None, "iptables-nft=1.8.2": None},
    "dual-stack": {"iptables=1.6.1": None, "iptables-nft=1.8.2": Family.IPV6, "nft=0.9.8": Family.IPV4},
}
#: What the classic dialect does not do.
REFUSED = {"affinity", "port-ranges", "takeover"}
#: A host with IPv6, all commands, and one link to the endpoints' network: 10.0.0.0/24, 2001:db8:2::/64.
HOST = FakeHost(
    programs=("ip6tables-legacy-restore",),
    files={
        "/proc/thread-self/net/route": "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n"
        "inside\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n",
        "/proc/thread-self/net/if_inet6": "20010db8000200000000000000000001 02 40 00 80   inside\n",
    },
)


def program(backend: ModuleType, intent: Intent) -> Program:
    made = backend.compile(intent, backend.probe(HOST).capabilities)
    assert isinstance(made, Program)
    return made


def classic(intent: Intent) -> Program:
    """For an older nft or kernel."""
    return nftables.compile(
        intent, dialect.speaking(nftables.probe(HOST).capabilities, dialect.Dialect.CLASSIC)
    )


def targeted(intent: Intent, target: str, family: Family | None) -> dict[str, str]:
    """What adds the rules for another host's tool, and what removes them: a host with one link."""
    name = f"{target}-{family}" if family else target
    return {
        f"{name}{end}": render(
            FakeHost(),
            intent,
            target=target,
            family=family,
            remove=remove,
            networks=[ip_network("10.0.0.0/24")],
        ).rules
        for end, remove in ((".txt", False), ("-remove.txt", True))
    }


def plan(backend: ModuleType, driver: str, intent: Intent) -> str:
    """What the first apply on an empty host would announce."""
    before, after = Program(intent.owner), program(backend, intent)
    changes = diff(before, after)
    services = diff_services(backend.lift(before), backend.lift(after), changes)
    made = Plan(
        backend=backend.name,
        driver=driver,
        before=before,
        after=after,
        changes=changes,
        services=services,
    )
    return plan_text(made, Style(Color.NEVER)) + "\n"


def test_the_host_of_the_stories() -> None:
    found = iptables.probe(HOST).capabilities.networks
    assert found == (ip_network("10.0.0.0/24"), ip_network("2001:db8:2::/64"))


@pytest.mark.parametrize("story", STORIES)
def test_story(story: str) -> None:
    folder = GOLDEN / story
    intent = load(folder / "lbctl.toml")
    texts = {
        "nftables.nft": nftables.render(program(nftables, intent)),
        "iptables.rules": iptables.render(program(iptables, intent)),
        "plan.txt": plan(nftables, "nft", intent),
    }
    if story in CLASSIC:
        texts["nftables-classic.nft"] = nftables.render(classic(intent))
    for target, family in TARGETS.get(story, {}).items():
        texts |= targeted(intent, target, family)
    for name, text in texts.items():
        path = folder / name
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(text, encoding="utf-8")
        assert path.read_text(encoding="utf-8") == text, f"{path} (UPDATE_GOLDEN=1 rewrites it)"


@pytest.mark.parametrize("story", STORIES)
def test_a_plan_reads_the_same_on_every_backend(story: str) -> None:
    intent = load(GOLDEN / story / "lbctl.toml")
    one, other = plan(nftables, "x", intent), plan(iptables, "x", intent)
    assert sorted(one.splitlines()[1:]) == sorted(other.splitlines()[1:])
    assert one.replace("nftables", "iptables", 1).splitlines()[0] == other.splitlines()[0]


#: What the manuals of some releases do not have, as it begins or stands in a line.
NEWER = {
    "iptables=1.4.21": (" --random-fully",),
    "iptables=1.6.1": (" --random-fully",),
    "iptables-nft=1.8.2": ("\n-4 ", "\n-6 "),
    "nft=0.9.8": ("\tcounter\n", "typeof", " map @", " comment "),
    # Its parser has all of it, and writes the keys of a page in the wrong order.
    "nft=1.1.7": ("typeof numgen",),
}


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("target", NEWER)
def test_a_text_for_a_release_has_nothing_that_it_does_not_know(target: str, story: str) -> None:
    intent = load(GOLDEN / story / "lbctl.toml")
    if target == "nft=0.9.8" and story in REFUSED:
        with pytest.raises(Unsupported):
            targeted(intent, target, None)
        return
    families = tuple(Family) if target == "iptables-nft=1.8.2" else (None,)
    text = "".join(text for family in families for text in targeted(intent, target, family).values())
    assert [word for word in NEWER[target] if word in text] == []
    assert text.count("\n") > 1


@pytest.mark.parametrize("story", ["dual-stack", "affinity"])
def test_one_text_cannot_be_for_both_families_where_neither_skips_the_other(story: str) -> None:
    intent = load(GOLDEN / story / "lbctl.toml")
    with pytest.raises(NoBackend, match="one text cannot have both") as caught:
        targeted(intent, "iptables-nft=1.8.2", None)
    assert caught.value.exit_code == 3
    assert "--family ipv4, and --family ipv6" in (caught.value.hint or "")


def test_no_file_is_left_over() -> None:
    names = {"lbctl.toml", "nftables.nft", "iptables.rules", "plan.txt"}
    for story in STORIES:
        more = {"nftables-classic.nft"} if story in CLASSIC else set()
        for target, family in TARGETS.get(story, {}).items():
            more |= targeted(load(GOLDEN / story / "lbctl.toml"), target, family).keys()
        assert {path.name for path in (GOLDEN / story).iterdir()} == names | more


@pytest.mark.parametrize("story", [story for story in STORIES if story not in REFUSED])
def test_the_classic_dialect_has_nothing_that_is_newer(story: str) -> None:
    text = nftables.render(classic(load(GOLDEN / story / "lbctl.toml")))
    assert [word for word in ("typeof", "comment", "\t\tcounter\n", " map @") if word in text] == []
    assert "vmap {" in text
