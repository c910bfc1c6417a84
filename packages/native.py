"""deb and rpm, by nfpm: one tree of files, and the scripts of each format (`deb/`, `rpm/`)."""

from __future__ import annotations

import gzip
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from email.utils import format_datetime
from importlib.metadata import PathDistribution
from pathlib import Path
from string import Template

from environment import PYTHONS

HERE = Path(__file__).parent
#: A virtual environment, of whichever Python is /usr/bin/python3.
LIBRARY = Path("usr/lib/lbctl")
#: As the kernel names machines → as packages do.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_PROGRAM = """\
#!/bin/sh
# As root, no package of a home directory or the current one: -sP.
exec /usr/lib/lbctl/bin/python -sP -m lbctl "$@"
"""
#: With the distribution's packages: python3-nftables is one.
_ENVIRONMENT = "home = /usr/bin\ninclude-system-site-packages = true\n"
#: Where the documents for a manual installation expect the program.
_ELSEWHERE, _HERE = "/usr/local/bin/lbctl", "/usr/bin/lbctl"
_UNITS = ("lbctl.service", "lbctl-agent.service", "lbctl-drift.service", "lbctl-drift.timer")
_CHANGELOG = """\
lbctl ({version}) unstable; urgency=medium

  * CHANGELOG.md describes this version.

 -- {maintainer}  {date}
"""
MAINTAINER = "The lbctl authors <lbctl@users.noreply.github.com>"


def build(kind: str, site: Path, source: Path, output: Path) -> Path:
    """Build a deb or an rpm of an environment and of the units and documents of a tree."""
    version = _version(site)
    architecture = _ARCHITECTURES[platform.machine()]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        _fill(tree, kind, site, source, version)
        _settle(tree)
        settings = {
            "TREE": str(tree),
            "SCRIPTS": str(HERE / kind),
            "VERSION": version,
            "ARCHITECTURE": architecture,
            "MAINTAINER": MAINTAINER,
            "PYTHON_END": f"3.{int(PYTHONS[-1].partition('.')[2]) + 1}",
        }
        configuration = Path(folder, "nfpm.yaml")
        # nfpm expands variables itself, but not in all places.
        text = Template((HERE / "nfpm.yaml").read_text(encoding="utf-8")).substitute(settings)
        configuration.write_text(text, encoding="utf-8")
        file = output / f"lbctl_{version}-1_{architecture}.{kind}"
        nfpm = (Path(sys.executable).with_name("nfpm"), "package", "--config", configuration)
        words = (*nfpm, "--packager", kind, "--target", file.resolve())
        # From there, since nfpm 2.48 looks for the target of a link from where it runs, and takes its mode.
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{done.stdout}{done.stderr}")
    return file


def _version(site: Path) -> str:
    """The version of lbctl in an environment, e.g. 0.2.0 or 0.2.0~dev0, which is before 0.2.0."""
    [metadata] = site.glob("lbctl-*.dist-info")
    version = PathDistribution(metadata).version
    return re.sub(r"\.?(dev|a|b|rc)(?=\d)", r"~\1", version)


def _fill(tree: Path, kind: str, site: Path, source: Path, version: str) -> None:
    """Write all files of a package below a new folder."""
    _environment(tree, site)
    program = tree / "usr" / "bin" / "lbctl"
    _write(program, _PROGRAM)
    program.chmod(0o755)
    for unit in _UNITS:
        if (file := source / "examples" / "systemd" / unit).exists():
            text = file.read_text(encoding="utf-8").replace(_ELSEWHERE, _HERE)
            _write(tree / "usr/lib/systemd/system" / unit, text)
    (tree / "etc" / "lbctl" / "conf.d").mkdir(parents=True)
    _completions(tree)
    for page in sorted((HERE / "man").glob("*.[58]")):
        _compress(
            tree / f"usr/share/man/man{page.suffix[1:]}" / f"{page.name}.gz", page.read_text(encoding="utf-8")
        )
    _documents(tree / "usr/share/doc/lbctl", kind, source, version)


def _environment(tree: Path, site: Path) -> None:
    library = tree / LIBRARY
    shutil.copytree(site, library / "lib" / "python3" / "site-packages")
    for version in PYTHONS:
        (library / "lib" / f"python{version}").symlink_to("python3")
    (library / "bin").mkdir()
    (library / "bin" / "python").symlink_to("../../../bin/python3")
    _write(library / "pyvenv.cfg", _ENVIRONMENT)


def _completions(tree: Path) -> None:
    share = tree / "usr" / "share"
    for name, target in (
        ("lbctl.bash", "bash-completion/completions/lbctl"),
        ("_lbctl", "zsh/vendor-completions/_lbctl"),
        ("lbctl.fish", "fish/vendor_completions.d/lbctl.fish"),
    ):
        _write(share / target, (HERE / "completions" / name).read_text(encoding="utf-8"))


def _documents(folder: Path, kind: str, source: Path, version: str) -> None:
    _compress(folder / "changelog.gz", (source / "CHANGELOG.md").read_text(encoding="utf-8"))
    if kind == "deb":
        date = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
        text = _CHANGELOG.format(version=f"{version}-1", maintainer=MAINTAINER, date=format_datetime(date))
        _compress(folder / "changelog.Debian.gz", text)
    _write(folder / "copyright", (HERE / "copyright").read_text(encoding="utf-8"))
    for name in ("minimal", "systemd"):
        shutil.copytree(source / "examples" / name, folder / "examples" / name)


def _settle(tree: Path) -> None:
    """Give all that is in a tree the time of the source, and modes that do not depend on who builds."""
    time = int(os.environ["SOURCE_DATE_EPOCH"])
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
        os.utime(path, (time, time), follow_symlinks=False)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _compress(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Without a time, as `gzip -n`.
    file.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
