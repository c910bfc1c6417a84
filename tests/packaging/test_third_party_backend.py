"""The public door proved with a package of its own: built, installed and driven as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "examples" / "third_party_backend"

INTENT = """\
schema = 1

[[service]]
name = "web"
listen = "80/tcp"
scheduler = "round-robin"

[[service.endpoint]]
address = "8001"
weight = 2

[[service.endpoint]]
address = "8002"

[[service]]
name = "dns"
listen = ["192.0.2.1:53/udp", "[2001:db8::1]:53/udp"]
endpoints = ["5301-5304"]
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("site")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    ]
    subprocess.run([*pip, "--target", target, PACKAGE], check=True)
    return target


class Lbctl:
    """`lbctl` as a process in a fresh network namespace, with the example on its path."""

    def __init__(self, folder: Path, site: Path) -> None:
        self.journal = folder / "journal.json"
        self.intent = folder / "lbctl.toml"
        self.intent.write_text(INTENT)
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("LBCTL_")},
            "PYTHONPATH": str(site),
            "JOURNAL_FILE": str(self.journal),
            "LBCTL_CONFIG": str(self.intent),
            "LBCTL_STATE_DIR": str(folder / "state"),
        }

    def __call__(self, *words: str, code: int = 0, backend: str = "journal") -> subprocess.CompletedProcess:
        done = subprocess.run(
            ["unshare", "-n", sys.executable, "-m", "lbctl", *words, "--backend", backend],
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def json(self, *words: str, code: int = 0, backend: str = "journal") -> dict:
        document = json.loads(self(*words, "--output", "json", code=code, backend=backend).stdout)
        assert document["format_version"] == 1
        return document


@pytest.fixture
def lbctl(tmp_path, installed) -> Lbctl:
    return Lbctl(tmp_path, installed)


def shares(plan: dict, side: str) -> dict[str, dict[str, str]]:
    return {s["name"]: {e["to"]: e[side] for e in s["endpoints"]} for s in plan["services"]}


WANTED = {
    "web": {"8001": "2/3", "8002": "1/3"},
    "dns": {"5301": "1/4", "5302": "1/4", "5303": "1/4", "5304": "1/4"},
}
NOTHING = {name: dict.fromkeys(endpoints, "0/1") for name, endpoints in WANTED.items()}


def test_it_stands_beside_the_built_in_backends_and_is_never_chosen_by_itself(lbctl):
    found = lbctl.json("backends", backend="auto")
    assert {"nftables", "iptables", "journal"} <= {b["name"] for b in found["backends"]}
    assert found["chosen"] != "journal"
    named = lbctl.json("backends")
    assert (named["chosen"], named["driver"]) == ("journal", "file")


def test_without_its_file_it_says_what_it_needs(lbctl):
    del lbctl.environment["JOURNAL_FILE"]
    assert "JOURNAL_FILE is not set" in lbctl("backends", code=3).stderr
    assert "set JOURNAL_FILE to the path" in lbctl("plan", code=3).stderr


def test_from_nothing_to_applied_and_back(lbctl):
    plan = lbctl.json("plan", "--exit-code", code=1)
    assert plan["backend"] == "journal"
    assert plan["changed"]
    assert [s["action"] for s in plan["services"]] == ["add", "add"]
    assert shares(plan, "before") == NOTHING
    assert shares(plan, "after") == WANTED
    assert not lbctl.journal.exists(), "a plan changes nothing"

    assert "Applied." in lbctl("apply", "--yes").stderr
    stored = json.loads(lbctl.journal.read_text())
    assert json.loads(plan["rules"]["after"]) == stored
    assert list(stored["owners"]) == ["lbctl"]

    status = lbctl.json("status")
    assert status["in_sync"]
    wanted = {s["name"]: {e["to"]: e["wanted"] for e in s["endpoints"]} for s in status["services"]}
    assert wanted == WANTED
    assert all(s["connections"] == 0 for s in status["services"])

    removed = lbctl.json("remove", "--yes")
    assert removed["removed"]
    assert shares(removed["plans"][0], "before") == WANTED
    assert json.loads(lbctl.journal.read_text())["owners"] == {}
    assert lbctl.json("plan", "--exit-code", code=1)["changed"]
    assert not lbctl.json("remove", "--yes")["changed"]


def test_a_second_apply_touches_nothing(lbctl):
    lbctl("apply", "--yes")
    before = lbctl.journal.stat()
    again = lbctl.json("apply", "--yes")
    assert not again["changed"]
    assert {s["action"] for s in again["services"]} == {"none"}
    after = lbctl.journal.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert lbctl("plan", "--exit-code").stdout.startswith("Nothing to change")


def test_a_change_names_the_one_service_that_changes(lbctl):
    lbctl("apply", "--yes")
    lbctl.intent.write_text(INTENT.replace("weight = 2", "weight = 5"))
    plan = lbctl.json("plan")
    assert {s["name"]: s["action"] for s in plan["services"]} == {"web": "change", "dns": "none"}
    assert shares(plan, "before")["web"] == {"8001": "2/3", "8002": "1/3"}
    assert shares(plan, "after")["web"] == {"8001": "5/6", "8002": "1/6"}
    lbctl("apply", "--yes")
    lbctl("plan", "--exit-code")


def test_owners_do_not_see_each_other(lbctl):
    lbctl("apply", "--yes")
    lbctl.intent.write_text('owner = "other"\n' + INTENT)
    lbctl("apply", "--yes")
    lbctl("remove", "--yes", "--owner", "lbctl")
    assert list(json.loads(lbctl.journal.read_text())["owners"]) == ["other"]
    lbctl("plan", "--exit-code")


def test_what_it_cannot_express_is_refused_by_name(lbctl):
    lbctl.intent.write_text(INTENT.replace('"round-robin"', '"round-robin"\naffinity = "3h"'))
    done = lbctl("apply", "--yes", code=3)
    assert 'service "web": backend journal does not support affinity' in done.stderr
    assert not lbctl.journal.exists()


def test_a_strangers_item_is_seen_and_repaired(lbctl):
    lbctl("apply", "--yes")
    good = json.loads(lbctl.journal.read_text())
    moved = json.loads(lbctl.journal.read_text())
    moved["owners"]["lbctl"].append({"key": ["ipv4", "graffiti", "x"], "service": None, "text": "was here"})
    lbctl.journal.write_text(json.dumps(moved))
    assert not lbctl.json("status")["in_sync"]
    lbctl("apply", "--yes")
    assert json.loads(lbctl.journal.read_text()) == good


def test_a_file_that_is_no_journal_is_left_alone(lbctl):
    lbctl.journal.write_text("precious")
    done = lbctl("apply", "--yes", code=5)
    assert "is no JSON" in done.stderr
    assert lbctl.journal.read_text() == "precious"


def test_the_conformance_suite_finds_out_that_it_balances_nothing(lbctl):
    """Through both doors: what it refuses is no failure, what it says and does not do is one."""
    words = (sys.executable, "-m", "lbctl.conformance", "--backend", "journal", "--output", "json")
    done = subprocess.run(words, env=lbctl.environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document["format_version"] == 1
    assert document["drivers"] == [{"backend": "journal", "driver": "file", "usable": True, "reason": None}]
    verdicts = {check["name"]: check["outcomes"][0] for check in document["checks"]}
    assert verdicts["affinity"]["verdict"] == "refused"
    assert verdicts["affinity"]["reason"] == "affinity"
    assert verdicts["source-nat always"]["verdict"] == "refused"
    assert verdicts["reading and checking change nothing"]["verdict"] == "yes"
    assert verdicts["what is read back is what was compiled, and has the exact shares"]["verdict"] == "yes"
    assert verdicts["tcp"]["verdict"] == "fail"
    assert "['refused'" in verdicts["tcp"]["reason"]
    assert json.loads(lbctl.journal.read_text())["owners"] == {}, "nothing is left behind"

    suite = (sys.executable, "-m", "pytest", "--pyargs", "lbctl.conformance", "-q", "-p", "no:cacheprovider")
    for word, code in (("maglev", 0), ("statistics", 1)):
        tested = subprocess.run(
            [*suite, "-k", f"journal and {word}"],
            env=lbctl.environment,
            cwd=lbctl.journal.parent,
            capture_output=True,
            text=True,
        )
        assert tested.returncode == code, tested.stdout
        assert f"1 {'failed' if code else 'passed'}" in tested.stdout
