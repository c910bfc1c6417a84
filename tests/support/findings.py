"""Every finding of the reader of iptables rules: a text that has it, and one near it that has it not."""

from collections.abc import Callable

from lbctl.model import Analysis, Finding

A, B, C = (f"-j DNAT --to-destination 10.0.0.{i}:80" for i in (1, 2, 3))
TCP = "-A PREROUTING -p tcp -m tcp --dport 80"
ONE = f"{TCP} {A}"


def nth(every: int, packet: int = 0) -> str:
    return f"-m statistic --mode nth --every {every} --packet {packet}"


def chance(probability: str) -> str:
    return f"-m statistic --mode random --probability {probability}"


def table(*rules: str, name: str = "nat", chains: tuple[str, ...] = ()) -> str:
    own = {
        "nat": "PREROUTING OUTPUT POSTROUTING",
        "mangle": "PREROUTING OUTPUT",
        "filter": "INPUT FORWARD OUTPUT",
    }
    head = [f"*{name}", *(f":{chain} ACCEPT [0:0]" for chain in own[name].split())]
    return "\n".join([*head, *(f":{chain} - [0:0]" for chain in chains), *rules, "COMMIT", ""])


def mangle(*rules: str) -> str:
    return table(*(f"-A PREROUTING {rule}" for rule in rules), name="mangle")


NEW = "-m state --state NEW"
LIMITED = table("-A INPUT -p tcp -m limit --limit 1/s -j ACCEPT", name="filter")
LADDER = (f"{TCP} {nth(3)} {A}", f"{TCP} {nth(2)} {B}", f"{TCP} {C}")
GOOD = table(*LADDER)

