"""Tools that do something else than they are told: what lbctl says and leaves behind is then the question.

The liar stands before the real tool in PATH and behaves as the file `mode` beside it says.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

_LIAR = """#!{python} -S
import os, re, signal, subprocess, sys

mode = open({mode!r}).read()
argv = [{tool!r}, *sys.argv[1:]]
text = sys.stdin.read() if {loads!r} in argv else None
probing = text is not None and "lbctl-.probe-" in text
if text is None or "--check" in argv or "--test" in argv or (probing and mode != "swap always"):
    os.execv(argv[0], argv) if text is None else sys.exit(subprocess.run(argv, input=text, text=True).returncode)
if mode.startswith("swap"):
    # As nft 1.1.7 does: the bytes of a key in the other order.
    turned = lambda found: chr(9) + str(int.from_bytes(int(found[1]).to_bytes(4, "little"), "big")) + " comment"
    text = re.sub(r"^\\t(\\d+) comment", turned, text, flags=re.M)
    text = text.replace("--to-ports 8001", "--to-ports 8009")
if mode == "die before":
    os.kill(os.getpid(), signal.SIGSEGV)
done = subprocess.run(argv, input=text, text=True)
if mode == "die after":
    os.kill(os.getpid(), signal.SIGSEGV)
sys.exit(done.returncode)
"""


class Liar:
    """A tool of this host with a liar before it."""

    def __init__(self, folder: Path, tool: str, loads: str) -> None:
        self.folder = folder / "liar"
        self.folder.mkdir()
        self._mode = self.folder / "mode"
        real = shutil.which(tool)
        assert real is not None
        path = self.folder / tool
        path.write_text(_LIAR.format(python=sys.executable, mode=str(self._mode), tool=real, loads=loads))
        path.chmod(0o755)
        self.tell("truth")

    def tell(self, mode: str) -> None:
        """From now on: truth, swap (not while it is probed), swap always, die before or die after a write."""
        self._mode.write_text(mode)

    @property
    def env(self) -> dict[str, str]:
        """The environment in which the liar is found first."""
        return {"PATH": f"{self.folder}:{os.environ['PATH']}"}
