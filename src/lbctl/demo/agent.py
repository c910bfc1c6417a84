"""The agent of the demonstration, as a process of its own.

    python -m lbctl.demo.agent BACKEND DRIVER

All that it and the tools below it write lies in a directory in memory, which ends with it. It writes a line
once the rules are in the kernel, and ends when its standard input does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from lbctl import engine
from lbctl.agent.run import Options, run
from lbctl.demo.world import checked_intent
from lbctl.host import LocalHost
from lbctl.host.netns import hide_directory

_RUN = "/run"
_STATE = f"{_RUN}/lbctl-demo"


def main(backend: str, driver: str) -> None:
    """Apply the intent, then follow it until standard input ends."""
    hide_directory(_RUN)
    os.environ["LBCTL_STATE_DIR"] = _STATE
    host, intent = LocalHost(), checked_intent()
    session = engine.open_session(host, backend=backend, driver=driver)
    engine.apply(session, (engine.plan(session, intent),), record=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    print("applied", flush=True)
    run(host, Options(owner=intent.owner, backend=backend, driver=driver))


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(*sys.argv[1:])
