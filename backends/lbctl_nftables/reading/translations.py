"""`dnat`, `snat`, `redirect` and `masquerade` → rules of the engine, with the endpoints of each."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from lbctl_netfilter.conditions import BITS, address, spans_rest
from lbctl_netfilter.ir import Act, Branch, Draw, Switch
from lbctl_nftables import layout
from lbctl_nftables.reading.picks import pick_of
from lbctl_nftables.reading.syntax import Lookup, NumberExpression, UnsupportedSyntax
from lbctl_nftables.reading.values import ask, host_of, numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lbctl.model import Family
    from lbctl_netfilter.conditions import Span
    from lbctl_netfilter.draft import Draft
    from lbctl_netfilter.ir import Rule
    from lbctl_nftables.reading.lookups import Lookups
    from lbctl_nftables.reading.syntax import Element, Nat, Operand

#: More choices of one rule than this are not followed one by one.
WIDEST = 4096
_ONE = Fraction(1)


class NoEndpoint(Exception):
    """An endpoint that is none: what, and why."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(reason)
        self.what, self.reason = what, reason


class Translations:
    """Lowers the translations of one table for one family. `make` adds a rule of the engine."""

    def __init__(self, lookups: Lookups, family: Family, *, both: bool, make: Callable[..., Rule]) -> None:
        self._lookups = lookups
        self._family = family
        self._bits = BITS[family]
        #: True for a table of both families.
        self._both = both
        self._make = make
        #: Where the statement that is lowered stands.
        self._place: object = None

    def lower(self, draft: Draft, nat: Nat, place: object) -> None:
        """Add the rules for a translation at a place; raise `NoEndpoint`, `UnsupportedSyntax`."""
        self._place = place
        if not self._is_for(nat):
            # The kernel picks first, and only then sees that it is for the other family.
            for number, pick in enumerate(nat.picks):
                draft.step(Draw(pick_of(pick, (place, number)), spans_rest((), pick.modulus - 1)))
            if draft.picks:
                self._make(draft, Act.GO_ON)
        elif nat.kind == "masquerade":
            self._endpoints(draft, nat, [("masquerade", _ONE)])
        elif isinstance(nat.address, NumberExpression) or isinstance(nat.port, NumberExpression):
            self._unknown(
                draft, nat, "numgen", "a picked number used as a port is byte-swapped by the kernel"
            )
        elif len(nat.picks) > 1:
            self._unknown(draft, nat, "map", "address and port are picked independently")
        else:
            self._to_each(draft, nat, nat.address, nat.port)

    def _is_for(self, nat: Nat) -> bool:
        """Return False for a statement of the other family, which a table of both may hold."""
        word = layout.WORD[self._family]
        if nat.family:
            return nat.family == word
        if not self._both or nat.address is None or isinstance(nat.address, NumberExpression):
            return True
        found: list[Operand] = [nat.address]
        if isinstance(nat.address, Lookup):
            members = self._lookups.members(nat.address.members)
            found = [element.data for element in members if isinstance(element.data, tuple)]
        hosts = [each[0] for each in found if isinstance(each, tuple)]
        return not found or any((":" in host) == (word == "ip6") for host in hosts)

    def _unknown(self, draft: Draft, nat: Nat, what: str, reason: str) -> None:
        draft.remarks += ("unsupported-target",)
        draft.cannot(what, reason)
        self._make(draft, Act.UNKNOWN, nat.kind)

    def _to_each(self, draft: Draft, nat: Nat, host: Operand | None, port: Operand | None) -> None:
        """Add a rule for each element of the look-ups by fields; look up by a picked number last."""
        lookups = [each for each in (host, port) if isinstance(each, Lookup)]
        if not lookups:
            self._to(draft, nat, *_host_and_port(nat, host, port))
            return
        lookup = next((each for each in lookups if not isinstance(each.key, NumberExpression)), None)
        if lookup is not None:
            memory = self._lookups.memory(lookup.members)
            if memory is not None:
                draft.step(memory)
                self._make(draft, Act.GO_ON)
                return
            for conditions, element in self._lookups.entries(lookup.key, lookup.members):
                if isinstance(element.data, tuple):
                    made = draft.fork()
                    ask(made, conditions)
                    made.element = element.text
                    if made.possible:
                        data = element.data
                        parts = [data if each is lookup else each for each in (host, port)]
                        self._to_each(made, nat, *parts)
        else:
            self._to_picked(draft, nat, lookups[0], host, port)

    def _to_picked(
        self, draft: Draft, nat: Nat, lookup: Lookup, host: Operand | None, port: Operand | None
    ) -> None:
        pick = lookup.key
        assert isinstance(pick, NumberExpression)  # noqa: S101 (that is what it is called for)

        def target(element: Element) -> Branch | None:
            data = element.data
            if not isinstance(data, tuple):
                return None
            parts = [data if each is lookup else each for each in (host, port)]
            to = self._endpoint(nat, *_host_and_port(nat, *parts))
            return Branch(Act.TO, to, element.comment or None)

        cases = self._lookups.cases(draft, pick, lookup.members, target)
        # The only pick of the statement.
        switch = Switch(pick_of(pick, (self._place, 0)), cases)
        self._make(draft, Act.SWITCH, nat.kind, switch).action = _action(nat)

    def _to(self, draft: Draft, nat: Nat, host: str | None, port: str | None) -> None:
        if host is not None and ("-" in host or "/" in host):
            low, high = self._span("dst", host)
            hosts = [str(address(low + n, self._bits)) for n in range(_count(low, high))]
            part = Fraction(1, len(hosts))
            rule = self._endpoints(draft, nat, [(self._endpoint(nat, each, port), part) for each in hosts])
            rule.own_mode = "hash"
            persistent = "persistent" in nat.flags
            rule.by = "source address" if persistent else "source and destination address"
            rule.remarks += ("snat-pool" if nat.kind == "snat" else "dnat-range",)
        elif port is None or "-" not in port:
            self._endpoints(draft, nat, [(self._endpoint(nat, host, port), _ONE)])
        elif nat.kind == "snat":
            # Ports of sources are no endpoints.
            self._endpoints(draft, nat, [(self._endpoint(nat, host, None), _ONE)])
        elif "random" in nat.flags or "fully-random" in nat.flags:
            low, high = self._span("dport", port)
            part = Fraction(1, _count(low, high))
            ports = [(self._endpoint(nat, host, str(n)), part) for n in range(low, high + 1)]
            self._endpoints(draft, nat, ports).own_mode = "random"
        else:
            low, high = self._span("dport", port)
            rule = self._endpoints(draft, nat, [(self._endpoint(nat, host, str(low)), _ONE)])
            rule.ports = (low, high)
            rule.remarks += ("port-range-target",)

    def _endpoints(self, draft: Draft, nat: Nat, to: Sequence[tuple[str, Fraction]]) -> Rule:
        rule = self._make(draft, Act.TO, nat.kind)
        rule.action, rule.to = _action(nat), tuple(to)
        return rule

    def _endpoint(self, nat: Nat, host: str | None, port: str | None) -> str:
        """Return an endpoint as it is shown; raise `NoEndpoint` for what is none."""
        try:
            shown = host_of(host, self._family) if host is not None else ""
            if shown is None:
                raise NoEndpoint("family-mismatch", f"{host} is not an {self._family} address")
            number = self._span("dport", port)[0] if port is not None else None
        except UnsupportedSyntax as unsupported:
            raise NoEndpoint("target", f"{unsupported} is neither an address nor a port") from unsupported
        if number is None:
            return shown or "local"
        if not shown:
            return str(number) if nat.kind == "redirect" else f":{number}"
        return f"[{shown}]:{number}" if ":" in shown else f"{shown}:{number}"

    def _span(self, field: str, text: str) -> Span:
        """Return the first and last value of a range; raise `UnsupportedSyntax`."""
        found = numbers(field, text, self._family)
        if found is None:
            raise UnsupportedSyntax(text)
        return found


def _count(low: int, high: int) -> int:
    if high - low >= WIDEST:
        raise UnsupportedSyntax(f"a choice of {high - low + 1}")
    return high - low + 1


def _action(nat: Nat) -> str:
    return "snat" if nat.kind == "masquerade" else nat.kind


def _host_and_port(nat: Nat, host: Operand | None, port: Operand | None) -> tuple[str | None, str | None]:
    """Return the address and port of a translation of which nothing is left to look up."""
    if not isinstance(host, tuple):
        return None, port[-1] if isinstance(port, tuple) else None
    if not isinstance(port, tuple):
        if nat.kind == "redirect":
            return None, host[0]
        return host[0], host[1] if len(host) == 2 else None
    return host[0], port[-1]
