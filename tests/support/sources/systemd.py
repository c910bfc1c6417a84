"""What `systemctl show` prints; the program itself has a test of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lbctl.agent.sources import Access, SourceFailed, systemd as systemd_source
from lbctl.model import Endpoint, State
from support.web import Mood


class SystemdRig:
    """What `systemctl show` prints; the program itself has a test of its own."""

    source, name, access, local = "systemd", "app@*.service", Access(), True

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._text = ""
        self._lost, self._mood = True, Mood.GOOD
        monkeypatch.setattr(systemd_source, "_show", self._show)

    async def start(self) -> None:
        self._lost = False

    async def stop(self) -> None:
        self._lost = True

    async def be(self, mood: Mood) -> None:
        self._mood = mood

    async def give(self, *endpoints: Endpoint) -> None:
        self._text = "\n".join(
            f"Id=app@{each.port}.service\nActiveState="
            f"{'active' if each.state is State.ACTIVE else 'deactivating'}\n"
            for each in endpoints
        )

    async def _show(self, name: str) -> str:
        assert name == self.name
        if self._lost:
            raise SourceFailed("systemctl: Failed to connect to bus")
        if self._mood is Mood.SILENT:
            await asyncio.sleep(5)
            raise SourceFailed("systemctl does not answer")
        return self._text if self._mood is Mood.GOOD else "Id=app@blue.service\nActiveState=active\n"
