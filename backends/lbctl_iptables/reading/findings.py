"""What is wrong with rules: its consequence in numbers and, where one can say, the rules that are right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl_iptables.reading import where as w
from lbctl_iptables.reading.meaning import Marked

if TYPE_CHECKING:
    from lbctl.model import Family
    from lbctl_iptables.reading.meaning import Meaning
    from lbctl_iptables.reading.reader import Found
    from lbctl_iptables.reading.ruleset import Log
    from lbctl_iptables.reading.where import Where


def shown(text: str) -> str:
    """A name of the text for a sentence: printable, and cut."""
    made = text.encode("unicode_escape").decode("ascii")
    return made if len(made) <= 60 else made[:57] + "..."


def words(where: Where, family: Family) -> str:
    """Connections in words."""
    parts = [f"{where.protocol} connections" if where.protocol else "connections"]
    if where.dst is not None:
        parts.append(f"to {w.show_net(where.dst, family)}")
    if where.dport is not None:
        parts.append(f"to port {w.show_ports(where.dport)}")
    parts += [f"with {name} {shown(value)}" for name, value in where.extra]
    return " ".join(parts)


def asks_mark(meaning: Meaning) -> bool:
    return any(isinstance(step, Marked) for step in meaning.steps)


def of_rules(meanings: list[Meaning], log: Log) -> None:
    pass


def of_services(found: list[Found], movers: dict[Meaning, dict[Where, None]], log: Log) -> None:
    pass
