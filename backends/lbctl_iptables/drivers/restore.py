"""Drivers `legacy` and `nf_tables`: the iptables-restore and iptables-save of each flavour."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lbctl.host import Completed, ModuleState, kernel_module

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.host import Host

#: Seconds to wait for another program that holds the xtables lock.
LOCK_SECONDS = 10

_VERSION = re.compile(r"v(?P<version>\d+(?:\.\d+)+)(?: \((?P<flavour>legacy|nf_tables)\))?")


class _Restore:
    name: str
    store: str
    restarts: bool
    _infix: str

    def find(self, host: Host) -> tuple[str | None, str]:
        """See `Driver`."""
        paths = {suffix: self._path(host, "iptables", suffix) for suffix in ("restore", "save")}
        for suffix, path in paths.items():
            if path is None:
                return None, f"no iptables-{suffix} of flavour {self.name} is in PATH"
        reason = self._kernel(host)
        if reason:
            return None, reason
        found = _VERSION.search(host.run([paths["restore"] or "", "--version"]).out)
        return (found["version"] if found else "unknown"), ""

    def save(self, host: Host, word: str) -> Completed:
        """See `Driver`."""
        if not self._has_tables(host, word):
            return Completed(code=0, out="", err="")
        path = self._path(host, word, "save")
        if path is None:
            return Completed(code=1, out="", err=f"no {word}-save of flavour {self.name} is in PATH")
        return host.run([path, "--counters"])

    def load(self, host: Host, word: str, script: str, *, check: bool) -> Completed:
        """See `Driver`."""
        path = self._path(host, word, "restore")
        if path is None:
            return Completed(code=1, out="", err=f"no {word}-restore of flavour {self.name} is in PATH")
        options = ["--noflush", "--counters", "--wait", str(LOCK_SECONDS), *(["--test"] if check else [])]
        return host.run([path, *options], stdin=script)

    def _path(self, host: Host, word: str, suffix: str) -> str | None:
        """The command of our flavour: by its own name, else the plain one where that is of our flavour."""
        exact = host.which(f"{word}-{self._infix}-{suffix}")
        if exact is not None:
            return exact
        plain = host.which(f"{word}-{suffix}")
        if plain is None:
            return None
        # Before 1.8 there was one flavour, and its version named none.
        found = _VERSION.search(host.run([plain, "--version"]).out)
        flavour = (found["flavour"] or "legacy") if found else None
        return plain if flavour == self.name else None

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
    _infix = "nft"

    def _kernel(self, host: Host) -> str:
        missing = kernel_module(host, "nf_tables") is ModuleState.MISSING
        return "this kernel has no nf_tables" if missing else ""

    def _has_tables(self, host: Host, word: str) -> bool:  # noqa: ARG002 (one module serves both families)
        return kernel_module(host, "nf_tables") is not ModuleState.LOADABLE


def legacy_kernel(host: Host) -> str:
    """Why the kernel cannot take rules of the old interface; empty where it can."""
    # Only root may read it.
    if host.exists(tables_file("iptables")):
        return ""
    state = kernel_module(host, "ip_tables")
    return "" if state is ModuleState.LOADABLE else "this kernel has no ip_tables"


def tables_file(word: str) -> str:
    """The file that lists the legacy tables of this network namespace."""
    return f"/proc/thread-self/net/{word.replace('tables', '_tables')}_names"


def legacy_tables(host: Host, word: str) -> Sequence[str]:
    """The legacy tables of a family in this network namespace. Reading any other would make it."""
    return (host.read(tables_file(word)) or "").split()
