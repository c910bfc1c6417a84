"""Run on a platform: lbctl reads what the tools list of its rules as equal to the live rules.

    python -m matrix.dumps BACKEND DRIVER

Prints the outcome of each spelling as JSON. Each story of the golden tests is applied in a network namespace
of its own, listed in all spellings, and each listing compared with the live rules.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from lbctl.errors import Unsupported
from lbctl.host.netns import Namespace, PrivateHost
from matrix.result import Outcome, Verdict
from support.network import run_lbctl

STORIES = sorted((Path(__file__).parents[1] / "golden").glob("*/lbctl.toml"))


def spellings(backend: str, driver: str) -> Mapping[str, tuple[tuple[str, ...], ...]]:
    """Spelling → the commands whose output, one after the other, is a whole dump."""
    if backend == "nftables":
        options = ("", "-a", "-s", "-n", "-nn", "-j", "-a -s -n", "-j -a -s -nn")
        commands = [("nft", *given.split(), "list", "ruleset") for given in options]
        return {" ".join(argv): (argv,) for argv in commands}
    words = [f"{word}-{_flavour(driver)}-save" for word in ("iptables", "ip6tables")]
    return {
        " ".join((words[0], *options)): tuple((word, *options) for word in words) for options in ((), ("-c",))
    }


def _flavour(driver: str) -> str:
    return "nft" if driver == "nf_tables" else "legacy"


def main(backend: str, driver: str) -> None:
    """See the module."""
    found: dict[str, list[Outcome]] = {}
    for story in STORIES:
        for spelling, outcome in _outcomes(story, backend, driver):
            found.setdefault(spelling, []).append(outcome)
    print(json.dumps({spelling: str(_worst(outcomes)) for spelling, outcomes in found.items()}))


def _worst(outcomes: list[Outcome]) -> Outcome:
    """The first failure of a spelling. A story that is refused is the business of the conformance suite."""
    failed = [outcome for outcome in outcomes if outcome.verdict is Verdict.FAILED]
    return failed[0] if failed else Outcome(verdict=Verdict.YES)


def _outcomes(story: Path, backend: str, driver: str) -> Iterator[tuple[str, Outcome]]:
    """The outcome of each spelling for one story; none for a story that the driver refuses by name."""
    namespace = Namespace(PrivateHost())
    with namespace.entered(), tempfile.TemporaryDirectory() as folder:
        environment = {"LBCTL_STATE_DIR": folder}
        words = ("--backend", backend, "--driver", driver, "--config", str(story))
        applied = run_lbctl("apply", "--yes", *words, env=environment)
        if applied.code == Unsupported.exit_code:
            return
        store = backend if backend == "nftables" else f"{backend}-{_flavour(driver)}"
        for spelling, commands in spellings(backend, driver).items():
            if applied.code:
                yield spelling, Outcome.of(f"{story.parent.name}: apply: {applied.err.strip()}")
                continue
            dump = Path(folder, "dump")
            dump.write_text("".join(namespace.run(*argv) for argv in commands), encoding="utf-8")
            compared = run_lbctl("compare", f"live:{store}", str(dump), env=environment)
            wrong = f"{story.parent.name}: {(compared.err or compared.out).strip()}" if compared.code else ""
            yield spelling, Outcome.of(wrong)
    namespace.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
