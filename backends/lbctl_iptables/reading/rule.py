"""One rule as a text has it, and the tables that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lbctl.values import dataclass

if TYPE_CHECKING:
    from lbctl.model import Family
    from lbctl_iptables.reading.grammar import Spec


class Store(NamedTuple):
    """Tables that the kernel keeps apart from others: those of one family and flavour."""

    family: Family
    #: True for iptables-legacy, in texts with rules of both flavours.
    legacy: bool = False


@dataclass(slots=True, eq=False)
class IptRule:
    """One rule of a chain."""

    line: int
    #: Verbatim, as the text has it.
    text: str
    #: What a shell makes of it; () for a line of iptables-restore, which says it all.
    words: tuple[str, ...]
    spec: Spec
    table: str
    chain: str
    store: Store
    #: The tool of a command, such as `iptables-legacy`; None for a line of iptables-restore.
    program: str | None = None

    @property
    def family(self) -> Family:
        """The family of its connections."""
        return self.store.family

    @property
    def place(self) -> str:
        """The chain that it is in, as the engine has it."""
        return f"{self.table} {self.chain}"

    @property
    def comment(self) -> str | None:
        """What a person called it."""
        return self.spec.comment

    def key(self) -> object:
        """Return what two rules have in common of which `-D` with either deletes the other."""
        spec = self.spec
        return (
            tuple(sorted(spec.header.items())),
            spec.target,
            spec.goto,
            spec.inverted,
            tuple(spec.matches),
            spec.unprinted,
            tuple(sorted(spec.values.items())),
        )
