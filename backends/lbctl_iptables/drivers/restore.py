"""Drivers `legacy` and `nf_tables`: the iptables-restore and iptables-save of each flavour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.host import Completed, ModuleState, kernel_module, reported_version, rules_tables
from lbctl.host.nf_tables import expect_tables
from lbctl.values import dataclass
from lbctl_iptables import layout
from lbctl_iptables.dialect import Feature, Release
from lbctl_iptables.drivers.found import DriverProbe
from lbctl_iptables.xtables import LOCK_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lbctl.host import Host

_SUFFIXES = ("restore", "save")
_FIRST, *_OTHERS = layout.WORD.values()
#: The families of nf_tables, by the words of iptables.
_NFT_FAMILY = {"iptables": "ip", "ip6tables": "ip6"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tool:
    """A command of the right flavour.

    `release` is None for a command that was not asked: a name with a flavour in it is of 1.8 or later.
    """

    path: str
    release: Release | None = None

    def lacks(self, feature: Feature) -> bool:
        """Return True for a feature that this release does not have."""
        return self.release is not None and feature in self.release.lacks


class _Restore:
    name: str
    store: str
    restarts: bool
    _infix: str

    def find(self, host: Host) -> DriverProbe:
        """See `Driver`."""
        tools = {suffix: self._tool(host, _FIRST, suffix) for suffix in _SUFFIXES}
        for suffix, tool in tools.items():
            if tool is None:
                return DriverProbe(reason=f"no {_FIRST}-{suffix} of flavour {self.name} is in PATH")
        if reason := self._kernel(host):
            return DriverProbe(reason=reason)
        tool = tools["restore"]
        release = (tool and tool.release) or _release(host, _FIRST, tool.path if tool else "")
        families = frozenset(layout.FAMILY[word] for word in layout.WORD.values() if self._has(host, word))
        if release is None:
            return DriverProbe(version="unknown", families=families)
        lacks = release.lacks
        if tool is not None and Feature.WAIT in lacks and _waits(host, tool):
            lacks -= {Feature.WAIT}
        note = f"iptables-restore {release.text} takes no lock" if Feature.WAIT in lacks else ""
        return DriverProbe(version=release.text, lacks=lacks, families=families, note=note)

    def expect(self, host: Host, words: Iterable[str]) -> None:
        """See `Driver`."""
        every = tuple(words)
        self._expect_tables(host, len(every))
        tools = [self._tool(host, word, "save") for word in every if self._has_tables(host, word)]
        host.expect(runs=[_saving(tool) for tool in tools if tool is not None])

    def _expect_tables(self, host: Host, families: int) -> None:
        """Have the host know that `_has_tables` is asked next, twice for each of so many families."""

    def save(self, host: Host, word: str) -> Completed:
        """See `Driver`."""
        if not self._has_tables(host, word):
            return Completed(code=0, out="", err="")
        tool = self._tool(host, word, "save")
        if tool is None:
            # Some systems pack ip6tables apart: without it lbctl writes no IPv6 rule and reads none.
            code, err = int(word not in _OTHERS), f"no {word}-save of flavour {self.name} is in PATH"
            return Completed(code=code, out="", err=err)
        return host.run(_saving(tool))

    def load(self, host: Host, word: str, script: str, *, check: bool) -> Completed:
        """See `Driver`."""
        tool = self._tool(host, word, "restore")
        if tool is None:
            return Completed(code=1, out="", err=f"no {word}-restore of flavour {self.name} is in PATH")
        wait = ["--wait", str(LOCK_SECONDS)] if _waits(host, tool) else []
        return host.run(
            [tool.path, "--noflush", "--counters", *wait, *(["--test"] if check else [])], stdin=script
        )

    def _tool(self, host: Host, word: str, suffix: str) -> _Tool | None:
        """The command of our flavour: by its own name, else the plain one where that is of our flavour."""
        exact = host.which(f"{word}-{self._infix}-{suffix}")
        if exact is not None:
            return _Tool(path=exact)
        plain = host.which(f"{word}-{suffix}")
        if plain is None:
            return None
        release = _release(host, word, plain)
        return _Tool(path=plain, release=release) if release and release.flavour == self.name else None

    def _has(self, host: Host, word: str) -> bool:
        """Return True if there are commands for a family, as far as names say it."""
        return all(
            host.which(f"{word}-{self._infix}-{suffix}") or host.which(f"{word}-{suffix}")
            for suffix in _SUFFIXES
        )

    def _kernel(self, host: Host) -> str:
        """Why the kernel cannot take this flavour; empty where it can."""
        raise NotImplementedError

    def _has_tables(self, host: Host, word: str) -> bool:
        """False where there is no table at all: looking for one might load a module."""
        raise NotImplementedError


class Legacy(_Restore):
    """The flavour that speaks the old xtables interface."""

    name = "legacy"
    store = "iptables-legacy"
    restarts = True
    counted = False
    _infix = "legacy"

    def _kernel(self, host: Host) -> str:
        return legacy_kernel(host)

    def _has_tables(self, host: Host, word: str) -> bool:
        return bool(legacy_tables(host, word))


class NfTables(_Restore):
    """The flavour that stores its rules in nf_tables."""

    name = "nf_tables"
    store = "iptables-nft"
    restarts = False
    counted = True
    _infix = "nft"

    def _kernel(self, host: Host) -> str:
        missing = kernel_module(host, "nf_tables") is ModuleState.MISSING
        return "this kernel has no nf_tables" if missing else ""

    def _expect_tables(self, host: Host, families: int) -> None:
        if kernel_module(host, "nf_tables") is not ModuleState.LOADABLE:
            expect_tables(host, 2 * families)

    def _has_tables(self, host: Host, word: str) -> bool:
        if kernel_module(host, "nf_tables") is ModuleState.LOADABLE:
            return False
        tables = rules_tables(host)
        return tables is None or any((_NFT_FAMILY[word], name) in tables for name in layout.BUILT_IN)


def _saving(tool: _Tool) -> list[str]:
    return [tool.path, "--counters"]


def _release(host: Host, word: str, path: str) -> Release | None:
    """Return the release of a command. Before 1.6.2, only `iptables` itself answers (`RESTORE_VERSION`)."""
    release = Release.answering(reported_version(host, path))
    main = host.which(word) if release is None else None
    return Release.answering(reported_version(host, main)) if main else release


def _waits(host: Host, tool: _Tool) -> bool:
    """Return True for an iptables-restore that waits for the lock.

    Distributions carried that back: it is asked.
    """
    if not tool.lacks(Feature.WAIT):
        return True
    usage = host.run([tool.path, "--help"])
    return "--wait" in usage.out + usage.err


def legacy_kernel(host: Host) -> str:
    """Why the kernel cannot take rules of the old interface; empty where it can."""
    # Only root may read it.
    if host.exists(tables_file("iptables")):
        return ""
    state = kernel_module(host, "ip_tables")
    return "" if state is ModuleState.LOADABLE else "this kernel has no ip_tables"


def tables_file(word: str) -> str:
    """Return the file that lists the legacy tables of this network namespace."""
    return f"/proc/thread-self/net/{word.replace('tables', '_tables')}_names"


def legacy_tables(host: Host, word: str) -> Sequence[str]:
    """Return the legacy tables of a family in this network namespace. Reading any other would make it."""
    return (host.read(tables_file(word)) or "").split()
