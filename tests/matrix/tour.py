"""Run on a platform: the README's tour prints what the README says.

    python -m matrix.tour

Prints the outcome as JSON. The name of the driver that lbctl chooses, and the number of its rules, are the
platform's own.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from difflib import unified_diff
from pathlib import Path

from lbctl.conformance.network import Network
from matrix.result import Outcome
from matrix.roots import REPOSITORY
from support.console import VOLATILE, replay, shells

_OWN = re.compile(rf"{VOLATILE.pattern}|(?<=\(driver )(libnftables|nft)(?=\))|(?<=rules: nftables )\d+")


def main() -> None:
    """See the module."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    network = Network()
    network.local_endpoints((8001, 8002, 8003, 8004))
    with tempfile.TemporaryDirectory() as name:
        document = Path(name, "README.md")
        document.write_text(readme, encoding="utf-8")
        # The document is written anew with what the commands print.
        os.environ["UPDATE_GOLDEN"] = "1"
        with shells(document.parent, {"": network.host}, os.environ["PATH"]) as opened:
            try:
                replay(document, opened)
                wrong = _difference(readme, document.read_text(encoding="utf-8"))
            except AssertionError as error:
                wrong = str(error)
    network.close()
    print(json.dumps(str(Outcome.of(wrong))))


def _difference(wanted: str, printed: str) -> str:
    """The lines that differ, without what is a platform's own."""
    before, after = (_OWN.sub("…", text).splitlines() for text in (wanted, printed))
    return "\n".join(unified_diff(before, after, "README", "printed", n=0, lineterm=""))


if __name__ == "__main__":
    main()
