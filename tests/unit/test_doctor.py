"""What bites, on hosts in memory: faults, files and numbers that a real host seldom shows."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from lbctl.cli import app
from lbctl.engine.inspect.doctor import Diagnosis, examine
from lbctl.host import LocalHost, listening, routes_to
from lbctl.host.fake import FakeHost
from lbctl.model import (
    Discovery,
    Endpoint,
    Family,
    Intent,
    Limit,
    Listener,
    Protocol,
    Service,
    Severity,
    State,
)
from lbctl.spi import Capabilities, Case, Driver, Probe, Problem
from lbctl_iptables import backend as iptables
from lbctl_nftables import backend as nftables
from support.backends import Paper, ReadingPaper, install
from support.hosts import with_iptc
from support.reference import documented_codes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.host import Host

#: A problem's code in the source, one of two where it depends; and in the table of the reference.
ROOT = Path(__file__).parents[2]
CODE = re.compile(r'"([a-z]+(?:-[a-z]+)+)"')
NET = "/proc/thread-self/net"
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
#: Sockets as a little-endian kernel prints them.
TCP = (
    f"{HEAD}   0: 0100007F:1F41 00000000:0000 0A 0:0 0:0 0 0 0 1\n   1: 0100007F:1F42 0100007F:0050 01 0:0\n"
)
TCP6 = f"{HEAD}   0: 00000000000000000000000000000000:1F42 {'0' * 32}:0000 0A 0:0 0:0 0 0 0 1\n"
MAPPED = f"{HEAD}   0: 0000000000000000FFFF000001020A0A:1F42 {'0' * 32}:0000 0A 0:0 0:0 0 0 0 1\n"
WEB = Service(
    name="web",
    listeners=(Listener(protocol=Protocol.TCP, port=80),),
    endpoints=(Endpoint(port=8002),),
)
TRACKED = {
    "/proc/sys/net/netfilter/nf_conntrack_count": "10\n",
    "/proc/sys/net/netfilter/nf_conntrack_max": "262144\n",
}


def host(files: dict[str, str] | None = None, **options: Any) -> FakeHost:
    """A host where a process listens on port 8002, and nothing is wrong."""
    made = FakeHost(files={f"{NET}/tcp": HEAD, f"{NET}/tcp6": TCP6, **TRACKED, **(files or {})}, **options)
    made.answer("ip", "-o", "route", "show", "default")
    made.answer("ip", "-o", "address", "show")
    return made


def found(made: FakeHost, intent: Intent | None = None, *backends: Any) -> Diagnosis:
    return examine(made, intent, installed=backends or (Paper(),))


def codes(diagnosis: Diagnosis) -> list[str]:
    return [problem.code for problem in diagnosis.problems]


# -- who listens


def test_who_listens_for_each_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.byteorder", "little")
    seen = listening(host({f"{NET}/tcp": TCP}), Protocol.TCP) or ()
    assert [(str(each), each.family) for each in seen] == [
        ("127.0.0.1:8001", Family.IPV4),
        ("[::]:8002", Family.IPV6),
        ("[::]:8002", Family.IPV4),
    ]
    seen = listening(host({"/proc/sys/net/ipv6/bindv6only": "1\n"}), Protocol.TCP) or ()
    assert [each.family for each in seen] == [Family.IPV6]
    seen = listening(host({f"{NET}/tcp6": MAPPED}), Protocol.TCP) or ()
    assert [(str(each), each.family) for each in seen] == [("10.10.2.1:8002", Family.IPV4)]
    assert listening(FakeHost(), Protocol.TCP) is None


def test_who_listens_for_sctp() -> None:
    head = " ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS\n"
    text = f"{head}ffff8800 ffff8801 2   10  29   8002    0 1234 10.0.0.1 *10.0.0.2 2001:db8::1 \n"
    text += "ffff8800 ffff8802 2   7   29   9    0 1234 0.0.0.0 \n"
    seen = listening(FakeHost(files={f"{NET}/sctp/eps": text}), Protocol.SCTP) or ()
    assert [str(each) for each in seen] == ["10.0.0.1:8002", "10.0.0.2:8002", "[2001:db8::1]:8002"]
    sctp = Intent(
        services=(
            Service(name="s", listeners=(Listener(protocol=Protocol.SCTP, port=9),), endpoints=WEB.endpoints),
        )
    )
    # No list: not said to be missing.
    diagnosis = found(host(), sctp)
    assert (codes(diagnosis), [each.what for each in diagnosis.unseen]) == ([], ["who listens for sctp"])


@pytest.mark.parametrize(
    ("state", "severity"), [(State.ACTIVE, "error"), (State.BACKUP, "warning"), (State.DRAIN, None)]
)
def test_who_has_to_listen(state: State, severity: str | None) -> None:
    endpoints = (Endpoint(port=8002), Endpoint(port=8003, state=state))
    service = Service(name="web", listeners=WEB.listeners, endpoints=endpoints)
    diagnosis = found(host(), Intent(services=(service,)))
    assert [(problem.code, problem.severity) for problem in diagnosis.problems] == (
        [("not-listening", severity)] if severity else []
    )


def test_a_family_that_nobody_outside_can_use_is_no_trap() -> None:
    only4 = f"{HEAD}   0: 00000000:1F42 00000000:0000 0A 0:0 0:0 0 0 0 1\n"
    files = {f"{NET}/tcp": only4, f"{NET}/tcp6": HEAD, f"{NET}/if_inet6": f"{1:032x} 01 80 10 80       lo\n"}
    assert codes(found(host(files), Intent(services=(WEB,)))) == []
    files[f"{NET}/if_inet6"] += f"{5:032x} 02 40 00 80     eth0\n"
    diagnosis = found(host(files), Intent(services=(WEB,)))
    assert [(problem.code, problem.severity) for problem in diagnosis.problems] == [
        ("not-listening", Severity.WARNING)
    ]


def test_a_process_that_its_check_took_out_is_not_named_for_a_family_that_no_client_can_use() -> None:
    files = {f"{NET}/tcp": HEAD, f"{NET}/tcp6": HEAD, f"{NET}/if_inet6": f"{1:032x} 01 80 10 80       lo\n"}
    endpoints = (Endpoint(port=8001), Endpoint(port=8002))
    taken_out = (Limit(family=Family.IPV4, to="8001"), Limit(family=Family.IPV4, to="8002"))
    service = replace(WEB, endpoints=endpoints)
    # Nothing was checked: no process listens at all.
    assert codes(found(host(files), Intent(services=(service,)))) == ["not-listening"] * 2
    left = replace(service, limits=taken_out[:1])
    [problem] = found(host(files), Intent(services=(left,))).problems
    assert problem.endpoints == (("web", "8002"),)


# -- routes


@pytest.mark.parametrize(
    ("code", "out", "err", "device", "local"),
    [
        (0, "10.0.0.1 via 192.0.2.1 dev eth0 src 192.0.2.2 uid 0 \\    cache \n", "", "eth0", False),
        (0, "local 10.0.0.1 dev lo src 10.0.0.1 uid 0 \\    cache <local> \n", "", "lo", True),
        (0, "unreachable 10.0.0.1 from :: dev lo table unspec\n", "", None, False),
        (2, "", "RTNETLINK answers: Network is unreachable\n", None, False),
        (0, "", "", None, False),
    ],
)
def test_routes(code: int, out: str, err: str, device: str | None, local: bool) -> None:
    from ipaddress import ip_address

    made = FakeHost()
    made.answer("ip", "route", "get", code=code, out=out, err=err)
    [route] = routes_to(made, [ip_address("10.0.0.1")]).values()
    assert (route.device, route.local) == (device, local)


def test_without_ip_nothing_is_said_of_routes() -> None:
    made = FakeHost(files={f"{NET}/tcp": HEAD, f"{NET}/tcp6": TCP6, **TRACKED})
    diagnosis = found(made, Intent(services=(WEB,)))
    assert [(each.what, each.reason) for each in diagnosis.unseen] == [
        ("links and routes", "there is no ip command in PATH")
    ]


# -- the connection table


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [
        ("10", "262144", []),
        ("10", "65536", []),
        ("10", "8192", [("conntrack-small", "warning")]),
        ("7373", "8192", [("conntrack-full", "error")]),
        ("235930", "262144", [("conntrack-full", "error")]),
        # No limit.
        ("9", "0", []),
    ],
)
def test_the_connection_table(count: str, most: str, expected: list[tuple[str, str]]) -> None:
    files = dict(zip(TRACKED, (f"{count}\n", f"{most}\n"), strict=True))
    diagnosis = found(host(files))
    assert [(problem.code, str(problem.severity)) for problem in diagnosis.problems] == expected
    for problem in diagnosis.problems:
        assert problem.evidence == f"nf_conntrack_count={count}, nf_conntrack_max={most}"
        assert "nf_conntrack_max=" in problem.fix


def test_a_kernel_without_connection_tracking() -> None:
    release = {"/proc/sys/kernel/osrelease": "6.1.0\n"}
    missing = FakeHost(files={**release, "/lib/modules/6.1.0/modules.dep": "kernel/x.ko:\n"})
    assert codes(found(missing)) == ["conntrack-absent"]
    later = FakeHost(files={**release, "/lib/modules/6.1.0/modules.dep": "net/nf_conntrack.ko:\n"})
    assert (codes(found(later)), found(later).unseen) == ([], ())
    unknown = found(FakeHost())
    assert (codes(unknown), [each.what for each in unknown.unseen]) == ([], ["the connection table"])


def test_udp_without_the_tool_that_forgets_flows() -> None:
    dns = Service(name="dns", listeners=(Listener(protocol=Protocol.UDP, port=53),), endpoints=WEB.endpoints)
    sockets = {f"{NET}/udp": HEAD, f"{NET}/udp6": TCP6.replace(" 0A ", " 07 ")}
    assert codes(found(host(sockets), Intent(services=(dns,)))) == ["conntrack-tool"]
    assert codes(found(host(sockets, programs=("conntrack",)), Intent(services=(dns,)))) == []


# -- files that wipe ours

UNIT = "/lib/systemd/system/nftables.service"
LOADS = "[Service]\n" + "".join(f"Exec{x}=/usr/sbin/nft -f /etc/nftables.conf\n" for x in ("Start", "Reload"))
WIPES = {
    UNIT: LOADS,
    "/etc/nftables.conf": "#!/usr/sbin/nft -f\n# flush ruleset\n\nflush ruleset\ntable inet f { }\n",
}
WANTED = {"/etc/systemd/system/sysinit.target.wants/nftables.service": ""}


def wiped(files: dict[str, str], *, store: str = "nftables") -> list[Problem]:
    case = Case(intent=None, store=store, precedence=0)
    return list(nftables.diagnose(FakeHost(files=files, privileged=False), "nft", case))


def test_a_reload_that_flushes_everything() -> None:
    (problem,) = wiped(WIPES)
    assert (problem.code, problem.severity) == ("flush-ruleset", Severity.WARNING)
    assert problem.evidence == "/etc/nftables.conf, line 4: flush ruleset"
    assert "it is not enabled" in problem.message
    assert "it is not enabled" not in wiped(WIPES | WANTED)[0].message
    assert wiped(WIPES, store="iptables-nft")
    # The old tables are elsewhere.
    assert wiped(WIPES, store="iptables-legacy") == []


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"/etc/nftables.conf": "flush ruleset\n"},
        {UNIT: LOADS},
        # Masked.
        {**WIPES, "/etc/systemd/system/nftables.service": ""},
        {UNIT: LOADS, "/etc/nftables.conf": "# flush ruleset\nflush table inet f\n"},
        # The first folder's unit is the one, and it loads something else.
        {**WIPES, "/etc/systemd/system/nftables.service": LOADS.replace("/etc/nft", "/srv/nft")},
    ],
)
def test_files_that_flush_nothing_of_ours(files: dict[str, str]) -> None:
    assert wiped(files) == []


def test_files_that_are_included() -> None:
    main = {UNIT: LOADS.replace("/etc/nftables.conf", "/etc/sysconfig/nftables.conf")}
    main["/etc/sysconfig/nftables.conf"] = (
        'include "/etc/nftables/*.nft"\ninclude "/etc/sysconfig/nftables.conf"\n'
    )
    assert wiped(main) == []
    (problem,) = wiped({**main, "/etc/nftables/b.nft": "table ip a { }; flush  ruleset ip\n"})
    assert problem.evidence == "/etc/nftables/b.nft, line 1: table ip a { }; flush  ruleset ip"
    relative = {UNIT: LOADS, "/etc/nftables.conf": 'include "nft.d/x"\n', "/etc/nft.d/x": "flush ruleset\n"}
    assert len(wiped(relative)) == 1
    stops = {UNIT: f"{LOADS}ExecStop=/usr/sbin/nft flush ruleset\n"}
    assert wiped(stops)[0].evidence == f"{UNIT}: ExecStop=/usr/sbin/nft flush ruleset"
    fedora = {UNIT: "ExecReload=/sbin/nft 'flush ruleset; include \"/etc/sysconfig/nftables.conf\";'\n"}
    assert len(wiped(fedora)) == 1


OURS = (ROOT / "examples" / "systemd" / "lbctl.service").read_text(encoding="utf-8")
LINK = {"/etc/systemd/system/nftables.service.wants/lbctl.service": ""}


@pytest.mark.parametrize(
    ("files", "silent"),
    [
        ({"/etc/systemd/system/lbctl.service": OURS, **LINK}, True),
        ({"/usr/lib/systemd/system/lbctl.service": OURS, **LINK}, True),
        ({"/etc/systemd/system/nftables.service.d/x.conf": "ExecStartPost=lbctl apply --yes\n"}, True),
        # Not enabled; not tied to it; nothing is applied.
        ({"/etc/systemd/system/lbctl.service": OURS}, False),
        ({"/etc/systemd/system/lbctl.service": "ExecStart=/usr/bin/lbctl apply --yes\n", **LINK}, False),
        ({"/etc/systemd/system/lbctl.service": "PartOf=nftables.service\n", **LINK}, False),
    ],
)
def test_a_unit_that_applies_again(files: dict[str, str], silent: bool) -> None:
    assert bool(wiped(WIPES | files)) is not silent


def test_files_that_load_rules_at_boot() -> None:
    files = {UNIT: LOADS, "/etc/nftables.conf": 'include "/etc/nftables.d/*"\n', "/etc/nftables.d/x": "# x\n"}
    assert nftables.boot_files(FakeHost(files=files)) == ()
    assert nftables.boot_files(FakeHost(files=files | WANTED)) == ("/etc/nftables.conf", "/etc/nftables.d/x")
    saved = {"/etc/iptables/rules.v4": "", "/etc/sysconfig/iptables": ""}
    assert iptables.boot_files(FakeHost(files=saved)) == ()
    link = {"/etc/systemd/system/multi-user.target.wants/netfilter-persistent.service": ""}
    assert iptables.boot_files(FakeHost(files=saved | link)) == ("/etc/iptables/rules.v4",)


def test_the_reference_names_every_code() -> None:
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "backends").rglob("diagnos*.py")]
    names = ("flush_hazard.py", "advice.py", "rivals.py")
    sources += [path for name in names for path in (ROOT / "backends").rglob(name)]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    made = {
        code
        for problem in re.findall(r"\bProblem\((.*?)message=", text, flags=re.DOTALL)
        for code in CODE.findall(problem)
    }
    assert made - {"x"} == documented_codes("Doctor")


NAMES = f"{NET}/ip_tables_names"


def tables(
    files: dict[str, str], driver: str = "legacy", store: str = "iptables-legacy", *, present: bool = True
) -> list[Problem]:
    case = Case(intent=None, store=store, precedence=-100)
    made = FakeHost(
        files={NAMES: "", **files} if present else files, privileged=False, programs=("iptables",)
    )
    made.answer("iptables", "--version", out="iptables v1.8.7 (legacy)\n")
    return list(iptables.diagnose(made, driver, case))


def test_a_unit_that_restores_whole_tables() -> None:
    enabled = {"/etc/systemd/system/multi-user.target.wants/netfilter-persistent.service": ""}
    rules = {"/etc/iptables/rules.v4": "*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n"}
    (problem,) = tables({**enabled, **rules})
    assert (problem.code, "/etc/iptables/rules.v4" in problem.evidence) == ("restore-wipes", True)
    assert tables(rules) == []
    assert tables({**enabled, **rules, "/etc/systemd/system/lbctl.service": OURS, **LINK}) == []
    assert tables({**enabled, "/etc/iptables/rules.v4": "*filter\nCOMMIT\n"}) == []
    assert tables({**enabled, "/etc/iptables/rules.v4": "*nat\n:LBCTL - [0:0]\nCOMMIT\n"}) == []


def test_the_old_interface_goes() -> None:
    new = {"/proc/sys/kernel/osrelease": "6.17.3-1\n"}
    assert [problem.code for problem in tables(new)] == ["legacy-leaving"]
    assert tables(new, driver="nf_tables", store="iptables-nft") == []
    assert tables({"/proc/sys/kernel/osrelease": "6.1.0-13-amd64\n"}) == []
    gone = {**new, "/lib/modules/6.17.3-1/modules.dep": "net/nf_tables.ko:\n"}
    (problem,) = tables(gone, store="nftables", present=False)
    assert (problem.code, "v1.8.7 (legacy)" in problem.evidence) == ("legacy-missing", True)


# -- backends that say much, little or nothing


class Talkative(ReadingPaper):
    """A backend that knows of a problem, and then fails."""

    name = "talkative"
    store = "air"

    precedence = 7

    def diagnose(self, host: Host, driver: str, case: Case) -> Iterator[Problem]:
        from lbctl.errors import ApplyFailed

        assert (driver, case.store, case.precedence) == ("pencil", "air", 7)
        problem = Problem(code="x", severity=Severity.WARNING, message="m", evidence="e", fix="r")
        yield problem
        yield problem
        if host.may_change_network():
            raise ApplyFailed("the pencil broke")


def test_what_a_backend_told_before_it_failed() -> None:
    diagnosis = found(host(), None, Talkative())
    assert codes(diagnosis) == ["x"]
    assert [(each.what, each.reason) for each in diagnosis.unseen] == [("rules of air", "the pencil broke")]


def test_without_privilege_rules_are_not_looked_at() -> None:
    diagnosis = found(host(privileged=False), Intent(services=(WEB,)), Talkative(), Paper())
    assert codes(diagnosis) == ["x"]
    assert [each.what for each in diagnosis.unseen] == ["rules of air"]
    assert "CAP_NET_ADMIN" in diagnosis.unseen[0].reason


def test_tools_that_refuse_leave_the_rest_to_be_looked_at() -> None:
    made = host({"/proc/modules": "nf_tables 1 0 - Live 0x0\n", f"{NET}/ip_tables_names": "nat\n"})
    with_iptc(made)
    made.answer("nft", code=1, err="Error: Operation not permitted\n")
    made.answer("nft", "--version", out="nftables v1.0.6 (Lester Gooch #5)\n")
    for suffix in ("save", "restore"):
        made.answer(f"iptables-legacy-{suffix}", code=3, err="iptables-legacy-save: Permission denied\n")
    missing = Service(name="api", listeners=WEB.listeners, endpoints=(Endpoint(port=9),))
    diagnosis = found(made, Intent(services=(missing,)), nftables, iptables)
    assert codes(diagnosis) == ["not-listening"]
    assert {each.what for each in diagnosis.unseen} >= {"rules of nftables", "rules of iptables-legacy"}
    assert all(each.reason for each in diagnosis.unseen)
    assert made.writes == []


class Broken(Paper):
    """A backend that this host lacks something for."""

    def probe(self, host: Host) -> Probe:
        driver = Driver(name="pencil", store="paper", usable=False, reason="no pencil")
        return Probe(drivers=(driver,), capabilities=Capabilities(), fix="buy a pencil")


def test_no_backend_is_a_problem_among_others() -> None:
    diagnosis = found(host(), Intent(services=(WEB,)), Broken())
    assert (codes(diagnosis), diagnosis.backend) == (["no-backend"], None)
    assert diagnosis.problems[0].fix == "buy a pencil"


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, Talkative())
    monkeypatch.setattr(LocalHost, "may_change_network", lambda _: False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LBCTL_CONFIG", raising=False)
    result = CliRunner().invoke(app, ["doctor", "--output", "json"])
    document = json.loads(result.stdout)
    problem = next(each for each in document["problems"] if each["code"] == "x")
    assert problem == {
        "code": "x",
        "severity": "warning",
        "service": None,
        "message": "m",
        "evidence": "e",
        "remedy": "r",
    }
    assert (document["format_version"], document["backend"], document["driver"]) == (1, "talkative", "pencil")
    assert {"what": "rules of air", "reason": document["not_examined"][-1]["reason"]} in document[
        "not_examined"
    ]
    text = CliRunner().invoke(app, ["doctor"]).stdout
    assert "warning x: m\n    evidence: e\n    fix:      r" in text
    assert "Not examined:\n" in text


@pytest.mark.parametrize(
    ("source", "live", "code"),
    [("consul", True, []), ("consul", False, ["source-unasked"]), ("nosuch", True, ["source-missing"])],
)
def test_a_source_that_is_not_asked(source: str, live: bool, code: list[str]) -> None:
    made = host()
    service = replace(WEB, discover=Discovery(source=source, name="api"))
    with made.lock("lbctl.agent") if live else nullcontext():
        diagnosis = found(made, Intent(services=(service,)))
    assert codes(diagnosis) == code


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("nosuch", 'web: no source "nosuch" is installed on this host'),
        ("etcd", "web: there is no table [etcd] that says where etcd is"),
    ],
)
def test_check_names_a_source_that_cannot_be_asked(source: str, line: str, tmp_path: Path) -> None:
    file = tmp_path / "lbctl.toml"
    table = f'[service.discover]\nsource = "{source}"\nname = "api"\n'
    file.write_text(f'schema = 1\n[[service]]\nname = "web"\nlisten = "192.0.2.1:80/tcp"\n{table}')
    done = CliRunner().invoke(app, ["check", str(file)])
    assert done.exit_code == 0
    assert line in done.output
