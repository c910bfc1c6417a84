"""Logs of checks, replayed: the same shares as the agent gave, without a network or a clock."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from lbctl.agent.events import intent_line, operator_line, result_line, start_line
from lbctl.agent.health import Ending, Moment, Outcome
from lbctl.agent.replay import replay
from lbctl.cli.options import Format
from lbctl.cli.replay import print_log, print_shifts
from lbctl.config import loads
from lbctl.errors import IntentError
from lbctl.model import Family, Health, Intent, Override, Verdict
from support.spoilt import spoilt

V4 = Family.IPV4
START = 1_700_000_000.0
INTENT = loads(
    'schema = 1\n[[service]]\nname = "web"\nlisten = "80/tcp"\nendpoints = ["10.0.0.1:80", "10.0.0.2:80"]\n'
    'check = "tcp"\nhealth = { slow-start = "8s" }\n'
)
SERVING = {("web", f"10.0.0.{i}:80", V4) for i in (1, 2)}


def moment(at: float) -> Moment:
    return Moment(at, START + at)


def result(at: float, ending: Ending, endpoint: int = 1, text: str = "connection refused") -> str:
    outcome = Outcome(ending=ending, text=text, seconds=0.1)
    return result_line(("web", f"10.0.0.{endpoint}:80", V4), outcome, moment(at))


BEGIN = start_line(INTENT, SERVING, moment(0))


def shares(*lines: str) -> list[tuple[float, Fraction]]:
    """When the share of the first endpoint changed, and what it then was."""
    return [(shift.time - START, shift.after["10.0.0.1:80"]) for shift in replay((BEGIN, *lines))]


def test_shares_over_time() -> None:
    half = Fraction(1, 2)
    passes = [result(at, Ending.PASSED) for at in (1, 20, 21)]
    failures = [result(at, Ending.FAILED) for at in (5, 6, 7)]
    found = shares(passes[0], *failures, *passes[1:], result(60, Ending.PASSED, endpoint=2))
    assert found[:2] == [(0, half), (7, 0)]
    assert [at for at, _ in found[2:]] == [21 + step for step in range(len(found) - 2)]
    assert [share for _, share in found[2:]] == [Fraction(step, 16) for step in range(1, 9)]


def test_a_shift_says_why() -> None:
    *_, last = replay((BEGIN, *(result(at, Ending.FAILED) for at in (1, 2, 3))))
    assert last.before == {"10.0.0.1:80": Fraction(1, 2), "10.0.0.2:80": Fraction(1, 2)}
    assert last.after == {"10.0.0.1:80": 0, "10.0.0.2:80": 1}
    assert last.reasons["10.0.0.1:80"].startswith("down: connection refused")


def test_another_intent_goes_on_with_what_is_known() -> None:
    failures = [result(at, Ending.FAILED) for at in (1, 2, 3)]
    found = shares(*failures, intent_line(INTENT, moment(5)))
    assert found == [(0, Fraction(1, 2)), (3, 0)]
    assert shares(*failures, intent_line(Intent(), moment(5))) == found


def test_what_operators_decide_is_part_of_it() -> None:
    drained = Override(service="web", endpoint="10.0.0.1:80", drained=True, who="root", since=START + 5)
    found = shares(operator_line([drained], moment(5)), operator_line((), moment(9)))
    assert found == [(0, Fraction(1, 2)), (5, 0), (9, Fraction(1, 2))]


def test_another_start_knows_what_is_written_there_and_nothing_else() -> None:
    down = {"web": {("10.0.0.1:80", V4): Verdict(health=Health.DOWN, since=START, result="timeout")}}
    drained = Override(service="web", endpoint="10.0.0.2:80", drained=True, who="root", since=START)
    failures = [result(at, Ending.FAILED, 2) for at in (1, 2)]
    # The host started again: its clock too.
    again = start_line(INTENT, SERVING, Moment(0.5, START + 60), verdicts=down)
    assert shares(*failures, again, result(0.6, Ending.FAILED, 2)) == [(0, Fraction(1, 2)), (60, 0)]
    kept = start_line(INTENT, SERVING, Moment(0.5, START + 60), verdicts=down, overrides=[drained])
    *_, last = replay((BEGIN, kept))
    assert last.after == {"10.0.0.1:80": 1, "10.0.0.2:80": 0}
    assert "kept by all-down" in last.reasons["10.0.0.1:80"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nonsense", "not an event"),
        ("[]", "not an event"),
        ('{"event": "other"}', "not an event"),
        (json.dumps({**json.loads(result(1, Ending.PASSED)), "ending": "perhaps"}), "perhaps"),
        (json.dumps({**json.loads(result(1, Ending.PASSED)), "more": 1}), "unknown key"),
        (
            json.dumps({**json.loads(result(1, Ending.PASSED)), "endpoint": ["web", "x", "ipv4"]}),
            "not checked",
        ),
        (result(-1, Ending.PASSED), "earlier than the line before"),
    ],
)
def test_what_is_no_log_is_refused_with_its_line(line: str, reason: str) -> None:
    with pytest.raises(IntentError) as caught:
        list(replay((BEGIN, line)))
    assert caught.value.message.startswith("line 2 of the log: ")
    assert reason in caught.value.message


def test_a_log_begins_with_a_start() -> None:
    with pytest.raises(IntentError, match="an event before the first start"):
        list(replay((result(1, Ending.PASSED),)))


@given(st.lists(st.tuples(st.floats(0.01, 30), st.sampled_from(Ending), st.integers(1, 2)), max_size=80))
def test_any_log_keeps_shares_whole(events: list[tuple[float, Ending, int]]) -> None:
    at, lines = 0.0, [BEGIN]
    for pause, ending, endpoint in events:
        at += pause
        lines.append(result(at, ending, endpoint))
    first = list(replay(lines))
    assert first == list(replay(lines))
    for shift in first:
        assert sum(shift.after.values()) == 1
    for a, b in itertools.pairwise(first):
        assert a.after == b.before
        assert a.time <= b.time


def test_the_command_needs_no_root_and_no_kernel(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join((BEGIN, *(result(at, Ending.FAILED) for at in (1, 2, 3)))))
    done = subprocess.run(
        [sys.executable, "-m", "lbctl", "agent", "--replay", str(log)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "", "HOME": str(tmp_path)},
    )
    assert done.stderr == ""
    assert done.returncode == 0
    times = "\N{MULTIPLICATION SIGN}3"
    assert done.stdout.splitlines()[-3:] == [
        "2023-11-14T22:13:23+00:00 web (ipv4)",
        f"  10.0.0.1:80  1/2 -> 0  down: connection refused {times} since 2023-11-14T22:13:23+00:00",
        "  10.0.0.2:80  1/2 -> 1  not checked yet",
    ]


FAILED_BEFORE = {"web": {("10.0.0.1:80", V4): Verdict(health=Health.DOWN, since=START, result="timeout")}}
DRAINED = Override(service="web", endpoint="10.0.0.2:80", drained=True, who="root", since=START)
#: A line of each kind.
WHOLE = (
    start_line(INTENT, SERVING, moment(0), verdicts=FAILED_BEFORE, overrides=[DRAINED]),
    result(1, Ending.FAILED),
    operator_line([DRAINED], moment(2)),
    intent_line(INTENT, moment(3)),
)


@pytest.mark.parametrize("number", range(len(WHOLE)), ids=[json.loads(line)["event"] for line in WHOLE])
def test_a_log_of_a_stranger_is_refused_or_printed_and_nothing_else(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in spoilt(WHOLE[number]):
        lines = [*WHOLE[:number], line, *WHOLE[number + 1 :]]
        for output in Format:
            with suppress(IntentError):
                print_shifts(replay(lines), output)
            assert capsys.readouterr().out.replace("\n", "").isprintable(), line


@pytest.mark.parametrize("log", ["/dev/zero", "/proc/self/mem", "/", "/nowhere"])
def test_what_is_no_file_is_not_replayed(log: str) -> None:
    with pytest.raises(IntentError):
        print_log(Path(log), Format.TEXT)
