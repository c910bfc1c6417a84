"""Where ssh leads: `[USER@]HOST[:PORT]`, and nothing else that ssh, or a shell, would understand."""

from __future__ import annotations

import re

from lbctl.errors import WrongUsage
from lbctl.model import inert
from lbctl.values import dataclass

_WRITTEN = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63})@)?"
    r"(?:\[(?P<address>[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9_.-]{1,15})?)\]|(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A host as ssh finds it: by a name, an address or an alias of the user's configuration."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def of(cls, text: str) -> Destination:
        """Return the destination that a text names; raises `WrongUsage`."""
        found = _WRITTEN.fullmatch(text)
        port = int(found["port"]) if found and found["port"] else None
        if found is None or (port is not None and not 1 <= port <= 65535):
            raise WrongUsage(
                f'"{inert(text)}" is not a destination of ssh',
                hint="[USER@]HOST[:PORT], e.g. admin@lb1.example.net or [2001:db8::1]:22",
            )
        return cls(host=found["address"] or found["name"], user=found["user"], port=port)

    def words(self) -> tuple[str, ...]:
        """Return the words by which ssh takes it, options first."""
        user = () if self.user is None else ("-l", self.user)
        port = () if self.port is None else ("-p", str(self.port))
        return (*user, *port, "--", self.host)

    def __str__(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{'' if self.user is None else f'{self.user}@'}{name}{port}"
