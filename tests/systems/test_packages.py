"""The packages in fresh Debian systems: installed, upgraded and removed, under systemd and under load.

No system has a network: its systemd runs on the middle one of three hosts of a private network.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lbctl.conformance.network import HOST4, HOST6
from support import manual
from support.network import intent, service
from support.waves import Storm, reported

_PORTS = ("8001", "8002", "8003")
_INTENT = intent(service("web", "80/tcp", *_PORTS, check="tcp"))
#: Connections between two steps.
_WAVE = 500


@pytest.fixture
def storm(network):
    """Endpoints on the middle host, and clients that connect without a pause once they are asked to."""
    places = [f"{address}:{port}" for port in _PORTS for address in ("0.0.0.0", "[::]")]
    storm = Storm(network, [(network.host, places)], [f"{HOST4}:80", f"[{HOST6}]:80"], clients=4)
    yield storm
    storm.close()


def test_two_builds_are_equal(packages):
    names = sorted(file.name for file in packages.new.iterdir())
    assert len(names) == 5, names
    assert names == sorted(file.name for file in packages.again.iterdir())
    for name in names:
        assert (packages.new / name).read_bytes() == (packages.again / name).read_bytes(), name


def test_lintian_finds_no_error(packages):
    argv = ["lintian", "--allow-root", "--fail-on=error", packages.file(packages.new, "*.deb")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", manual.PAGES)
def test_mandoc_finds_nothing_wrong_in_a_page(name):
    argv = ["mandoc", "-T", "lint", manual.FOLDER / name]
    done = subprocess.run(argv, capture_output=True, text=True)
    # It looks for other pages on this machine, which need not have them.
    found = [line for line in done.stdout.splitlines() if "referenced manual not found" not in line]
    assert not found


def test_nothing_is_started_that_was_not_asked_for(booted, provide, packages):
    """Neither started nor enabled; and the driver with the distribution's binding is usable."""
    before = booted.run("nft", "list", "ruleset")
    booted.run("apt-get", "install", "--yes", "--quiet", provide(packages.new, "*.deb"))
    for unit in ("lbctl.service", "lbctl-agent.service", "lbctl-drift.timer"):
        assert booted.attempt("systemctl", "is-enabled", unit)[0] == "disabled\n"
        assert booted.attempt("systemctl", "is-active", unit)[0] == "inactive\n"
    assert booted.run("nft", "list", "ruleset") == before
    assert not booted.file("/etc/lbctl/lbctl.toml").exists()
    assert "chosen: nftables through libnftables" in booted.run("lbctl", "backends")
    assert booted.run("lbctl", "--version") == f"lbctl {_version(packages.new)}\n"
    for unit in ("lbctl.service", "lbctl-agent.service", "lbctl-drift.service"):
        booted.run("systemd-analyze", "verify", f"/usr/lib/systemd/system/{unit}")
    # An interpreter that compiles nothing has nothing to write either.
    compiled = booted.file("/usr/lib/lbctl/lib/python3/site-packages/lbctl/__pycache__")
    assert any(compiled.iterdir())


def test_upgrade_return_and_removal_lose_no_connection(booted, network, storm, provide, packages):
    new, newer = provide(packages.new, "*.deb"), provide(packages.newer, "*.deb")
    booted.run("dpkg", "--install", new)
    booted.file("/etc/lbctl/lbctl.toml").write_text(_INTENT, encoding="utf-8")
    booted.run("systemctl", "enable", "--now", "lbctl.service", "lbctl-agent.service")
    storm.begin()
    storm.wait(_WAVE)
    rules = _rules(booted)
    first = _agent(booted)

    booted.run("dpkg", "--install", newer)
    assert booted.run("lbctl", "--version") == "lbctl 0.9.0\n"
    second = _agent(booted)
    assert second != first, "the agent runs the new version"
    storm.wait(storm.count() + _WAVE)

    booted.run("dpkg", "--install", new)
    assert _agent(booted) != second
    storm.wait(storm.count() + _WAVE)
    booted.run("lbctl", "plan", "--exit-code")

    booted.run("dpkg", "--remove", "lbctl")
    assert booted.attempt("systemctl", "is-active", "lbctl-agent.service")[0] == "inactive\n"
    assert not booted.file("/usr/lib/lbctl").exists()
    assert booted.file("/var/lib/lbctl").exists()
    storm.wait(storm.count() + _WAVE)

    booted.run("dpkg", "--install", new)
    assert booted.attempt("systemctl", "is-enabled", "lbctl-agent.service")[0] == "enabled\n"
    booted.run("systemctl", "start", "lbctl-agent.service")
    _agent(booted)
    storm.wait(storm.count() + _WAVE)

    booted.run("dpkg", "--purge", "lbctl")
    assert not booted.file("/var/lib/lbctl").exists()
    assert booted.file("/etc/lbctl/lbctl.toml").read_text(encoding="utf-8") == _INTENT
    # systemd 252 ends with 1 where it lists none.
    assert "lbctl" not in booted.attempt("systemctl", "list-unit-files", "lbctl*")[0]
    storm.wait(storm.count() + _WAVE)

    assert _rules(booted) == rules
    _assert_none_lost(storm)


def _rules(booted) -> str:
    """The rules by the system's own nft: 1.0.6 crashes on what 1.1.3 adds to a set."""
    return booted.run("nft", "--stateless", "list", "ruleset")


