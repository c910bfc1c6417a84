"""The ways of writing many services as rules: lbctl's, kube-proxy's two, the list of blog posts, and IPVS.

Each serves port 80/udp of so many addresses from `FIRST_SERVICE` on, with `ENDPOINTS` endpoints each, as text
for one tool. Of kube-proxy, what a new connection meets is kept: its chains, picks and NAT
rules, without marks for masquerading and comments of its own (which would cost it more).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address

from programs import absent
from sides import ENDPOINTS, SIDES, intent_text
from timing import kernel_config

from lbctl.config import loads
from lbctl.host import LocalHost
from lbctl.model import Intent

FIRST_SERVICE = IPv4Address("10.100.0.0")
ENDPOINT = IPv4Address("10.1.0.1")
#: The address of a changed endpoint.
ELSEWHERE = IPv4Address("10.1.99.1")
LADDER = 64
OURS, ANONYMOUS, KUBE, LIST, IPVS = "lbctl", "anonymous maps", "kube-proxy", "list", "IPVS"
#: IP_VS_BASE_CTL of linux/ip_vs.h.
_IP_VS_SO_GET_VERSION = 64 + 1024 + 64
#: Has each flow tracked, and nothing else.
TRACKING = {
    "nftables": "table ip plain {\n\tchain prerouting {\n\t\ttype filter hook prerouting priority -100\n"
    "\t\tct state new\n\t}\n}\n",
    "iptables": "*mangle\n-A PREROUTING -m conntrack --ctstate NEW\nCOMMIT\n",
    "ipvs": "",
}


@dataclass(frozen=True, slots=True)
class Tool:
    """The commands that load a text from standard input, and that list the rules."""

    load: tuple[str, ...]
    list: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A way of writing services."""

    name: str
    #: Whose rules these are, in words.
    about: str
    #: Number of services → text.
    text: Callable[[int], str]
    tool: Tool
    #: Number of a service and the list of all rules → the text that moves its first endpoint `ELSEWHERE`;
    #: None for lbctl, which finds out by itself.
    change: Callable[[int, str], str] | None = None


def address(service: int) -> IPv4Address:
    return FIRST_SERVICE + service


def targets(first: IPv4Address = ENDPOINT) -> list[str]:
    """Every endpoint of a service, the first one as given."""
    return [f"{at}:8000" for at in (first, *(ENDPOINT + i for i in range(1, ENDPOINTS)))]


def intent(services: int, endpoints: int = ENDPOINTS) -> Intent:
    return loads(intent_text(services, endpoints=endpoints, protocol="udp"))


def ours(backend: str, services: int, endpoints: int = ENDPOINTS) -> str:
    """The text that `lbctl apply` loads."""
    return SIDES[backend].script(LocalHost(), intent(services, endpoints))


def nft_kube_service(number: int, generation: int, first: IPv4Address) -> list[str]:
    """A chain for each endpoint, and one that picks from an anonymous map."""
    ends = [f"endpoint-{number}-{j}" for j in range(ENDPOINTS)]
    ends[0] += f"-{generation}"
    picks = ", ".join(f"{j} : goto {end}" for j, end in enumerate(ends))
    return [
        *(
            f"\tchain {end} {{\n\t\tmeta l4proto udp dnat to {to}\n\t}}"
            for end, to in zip(ends, targets(first), strict=True)
            if not generation or end == ends[0]
        ),
        f"\tchain service-{number} {{\n\t\tnumgen random mod {ENDPOINTS} vmap {{ {picks} }}\n\t}}",
    ]


def nft_picks(first: IPv4Address) -> str:
    """A pick from an anonymous map of addresses and ports."""
    slots = ", ".join(f"{i} : {to.replace(':', ' . ')}" for i, to in enumerate(targets(first)))
    return f"dnat to numgen inc mod {ENDPOINTS} map {{ {slots} }}"


def nft_anonymous_service(number: int, first: IPv4Address) -> list[str]:
    return [f"\tchain service-{number} {{\n\t\tmeta l4proto udp {nft_picks(first)}\n\t}}"]


def nft_anonymous(services: int) -> str:
    return nft_table("anonymous", services, lambda number: nft_anonymous_service(number, ENDPOINT))


