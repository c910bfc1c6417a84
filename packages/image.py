"""The OCI image of the agent, from the deb, by buildah."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
#: Names another base, e.g. one that is at hand.
VARIABLE = "IMAGE_BASE"


def build(output: Path) -> Path:
    """Build an OCI archive from the newest deb in `output`."""
    debs = sorted(output.glob("lbctl_*.deb"), key=lambda file: file.stat().st_mtime)
    if not debs:
        sys.exit(f"{output} has no deb: name the kind deb too")
    file = output / "lbctl-agent.oci.tar"
    base = (f"--build-arg=BASE={os.environ[VARIABLE]}",) if VARIABLE in os.environ else ()
    with tempfile.TemporaryDirectory() as folder:
        # As root, and in containers: with neither a daemon nor a file system of its own.
        buildah = ("buildah", f"--root={folder}/root", f"--runroot={folder}/run", "--storage-driver=vfs")
        subprocess.run(
            [
                *(*buildah, "build", "--isolation=chroot", "--quiet", *base),
                f"--build-arg=DEB={debs[-1].name}",
                f"--timestamp={os.environ['SOURCE_DATE_EPOCH']}",
                # The name that it has once it is loaded.
                *("--tag", f"oci:{folder}/image:lbctl-agent:latest"),
                *("--file", HERE / "Containerfile", output),
            ],
            check=True,
        )
        archive(Path(folder, "image"), file)
    return file


def archive(folder: Path, file: Path) -> None:
    """Write an archive of an image's folder: buildah's own has the times of its files."""
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, path.relative_to(folder), recursive=False, filter=_settled)


def _settled(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o755 if entry.isdir() else 0o644
    entry.mtime = int(os.environ["SOURCE_DATE_EPOCH"])
    return entry
