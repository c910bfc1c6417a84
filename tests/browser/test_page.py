"""The agent's page in a real browser: desktop and phone width, light and dark, and under a hostile name."""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from lbctl.agent import web
from lbctl.agent.http import Server
from support.agent import Shown, showcase, status_document

NASTY = '</div><script>document.title = "taken"</script><img src=x onerror="document.title=1">'
SCREENSHOT = Path(__file__).parents[2] / "docs/images/agent.png"


class Served:
    """A page whose document tests change while a browser shows it."""

    def __init__(self) -> None:
        self.source = Shown(status_document())
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}/"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self._server = Server(web.reader(web.Pages(self.source)))
        self._loop.run_until_complete(self._server.listen(self._listening))
        self._loop.run_forever()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.close()


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1100, "height": 700})
    faults: list[str] = []
    opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("request", lambda request: faults.extend([request.url] * (served.address not in request.url)))
    opened.goto(served.address)
    yield opened
    opened.close()
    # The browser itself asks for an icon, and the policy of the page forbids even that.
    assert not [fault for fault in faults if "favicon" not in fault]


def test_a_person_sees_each_endpoint_its_state_and_why(page: Page) -> None:
    assert page.title() == "lbctl lb1"
    assert page.locator("section h2").all_inner_texts() == ["web"]
    assert page.locator(".row").count() == 2
    failing = page.locator(".row.down")
    assert failing.locator(".state").inner_text() == "down: HTTP 503 x3 since 12:01:07"
    assert failing.locator(".share svg").get_attribute("aria-label") == "wanted 1/2, actual 25.0%"


def test_what_operators_decided_and_why_connections_fail_is_shown(page: Page, served: Served) -> None:
    document = status_document()
    drained, silent = document["services"][0]["endpoints"]
    operator = {
        "drained": True,
        "weight": None,
        "who": "root",
        "since": "…",
        "why": "new",
        "unused": False,
    }
    drained |= {"state": "drain", "health": None, "reason": "operator: drained by root since … (new)"}
    drained["operator"] = {"service": "web", "endpoint": "a", **operator}
    silent |= {"health": None, "mark": "nothing listens", "reason": "active in the file"}
    # Another document: of one and the same, the page is made once.
    served.source.shown = document
    page.goto(served.address)
    assert page.locator(".row.warn .state").inner_text() == "drain; operator: drained by root since … (new)"
    assert page.locator(".row.down .state").inner_text() == "active; nothing listens"


def test_the_page_follows_what_changes_without_being_loaded_again(page: Page, served: Served) -> None:
    page.evaluate("window.kept = true")
    changed = status_document()
    changed["services"][0]["endpoints"][1] |= {"health": None, "reason": "active in the file"}
    served.source.shown = changed
    page.locator(".row.down").wait_for(state="detached", timeout=30_000)
    assert page.evaluate("window.kept") is True


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(page: Page, served: Served, width: int) -> None:
    served.source.shown = status_document(reason="down: " + "x" * 300)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(served.address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_what_a_stranger_wrote_is_shown_and_does_nothing(page: Page, served: Served) -> None:
    served.source.shown = status_document(reason=NASTY)
    page.goto(served.address)
    assert page.locator(".row.down .state").inner_text() == NASTY
    assert page.locator("img").count() == 0
    assert page.title() == "lbctl lb1"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_in_dark(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    colors = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    text, ground = (sum(map(int, color[4:-1].split(","))) for color in colors)
    assert (text < ground) is (scheme == "light")
    assert abs(text - ground) > 500


def test_the_screenshot_of_the_documentation_can_be_made(page: Page, served: Served, tmp_path: Path) -> None:
    """UPDATE_GOLDEN=1 puts it where the documentation shows it."""
    made = SCREENSHOT if os.environ.get("UPDATE_GOLDEN") else tmp_path / "page.png"
    served.source.shown = showcase()
    page.set_viewport_size({"width": 1000, "height": 460})
    page.goto(served.address)
    page.screenshot(path=made)
    assert made.read_bytes().startswith(b"\x89PNG")
    assert SCREENSHOT.read_bytes().startswith(b"\x89PNG")
