"""A plain ladder stays one exact service beside rules that do not decide where its connections go."""

import subprocess

import pytest

from lbctl.model import Analysis
from lbctl_iptables.reading import read as read_saved
from lbctl_nftables.reading.read import read as read_native

HTTP = "-p tcp -m tcp --dport 80"
LADDER = f"""-A PREROUTING {HTTP} -m statistic --mode nth --every 3 --packet 0 -j REDIRECT --to-ports 8001
-A PREROUTING {HTTP} -m statistic --mode nth --every 2 --packet 0 -j REDIRECT --to-ports 8002
-A PREROUTING {HTTP} -j REDIRECT --to-ports 8003"""
MARKED = "-m conntrack --ctstate NEW -j MARK --set-mark"


def marks(where: str) -> str:
    return f"-A PREROUTING {where} -m statistic --mode nth --every 2 --packet 0 -j MARK --set-mark 1"


#: Rules of the tables mangle, nat (in front of the ladder) and filter.
BESIDE = {
    "mark of some": (f"-A PREROUTING -i lan {MARKED} 2", "", ""),
    "marks of some": (f"-A PREROUTING -i lan {MARKED} 2\n{marks('-i lan')}", "", ""),
    "marks of a part": (f"-A PREROUTING -i lan {HTTP} {MARKED} 2\n{marks('-i lan ' + HTTP)}", "", ""),
    "marks of all, another one of a part": (f"{marks(HTTP)}\n-A PREROUTING -i lan {MARKED} 2", "", ""),
    "marks of everything, another one of a part": (f"{marks('')}\n-A PREROUTING -i lan {MARKED} 2", "", ""),
    "marks of all but some": (f"-A PREROUTING -i lan -j RETURN\n{marks(HTTP)}", "", ""),
    "marks of everything but some": (f"-A PREROUTING -i lan -j ACCEPT\n{marks('')}", "", ""),
    "marks that are saved": (
        f"-A PREROUTING -j CONNMARK --restore-mark\n{marks(HTTP)}\n-A PREROUTING -j CONNMARK --save-mark",
        "",
        "",
    ),
    "mark that a filter asks for": (
        f"-A PREROUTING -i lan {MARKED} 5\n{marks(HTTP)}",
        "",
        "-A INPUT -m mark --mark 0x5 -j ACCEPT",
    ),
    "filters": ("", "", "-A INPUT -i lan -p tcp -m tcp --dport 8001 -j DROP\n-A INPUT -i lan -j ACCEPT"),
    "exemptions of others": (
        "",
        "-A PREROUTING -p tcp -m tcp --dport 443 -j RETURN\n-A PREROUTING -i lan -p udp -j ACCEPT",
        "",
    ),
    "another ladder": ("", LADDER.replace("--dport 80 ", "--dport 443 "), ""),
    "another ladder of some": ("", LADDER.replace("-p tcp -m tcp", "-i lan -p udp -m udp"), ""),
}


def text(beside: tuple[str, str, str]) -> str:
    mangle, nat, drop = beside
    tables = {
        "mangle": ("PREROUTING", mangle),
        "nat": ("PREROUTING", f"{nat}\n{LADDER}"),
        "filter": ("INPUT", drop),
    }
    made = [f"*{table}\n:{chain} ACCEPT [0:0]\n{rules}\nCOMMIT\n" for table, (chain, rules) in tables.items()]
    return "".join(made).replace("\n\n", "\n")


def translated(saved: str) -> str:
    done = subprocess.run(
        ["iptables-restore-translate", "-f", "/dev/stdin"],
        input=saved,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("syntax", ["iptables", "nft"])
@pytest.mark.parametrize("name", BESIDE)
def test_a_ladder_stays_whole_and_exact(name: str, syntax: str) -> None:
    saved = text(BESIDE[name])
    reading: Analysis = read_saved(saved) if syntax == "iptables" else read_native(translated(saved))
    ladder = [each for each in reading.services if (each.proto, each.dport) == ("tcp", "80")]
    nat = [each for each in ladder if each.action == "redirect"]
    assert [(each.when, each.exact, len(each.backends), bool(each.leak)) for each in nat] == [
        (None, True, 3, False)
    ]


@pytest.mark.parametrize("syntax", ["iptables", "nft"])
def test_a_ladder_depends_on_marks_that_it_asks_for(syntax: str) -> None:
    saved = text(
        (f"-A PREROUTING -i lan {MARKED} 2", f"-A PREROUTING {HTTP} -m mark --mark 0x2 -j RETURN", "")
    )
    reading = read_saved(saved) if syntax == "iptables" else read_native(translated(saved))
    [service] = [each for each in reading.services if each.dport == "80" and each.mode == "nth"]
    assert dict(service.when or {}) == {"iif": "! lan"}
