"""What Python programs get from `import lbctl`: names that stay, imported on use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import lbctl
from lbctl import api
from lbctl.errors import IntentError
from support.network import intent, service

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "python.md"
INTENT = lbctl.loads(
    intent(
        service("web", "80/tcp", "8001", "8002"), service("far", "81/tcp", "10.0.0.1:80", "[2001:db8::1]:80")
    )
)


def test_the_stable_names_are_listed_once_and_all_there() -> None:
    assert lbctl.__all__ == sorted(api.__all__)
    assert {*api.__all__, "__version__"} <= set(dir(lbctl))
    for name in api.__all__:
        assert getattr(lbctl, name) is getattr(api, name)
        assert f"`{name}" in GUIDE.read_text(encoding="utf-8"), name
    with pytest.raises(AttributeError, match="no attribute 'nonesuch'"):
        _ = lbctl.nonesuch


def test_nothing_is_imported_before_it_is_used() -> None:
    program = "import sys, lbctl; print(*sorted(m for m in sys.modules if m.startswith('lbctl')))"
    printed = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert printed.split() == ["lbctl", "lbctl.lazy", "lbctl.version"]


def test_an_endpoint_is_changed_added_and_removed() -> None:
    changed = INTENT.with_endpoint("web", "8001", state="drain", weight=3)
    assert [(e.to, e.weight, e.state) for e in changed.service("web").endpoints] == [
        ("8001", 3, lbctl.State.DRAIN),
        ("8002", 1, lbctl.State.ACTIVE),
    ]
    assert changed.with_endpoint("web", "8001", state=lbctl.State.ACTIVE, weight=1) == INTENT
    added = INTENT.with_endpoint("web", "8003", weight=2, name="third")
    assert [(e.name, e.to, e.weight) for e in added.service("web").endpoints][2:] == [("third", "8003", 2)]
    assert added.with_endpoint("web", "third", weight=1).service("web").endpoints[2].weight == 1
    assert added.without_endpoint("web", "third") == added.without_endpoint("web", "8003") == INTENT
    for to in ("10.0.0.2:8080", "[2001:db8::2]:80"):
        far = INTENT.with_endpoint("far", to)
        assert far.service("far").endpoints[-1].to == to
        # What it makes is what a file can hold.
        assert lbctl.loads(lbctl.dump(far)) == far


@pytest.mark.parametrize(
    ("endpoint", "options"),
    [
        ("nonesuch", {}),
        ("", {}),
        (":80", {}),
        ("80:", {}),
        ("٨", {}),
        ("70000", {}),
        ("10.0.0.1:80", {}),  # of another kind
        ("2001:db8::1:80", {}),
        ("[10.0.0.1]:80", {}),
        ("8001", {"weight": 0}),
        ("8001", {"state": "asleep"}),
        ("8003", {"name": "8001"}),
        ("8003", {"name": "Not a name"}),
    ],
)
def test_what_no_endpoint_can_be_is_refused(endpoint: str, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        INTENT.with_endpoint("web", endpoint, **options)  # type: ignore[arg-type]


def test_what_is_not_there_is_reported() -> None:
    with pytest.raises(LookupError, match='no service "nonesuch"'):
        INTENT.with_endpoint("nonesuch", "8001")
    with pytest.raises(LookupError, match='no endpoint "8003"'):
        INTENT.without_endpoint("web", "8003")
    with pytest.raises(ValueError, match='8002 is the last endpoint of service "web"'):
        INTENT.without_endpoint("web", "8001").without_endpoint("web", "8002")


def test_files_and_directories_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "web.toml").write_text(lbctl.dump(INTENT))
    assert lbctl.load(tmp_path) == lbctl.load(str(tmp_path / "web.toml")) == INTENT
    with pytest.raises(IntentError) as caught:
        lbctl.load(tmp_path / "none.toml")
    assert isinstance(caught.value, lbctl.LbctlError)
    assert [problem.message for problem in caught.value.problems] == ["no such file"]
