"""The first module of `lbctl.pyz`: has shiv unpack it where nobody but its user can write, and start it.

Not below $HOME: root may have that of another user (`sudo -E`), whose files it would run.
"""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path


def main() -> None:
    """Start lbctl, or end with 5 and a line that says why it cannot be unpacked."""
    folder = Path(os.environ.setdefault("SHIV_ROOT", str(_home() / ".shiv")))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        # Groups of users that have one each are common; root has none.
        others = 0o002 if os.geteuid() else 0o022
        if found.st_uid != os.geteuid() or found.st_mode & others:
            raise PermissionError(0, "other users can write there")
        if not os.access(folder, os.W_OK):
            raise PermissionError(0, "it cannot be written")
    except OSError as error:
        print(f"lbctl: cannot be unpacked into {str(folder)!r}: {error.strerror}", file=sys.stderr)
        print("    hint: have SHIV_ROOT name a directory of yours", file=sys.stderr)
        sys.exit(5)
    import _bootstrap

    _bootstrap.bootstrap()


def _home() -> Path:
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:  # as in containers
        return Path(os.environ.get("HOME", "/"))


if __name__ == "__main__":
    main()
