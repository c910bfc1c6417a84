"""Killing lbctl: at each of its steps in this process, and at any moment as the process that it is."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from lbctl import engine
from lbctl.config import loads
from lbctl.host import TOOL, Completed, LocalHost
from lbctl.host.netns import Namespace
from lbctl.model import Intent, Program
from support.network import Result, run_lbctl

if TYPE_CHECKING:
    from lbctl.engine import Session

LBCTL = str(Path(sys.executable).with_name("lbctl"))
#: Rules of somebody else in every place where lbctl has its own.
FOREIGN_NFT = """table ip foreign {
    chain nat { type nat hook prerouting priority -90; tcp dport 9 dnat to 10.9.9.9; }
}
table ip6 foreign {
    set kept { type inet_service; elements = { 9, 99 }; }
}
"""
FOREIGN_IPTABLES = """*nat
:FOREIGN - [0:0]
-A FOREIGN -p tcp -m tcp --dport 9 -m statistic --mode nth --every 2 --packet 0 -j RETURN
-A PREROUTING -m comment --comment "somebody's own" -j FOREIGN
COMMIT
*filter
-A FORWARD -p udp -m udp --dport 9 -j DROP
COMMIT
"""


class Killed(BaseException):
    """The process is gone."""


class MortalHost(LocalHost):
    """A host that lets lbctl live for a number of effects.

    An effect is a file that is written or renamed, a program that is handed a text, or one table of such a
    text: iptables-restore commits each by itself, and may be killed between two.
    """

    def __init__(self, folder: Path, effects: int) -> None:
        super().__init__(folder)
        self.left = effects

    def _spend(self) -> None:
        if not self.left:
            raise Killed
        self.left -= 1

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        if not stdin or "--test" in argv or "--check" in argv:
            return super().run(argv, stdin=stdin)
        self._spend()
        if argv[0].endswith("-restore"):
            tables = stdin.split("COMMIT\n")[:-1]
            for number in range(1, len(tables)):
                if not self.left:
                    super().run(argv, stdin="".join([f"{table}COMMIT\n" for table in tables[:number]]))
                self._spend()
        return super().run(argv, stdin=stdin)

    def module(self, name: str) -> ModuleType | None:
        real = super().module(name)
        if name != "nftables" or real is None:
            return real
        made = ModuleType(name)
        made.__file__ = real.__file__
        made.Nftables = lambda: self._library(real.Nftables())  # type: ignore[attr-defined]
        return made

    def _library(self, real: Any) -> SimpleNamespace:
        def cmd(text: str) -> Any:
            if not text.startswith("list") and not real.get_dry_run():
                self._spend()
            return real.cmd(text)

        names = [name for name in dir(real) if name.startswith("set_")]
        return SimpleNamespace(cmd=cmd, **{name: getattr(real, name) for name in names})

    def save(self, name: str, text: str | None) -> None:
        self._spend()
        super().save(name, text)

    def rename(self, name: str, new: str) -> None:
        self._spend()
        super().rename(name, new)

    def remember(self, name: str, text: str | None) -> None:
        # What a probe found of a library belongs to no change.
        if not name.startswith(TOOL):
            self._spend()
        super().remember(name, text)


@dataclass
class Scene:
    """A host with rules of somebody else, and with ours, by one way to the kernel."""

    folder: Path
    way: tuple[str, ...]

    def __post_init__(self) -> None:
        self.namespace = Namespace(LocalHost(self.folder))
        run = self.namespace.run
        self.namespace.address("lo", "192.0.2.1/24", "2001:db8::1/64")
        run("nft", "-f", "-", stdin=FOREIGN_NFT)
        for word in ("iptables", "ip6tables"):
            for flavour in ("legacy", "nft"):
                run(f"{word}-{flavour}-restore", "--noflush", stdin=FOREIGN_IPTABLES)
        self.others = self.foreign()
        with self.namespace.entered():
            self.reader = self.session()

    def by(self, way: tuple[str, ...]) -> Scene:
        """The same host by another way."""
        same = copy(self)
        same.way = way
        with same.namespace.entered():
            same.reader = same.session()
        return same

    def session(self, host: LocalHost | None = None) -> Session:
        return engine.open_session(host or LocalHost(self.folder), backend=self.way[1], driver=self.way[3])

    def foreign(self) -> str:
        """All rules that are not lbctl's, byte for byte; of chains not what passed through them by itself."""
        run = self.namespace.run
        texts = [run("nft", "list", "table", family, "foreign") for family in ("ip", "ip6")]
        for word in ("iptables", "ip6tables"):
            for flavour in ("legacy", "nft"):
                lines = run(f"{word}-{flavour}-save").splitlines()
                kept = [line.partition(" [")[0] if line[:1] == ":" else line for line in lines]
                texts += [line for line in kept if line[:1] != "#" and "LBCTL" not in line]
        return "\n".join(texts)

    def apply(self, text: str) -> None:
        """Bring an intent about that is then on record, without a process."""
        with self.namespace.entered():
            plan = engine.plan(self.reader, loads(text, "intent"))
            engine.apply(self.reader, (plan,), record=True)

    def lbctl(self, *words: str, config: str | None = None) -> Result:
        """Run the real program, in this process."""
        with self.namespace.entered():
            return run_lbctl(*words, *self._config(config), env={"LBCTL_STATE_DIR": str(self.folder)})

    def start(self, *words: str, config: str | None = None) -> subprocess.Popen[bytes]:
        """Start the real program as a process, in a session of its own."""
        with self.namespace.entered():
            return subprocess.Popen(
                [LBCTL, *words, *self._config(config)],
                env={**os.environ, "LBCTL_STATE_DIR": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _config(self, text: str | None) -> tuple[str, ...]:
        if text is None:
            return ()
        path = self.folder / "lbctl.toml"
        path.write_text(text)
        return "--config", str(path)

    @property
    def held(self) -> Program:
        """What the kernel holds once nobody is at work."""
        with self.namespace.entered(), self.reader.host.lock("lbctl", patience=20):
            return self.reader.observe("lbctl")

    def compiled(self, intent: Intent) -> Program:
        with self.namespace.entered():
            return self.reader.compile(intent)

    @property
    def on_record(self) -> Intent:
        with self.namespace.entered():
            return engine.entries(LocalHost(self.folder), "lbctl")[-1].intent

    @property
    def is_pending(self) -> bool:
        with self.namespace.entered():
            return engine.pending(LocalHost(self.folder), "lbctl") is not None

    def close(self) -> None:
        self.namespace.close()


@dataclass
class Killer:
    """Kills processes of lbctl at random: half of them at any moment, half while they change the kernel."""

    scene: Scene
    dice: random.Random
    #: Seconds that a command takes, and of these from writing down what it changes until that is done.
    whole: float = 1.0
    critical: float = 0.1

    def __post_init__(self) -> None:
        [first] = self.scene.folder.rglob("lbctl.000001")
        self._file = first.with_name("lbctl.pending")

    def measure(self, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        """Learn from one command how long it takes."""
        began = time.monotonic()
        process = start()
        self._await(process, pending=True)
        wrote = time.monotonic()
        self._await(process, pending=False)
        self.critical = time.monotonic() - wrote
        assert process.wait() == 0
        self.whole = time.monotonic() - began

    def kill(self, process: subprocess.Popen[bytes]) -> bool:
        """Kill a process and all that it started, or at times it alone; False where it was done before."""
        if self.dice.random() < 0.5:
            time.sleep(self.dice.uniform(0, self.whole))
        else:
            self._await(process, pending=True)
            time.sleep(self.dice.uniform(0, self.critical))
        running = process.poll() is None
        if self.dice.random() < 0.25:
            process.kill()
        else:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return running

    def _await(self, process: subprocess.Popen[bytes], *, pending: bool) -> None:
        """Wait until something is pending, or nothing is, or a process is over."""
        while process.poll() is None and pending != self._file.exists():
            time.sleep(0.0002)
