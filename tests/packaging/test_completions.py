"""The completions of packages are what the program prints; UPDATE_GOLDEN=1 writes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "packages" / "completions"
FILES = {"bash": "lbctl.bash", "fish": "lbctl.fish", "zsh": "_lbctl"}
#: zsh runs a file of its own function path as the function, at the first Tab; the script only defines it.
_LOADED = """\
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _lbctl_completion "$@"
else
  compdef _lbctl_completion lbctl
fi
"""


@pytest.mark.parametrize("shell", FILES)
def test_a_file_is_what_the_program_prints(shell: str) -> None:
    argv = [sys.executable, "-m", "lbctl", "--show-completion", shell]
    made = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    if shell == "zsh":
        made = made.replace("compdef _lbctl_completion lbctl\n", _LOADED)
        assert _LOADED in made
    file = FOLDER / FILES[shell]
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(made, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == made
