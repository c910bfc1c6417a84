"""Python environments with lbctl and what its tests take: one in each root, and one outside."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from matrix.roots import CACHE, REPOSITORY, Root

_IN_ROOT = Path("/venv")
_OWN = CACHE / "python"
_STAMP = ".complete"
#: The program of an environment that pip did not fill.
_PROGRAM = """\
#!{python}
from lbctl.cli import main
main()
"""


def in_root(root: Root) -> Path:
    """Return the Python of a complete environment in a root, as its path there."""
    python = _IN_ROOT / "bin" / "python"
    outside = root.path / _IN_ROOT.relative_to("/")
    if not _complete(outside):
        # With the system's packages: the binding of nftables is one.
        root.run("/usr/bin/python3", "-m", "venv", "--clear", "--system-site-packages", str(_IN_ROOT))
        pip = (str(python), "-m", "pip", "install", "--quiet")
        root.run(*pip, "--upgrade", "pip>=25.1")
        project = f"{REPOSITORY}[agent,iptc]"
        root.run(*pip, "--editable", project, "--group", f"{REPOSITORY}/pyproject.toml:test")
        _complete_now(outside)
    return python


def of_this_machine() -> Path:
    """Return a Python with all that this process has, but for the system's packages: no binding of nftables.

    So lbctl has only the commands that PATH names, as they are a release's.
    """
    python, program = _OWN / "bin" / "python", _OWN / "bin" / "lbctl"
    if not _complete(_OWN):
        base = Path(sys.executable).resolve()
        subprocess.run([base, "-m", "venv", "--clear", "--without-pip", _OWN], check=True)
        site = next(_OWN.glob("lib/python*/site-packages"))
        packages = sysconfig.get_path("purelib")
        (site / "lbctl.pth").write_text(f"import site; site.addsitedir({packages!r})\n", encoding="utf-8")
        program.write_text(_PROGRAM.format(python=python), encoding="utf-8")
        program.chmod(0o755)
        _complete_now(_OWN)
    return python


def _complete(path: Path) -> bool:
    """True if an environment is complete, and made for this repository as it is."""
    stamp = path / _STAMP
    return stamp.exists() and stamp.read_text(encoding="utf-8") == _contents()


def _complete_now(path: Path) -> None:
    (path / _STAMP).write_text(_contents(), encoding="utf-8")


def _contents() -> str:
    """What an environment depends on: where the repository is, and what that requires."""
    return f"{REPOSITORY}\n{(REPOSITORY / 'pyproject.toml').read_text(encoding='utf-8')}"
