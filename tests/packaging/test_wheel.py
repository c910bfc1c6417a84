"""What is in the wheel, and that it works where nothing but the wheel and its dependencies is installed."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
import tomllib
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

import lbctl

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BACKENDS = ("lbctl_netfilter", "lbctl_rules", "lbctl_nftables", "lbctl_iptables")
ROOTS = {"lbctl": "src", **dict.fromkeys(BACKENDS, "backends")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = out.iterdir()
    return file


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    with ZipFile(wheel) as archive:
        return set(archive.namelist())


def read(wheel: Path, name: str) -> str:
    with ZipFile(wheel) as archive:
        return archive.read(f"lbctl-{lbctl.__version__}.dist-info/{name}").decode()


def test_it_runs_on_every_python_3_and_platform(wheel):
    assert wheel.name == f"lbctl-{lbctl.__version__}-py3-none-any.whl"


def test_it_holds_every_module_of_its_packages_and_nothing_else(names):
    sources = {
        str(path.relative_to(ROOT / root))
        for package, root in ROOTS.items()
        for path in (ROOT / root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name and ".data/" not in name} == sources


def test_it_holds_what_systemd_man_and_shells_find_below_its_prefix(names):
    prefix = f"lbctl-{lbctl.__version__}.data/data/"
    units = {
        f"lib/systemd/system/{file.name}"
        for file in (ROOT / "examples/systemd").iterdir()
        if file.suffix in {".service", ".timer"}
    }
    assert {name.removeprefix(prefix) for name in names if name.startswith(prefix)} == units | {
        "share/bash-completion/completions/lbctl",
        "share/fish/vendor_completions.d/lbctl.fish",
        "share/zsh/site-functions/_lbctl",
        "share/man/man5/lbctl.toml.5",
        "share/man/man8/lbctl-agent.8",
        "share/man/man8/lbctl.8",
    }


@pytest.mark.parametrize("package", ROOTS)
def test_each_package_is_typed(names, package):
    assert {f"{package}/__init__.py", f"{package}/py.typed"} <= names


def test_its_entry_points_are_the_command_the_backends_and_the_sources(wheel):
    found = configparser.ConfigParser()
    found.read_string(read(wheel, "entry_points.txt"))
    sources = ("consul", "dns", "docker", "etcd", "file", "kubernetes", "systemd")
    assert {section: dict(found[section]) for section in found.sections()} == {
        "lbctl.sources": {name: f"lbctl.agent.sources.{name}" for name in sources},
        "console_scripts": {"lbctl": "lbctl.__main__:start"},
        "lbctl.backends": {"nftables": "lbctl_nftables.backend", "iptables": "lbctl_iptables.backend"},
    }


def test_its_metadata_says_what_the_project_says(wheel):
    metadata = Parser().parsestr(read(wheel, "METADATA"))
    assert metadata["Name"] == "lbctl"
    assert metadata["Version"] == lbctl.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    extras = PROJECT["optional-dependencies"]
    assert metadata.get_all("Provides-Extra") == sorted(extras)
    required = metadata.get_all("Requires-Dist") or []
    plain = {text.replace(" ", "") for text in required if ";" not in text}
    assert plain == set(PROJECT["dependencies"])
    assert sorted(text.replace(" ", "") for text in required if ";" in text) == sorted(
        f"{needed};extra=='{extra}'" for extra, all_needed in extras.items() for needed in all_needed
    )
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text().strip()


def test_every_python_that_is_promised_is_tested(wheel):
    """Classifiers, the forge's matrix and the oldest Python that pip takes name the same versions."""
    prefix = "Programming Language :: Python :: 3."
    promised = [each.removeprefix(prefix) for each in PROJECT["classifiers"] if each.startswith(prefix)]
    workflow = (ROOT / ".github/workflows/test.yml").read_text()
    [matrix] = re.findall(r"python: \[(.*)\]", workflow)
    assert matrix == ", ".join(f'"3.{minor}"' for minor in promised)
    assert PROJECT["requires-python"] == f">=3.{promised[0]}"


def test_it_carries_the_licence(wheel):
    assert read(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text()


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", target, wheel], check=True)
    return target


def run(site: Path, *words: str) -> str:
    # An editable lbctl in this environment stands behind PYTHONPATH; -P keeps the current folder out.
    argv = [sys.executable, "-P", *words]
    environment = {**os.environ, "PYTHONPATH": str(site), "PATH": f"{site / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(argv, env=environment, cwd=site, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_installed_it_runs_from_there(site):
    assert run(site, "-m", "lbctl", "--version") == f"lbctl {lbctl.__version__}\n"
    assert run(site, site / "bin" / "lbctl", "--version") == f"lbctl {lbctl.__version__}\n"
    files = run(
        site, "-c", "import lbctl, lbctl_nftables, lbctl_iptables as i; print(lbctl.__file__, i.__file__)"
    )
    assert all(file.startswith(str(site)) for file in files.split())


def test_installed_it_finds_both_backends_and_renders(site, tmp_path):
    intent = tmp_path / "lbctl.toml"
    intent.write_text('schema = 1\n[[service]]\nname = "web"\nlisten = "80/tcp"\nendpoints = ["8001-8003"]\n')
    for backend in ("nftables", "iptables"):
        rules = run(site, "-m", "lbctl", "render", "--backend", backend, "--config", str(intent))
        assert "8003" in rules


def test_in_an_environment_without_the_binding_the_reason_has_the_remedy(site, tmp_path):
    """`make deps` installs the binding for the distribution's Python; an environment of its own hides it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *dependencies])}
    lbctl_backends = [tmp_path / "bare/bin/python", "-P", "-m", "lbctl", "backends", "--output", "json"]
    done = subprocess.run(lbctl_backends, env=environment, capture_output=True, text=True)
    found = {each["name"]: each["drivers"] for each in json.loads(done.stdout)["backends"]}
    [library] = [driver for driver in found["nftables"] if driver["name"] == "libnftables"]
    assert not library["usable"]
    told = re.fullmatch(r".* does not see: (/usr/bin/\S+) -m venv (\S+) DIR && .*", library["reason"])
    assert told, library["reason"]
    python, option = told.groups()
    subprocess.run([python, "-m", "venv", "--without-pip", option, tmp_path / "wide"], check=True)
    subprocess.run([tmp_path / "wide/bin/python", "-c", "import nftables"], check=True)
