"""The process behind driver `libnftables` while the library may crash: it then takes this process along.

    python -P -m lbctl_nftables.drivers.libnftables_child load|check < SCRIPT

libnftables 1.0.6 reads past its memory (signal 11) when it meets rules that nft 1.1.3 wrote.
"""

from __future__ import annotations

import sys


def main(word: str) -> int:
    """Run the script on standard input; 1 if the library refuses it, with its message on standard error."""
    import nftables

    context = nftables.Nftables()
    context.set_dry_run(word == "check")
    code, _, err = context.cmd(sys.stdin.buffer.read().decode("utf-8", "surrogateescape"))
    sys.stderr.write(err or "")
    return 1 if code else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
