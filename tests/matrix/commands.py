"""The commands of a root as commands of this machine: one folder for PATH.

Each is a wrapper that runs the root's program by the root's own loader and libraries, so it needs no chroot
and sees this machine's files.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from matrix.roots import CACHE, Root

_SUFFIXES = ("", "-save", "-restore")
_WORDS = tuple(f"{word}{suffix}" for word in ("iptables", "ip6tables") for suffix in _SUFFIXES)
#: Of Debian's two flavours, the one that plain names mean.
_FLAVOUR = "nft"


def wrapped(root: Root) -> Path:
    """Return a folder with nft, conntrack and both flavours of iptables of a root."""
    folder = CACHE / "commands" / root.release.name
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("nft", "conntrack"):
        _write(root, folder / name, name)
    for word in _WORDS:
        plain, dash, suffix = word.partition("-")
        for flavour in ("nft", "legacy"):
            _write(root, folder / f"{plain}-{flavour}{dash}{suffix}", f"xtables-{flavour}-multi", word)
        _write(root, folder / word, f"xtables-{_FLAVOUR}-multi", word)
    return folder


def _write(root: Root, wrapper: Path, program: str, *words: str) -> None:
    argv = [root.loader, "--library-path", root.libraries, root.path / "usr" / "sbin" / program, *words]
    text = (
        "#!/bin/sh\n"
        f"export XTABLES_LIBDIR={shlex.quote(str(root.libraries / 'xtables'))}\n"
        f'exec {shlex.join(map(str, argv))} "$@"\n'
    )
    wrapper.write_text(text, encoding="utf-8")
    wrapper.chmod(0o755)