def nft_anonymous_change(number: int, _: str) -> str:
    [chain] = nft_anonymous_service(number, ELSEWHERE)
    return f"flush chain ip anonymous service-{number}\ntable ip anonymous {{\n{chain}\n}}\n"


def nft_table(name: str, services: int, service: Callable[[int], list[str]]) -> str:
    """A verdict map, and the chains of each service."""
    elements = ", ".join(f"{address(i)} . udp . 80 : goto service-{i}" for i in range(services))
    return "\n".join(
        [
            f"table ip {name} {{",
            "\tmap service-ips {",
            "\t\ttype ipv4_addr . inet_proto . inet_service : verdict",
            f"\t\telements = {{ {elements} }}",
            "\t}",
            *(line for i in range(services) for line in service(i)),
            "\tchain services {\n\t\tip daddr . meta l4proto . th dport vmap @service-ips\n\t}",
            "\tchain nat-prerouting {\n\t\ttype nat hook prerouting priority -100\n\t\tjump services\n\t}",
            "}\n",
        ]
    )


def nft_kube(services: int) -> str:
    return nft_table("kube-proxy", services, lambda number: nft_kube_service(number, 0, ENDPOINT))


def nft_kube_change(number: int, _: str) -> str:
    return "\n".join(
        [
            f"flush chain ip kube-proxy service-{number}",
            "table ip kube-proxy {",
            *nft_kube_service(number, 1, ELSEWHERE),
            "}",
            f"delete chain ip kube-proxy endpoint-{number}-0-0\n",
        ]
    )


def nft_list_rule(number: int, first: IPv4Address = ENDPOINT) -> str:
    return f"ip daddr {address(number)} udp dport 80 {nft_picks(first)}"


def nft_list(services: int) -> str:
    hook = "type nat hook prerouting priority -100"
    rules = "".join(f"\t\t{nft_list_rule(i)}\n" for i in range(services))
    return f"table ip flat {{\n\tchain prerouting {{\n\t\t{hook}\n{rules}\t}}\n}}\n"


def nft_list_change(number: int, rules: str) -> str:
    [handle] = re.findall(rf"ip daddr {re.escape(str(address(number)))} .*# handle (\d+)", rules)
    return f"replace rule ip flat prerouting handle {handle} {nft_list_rule(number, ELSEWHERE)}\n"


def iptables_kube_service(number: int, generation: int, first: IPv4Address) -> tuple[list[str], list[str]]:
    """The chains of a service and its endpoints, and their rules: each endpoint is drawn by a probability."""
    service, name = f"KUBE-SVC-{number:016}", f"default/s{number}:dns"
    chains, rules = [service], []
    for j, to in enumerate(targets(first)):
        end = f"KUBE-SEP-{number:09}{generation if j == 0 else 0}{j:06}"
        chance = f"-m statistic --mode random --probability {1 / (ENDPOINTS - j):.11f} "
        chance = chance if j < ENDPOINTS - 1 else ""
        rules.append(f"-A {service} -m comment --comment {name}->{to} {chance}-j {end}")
        if not generation or j == 0:
            rules.append(f"-A {end} -p udp -m comment --comment {name} -m udp -j DNAT --to-destination {to}")
            chains.append(end)
    return chains, rules


def restore(chains: list[str], rules: list[str]) -> str:
    return "\n".join(["*nat", *(f":{chain} - [0:0]" for chain in chains), *rules, "COMMIT\n"])


def iptables_kube(services: int) -> str:
    chains, rules = ["KUBE-SERVICES"], ["-A PREROUTING -j KUBE-SERVICES"]
    for i in range(services):
        asked = f"-d {address(i)}/32 -p udp -m comment --comment default/s{i}:dns -m udp --dport 80"
        rules.append(f"-A KUBE-SERVICES {asked} -j KUBE-SVC-{i:016}")
        its_chains, its_rules = iptables_kube_service(i, 0, ENDPOINT)
        chains += its_chains
        rules += its_rules
    return restore(chains, rules)


def iptables_kube_change(number: int, _: str) -> str:
    chains, rules = iptables_kube_service(number, 1, ELSEWHERE)
    old = f"KUBE-SEP-{number:09}{0:07}"
    return restore([*chains, old], [*rules, f"-X {old}"])


