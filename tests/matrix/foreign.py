"""lbctl of one release over the tables that another's wrote: after upgrades, with backports, in containers.

Both run in one network namespace, and neither has the other's state. lbctl must do its work, or say by an
error of its own what it cannot do; no command may die of a library's crash.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections import Counter
from pathlib import Path

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
    """Have a driver of nftables of `reader` work over the tables of `writer`."""
    with tempfile.TemporaryDirectory() as folder:
        network = Network(Path(folder))
        network.local_endpoints(map(int, (*origin.HTTP, *origin.HTTPS)))
        config = Path(folder, "origin.toml")
        config.write_text(origin.text(origin.HTTP), encoding="utf-8")
        try:
            _life(_Host(network, writer, config), _Host(network, reader, config), driver)
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
        with self._network.host.entered():
            done = self._platform.run(
                *("-m", "lbctl", command, "--config", str(self._config), *words),
                environment={"LBCTL_STATE_DIR": str(self._state)},
            )
        if done.returncode in _REFUSALS and self._platform.version("nft") in done.stderr:
            raise _RefusedError(f"{command}: {done.stderr.strip()}")
        expect(done.returncode, 0, f"exit code of lbctl {command}: {_last(done)}")

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


def _life(writer: _Host, reader: _Host, driver: str) -> None:
    options = ("--backend", "nftables", "--driver", driver)
    writer.lbctl("apply", "--yes", "--backend", "nftables")
    for looking in ("status", "plan", "doctor"):
        reader.lbctl(looking, *options)
    reader.lbctl("apply", "--yes", *options)
    reader.lbctl("status", "--exit-code", *options)
    reader.balances()
    reader.lbctl("migrate", "--to", "iptables", "--yes")
    reader.balances()
    # Tables of the other release again, for the removal.
    reader.lbctl("remove", "--yes")
    writer.lbctl("apply", "--yes", "--backend", "nftables")
    reader.lbctl("remove", "--yes", *options)
    reader.clean()
