"""What it costs to load many services into the kernel and to change them, compared with the tool alone.

In turns, each in a fresh network namespace:

- kernel part: from the text of our script to applied, through our driver;
- tool: `nft -f`, or `iptables-legacy-restore`, of the very same text;
- first apply: `lbctl apply --yes` from the intent file, with all its reading, checking and comparing;
- no change: the same once more, where nothing is to be changed;
- delta: the same with one endpoint's address changed in the file;
- reading: `nft -j list table`, or `iptables-legacy-save`, of what is there: the least that a program needs to
  see that nothing has changed;
- delta in memory: one endpoint's address changed through the Python API, by a process that keeps its session
  (nftables only: of iptables the rules must be read each time).

Ends without figures if "no change" wrote something, or if a changed endpoint is more than a few elements.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sides import ENDPOINTS, SIDES, Side, intent_text, moved
from timing import Spent, fresh, run, timed

from lbctl.config import load, loads
from lbctl.engine import apply, open_session, plan
from lbctl.host import LocalHost
from lbctl_nftables import generation
from lbctl_nftables.script import transactions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from programs import Programs
    from sizes import Size

    from lbctl.model import Intent

T = TypeVar("T")
KERNEL, TOOL, FIRST, SAME, DELTA, READING = (
    "kernel part",
    "tool",
    "first apply",
    "no change",
    "delta",
    "reading",
)
IN_MEMORY = "delta in memory"


def apart(work: Callable[[], T]) -> T:
    """The result of a call in a process of its own, which leaves nothing behind in this one."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(work()))
    process.start()
    sender.close()
    result: T = receiver.recv()
    process.join()
    return result


def deltas(host: LocalHost, row: Spent, intent: Intent, changes: int) -> None:
    """Some changes of one endpoint, with the session kept; each loads a few elements."""
    session = open_session(host, backend="nftables")
    apply(session, (plan(session, intent),))

    def change(wanted: Intent) -> None:
        made = plan(session, wanted)
        apply(session, (made,))
        text = "".join(transactions(wanted.owner, made.changes, made.after))
        if text.count(" : ") + text.count("delete element") > 4:
            sys.exit(f"more than four elements for one endpoint:\n{text}")

    for number in range(changes):
        intent = moved(intent, number)
        row.note(*timed(partial(change, intent)))


def refusing(folder: Path) -> Mapping[str, str]:
    """An environment in which iptables rules can be read and not written."""
    folder.mkdir()
    real, refuser = shutil.which("iptables-legacy-restore"), folder / "iptables-legacy-restore"
    refuser.write_text(f'#!/bin/sh\n[ "$*" = --version ] && exec {real} --version\nexit 1\n')
    refuser.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def prepare(side: Side, services: int, folder: Path) -> None:
    """Write what is loaded: the intent, the same with one endpoint elsewhere, and our rules."""
    text = intent_text(services)
    (folder / "lbctl.toml").write_text(text)
    (folder / "other.toml").write_text(text.replace('"10.1.0.1:', '"10.2.0.1:', 1))
    (folder / "ours").write_text(side.script(LocalHost(), loads(text)))


def measure(side: Side, services: int, runs: int, folder: Path) -> Mapping[str, Spent]:
    host = LocalHost()
    rows: defaultdict[str, Spent] = defaultdict(Spent)
    apart(lambda: prepare(side, services, folder))
    file, other, ours = (folder / name for name in ("lbctl.toml", "other.toml", "ours"))

    def kernel_part() -> tuple[float, float]:
        text = ours.read_text()
        # By a host of its own: that the driver frees what it keeps for the next time is measured too.
        return timed(lambda: side.load(LocalHost(), text))

    unwritable = refusing(folder / "refusing")
    options = ("--yes", "--backend", side.backend.name, "--driver", side.driver, "--config")
    lbctl = (sys.executable, "-m", "lbctl", "apply", *options)
    for _ in range(runs):
        with fresh(host):
            rows[KERNEL].note(*apart(kernel_part))
        with fresh(host):
            run(rows[TOOL], *side.tool, str(ours))
        with fresh(host):
            run(rows[FIRST], *lbctl, str(file))
            before = generation.read(host)
            run(rows[SAME], *lbctl, str(file), env=unwritable)
            if generation.read(host) != before:
                sys.exit("without a change, something was written")
            run(rows[DELTA], *lbctl, str(other))
            run(rows[READING], *side.reader)
    if side.backend is SIDES["nftables"].backend:
        with fresh(host):
            deltas(LocalHost(), rows[IN_MEMORY], load(file), max(9, runs))
    return rows


def part(size: Size, _: Programs, folder: Path) -> dict[str, Any]:
    """Both backends: what was done → seconds."""
    found = {}
    for name, side in SIDES.items():
        (folder / name).mkdir()
        rows = measure(side, size.services, size.load_runs, folder / name)
        found[name] = {what: row.as_json() for what, row in rows.items()}
    return {"services": size.services, "endpoints": ENDPOINTS, "backends": found}