def test_upgrade_over_0_1_and_back_loses_no_connection(booted, network, storm, provide, packages):
    old, new = provide(packages.old, "*.deb"), provide(packages.new, "*.deb")
    booted.run("dpkg", "--install", old)
    booted.file("/etc/lbctl/lbctl.toml").write_text(
        intent(service("web", "80/tcp", *_PORTS)), encoding="utf-8"
    )
    booted.run("systemctl", "enable", "--now", "lbctl.service", "lbctl-drift.timer")
    storm.begin()
    storm.wait(_WAVE)
    rules = _rules(booted)

    booted.run("dpkg", "--install", new)
    assert _rules(booted) == rules
    booted.run("lbctl", "apply", "--yes")
    booted.run("systemctl", "start", "lbctl-agent.service")
    _agent(booted)
    storm.wait(storm.count() + _WAVE)

    booted.run("dpkg", "--install", old)
    assert booted.run("lbctl", "--version").startswith("lbctl 0.1")
    storm.wait(storm.count() + _WAVE)
    booted.run("systemctl", "reload", "lbctl.service")
    storm.wait(storm.count() + _WAVE)
    booted.run("dpkg", "--purge", "lbctl")
    storm.wait(storm.count() + _WAVE)
    _assert_none_lost(storm)


def test_the_rpm_is_installed_upgraded_and_removed(booted, provide, packages):
    """By Debian's rpm, which knows none of the packages that this one needs."""
    files = set(_files(booted.path))
    booted.run("rpm", "--install", "--nodeps", provide(packages.new, "*.rpm"))
    assert booted.run("lbctl", "--version") == f"lbctl {_version(packages.new)}\n"
    booted.run("rpm", "--upgrade", "--nodeps", provide(packages.newer, "*.rpm"))
    assert booted.run("lbctl", "--version") == "lbctl 0.9.0\n"
    assert booted.attempt("systemctl", "is-active", "lbctl-agent.service")[0] == "inactive\n"
    booted.run("rpm", "--erase", "lbctl")
    assert set(_files(booted.path)) == files


def test_a_damaged_installation_can_be_repaired_and_removed(system, provide, packages):
    deb, rpm = provide(packages.new, "*.deb"), provide(packages.new, "*.rpm")
    for damage, step in (
        ("/usr/lib/lbctl", ("--install", deb)),
        ("/usr/lib/lbctl/bin", ("--remove", "lbctl")),
    ):
        system.run("dpkg", "--install", deb)
        system.run("rm", "-r", damage)
        system.run("dpkg", *step)
    system.run("dpkg", "--install", deb)
    assert system.run("lbctl", "--version") == f"lbctl {_version(packages.new)}\n"
    system.run("dpkg", "--purge", "lbctl")
    system.run("rpm", "--install", "--nodeps", rpm)
    system.run("rm", "-r", "/usr/lib/lbctl/lib")
    system.run("rpm", "--erase", "lbctl")
    assert not system.file("/usr/lib/lbctl").exists()


def test_a_link_in_place_of_the_configuration_stays(system, provide, packages):
    deb, kept = provide(packages.new, "*.deb"), system.file("/srv/kept")
    system.run("dpkg", "--install", deb)
    assert system.file("/etc/lbctl/conf.d").is_dir()
    system.run("dpkg", "--purge", "lbctl")
    assert not system.file("/etc/lbctl").exists()
    kept.mkdir()
    (kept / "lbctl.toml").write_text(_INTENT, encoding="utf-8")
    system.file("/etc/lbctl").symlink_to("/srv/kept")
    for step in (("--install", deb), ("--install", deb), ("--remove", "lbctl"), ("--purge", "lbctl")):
        system.run("dpkg", *step)
        assert system.file("/etc/lbctl").is_symlink(), step
    assert (kept / "lbctl.toml").read_text(encoding="utf-8") == _INTENT


def test_the_single_file_runs_and_reverts_a_trial(booted, network, provide, packages):
    """The process that reverts is one more Python, which must find lbctl too."""
    program = provide(packages.new, "lbctl.pyz")
    assert booted.run(program, "--version") == f"lbctl {_version(packages.new)}\n"
    before = network.rules()
    booted.file("/root/lbctl.toml").write_text(_INTENT, encoding="utf-8")
    booted.run(program, "apply", "--yes", "--config", "/root/lbctl.toml")
    applied = network.rules()
    assert applied != before
    booted.file("/root/lbctl.toml").write_text(_INTENT.replace("8003", "8004"), encoding="utf-8")
    booted.run(program, "apply", "--yes", "--trial", "1s", "--config", "/root/lbctl.toml", code=8)
    assert network.rules() == applied


def _agent(system) -> str:
    """The process id of the agent, once it is ready."""
    system.wait_for({"active"}, "systemctl", "is-active", "lbctl-agent.service")
    return system.run("systemctl", "show", "--property=MainPID", "--value", "lbctl-agent.service")


def _assert_none_lost(storm: Storm) -> None:
    reports = storm.end()
    assert not [each for each in reported(reports) if each.failed]
    assert not any(report["broken"] for report in reports)


def _version(folder: Path) -> str:
    [wheel] = folder.glob("*.whl")
    return wheel.name.split("-")[1]


def _files(root: Path) -> list[Path]:
    """What is below the folders that packages write to."""
    below = ("etc/lbctl", "usr/bin", "usr/lib/lbctl", "usr/lib/systemd/system", "usr/share")
    found = (path for name in below for path in (root / name).rglob("*"))
    return [path.relative_to(root) for path in found if path.is_symlink() or not path.is_dir()]
