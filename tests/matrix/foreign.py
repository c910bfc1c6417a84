"""lbctl of one release over the tables that another's wrote: after upgrades, with backports, in containers.

Both run in one network namespace, and neither has the other's state. lbctl must do its work, or say by an
error of its own what it cannot do; no command may die of a library's crash.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from lbctl.conformance.network import HOST4
from lbctl.conformance.site import Failed, expect
from lbctl.errors import ApplyFailed, StateUnknown, Unsupported
from matrix import origin
from matrix.platforms import Platform
from matrix.result import Outcome, Verdict
from support.network import Network

#: Exit codes of an error that says what cannot be done, provided that it names the nft that cannot do it.
_REFUSALS = frozenset(error.exit_code for error in (Unsupported, ApplyFailed, StateUnknown))


class _RefusedError(Exception):
    """A command cannot do its work over these tables, and says so."""


def verify(writer: Platform, reader: Platform, driver: str) -> Outcome:
    """Have a driver of nftables of `reader` work over the tables of `writer`, stage by stage."""
    outcomes = [_verify(stage, writer, reader, driver) for stage in (_look, _apply, _migrate, _remove)]
    for verdict in (Verdict.FAILED, Verdict.REFUSED):
        if found := [outcome.reason for outcome in outcomes if outcome.verdict is verdict]:
            return Outcome(verdict=verdict, reason="; ".join(found))
    return Outcome(verdict=Verdict.YES)


def _verify(stage: _Stage, writer: Platform, reader: Platform, driver: str) -> Outcome:
    """Run one stage, over tables that are freshly written."""
    with tempfile.TemporaryDirectory() as folder:
        network = Network(Path(folder))
        network.local_endpoints(map(int, (*origin.HTTP, *origin.HTTPS)))
        config = Path(folder, "origin.toml")
        config.write_text(origin.text(origin.HTTP), encoding="utf-8")
        try:
            _Host(network, writer, config).lbctl("apply", "--yes", "--backend", "nftables")
            stage(_Host(network, reader, config), ("--backend", "nftables", "--driver", driver))
        except Failed as error:
            return Outcome.of(str(error))
        except _RefusedError as error:
            return Outcome(verdict=Verdict.REFUSED, reason=str(error))
        finally:
            network.close()
    return Outcome(verdict=Verdict.YES)


class _Host:
    """The host of a network, as a release's lbctl has it."""

    def __init__(self, network: Network, platform: Platform, config: Path) -> None:
        self._network = network
        self._platform = platform
        self._config = config
        self._state = config.with_name(f"state-{platform.release.name}")

    def lbctl(self, command: str, *words: str) -> None:
        """Run a command; raises `Failed` or `_RefusedError` if it does not succeed."""
        done = self._run(command, *words)
        if done.returncode in _REFUSALS and self._platform.version("nft") in done.stderr:
            raise _RefusedError(f"{command}: {done.stderr.strip()}")
        expect(done.returncode, 0, f"exit code of lbctl {command}: {_last(done)}")

    def in_sync(self, *words: str) -> bool:
        """True if status finds the kernel as the intent says."""
        return self._run("status", "--exit-code", *words).returncode == 0

    def _run(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        with self._network.host.entered():
            return self._platform.run(
                *("-m", "lbctl", command, "--config", str(self._config), *words),
                environment={"LBCTL_STATE_DIR": str(self._state)},
            )

    def clean(self) -> None:
        """Raise `Failed` if a table of lbctl is left."""
        with self._network.host.entered():
            tables = self._platform.tool("nft", "list", "tables")
        expect([line for line in tables.splitlines() if "lbctl" in line], [], "tables after the removal")

    def balances(self) -> None:
        """Raise `Failed` unless both services reach their endpoints alike."""
        for port, endpoints in ((80, origin.HTTP), (443, origin.HTTPS)):
            answers = self._network.ask(self._network.client, HOST4, port, 6)
            expect(Counter(answers), Counter(endpoints * 2), f"answers of port {port}")


def _last(done: subprocess.CompletedProcess[str]) -> str:
    return "\n".join((done.stderr or done.stdout).strip().splitlines()[-2:])


#: What is done on a host with some options that choose a driver. Raises `Failed` or `_RefusedError`.
_Stage: TypeAlias = Callable[[_Host, Sequence[str]], None]


def _look(host: _Host, options: Sequence[str]) -> None:
    for command in ("status", "plan", "doctor"):
        host.lbctl(command, *options)


def _apply(host: _Host, options: Sequence[str]) -> None:
    host.lbctl("apply", "--yes", *options)
    host.lbctl("status", "--exit-code", *options)
    host.balances()


def _migrate(host: _Host, options: Sequence[str]) -> None:
    # Another dialect of nftables, of an older or newer nft, is applied before it is migrated.
    if not host.in_sync(*options):
        host.lbctl("apply", "--yes", *options)
    host.lbctl("migrate", "--to", "iptables", "--yes")
    host.balances()
    host.clean()


def _remove(host: _Host, options: Sequence[str]) -> None:
    host.lbctl("remove", "--yes", *options)
    host.clean()
