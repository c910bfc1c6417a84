"""The archive of the image: `packages/image.py` writes the same bytes whenever it is built."""

from __future__ import annotations

import os
import runpy
import tarfile
from pathlib import Path

import pytest

_IMAGE = Path(__file__).parents[2] / "packages/image.py"


def test_two_archives_of_an_image_are_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1796000000")
    archive = runpy.run_path(str(_IMAGE))["archive"]
    files = []
    for number, names in enumerate((("index.json", "blobs/sha256/ab"), ("blobs/sha256/ab", "index.json"))):
        folder, file = tmp_path / str(number), tmp_path / f"{number}.tar"
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name, encoding="utf-8")
            (folder / name).chmod(0o600 + number * 0o44)
            os.utime(folder / name, (number, number))
        archive(folder, file)
        files.append(file)
    assert files[0].read_bytes() == files[1].read_bytes()
    with tarfile.open(files[0]) as tar:
        assert tar.getnames() == ["blobs", "blobs/sha256", "blobs/sha256/ab", "index.json"]
