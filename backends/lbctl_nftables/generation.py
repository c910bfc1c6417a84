"""The kernel's own mark of its rules: a number that every transaction moves on by one, whoever makes it.

It is the cheapest honest proof that nothing has changed. The number starts anew with each network namespace;
that one's identity belongs to the mark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.host import rules_generation
from lbctl.values import dataclass

if TYPE_CHECKING:
    from lbctl.host import Host


@dataclass(frozen=True, slots=True)
class Generation:
    """The rules of one network namespace after `number` transactions."""

    namespace: str
    number: int

    def after(self, transactions: int) -> Generation:
        """Return what the generation is after transactions of ours, and of nobody else."""
        return Generation(self.namespace, self.number + transactions)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.number}"


def read(host: Host) -> Generation | None:
    """Return the generation of now; None where the kernel does not tell, or cannot name its namespace."""
    namespace = host.namespace()
    number = None if namespace is None else rules_generation(host)
    return None if namespace is None or number is None else Generation(namespace, number)


def generation(host: Host, driver: str) -> str | None:  # noqa: ARG001 (the protocol's)
    """See `lbctl.spi.Backend.generation`."""
    now = read(host)
    return None if now is None else str(now)
