"""The exit codes: `lbctl --help` has them in short, docs/reference.md in full."""

from __future__ import annotations

from typing import NamedTuple


class ExitCode(NamedTuple):
    """One exit code: in a few words, and with all that leads to it."""

    code: str
    brief: str
    meaning: str


EXIT_CODES = (
    ExitCode("0", "done, or nothing to do", "done, or nothing to do"),
    ExitCode(
        "1",
        'differences, problems, or a "no" at a prompt',
        'a "no" at a prompt; differences (`plan --exit-code`, `status --exit-code`, `compare`); no rule '
        "balances it (`explain`); problems (`doctor`); a service that could not be expressed (`import`); a "
        "backend that does not balance as planned (`demo`); connections are left (`drain --wait`); a canary "
        "that was stopped (`publish`)",
    ),
    ExitCode("2", "wrong usage or invalid input", "wrong usage or invalid input"),
    ExitCode(
        "3",
        "no usable backend, or it cannot express a feature",
        "no usable backend, or a feature that the backend cannot express; a host of `--host` or etcd cannot "
        "be reached, or refuses the user",
    ),
    ExitCode("4", "permission", "CAP_NET_ADMIN is missing"),
    ExitCode("5", "apply failed, kernel unchanged", "apply failed or refused, kernel unchanged"),
    ExitCode("6", "apply failed, state unknown", "apply failed, state unknown"),
    ExitCode(
        "7",
        "kernel or intent changed since the plan, another lbctl holds the lock, or a trial is running",
        "kernel or intent changed since the plan (with `--yes`, or if a running agent changed the kernel, "
        "lbctl plans again instead), another lbctl holds the lock or was interrupted, or a trial is running; "
        "another publication was made meanwhile (`publish`); an agent of this owner runs already (`agent`), "
        "or none runs (`agent pause`, `agent resume`)",
    ),
    ExitCode("8", "trial not confirmed, reverted", "a trial was not confirmed and was reverted"),
    ExitCode(
        "70",
        "a bug in lbctl",
        "a bug in lbctl, or a host out of memory or file descriptors: one line; `LBCTL_DEBUG=1` shows the "
        "traceback",
    ),
    ExitCode("74", "output not written", "the output could not be written"),
    ExitCode("any", "", "`register`: the exit code of its program"),
    ExitCode("130", "interrupted", "interrupted by Ctrl-C; `status --watch` ends with 0"),
)


def summary() -> str:
    """Return the codes for `--help`: `0 done, or nothing to do · 1 …`."""
    return " · ".join(f"{each.code} {each.brief}" for each in EXIT_CODES if each.brief)


def table() -> str:
    """Return the codes as a table of Markdown."""
    rows = [f"| {each.code} | {each.meaning} |" for each in EXIT_CODES]
    return "\n".join(["| code | meaning |", "|---|---|", *rows])
