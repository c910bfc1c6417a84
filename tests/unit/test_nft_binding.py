"""A binding that is installed but out of reach comes with the command that brings it into reach."""

import pytest

from lbctl.host.fake import FakeHost
from lbctl_nftables import probe
from lbctl_nftables.drivers.binding import why_missing

DEBIAN = "/usr/lib/python3/dist-packages"
RHEL = "/usr/lib/python3.9/site-packages"
VENV = "-m venv --system-site-packages DIR && DIR/bin/pip install lbctl"
PIPX = "pipx uninstall lbctl && pipx install --system-site-packages --python /usr/bin/python3 lbctl"
HERE = "/opt/environment"


def host(*files: str) -> FakeHost:
    return FakeHost(files=dict.fromkeys(files, ""))


@pytest.mark.parametrize(
    ("left", "fix"),
    [
        ("pipx_metadata.json", PIPX),
        (
            "uv-receipt.toml",
            f"uv tool install has no option for it; use driver nft, or /usr/bin/python3 {VENV}",
        ),
        ("pyvenv.cfg", f"/usr/bin/python3 {VENV}"),
    ],
)
def test_the_fix_is_that_of_the_installer(left: str, fix: str) -> None:
    debian = host(f"{DEBIAN}/nftables/__init__.py", "/usr/bin/python3.11", f"{HERE}/{left}")
    seen = f"Python module nftables is in {DEBIAN}, which this Python environment does not see: "
    assert why_missing(debian, prefix=HERE, visible=()) == seen + fix


@pytest.mark.parametrize(
    ("files", "python"),
    [
        # Ubuntu 22.04 with a newer Python beside its own, and files that are no Python.
        (
            (
                f"{DEBIAN}/nftables/__init__.py",
                "/usr/bin/python3.10",
                "/usr/bin/python3.12",
                "/usr/bin/python3.12-config",
            ),
            "/usr/bin/python3.12",
        ),
        # Fedora: a folder for each version.
        (
            (
                "/usr/lib/python3.13/site-packages/nftables/__init__.py",
                "/usr/bin/python3.13",
                "/usr/bin/python3.14",
            ),
            "/usr/bin/python3.13",
        ),
        (
            ("/usr/lib64/python3.13/site-packages/nftables/__init__.py", "/usr/bin/python3.13"),
            "/usr/bin/python3",
        ),
    ],
)
def test_the_python_is_one_that_sees_the_module(files: tuple[str, ...], python: str) -> None:
    assert why_missing(host(*files), prefix=HERE, visible=()).endswith(f": {python} {VENV}")


@pytest.mark.parametrize(
    "files",
    [
        # RHEL 9: the binding is for its own Python, which is too old.
        (f"{RHEL}/nftables/__init__.py", "/usr/bin/python3.9", "/usr/bin/python3.11"),
        (f"{DEBIAN}/nftables/__init__.py", "/usr/bin/python3.10"),
    ],
)
def test_where_no_python_sees_the_module_the_other_driver_is_named(files: tuple[str, ...]) -> None:
    assert why_missing(host(*files), prefix=HERE, visible=()).endswith(
        "does not see, and no Python from 3.11 on does: driver nft does the same"
    )


def test_a_module_that_is_not_there_is_called_so() -> None:
    assert (
        why_missing(host("/usr/bin/python3.11"), prefix=HERE, visible=())
        == "Python module nftables is not installed"
    )


def test_a_module_in_reach_that_fails_is_called_broken() -> None:
    debian = host(f"{DEBIAN}/nftables/__init__.py", "/usr/bin/python3.11")
    reason = why_missing(debian, prefix=HERE, visible=[DEBIAN])
    assert reason == f"Python module nftables in {DEBIAN} cannot be imported"


def test_the_probe_has_the_reason() -> None:
    [library, _] = probe.probe(host()).drivers
    assert (library.usable, library.reason) == (False, "Python module nftables is not installed")
