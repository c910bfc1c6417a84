"""Ladders with a mistake, in each form of text, and the text with a correction in its place."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_CHAINS = "\n".join(f":{hook} ACCEPT [0:0]" for hook in ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"))
#: How a rule begins, and what stands around all rules: scripts of several tools, a dump, nft.
FORMS: Mapping[str, tuple[str, str]] = {
    "iptables": ("iptables -t nat -A PREROUTING {}", "{}"),
    "iptables-legacy": ("iptables-legacy -t nat -A PREROUTING {}", "{}"),
    "iptables-nft": ("iptables-nft -t nat -A PREROUTING {}", "{}"),
    "sudo": ("sudo /usr/sbin/iptables-legacy -t nat -A PREROUTING {}", "{}"),
    "iptables-save": ("-A PREROUTING {}", f"*nat\n{_CHAINS}\n{{}}\nCOMMIT"),
    "nft": ("{}", "table ip t {{\nchain c {{\ntype nat hook prerouting priority -100\n{}\n}}\n}}"),
}
KINDS = (
    "the same turn on each line",
    "other turns of one number",
    "equal draws on each line",
    "no last line",
    "the pick before the port",
    "no --packet",
    "the first two lines only",
)
#: What the mistake is about, and what it leaves alone.
PORT, OTHER = 80, 443


@dataclass(frozen=True, slots=True)
class Mistake:
    """A ladder of `count` endpoints with a mistake of a kind."""

    kind: str
    form: str
    count: int

    def __str__(self) -> str:
        return f"{self.form}, {self.count} endpoints, {self.kind}"

    @property
    def ladder(self) -> list[str]:
        """The lines of the ladder."""
        rule = _nft if self.form == "nft" else _iptables
        turns: list[tuple[str, int, int]]
        count = self.count
        match self.kind:
            case "the same turn on each line":
                turns = [("nth", count, 0)] * count
            case "other turns of one number":
                turns = [("nth", count, number) for number in range(count)]
            case "equal draws on each line":
                turns = [("draw", count, 0)] * count
            case "no last line":
                turns = [("nth", count + 1 - number, 0) for number in range(count)]
            case "the first two lines only":
                turns = [("nth", count + 2 - number, 0) for number in range(count)]
            case _:
                turns = [("nth", count - number, 0) for number in range(count - 1)] + [("", 0, 0)]
        words = [rule(PORT, f"10.0.0.{number}", turn, self.kind) for number, turn in enumerate(turns, 1)]
        return [FORMS[self.form][0].format(each) for each in words]

    @property
    def bystander(self) -> list[str]:
        """A ladder for another port, which is right."""
        rule = _nft if self.form == "nft" else _iptables
        words = [rule(OTHER, "10.0.1.1", ("nth", 2, 0), ""), rule(OTHER, "10.0.1.2", ("", 0, 0), "")]
        return [FORMS[self.form][0].format(each) for each in words]

    @property
    def text(self) -> str:
        """The whole text."""
        return self.with_ladder(self.ladder)

    def with_ladder(self, ladder: list[str]) -> str:
        """The text with other lines in the place of the ladder."""
        return FORMS[self.form][1].format("\n".join([*self.bystander, *ladder])) + "\n"

    @property
    def lines(self) -> range:
        """Where the ladder stands."""
        first = self.text.split("\n").index(self.ladder[0]) + 1
        return range(first, first + len(self.ladder))

    def corrected(self, rules: tuple[str, ...]) -> str:
        """The text with a correction in the place of the ladder."""
        if rules[0].startswith(("*", "table ")):
            return self.with_ladder([]) + "\n".join([*rules, ""])
        return self.with_ladder(list(rules))

    @property
    def tool(self) -> str:
        """The program that the lines call; "" for none."""
        found = re.search(r"ip6?tables\S*", self.ladder[0])
        return found[0] if found else ""


def _iptables(port: int, to: str, turn: tuple[str, int, int], kind: str) -> str:
    how, number, packet = turn
    where = f"-m tcp --dport {port}"
    missing = "" if kind == "no --packet" else f" --packet {packet}"
    pick = {
        "nth": f"-m statistic --mode nth --every {number}{missing}",
        "draw": f"-m statistic --mode random --probability {1 / max(number, 1):.11f}",
    }.get(how, "")
    parts = [pick, where] if kind == "the pick before the port" else [where, pick]
    return " ".join(f"-p tcp {' '.join(parts)} -j DNAT --to-destination {to}:{port}".split())


def _nft(port: int, to: str, turn: tuple[str, int, int], kind: str) -> str:
    how, number, packet = turn
    pick = {
        "nth": f"numgen inc mod {number} {packet}",
        "draw": f"numgen random mod {number} 0",
    }.get(how, "")
    parts = [pick, f"tcp dport {port}"] if kind == "the pick before the port" else [f"tcp dport {port}", pick]
    return " ".join(f"{' '.join(parts)} dnat to {to}:{port}".split())


MISTAKES = tuple(
    Mistake(kind, form, count)
    for kind in KINDS
    for form in FORMS
    for count in (2, 3, 4)
    if not (form == "nft" and kind == "no --packet")
)
