"""What a host's tools report of themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.host.host import TOOL

if TYPE_CHECKING:
    from lbctl.host.host import Host


def reported_version(host: Host, path: str) -> str:
    """Return what the program at `path` prints for `--version`; "" if it prints nothing.

    It is started once: the answer is remembered for as long as the same file is there.
    """
    name = f"{TOOL}version.{path.rpartition('/')[2]}"
    identity = f"{path} {host.fingerprint(path)}"
    known, _, answer = (host.recall(name) or "").partition("\n")
    if known == identity:
        return answer
    done = host.run([path, "--version"])
    if not done.code and done.out:
        host.remember(name, f"{identity}\n{done.out}")
    return done.out
