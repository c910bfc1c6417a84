"""Plan → kernel: one transaction per family, and both families or none.

The kernel takes each table by itself. Where new connections are refused, in the filter table, they must be
so before the nat table lets them pass untranslated, and until it translates them again. So the filter table
first gets what it has and what it will have, then the nat table changes, and last the filter table loses what
is no longer wanted.

Two families are two programs and two calls. A crash between them leaves one as it was, which the next plan
finds among its changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lbctl.errors import ApplyFailed, StateUnknown
from lbctl.model import Change, Program, diff
from lbctl.spi import ensure_fresh
from lbctl_iptables import drivers, layout, script
from lbctl_iptables.counters import restore_counters
from lbctl_iptables.observe import dumps, observe, program
from lbctl_iptables.rules import Dump, DumpedChain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lbctl.host import Host
    from lbctl.model import Plan
    from lbctl_iptables.rules import DumpedRule

_FULLY = " ".join(layout.MASQUERADING)


def apply(host: Host, plan: Plan) -> Program:
    """See `lbctl.spi.Backend.apply`."""
    owner = plan.after.owner
    before = dumps(host, plan.driver, owner)
    ensure_fresh(plan, None, lambda: program(owner, before))
    every = {word: _script(word, plan, dump, plan.changes) for word, dump in before.items()}
    needed = {word: written for word, written in every.items() if written.text}
    for word in list(needed)[1:]:
        # What the kernel would refuse of a later family is found before the first one is touched.
        _load(host, plan.driver, word, needed[word].checkable, check=True)
    done: list[str] = []
    for word, written in needed.items():
        try:
            _load(host, plan.driver, word, written.text)
        except ApplyFailed as error:
            for attempted in (*done, word):
                _undo(host, plan, attempted, error)
            raise
        done.append(word)
    try:
        return observe(host, plan.driver, owner)
    except ApplyFailed as error:
        raise StateUnknown(f"the rules were written, but cannot be read back: {error.message}") from error


def _undo(host: Host, plan: Plan, word: str, cause: ApplyFailed) -> None:
    """Have a family as it was before the plan, whatever part of it was done."""
    try:
        now = dumps(host, plan.driver, plan.after.owner)[word]
        held = program(plan.after.owner, {word: now})
        back = diff(held, Program(plan.after.owner, [i for i in plan.before.items if i.key[0] == word]))
        if text := _script(word, plan, now, back).text:
            _load(host, plan.driver, word, text)
    except ApplyFailed as error:
        raise StateUnknown(
            f"{cause.message}; then {word} could not be reverted: {error.message}",
            hint="lbctl plan shows what the kernel holds now; lbctl apply completes it",
        ) from error


def write(host: Host, plan: Plan) -> None:
    """See `lbctl.spi.Backend.write`."""
    nothing = Dump({}, {}, {})
    for word in layout.WORD.values():
        if text := _script(word, plan, nothing, plan.changes).text:
            _load(host, plan.driver, word, text)


def check(host: Host, driver: str, program: Program) -> None:
    """See `lbctl.spi.Backend.check`."""
    for word, written in scripts(program).items():
        _load(host, driver, word, written.checkable, check=True)


def _load(host: Host, driver: str, word: str, text: str, *, check: bool = False) -> None:
    """Have a driver load a script, without what its iptables lacks: that is asked only where it matters."""
    if _FULLY in text:
        text = script.accepted(text, drivers.ALL[driver].find(host).lacks)
    drivers.load(host, driver, word, text, check=check)


def scripts(program: Program) -> dict[str, FamilyScript]:
    """What brings a program into a kernel that has nothing of it: the script of each family that it is of."""
    changes = diff(Program(program.owner), program)
    nothing = Dump({}, {}, {})
    every = {w: _sections(w, changes, program.owner, nothing, restarts=False) for w in layout.WORD.values()}
    return {word: written for word, written in every.items() if written.text}


class FamilyScript(NamedTuple):
    """The script of one family: what is refused more, the nat table, and then what is refused less."""

    more: str
    nat: str
    less: str

    @property
    def text(self) -> str:
        return "".join(self)

    @property
    def checkable(self) -> str:
        """What can be checked without doing it: the last section may build on the first."""
        return self.more + self.nat if self.more else self.nat + self.less


def _script(word: str, plan: Plan, dump: Dump, changes: Sequence[Change]) -> FamilyScript:
    return _sections(word, changes, plan.after.owner, dump, restarts=drivers.ALL[plan.driver].restarts)


def _sections(
    word: str, changes: Iterable[Change], owner: str, dump: Dump, *, restarts: bool
) -> FamilyScript:
    by_table: dict[str, list[Change]] = {table: [] for table in layout.TABLES}
    for change in changes:
        if change.key[0] == word:
            by_table[change.key[2]].append(change)
    nat, refusals = by_table[layout.NAT], by_table[layout.FILTER]
    more, less = list(_more(refusals)), list(_less(refusals))
    return FamilyScript(
        more=script.section(layout.FILTER, more, _plain(more)) if more else "",
        nat=script.section(layout.NAT, nat, _written(nat, owner, dump, restarts=restarts)) if nat else "",
        less=script.section(layout.FILTER, less, _plain(less)) if less else "",
    )


def _more(changes: Iterable[Change]) -> Iterator[Change]:
    """Yield what leads to the rules of before and after together.

    A jump that changes, since the intent has another mark, is left to the end: until then the one of before
    leads to both.
    """
    for change in changes:
        if change.after is not None and change.before is not None:
            if change.key[1] == "jump":
                continue
            both = dict.fromkeys((*change.after.text.split("\n"), *change.before.text.split("\n")))
            text = "\n".join(filter(None, both))
            if text != change.before.text:
                yield Change(change.before, change.after._replace(text=text))
        elif change.after is not None:
            yield change


def _less(changes: Iterable[Change]) -> Iterator[Change]:
    """Yield what then leads to the rules of after alone."""
    for change in changes:
        if change.before is not None and (
            change.after is None or set(change.before.text.split("\n")) - set(change.after.text.split("\n"))
        ):
            yield change


def _plain(changes: Iterable[Change]) -> dict[str, DumpedChain]:
    """Return the chains that changes write, without counters."""
    return {
        change.key[3]: DumpedChain(change.after.text)
        for change in changes
        if change.key[1] == "chain" and change.after is not None
    }


def _written(changes: Sequence[Change], owner: str, dump: Dump, *, restarts: bool) -> dict[str, DumpedChain]:
    """Return the chains of the nat table to write, with what they take over from those in the kernel."""
    written = _plain(changes)
    gone = {change.key[3] for change in changes if change.key[1] == "chain" and change.after is None}
    chains = {name: chain for (table, name), chain in dump.chains.items() if table == layout.NAT}
    touched = {change.service for change in changes}
    owners = {name: layout.service_of(owner, name, chain.text) for name, chain in chains.items()}
    if restarts:
        # The turn of a ladder is lost in any case; where nothing has come yet there is none to lose.
        touched |= {owners[name] for name, chain in chains.items() if chain.counted or chain.turned} - {None}
    old = {
        name: chain.rules
        for name, chain in chains.items()
        if name in written or name in gone or owners[name] in touched
    }
    if not old:
        return written
    kept = {name: rules for name, rules in old.items() if name not in written and name not in gone}
    carried = restore_counters(owner, {name: chain.rules for name, chain in written.items()} | kept, old)
    return {
        name: DumpedChain.of(rules)
        for name, rules in carried.items()
        if name in written or (rules != old[name] if restarts else _counts(rules) != _counts(old[name]))
    }


def _counts(rules: Iterable[DumpedRule]) -> list[tuple[int, int]]:
    return [(rule.packets, rule.bytes) for rule in rules]
