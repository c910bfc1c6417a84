"""The directories of lbctl's own state: what is refused there, and what no umask and no link changes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbctl.errors import ApplyFailed, PermissionDenied
from lbctl.host import LocalHost, local, write_whole
from lbctl.host.files import write_new

NOBODY = 65534


@pytest.fixture(params=[True, False], ids=["first network", "another network"])
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHost:
    """A host whose state is in `lib`, or in a directory of the network namespace."""
    monkeypatch.setattr(local, "_is_first_network", lambda: request.param)
    return LocalHost(tmp_path / "state")


@pytest.fixture(params=[0o000, 0o022, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def shelf(host: LocalHost) -> Path:
    """Where what is saved lies."""
    host.save("lbctl.probe", "x")
    (found,) = (path.parent for path in _base(host).rglob("lbctl.probe"))
    return found


def _base(host: LocalHost) -> Path:
    return host._run.path.parent


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a file belong to another user; without root, by being another user oneself."""
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    else:
        monkeypatch.setattr("lbctl.host.state.os.geteuid", lambda: NOBODY)


def mode(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


@pytest.mark.usefixtures("umask")
def test_modes_do_not_depend_on_the_umask(host: LocalHost) -> None:
    folder = shelf(host)
    host.remember("lbctl.kernel", "y")
    with host.lock("lbctl"):
        pass
    base = _base(host)
    assert (mode(base), mode(base / "run"), mode(folder)) == ("0o755", "0o755", "0o700")
    assert {mode(path) for path in base.rglob("*") if path.is_file()} == {"0o600"}
    assert host.recall("lbctl.kernel") == "y"


@pytest.mark.usefixtures("umask")
def test_files_that_the_user_named_are_for_their_owner_alone_too(tmp_path: Path) -> None:
    write_new(tmp_path / "new", "x")
    write_whole(tmp_path / "plan", "x")
    assert (mode(tmp_path / "new"), mode(tmp_path / "plan")) == ("0o600", "0o600")


def test_a_link_in_the_state_is_replaced_and_never_followed(host: LocalHost, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (shelf(host) / "lbctl.pending").symlink_to(victim)
    assert host.saved("lbctl.pending") is None
    host.save("lbctl.pending", "state")
    assert (victim.read_text(), host.saved("lbctl.pending")) == ("precious", "state")
    host.save("lbctl.pending", None)
    assert (victim.read_text(), host.saved("lbctl.pending")) == ("precious", None)


def test_a_link_in_place_of_the_temporary_file_is_not_followed(host: LocalHost, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (shelf(host) / f".lbctl.pending.{os.getpid()}.new").symlink_to(victim)
    host.save("lbctl.pending", "state")
    assert (victim.read_text(), host.saved("lbctl.pending")) == ("precious", "state")


def test_a_link_in_place_of_the_directory_is_refused(host: LocalHost, tmp_path: Path) -> None:
    folder = shelf(host)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    for work in (lambda: host.save("lbctl.pending", "x"), lambda: host.saved("lbctl.pending")):
        with pytest.raises(PermissionDenied, match="is a symbolic link") as caught:
            work()
        assert "LBCTL_STATE_DIR" in (caught.value.hint or "")


def test_a_directory_of_another_user_is_refused(host: LocalHost, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shelf(host)
    give_away(folder, monkeypatch)
    if os.geteuid():
        folder = _base(host)  # all of it is another user's then
    for work in (
        lambda: host.save("lbctl.pending", "x"),
        lambda: host.save("lbctl.pending", None),
        lambda: host.rename("lbctl.probe", "lbctl.000001"),
        lambda: host.saved("lbctl.probe"),
        host.saved_names,
    ):
        with pytest.raises(PermissionDenied, match="belongs to user") as caught:
            work()
        assert "chown root: " in (caught.value.hint or "")


@pytest.mark.parametrize("writable", [0o775, 0o757, 0o1777])
def test_a_directory_that_others_can_write_is_refused(host: LocalHost, writable: int) -> None:
    folder = shelf(host)
    folder.chmod(writable)
    with pytest.raises(PermissionDenied, match="can be written by other users") as caught:
        host.saved("lbctl.probe")
    assert f"chmod go-w {folder}" in (caught.value.hint or "")


def test_the_directory_above_may_be_sticky_but_not_open(host: LocalHost) -> None:
    above = shelf(host).parent
    if above != _base(host):
        return  # `run` is one of the directories above
    above.chmod(0o1777)
    assert host.saved("lbctl.probe") == "x"
    above.chmod(0o777)
    with pytest.raises(PermissionDenied, match="can be written by other users"):
        host.saved("lbctl.probe")


def test_the_lock_is_refused_where_another_user_could_replace_it(host: LocalHost) -> None:
    with host.lock("lbctl"):
        pass
    (_base(host) / "run").chmod(0o777)
    with pytest.raises(PermissionDenied, match="can be written by other users"), host.lock("lbctl"):
        pass


def test_what_is_only_remembered_is_forgotten_there(host: LocalHost) -> None:
    host.remember("lbctl.kernel", "y")
    (_base(host) / "run").chmod(0o777)
    assert host.recall("lbctl.kernel") is None
    host.remember("lbctl.kernel", "z")
    (_base(host) / "run").chmod(0o755)
    assert host.recall("lbctl.kernel") == "y"


def test_a_file_of_another_user_or_of_another_kind_is_not_believed(
    host: LocalHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shelf(host)
    (folder / "lbctl.probe").chmod(0o620)
    assert host.saved("lbctl.probe") is None
    os.mkfifo(folder / "lbctl.trial", 0o600)
    assert host.saved("lbctl.trial") is None
    host.save("lbctl.trial", "t")
    assert host.saved("lbctl.trial") == "t"
    if os.geteuid() == 0:
        give_away(folder / "lbctl.trial", monkeypatch)
        assert host.saved("lbctl.trial") is None


def test_a_link_in_place_of_the_lock_is_refused(host: LocalHost, tmp_path: Path) -> None:
    with host.lock("lbctl"):
        pass
    (lock,) = (_base(host) / "run").glob("lbctl.*.lock")
    lock.unlink()
    lock.symlink_to(tmp_path / "victim")
    with pytest.raises(ApplyFailed, match="cannot open the lock"), host.lock("lbctl"):
        pass
    assert not (tmp_path / "victim").exists()
