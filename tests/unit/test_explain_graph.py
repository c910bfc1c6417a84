"""The graph of `lbctl explain`: a text in a label is a text, whatever it says."""

import re
from ipaddress import ip_address

import pytest

from lbctl.cli.graph import dot, mermaid, svg
from lbctl.config.values import listener
from lbctl.engine.inspect.explain import Connection, Way, explain
from lbctl.errors import IntentError
from lbctl.host import Completed
from lbctl.host.fake import FakeHost
from lbctl_iptables.reading import read

HOSTILE = r"""]; x [URL="javascript:0"] <script>0</script> &lt; \N \" é ' %"""
RULES = f"""*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp --dport 80 -m cluster --cluster-total-nodes 2 --cluster-local-node 1 \
--cluster-hash-seed 1 -m comment --comment "{HOSTILE.replace('"', "'")}" -j REDIRECT --to-ports 8001
-A PREROUTING -p tcp --dport 80 -m statistic --mode nth --every 2 --packet 0 -j REDIRECT --to-ports 8002
COMMIT
"""


def ways(client: str | None = None) -> tuple[Way, ...]:
    connection = Connection(listener=listener("80/tcp"), client=ip_address(client) if client else None)
    return explain(connection, {"x": read(RULES)})


def test_both_languages_draw_the_same() -> None:
    for text in (mermaid("80/tcp", ways()), dot("80/tcp", ways())):
        assert re.findall(r"\d/\d", text) == ["1/2", "1/2", "1/4", "1/4"]
        assert all(word in text for word in ("8001", "8002", "no endpoint"))


@pytest.mark.parametrize("draw", [mermaid, dot])
def test_labels_are_inert(draw: object) -> None:
    made = draw("80/tcp", ways())  # type: ignore[operator]
    [line] = [
        line for line in made.splitlines() if "--dport 80 -m cluster" in line or "cluster-total" in line
    ]
    [label] = re.findall(r'"([^"]*)"', line)
    assert re.fullmatch(r"(?:[A-Za-z0-9 .:/@,_-]|&?#\d+;|\\n)*", label)
    assert "script" in label


def test_a_picture_is_what_dot_draws() -> None:
    host = FakeHost()
    with pytest.raises(IntentError, match="graphviz") as missing:
        svg(host, "80/tcp", ways())
    assert "mermaid" in (missing.value.hint or "")


class Drawing(FakeHost):
    """A host that has graphviz."""

    def __init__(self, done: Completed) -> None:
        super().__init__()
        self.done = done
        self.asked: list[tuple[list[str], str]] = []

    def which(self, program: str) -> str | None:
        return f"/usr/bin/{program}"

    def run(self, argv: object, *, stdin: str = "") -> Completed:
        self.asked.append((list(argv), stdin))  # type: ignore[call-overload]
        return self.done


def test_a_picture_is_drawn_without_a_shell_and_names_no_other_document() -> None:
    host = Drawing(Completed(code=0, out='<?xml?>\n<!DOCTYPE svg "http://x">\n<svg>\n</svg>\n', err=""))
    assert svg(host, "80/tcp", ways()) == "<svg>\n</svg>"
    assert host.asked == [(["dot", "-Tsvg"], dot("80/tcp", ways()))]
    for done in (Completed(code=1, out="<svg", err="syntax error"), Completed(code=0, out="", err="")):
        with pytest.raises(IntentError, match="drew nothing"):
            svg(Drawing(done), "80/tcp", ways())


def test_the_way_of_a_client_is_bold() -> None:
    for client in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"):
        [way] = ways(client)
        assert ("==>" in mermaid("80/tcp", [way])) is (way.chosen is not None)