CASES: list[tuple[str, str, str]] = [
    ("every-n-on-each-line", table(f"{TCP} {nth(2)} {A}", f"{TCP} {nth(2, 1)} {B}"), GOOD),
    (
        "every-n-on-each-line",
        table(f"{TCP} {nth(3)} {A}", f"{TCP} {nth(3)} {B}", f"{TCP} {C}"),
        # 2:1:1, which is right
        table(f"{TCP} {nth(2)} {A}", f"{TCP} {nth(2)} {B}", f"{TCP} {C}"),
    ),
    (
        "every-n-on-each-line",
        mangle(*(f"{NEW} -m mark --mark 0 {nth(2, i)} -j MARK --set-mark {i + 1}" for i in range(2))),
        mangle(*(f"{NEW} {nth(2, i)} -j MARK --set-mark {i + 1}" for i in range(2))),
    ),
    (
        "equal-probability-on-each-line",
        table(f"{TCP} {chance('0.5')} {A}", f"{TCP} {chance('0.5')} {B}"),
        table(f"{TCP} {chance('0.5')} {A}", f"{TCP} {B}"),
    ),
    (
        "equal-probability-on-each-line",
        table(f"{TCP} {chance('0.33333333349')} {A}", f"{TCP} {chance('0.33333333349')} {B}", f"{TCP} {C}"),
        table(f"{TCP} {chance('0.33333333349')} {A}", f"{TCP} {chance('0.5')} {B}", f"{TCP} {C}"),
    ),
    ("no-catch-all", table(*LADDER[:2]), GOOD),
    (
        "no-catch-all",
        table(f"{TCP} {nth(2)} {A}"),
        table(f"{TCP} {nth(2)} -j RETURN", ONE),
    ),
    ("nth-missing-packet", table(f"{TCP} -m statistic --mode nth --every 2 {A}", f"{TCP} {B}"), GOOD),
    ("packet-out-of-range", table(f"{TCP} {nth(2, 2)} {A}", f"{TCP} {B}"), GOOD),
    (
        "probability-rounding",
        table(f"{TCP} {chance('0.33')} {A}", f"{TCP} {chance('0.5')} {B}", f"{TCP} {C}"),
        table(f"{TCP} {chance('0.3333333')} {A}", f"{TCP} {chance('0.5')} {B}", f"{TCP} {C}"),
    ),
    (
        "probability-rounding",
        table(f"{TCP} {chance('0.3333')} {A}", ONE),
        table(f"{TCP} {chance('0.1')} {A}", f"{TCP} {B}"),
    ),
    (
        "probability-zero",
        table(f"{TCP} {chance('1e-10')} {A}", f"{TCP} {B}"),
        table(f"{TCP} {chance('1e-9')} {A}", f"{TCP} {B}"),
    ),
    ("probability-zero", table(f"{TCP} {chance('nan')} {A}", f"{TCP} {B}"), GOOD),
    ("unreachable-rule", table(ONE, f"{TCP} {B}"), GOOD),
    (
        "unreachable-rule",
        table(f"{TCP} -m state --state RELATED,ESTABLISHED {A}", f"{TCP} {B}"),
        table(f"{TCP} -m state --state NEW {A}"),
    ),
    ("duplicate-rules", table(*LADDER, LADDER[0]), GOOD),
    (
        "shared-counter",
        table(
            "-A PREROUTING -d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j S",
            "-A PREROUTING -d 192.0.2.2/32 -p tcp -m tcp --dport 80 -j S",
            f"-A S -p tcp {nth(2)} {A}",
            f"-A S -p tcp {B}",
            chains=("S",),
        ),
        table(
            "-A PREROUTING -d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j S",
            f"-A S -p tcp {nth(2)} {A}",
            f"-A S -p tcp {B}",
            chains=("S",),
        ),
    ),
    (
        "shared-counter",
        table(
            f"-A PREROUTING -p tcp -m multiport --dports 80,443 {nth(2)} {A}",
            f"-A PREROUTING -p tcp -m multiport --dports 80,443 {B}",
        ),
        GOOD,
    ),
    (
        "statistic-before-selector",
        table(f"-A PREROUTING -p tcp {nth(2)} -m tcp --dport 80 {A}", f"{TCP} {B}"),
        table(f"-A PREROUTING -p tcp -m tcp --dport 80 {nth(2)} -m comment --comment x {A}", f"{TCP} {B}"),
    ),
    (
        "selectors-differ",
        table(f"{TCP} {nth(3)} {A}", f"-A PREROUTING -p tcp -m tcp --dport 8080 {nth(2)} {B}", f"{TCP} {C}"),
        GOOD,
    ),
    (
        "selectors-differ",
        table(f"{TCP} -d 192.0.2.1 {nth(3)} {A}", f"{TCP} {nth(2)} {B}", f"{TCP} -d 192.0.2.1 {C}"),
        table(
            f"{TCP} -d 192.0.2.1 {nth(2)} {A}",
            f"{TCP} -d 192.0.2.1 {B}",
            f"{TCP} -d 192.0.2.2 {nth(2)} {A}",
            f"{TCP} -d 192.0.2.2 {B}",
        ),
    ),
    (
        "last-mark-wins",
        mangle(f"{NEW} {nth(2)} -j MARK --set-mark 1", f"{NEW} -j MARK --set-mark 2"),
        mangle(f"{NEW} -j MARK --set-mark 2", f"{NEW} {nth(2)} -j MARK --set-mark 1"),
    ),
    (
        "per-packet-balancing",
        mangle(*(f"{nth(2, i)} -j MARK --set-mark {i + 1}" for i in range(2))),
        mangle(*(f"{NEW} {nth(2, i)} -j MARK --set-mark {i + 1}" for i in range(2))),
    ),
    (
        "per-packet-balancing",
        mangle(*(f"-p tcp {nth(2, i)} -j MARK --set-mark {i + 1}" for i in range(2))),
        mangle(
            "-j CONNMARK --restore-mark",
            "-m mark ! --mark 0 -j ACCEPT",
            f"{nth(2)} -j MARK --set-mark 1",
            "-m mark --mark 0 -j MARK --set-mark 2",
            "-j CONNMARK --save-mark",
        ),
    ),
    ("dnat-range", table(f"{TCP} -j DNAT --to-destination 10.0.0.1-10.0.0.3"), GOOD),
    (
        "port-range-target",
        table(f"{TCP} -j REDIRECT --to-ports 8001-8003"),
        table(f"{TCP} -j REDIRECT --to-ports 8001-8003 --random"),
    ),
    (
        "snat-pool",
        table("-A POSTROUTING -o eth0 -j SNAT --to-source 192.0.2.1-192.0.2.3"),
        table("-A POSTROUTING -o eth0 -j SNAT --to-source 192.0.2.1"),
    ),
    (
        "prerouting-only",
        table(
            ONE,
            "-A PREROUTING -p tcp -m tcp --dport 81 -j REDIRECT --to-ports 1",
            "-A OUTPUT -p tcp -m tcp --dport 81 -j REDIRECT --to-ports 1",
        ),
        table(ONE, f"-A OUTPUT -p tcp -m tcp --dport 80 {A}"),
    ),
    (
        "wrong-table",
        f"iptables -A PREROUTING -p tcp --dport 80 {A}\n",
        f"iptables -t nat -A PREROUTING -p tcp --dport 80 {A}\n",
    ),
    ("wrong-table", table(f"-A POSTROUTING -p tcp {A}"), GOOD),
    ("removed-match", table(f"{TCP} -m nth --counter 1 --every 2 --packet 0 {A}", ONE), GOOD),
    ("undefined-chain", table(f"{TCP} -j NOWHERE", ONE), table(f"{TCP} -j S", ONE, chains=("S",))),
    ("partial-dump", f"*nat\n-A OWN -p tcp --dport 80 {A}\nCOMMIT\n", GOOD),
    (
        "chain-loop",
        table("-A PREROUTING -j S", "-A S -j T", "-A T -j S", chains=("S", "T")),
        table("-A PREROUTING -j S", "-A S -j T", "-A PREROUTING -j T", chains=("S", "T")),
    ),
    (
        "mixed-backends",
        (
            f"# Generated by iptables-save v1.8.9 on Mon\n{GOOD}# Generated by iptables-save v1.8.9 "
            f"(nf_tables) on Mon\n{GOOD}"
        ),
        (
            f"# Generated by iptables-save v1.8.9 on Mon\n{GOOD}# Generated by ip6tables-save v1.8.9 on "
            f"Mon\n{table()}"
        ),
    ),
    ("missing-commit", GOOD.replace("COMMIT\n", ""), GOOD),
    (
        "obsolete-negation",
        table(f"-A PREROUTING -d ! 192.0.2.1 -p tcp --dport 80 {A}"),
        table(f"-A PREROUTING ! -d 192.0.2.1 -p tcp --dport 80 {A}"),
    ),
    (
        "affinity-recent",
        table(
            f"{TCP} -m recent --rcheck --seconds 60 --name w --rsource {A}",
            f"{TCP} -m recent --set --name w --rsource {A}",
        ),
        table(f"{TCP} -m recent --set --name w --rsource {A}"),
    ),
    ("family-mismatch", f"iptables -t nat -A PREROUTING -d 2001:db8::1 -p tcp --dport 80 {A}", GOOD),
    ("family-mismatch", f"ip6tables -t nat -A PREROUTING -p tcp --dport 80 {A}", GOOD),
    ("unsupported-match", table(f"{TCP} -m u32 --u32 0>>22&0x3C@4=1 {A}", f"{TCP} {B}"), table(ONE)),
    ("unsupported-match", table(f"{TCP} -m nonsense --how 1 2 {A}", f"{TCP} {B}"), LIMITED),
    ("unsupported-target", table("-A PREROUTING -d 192.0.2.0/24 -j NETMAP --to 10.0.0.0/24"), GOOD),
    (
        "shell-construct",
        f"for i in 1 2; do\n  iptables -t nat {ONE}\ndone\n",
        f"iptables -t nat {ONE}\n",
    ),
    (
        "unexpanded-variable",
        f"iptables -t nat -A PREROUTING -d $VIP -p tcp --dport 80 {A}\n",
        f"VIP=192.0.2.1\niptables -t nat -A PREROUTING -d $VIP -p tcp --dport 80 {A}\n",
    ),
    ("unparsable-line", table(f"{TCP} --no-such-option {A}"), GOOD),
    ("unparsable-line", table(f"{TCP} {chance('1.5')} {A}"), GOOD),
    ("input-not-text", "*nat\n\0\nCOMMIT\n", GOOD),
]


def corrected_text(has: str, found: Finding) -> str:
    """The corrected rules of a finding as a text, in the table of the rule unless they say their own."""
    first = found.corrected[0]
    if first.startswith(("*", "iptables ", "ip6tables ")):
        return "\n".join([*found.corrected, ""])
    above = [line[1:] for line in has.split("\n")[: found.line] if line.startswith("*")]
    return "\n".join([f"*{above[-1]}", *found.corrected, "COMMIT", ""])


def codes(reading: Analysis) -> set[str]:
    return {found.code for found in reading.findings}


def told_apart(
    read: Callable[[str], Analysis], correct: Callable[[str, Finding], str], code: str, has: str, near: str
) -> list[Finding]:
    """The findings of a code in a text that has it; its neighbour and its corrected rules have it not."""
    reading = read(has)
    found = [each for each in reading.findings if each.code == code]
    assert found, codes(reading)
    assert all(1 <= each.line <= has.count("\n") + 1 and each.message for each in found)
    assert code not in codes(read(near))
    for each in found:
        if each.corrected:
            assert code not in codes(read(correct(has, each))), each.corrected
    return found
