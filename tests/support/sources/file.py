"""A file of targets."""

from __future__ import annotations

import json
import os
from pathlib import Path

from lbctl.agent.sources import Access
from lbctl.model import Endpoint
from support.web import Mood


class FileRig:
    source, access, local = "file", Access(), False

    def __init__(self, folder: Path) -> None:
        self._path = folder / "targets.json"
        self.name = str(self._path)
        self._text = "[]"
        self._mood = Mood.GOOD

    async def start(self) -> None:
        self._write()

    async def stop(self) -> None:
        self._path.unlink()

    async def be(self, mood: Mood) -> None:
        self._mood = mood
        self._write()

    async def give(self, *endpoints: Endpoint) -> None:
        self._text = json.dumps(
            [
                {"targets": [each.to], "labels": {"weight": str(each.weight), "state": each.state}}
                for each in endpoints
            ]
        )
        self._write()

    def _write(self) -> None:
        new = self._path.with_suffix(".new")
        if self._mood is Mood.SILENT:
            os.mkfifo(new)
        else:
            new.write_text(self._text if self._mood is Mood.GOOD else "[{")
        new.replace(self._path)
