"""Tools that write something else than they are told, or die: lbctl has to find out and to undo it.

A program stands before the real tool in PATH and behaves as the file `mode` beside it says.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

_PROGRAM = """#!{python} -S
import os, re, signal, subprocess, sys


def turned(found):
    return chr(9) + str(int.from_bytes(int(found[1]).to_bytes(4, "little"), "big")) + " comment"


mode = open({mode!r}).read()
argv = [{tool!r}, *sys.argv[1:]]
if {loads!r} not in argv:
    os.execv(argv[0], argv)
text = sys.stdin.read()
if "--check" in argv or "--test" in argv or ("lbctl-.probe-" in text and mode != "swap always"):
    mode = "right"
if mode.startswith("swap"):
    # As nft 1.1.7 does: the bytes of a key in the other order.
    text = re.sub(r"^\\t(\\d+) comment", turned, text, flags=re.M)
    text = text.replace("--to-ports 8001", "--to-ports 8009")
if mode == "die before":
    os.kill(os.getpid(), signal.SIGSEGV)
done = subprocess.run(argv, input=text, text=True)
if mode == "die after":
    os.kill(os.getpid(), signal.SIGSEGV)
sys.exit(done.returncode)
"""


class FaultyTool:
    """A tool of this host behind a program that changes what it is told."""

    def __init__(self, folder: Path, tool: str, loads: str) -> None:
        self.folder = folder / "faulty"
        self.folder.mkdir()
        self._mode = self.folder / "mode"
        real = shutil.which(tool)
        assert real is not None
        path = self.folder / tool
        path.write_text(_PROGRAM.format(python=sys.executable, mode=str(self._mode), tool=real, loads=loads))
        path.chmod(0o755)
        self.behave("right")

    def behave(self, mode: str) -> None:
        """From now on: right, swap (not while it is probed), swap always, die before or die after."""
        self._mode.write_text(mode)

    @property
    def env(self) -> dict[str, str]:
        """The environment in which the faulty tool is found first."""
        return {"PATH": f"{self.folder}:{os.environ['PATH']}"}
