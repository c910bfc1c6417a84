"""The process behind driver `libnftables` while the library may crash: it then takes this process along.

    python -S -P libnftables_child.py FOLDER load|check < SCRIPT
    python -S -P libnftables_child.py FOLDER [--handle] list …

FOLDER is where the binding is. It imports nothing of ours, and no site: that is four fifths of its time.
libnftables 1.0.6 reads past its memory (signal 11) when it meets rules that nft 1.1.3 wrote.
"""

from __future__ import annotations

import sys


def main(words: list[str]) -> int:
    """Run a script from standard input, or a listing command; 1 if the library refuses it."""
    import nftables

    context = nftables.Nftables()
    context.set_numeric_prio_output(True)
    context.set_handle_output("--handle" in words)
    context.set_dry_run("check" in words)
    command = " ".join(word for word in words if word != "--handle")
    if words[-1] in {"load", "check"}:
        command = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    code, out, err = context.cmd(command)
    sys.stdout.write(out or "")
    sys.stderr.write(err or "")
    return 1 if code else 0


if __name__ == "__main__":
    sys.path.append(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
