"""What the kernel was last known to hold, and the proof that it still does.

A backend whose kernel marks each state of its rules (`Backend.generation`) need not read them again while
the mark stands. The memory lasts as long as a `Session`, and between processes in a file of this host's
runtime state, one line a part of the program. Without a mark, or with another one, it is worth nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lbctl.errors import Damaged
from lbctl.model import Item, Program, check_record
from lbctl.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.engine.record.next_hops import NextHops
    from lbctl.host import Host
    from lbctl.model import Deal, Discovered, Effective, Part, Verdicts


#: What 0.1 remembered was not always read back from the kernel.
_FORMAT = 2
#: A part as one line of the file.
_line = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class SessionMemory:
    """What one session knows of the kernel, by store and owner."""

    def __init__(self, host: Host) -> None:
        self._host = host
        #: The program that was compiled last, by backend and owner.
        self.compiled: dict[tuple[str, str], Program] = {}
        #: By owner: the verdicts of this process itself, which then count instead of those on record; and
        #: what was effective last, from which the next is made faster.
        self.verdicts: dict[str, Mapping[str, Verdicts]] = {}
        #: The same of what sources answered.
        self.found: dict[str, Mapping[str, Discovered]] = {}
        #: The same of the slots that it dealt.
        self.dealt: dict[str, Mapping[str, frozenset[Deal]]] = {}
        self.effective: dict[str, Effective] = {}
        #: What was found of the next hops to an owner's endpoints.
        self.next_hops: dict[str, NextHops] = {}
        self._held: dict[tuple[str, str], Program] = {}
        self._unsaved: set[tuple[str, str]] = set()
        #: The generation that the file has of each; of one generation there is only one truth.
        self._saved: dict[tuple[str, str], str | None] = {}

    def recall(self, store: str, owner: str, generation: str | None) -> Program | None:
        """Return what this session itself knows that `store` holds of `owner` at `generation`.

        None for nothing.
        """
        held = self._held.get((store, owner))
        return held if held is not None and held.generation == generation else None

    def load(self, store: str, owner: str, generation: str | None, like: Program) -> Program | None:
        """As `recall`, of what an earlier process saved.

        Parts that `like` has too are the same objects in both: their comparison costs nothing.
        """
        text = self._host.recall(_name(store, owner)) if generation is not None else None
        head, _, body = (text or "").partition("\n")
        if head != _head(generation):
            return None
        known = {_line(part): part for part in like.parts}
        try:
            parts = [known.get(line) or _part(json.loads(line)) for line in body.splitlines()]
        except (ValueError, RecursionError, Damaged):
            return None
        self._saved[store, owner] = generation
        return Program(owner, parts=parts, generation=generation)

    def keep(self, store: str, program: Program) -> None:
        """Remember what the kernel holds, for this session and for `save`."""
        if program.generation is None:
            return
        place = (store, program.owner)
        self._held[place] = program
        if self._saved.get(place) != program.generation:
            self._unsaved.add(place)

    def save(self) -> None:
        """Have later processes know what was kept."""
        for store, owner in self._unsaved:
            held = self._held[store, owner]
            lines = [_head(held.generation), *map(_line, held.parts)]
            self._host.remember(_name(store, owner), "\n".join(lines) + "\n" if held.parts else None)
            self._saved[store, owner] = held.generation
        self._unsaved.clear()


def _name(store: str, owner: str) -> str:
    return f"{owner}.{store}"


def _head(generation: str | None) -> str:
    return json.dumps([__version__, _FORMAT, generation])


def _part(rows: Any) -> Part:
    check_record(rows, [([str], str, str | None)])
    return tuple(Item(tuple(key), text, service) for key, text, service in rows)
