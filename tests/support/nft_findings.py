"""Every finding of the reader of nft: a text that has it, and one near it that has it not."""

from lbctl.model import Finding

A, B, C = (f"redirect to :{port}" for port in (8001, 8002, 8003))
MAP = "map { 0 : 8001, 1 : 8002 }"


def nat(*rules: str, hook: str = "prerouting", kind: str = "nat", more: str = "", table: str = "t") -> str:
    body = "\n".join(rules)
    return (
        f"table ip {table} {{\n{more}chain c {{\ntype {kind} hook {hook} priority 0; policy accept;\n"
        f"{body}\n}}\n}}\n"
    )


def marking(*rules: str) -> str:
    return nat(*rules, kind="filter")


GOOD = nat(f"tcp dport 80 redirect to :numgen inc mod 2 {MAP}")
OUT = nat(f"tcp dport 81 {A}", hook="output").replace("chain c", "chain o")

CASES: list[tuple[str, str, str]] = [
    (
        "every-n-on-each-line",
        nat(*(f"tcp dport 80 numgen inc mod 3 {n} {to}" for n, to in enumerate((A, B, C)))),
        nat(
            f"tcp dport 80 numgen inc mod 3 0 {A}",
            f"tcp dport 80 numgen inc mod 2 0 {B}",
            f"tcp dport 80 {C}",
        ),
    ),
    (
        "every-n-on-each-line",
        nat(*(f"tcp dport 80 numgen inc mod 2 {n} {to}" for n, to in enumerate((A, B)))),
        marking(*(f"ct state new numgen inc mod 2 {n} ct mark set {n + 1}" for n in range(2))),
    ),
    (
        "equal-probability-on-each-line",
        nat(*(f"tcp dport 80 numgen random mod 3 0 {to}" for to in (A, B)), f"tcp dport 80 {C}"),
        nat(
            f"tcp dport 80 numgen random mod 3 0 {A}",
            f"tcp dport 80 numgen random mod 2 0 {B}",
            f"tcp dport 80 {C}",
        ),
    ),
    ("no-catch-all", nat("tcp dport 80 redirect to :numgen inc mod 3 map { 0 : 8001, 2 : 8003 }"), GOOD),
    ("no-catch-all", nat(f"ip saddr 10.0.0.0/8 tcp dport 80 numgen random mod 2 0 {A}"), GOOD),
    (
        "packet-out-of-range",
        nat("tcp dport 80 redirect to :numgen inc mod 2 map { 0 : 8001, 1 : 8002, 2 : 8003 }"),
        GOOD,
    ),
    ("packet-out-of-range", nat(f"tcp dport 80 numgen inc mod 2 2 {A}", f"tcp dport 80 {B}"), GOOD),
    (
        "probability-zero",
        nat(f"tcp dport 80 meta random & 2147483647 < 0 {A}", f"tcp dport 80 {B}"),
        nat(f"tcp dport 80 meta random & 2147483647 < 5 {A}", f"tcp dport 80 {B}"),
    ),
    ("unreachable-rule", nat(f"tcp dport {{ 80, 81 }} {A}", f"tcp dport 80 {B}"), GOOD),
    ("unreachable-rule", nat(f"tcp dport 80 {A}", f"tcp dport 80 {B}", f"tcp dport 80 {C}"), GOOD),
    (
        "duplicate-rules",
        nat(f"tcp dport 80 {A}", f"tcp dport 80 {A}"),
        nat(f"tcp dport 80 {A}", f"tcp dport 81 {A}"),
    ),
    (
        "shared-counter",
        nat(
            "tcp dport 80 jump d",
            "tcp dport 81 jump d",
            more=f"chain d {{\nmeta l4proto tcp redirect to :numgen inc mod 2 {MAP}\n}}\n",
        ),
        nat(*(f"tcp dport {port} redirect to :numgen inc mod 2 {MAP}" for port in (80, 81))),
    ),
    (
        "statistic-before-selector",
        nat(f"numgen inc mod 2 0 tcp dport 80 {A}", f"tcp dport 80 {B}"),
        nat(f"tcp dport 80 numgen inc mod 2 0 {A}", f"tcp dport 80 {B}"),
    ),
    (
        "last-mark-wins",
        marking("ct state new numgen inc mod 2 0 meta mark set 1", "ct state new meta mark set 2"),
        marking("ct state new meta mark set 2", "ct state new numgen inc mod 2 0 meta mark set 1"),
    ),
    (
        "per-packet-balancing",
        marking("tcp dport 80 meta mark set numgen inc mod 2 offset 1"),
        marking("tcp dport 80 ct state new meta mark set numgen inc mod 2 offset 1"),
    ),
    ("dnat-range", nat("tcp dport 80 dnat to 10.0.0.1-10.0.0.3"), nat("tcp dport 80 dnat to 10.0.0.1")),
    (
        "port-range-target",
        nat("tcp dport 80 redirect to :8001-8003"),
        nat("tcp dport 80 redirect to :8001-8003 random"),
    ),
    (
        "snat-pool",
        nat('oifname "eth0" snat to 192.0.2.1-192.0.2.3', hook="postrouting"),
        nat('oifname "eth0" snat to 192.0.2.1', hook="postrouting"),
    ),
    (
        "prerouting-only",
        nat(f"tcp dport 80 {A}") + OUT,
        nat(f"tcp dport 81 {A}") + OUT,
    ),
    ("wrong-table", nat(f"tcp dport 80 {A}", kind="filter"), GOOD),
    ("wrong-table", nat(f"tcp dport 80 {A}", hook="postrouting"), GOOD),
    ("undefined-chain", nat("tcp dport 80 jump gone", f"tcp dport 80 {A}"), GOOD),
    ("partial-dump", f'include "more.nft"\n{GOOD}', GOOD),
    (
        "chain-loop",
        nat("jump d", more="chain d {\njump e\n}\nchain e {\njump d\n}\n"),
        nat("jump d", more="chain e {\n}\nchain d {\njump e\n}\n"),
    ),
    ("mixed-backends", nat("xt target DNAT", f"tcp dport 80 {A}"), GOOD),
    (
        "family-mismatch",
        nat("tcp dport 80 dnat to [2001:db8::1]:80"),
        nat("tcp dport 80 dnat to 10.0.0.1:80"),
    ),
    ("unsupported-match", nat(f"tcp dport 80 osf name Linux {A}"), nat(f"tcp dport 80 counter {A}")),
    ("shell-construct", "nft add table ip t\ncurl x\n", "nft add table ip t\n"),
    (
        "unexpanded-variable",
        nat("tcp dport 80 redirect to :$PORT"),
        "define PORT = 1\n" + nat("tcp dport 80 redirect to :$PORT"),
    ),
    ("unparsable-line", f"{GOOD}nonsense here\n", GOOD),
    ("input-not-text", f"{GOOD}\0", GOOD),
]


def corrected_text(has: str, found: Finding) -> str:
    """The corrected rules of a finding as a text: in the chain of the rule, unless they say their own."""
    if found.corrected[0].startswith("table "):
        return "\n".join([*found.corrected, ""])
    marks = "type filter" in has
    hook = "postrouting" if "postrouting" in has else "prerouting"
    return nat(*found.corrected, kind="filter" if marks else "nat", hook=hook)