def iptables_list_rule(number: int, endpoint: int, to: str) -> str:
    left = ENDPOINTS - endpoint
    every = f"-m statistic --mode nth --every {left} --packet 0 " if left > 1 else ""
    return f"-d {address(number)}/32 -p udp -m udp --dport 80 {every}-j DNAT --to-destination {to}"


def iptables_list(services: int) -> str:
    return restore(
        [],
        [
            f"-A PREROUTING {iptables_list_rule(i, j, to)}"
            for i in range(services)
            for j, to in enumerate(targets())
        ],
    )


def iptables_list_change(number: int, _: str) -> str:
    rule = iptables_list_rule(number, 0, targets(ELSEWHERE)[0])
    return restore([], [f"-R PREROUTING {number * ENDPOINTS + 1} {rule}"])


def iptables_ladder() -> str:
    """One service with many endpoints in one chain, one rule after the other."""
    rules = [f"-A PREROUTING -d {FIRST_SERVICE}/32 -p udp -m udp --dport 80 -j LADDER"]
    for i in range(LADDER):
        every = f"-m statistic --mode nth --every {LADDER - i} --packet 0"
        rules.append(f"-A LADDER -p udp {every} -j DNAT --to-destination {ENDPOINT + i}:8000")
    return restore(["LADDER"], rules)


def ipvs(services: int) -> str:
    return "".join(
        f"-A -u {address(i)}:80 -s rr\n"
        + "".join(f"-a -u {address(i)}:80 -r {to} -m -w 1\n" for to in targets())
        for i in range(services)
    )


def ipvs_change(number: int, _: str) -> str:
    service = f"-u {address(number)}:80"
    old, new = (targets(first)[0] for first in (ENDPOINT, ELSEWHERE))
    return f"-a {service} -r {new} -m -w 1\n-d {service} -r {old}\n"


def no_ipvs() -> str | None:
    """Return why IPVS is not measured, or None; asked of the kernel, without loading its module."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as asked:
        try:
            asked.getsockopt(socket.IPPROTO_IP, _IP_VS_SO_GET_VERSION, 64)
        except OSError as error:
            built = re.findall(r"(?m)^.*\bCONFIG_IP_VS\b.*$", kernel_config())
            how = f" ({built[0].removeprefix('# ')})" if built else ""
            return f"the kernel answers {error.strerror!r} when asked for IPVS's version{how}"
    return absent("ipvsadm")


NFT = Tool(("nft", "-f", "-"), ("nft", "-a", "list", "ruleset"))
RESTORE = Tool(("iptables-legacy-restore", "--noflush"), ("iptables-legacy-save", "-t", "nat"))
IPVSADM = Tool(("ipvsadm", "--restore"), ("ipvsadm", "--save", "--numeric"))
LAYOUTS = {
    "nftables": (
        Layout(name=OURS, about="slot pages", text=lambda n: ours("nftables", n), tool=NFT),
        Layout(
            name=ANONYMOUS,
            about="verdict map, an anonymous map per service",
            text=nft_anonymous,
            change=nft_anonymous_change,
            tool=NFT,
        ),
        Layout(
            name=KUBE,
            about="verdict map, an anonymous map per service, a chain per endpoint",
            text=nft_kube,
            change=nft_kube_change,
            tool=NFT,
        ),
        Layout(
            name=LIST,
            about="one rule with an anonymous map per service, as in blog posts",
            text=nft_list,
            change=nft_list_change,
            tool=NFT,
        ),
    ),
    "iptables": (
        Layout(name=OURS, about="trees of chains", text=lambda n: ours("iptables", n), tool=RESTORE),
        Layout(
            name=KUBE,
            about="a chain and a ladder of probabilities per service, a chain per endpoint",
            text=iptables_kube,
            change=iptables_kube_change,
            tool=RESTORE,
        ),
        Layout(
            name=LIST,
            about="a rule per endpoint in one chain, as in blog posts",
            text=iptables_list,
            change=iptables_list_change,
            tool=RESTORE,
        ),
    ),
    "ipvs": (
        Layout(
            name=IPVS,
            about="the kernel's own balancer, round robin, masquerading",
            text=ipvs,
            change=ipvs_change,
            tool=IPVSADM,
        ),
    ),
}
