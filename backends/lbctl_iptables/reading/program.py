"""The rules of one chain, found by what they ask for, so that a service meets few rules of all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl_iptables.reading import where as w

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl_iptables.reading.meaning import Meaning
    from lbctl_iptables.reading.where import Where

#: Rules of a chain that are asked one by one.
_FEW = 24
#: What a rule asks for: a network, a port, and one more thing.
_Key: TypeAlias = "tuple[w.Net | None, int | None, tuple[str, str | w.Net] | None]"


class _Shape(NamedTuple):
    """Which of these rules ask for: how long the network is, whether a port, and what else."""

    dst: int | None
    port: bool
    #: The name of one more condition, and the length of its network.
    extra: tuple[str, int] | None


class Program:
    """A chain, of whose rules a connection may meet some. `policy` is that of one of the kernel's own."""

    def __init__(self, name: str, meanings: Sequence[Meaning], bits: int, policy: str | None) -> None:
        self.name = name
        self.meanings = [m for m in meanings if m.possible]
        self.policy = policy
        self.bits = bits
        self._index: dict[_Key, list[int]] = {}
        #: Each with what rules of this shape except by, or None for what they are for.
        self._shapes: set[tuple[_Shape, str | None]] = set()
        if len(self.meanings) > _FEW:
            for i, meaning in enumerate(self.meanings):
                self._add(i, meaning)

    def _add(self, i: int, meaning: Meaning) -> None:
        where = meaning.where
        ports: list[int | None] = [None]
        # A rule for many ports is asked by those of all ports.
        if where.dport is not None and sum([b - a + 1 for a, b in where.dport]) <= 32:
            ports = [port for a, b in where.dport for port in range(a, b + 1)]
        shape = _Shape(where.dst[1] if where.dst else None, ports[0] is not None, None)
        extra = None
        if where.extra:
            extra = next(filter(None, (w.exact(pair, self.bits) for pair in where.extra)), None)
        if extra is not None:
            name, value = extra
            if meaning.excepts:
                # Asked by those that are not told apart by it as well.
                self._shapes.add((shape, name))
                for port in ports:
                    self._index.setdefault((where.dst, port, (name, "")), []).append(i)
            shape = shape._replace(extra=(name, 0 if isinstance(value, str) else value[1]))
        self._shapes.add((shape, None))
        for port in ports:
            self._index.setdefault((where.dst, port, extra), []).append(i)

    def candidates(self, given: Where) -> Sequence[Meaning]:
        """The rules that can be for these connections, or except some of them, in their order, and others."""
        if not self._index:
            return self.meanings
        extras = dict(filter(None, (w.exact(pair, self.bits) for pair in given.extra)))
        found: set[int] = set()
        for shape, excepting in self._shapes:
            net = w.around(given.dst, shape.dst, self.bits)
            if shape.dst is not None and net is None:
                continue
            if shape.port and given.dport is None:
                continue
            port = given.dport[0][0] if shape.port and given.dport else None
            extra: tuple[str, str | w.Net] | None = None
            if excepting is not None:
                if w.alone(excepting, extras.get(excepting), self.bits):
                    continue
                extra = (excepting, "")
            elif shape.extra is not None:
                name, length = shape.extra
                value = extras.get(name)
                if isinstance(value, tuple):
                    value = w.around(value, length, self.bits)
                if value is None:
                    continue
                extra = (name, value)
            found.update(self._index.get((net, port, extra), ()))
        return [self.meanings[i] for i in sorted(found)]
