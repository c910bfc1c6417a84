"""Which backend is chosen on which host, what is said where none can be, and that looking changes nothing."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.network import Network, Result, intent, service
from support.users import as_user

WEB = intent(service("web", "80/tcp", "8001", "8002", "8003"))
UNPRIVILEGED = as_user("--bounding-set=-all", "--inh-caps=-all")
FLAVOURS = {
    f"{word}-{flavour}-{verb}"
    for word in ("iptables", "ip6tables")
    for flavour in ("legacy", "nft")
    for verb in ("save", "restore")
}
#: Run by every Python that is started with this in its path: some modules are not installed.
HIDING = """\
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *where: None if name in {names!r} else find(name, *where)
"""


class Machine:
    """The host of a network, with only some tools and modules installed."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self._bin = folder / "bin"
        self._hidden = folder / "hidden"
        self._bin.mkdir()
        self._hidden.mkdir()
        self.config = folder / "lbctl.toml"
        self.config.write_text(WEB)
        self._state = folder / "state"

    def install(self, *tools: str, **others: str) -> None:
        """Put tools into PATH under their names, or under another: `name="its real one"`."""
        for name, real in {**{tool: tool for tool in tools}, **others}.items():
            path = shutil.which(real)
            assert path, real
            # Not resolved: the tools of iptables look at the name that they are called by.
            (self._bin / name).symlink_to(path)

    def uninstall(self, *tools: str) -> None:
        for name in tools:
            (self._bin / name).unlink()

    def hide(self, *modules: str) -> None:
        (self._hidden / "sitecustomize.py").write_text(HIDING.format(names=set(modules)))

    def lbctl(self, *words: str, before: tuple[str, ...] = ()) -> Result:
        env = {k: v for k, v in os.environ.items() if k not in {"LBCTL_CONFIG", "NO_COLOR"}}
        env |= {
            "PATH": str(self._bin),
            "PYTHONPATH": str(self._hidden),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LBCTL_STATE_DIR": str(self._state),
        }
        with self.network.host.entered():
            done = subprocess.run(
                [*before, sys.executable, "-m", "lbctl", *words],
                cwd=self.config.parent,
                env=env,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
        return Result(done.returncode, done.stdout, done.stderr)

    def chosen(self) -> tuple[str, str]:
        found = self.lbctl("backends", "--output", "json")
        assert (found.code, found.err) == (0, "")
        return found.json["chosen"], found.json["driver"]


@pytest.fixture
def machine(network: Network, tmp_path: Path) -> Machine:
    return Machine(network, tmp_path)


def works(machine: Machine) -> None:
    """Apply, see no difference, remove: without naming a backend."""
    applied = machine.lbctl("apply", "--yes")
    assert applied.code == 0, applied.err
    assert machine.lbctl("plan", "--exit-code").code == 0
    machine.network.local_endpoints((8001, 8002, 8003))
    assert machine.network.ask(machine.network.client, "192.0.2.1", 80, 3) == ["8001", "8002", "8003"]
    assert machine.lbctl("remove", "--yes").code == 0
    # The built-in chains of iptables stay where its table was made.
    assert "lbctl" not in machine.network.rules().lower()


def test_nothing_hidden(machine: Machine) -> None:
    machine.install("nft", *FLAVOURS)
    assert machine.chosen() == ("nftables", "libnftables")


def test_only_the_command_nft(machine: Machine) -> None:
    machine.install("nft")
    machine.hide("nftables", "iptc")
    assert machine.chosen() == ("nftables", "nft")
    works(machine)


def test_only_the_binding(machine: Machine) -> None:
    machine.hide("iptc")
    assert machine.chosen() == ("nftables", "libnftables")
    works(machine)
    refused = machine.lbctl("plan", "--driver", "nft")
    assert (refused.code, refused.out) == (3, "")
    assert "nft" in refused.err


def test_a_binding_that_fails_to_import_is_missing(machine: Machine) -> None:
    # Built for another Python, as after an upgrade of the distribution.
    machine.install("nft")
    (machine.config.parent / "hidden" / "nftables.py").write_text("raise ImportError('undefined symbol')\n")
    assert machine.chosen() == ("nftables", "nft")


def test_without_nftables_auto_is_iptables(machine: Machine) -> None:
    tools = FLAVOURS - {name for name in FLAVOURS if "-nft-" in name}
    machine.install(*tools)
    machine.hide("nftables", "iptc")
    assert machine.chosen() == ("iptables", "legacy")
    reason = machine.lbctl("backends").out.splitlines()[-1]
    assert reason.startswith("chosen: iptables through legacy")
    assert "nft is not in PATH" in reason
    works(machine)
    refused = machine.lbctl("apply", "--yes", "--backend", "nftables")
    assert (refused.code, refused.out) == (3, "")
    assert "apt install nftables" in refused.err


@pytest.mark.parametrize(
    ("flavour", "driver", "table"),
    [("xtables-legacy-multi", "legacy", "iptables-legacy-save"), ("xtables-nft-multi", "nf_tables", "nft")],
)
def test_plain_names_alone(machine: Machine, flavour: str, driver: str, table: str) -> None:
    # An old host has one flavour, and no name that says which.
    names = [f"{word}-{verb}" for word in ("iptables", "ip6tables") for verb in ("save", "restore")]
    machine.install(**dict.fromkeys(names, flavour))
    machine.hide("nftables", "iptc")
    assert machine.chosen() == ("iptables", driver)
    assert machine.lbctl("apply", "--yes").code == 0
    listing = (table, "list", "ruleset") if table == "nft" else (table,)
    assert "LBCTL-web" in machine.network.tool(*listing)
    works(machine)


def test_only_python_iptables(machine: Machine) -> None:
    machine.hide("nftables")
    assert machine.chosen() == ("iptables", "iptc")


def test_one_half_of_iptables_is_not_enough(machine: Machine) -> None:
    machine.install("iptables-legacy-restore", "iptables-nft-save")
    machine.hide("nftables", "iptc")
    refused = machine.lbctl("plan")
    assert (refused.code, refused.out) == (3, "")
    assert "iptables-save of flavour legacy" in refused.err


def test_nothing_usable(machine: Machine) -> None:
    machine.hide("nftables", "iptc")
    for words in (("plan",), ("apply", "--yes"), ("status",), ("remove", "--yes"), ("check", "--kernel")):
        refused = machine.lbctl(*words)
        assert (refused.code, refused.out) == (3, ""), words
        assert "apt install nftables" in refused.err
        assert "apt install iptables" in refused.err
        assert "Traceback" not in refused.err
    for output in ("text", "json"):
        looked = machine.lbctl("backends", "--output", output)
        assert looked.code == 3
        assert "apt install nftables" in looked.err
    assert looked.json["chosen"] is None
    assert [b["usable"] for b in looked.json["backends"]] == [False, False]
    assert all(b["remedy"] for b in looked.json["backends"])
    # What needs no kernel works on.
    assert machine.lbctl("check").code == 0
    for backend in ("nftables", "iptables"):
        assert "8003" in machine.lbctl("render", "--backend", backend).out


# -- without privileges


@pytest.fixture
def user(network: Network) -> Iterator[Machine]:
    """As `machine`, in a folder that every user can enter: pytest's own are closed."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        made = Machine(network, folder)
        made.install("nft", *FLAVOURS)
        yield made


def test_a_user_may_look_but_not_touch(user: Machine) -> None:
    assert user.lbctl("apply", "--yes").code == 0
    full = user.network.rules()
    for words in (("plan",), ("apply", "--yes"), ("status",), ("remove", "--yes"), ("check", "--kernel")):
        for backend in ("nftables", "iptables") if words != ("status",) else ("nftables",):
            refused = user.lbctl(*words, "--backend", backend, before=UNPRIVILEGED)
            assert (refused.code, refused.out) == (4, ""), (words, refused.err)
            # The state is closed to a user as well, and some commands read it first.
            assert "CAP_NET_ADMIN" in refused.err or "is for root alone" in refused.err
            assert "Traceback" not in refused.err
    # In a legacy kernel's place there seems to be nothing at all.
    live = [f"live:{store}" for store in ("nftables", "iptables-legacy")]
    for words in (
        *(("import", "--from", place.removeprefix("live:")) for place in live),
        *(("compare", place, "-") for place in live),
        ("explain", "80/tcp"),
    ):
        refused = user.lbctl(*words, before=UNPRIVILEGED)
        assert (refused.code, refused.out) == (4, ""), (words, refused.err)
        assert "CAP_NET_ADMIN" in refused.err
    assert user.network.rules() == full
    for words in (
        ("check",),
        ("render",),
        ("render", "--backend", "iptables"),
        ("schema",),
        ("init", "--listen", "80/tcp", "--to", "8001"),
        ("--help",),
    ):
        done = user.lbctl(*words, before=UNPRIVILEGED)
        assert (done.code, done.err) == (0, ""), words
        assert done.out == user.lbctl(*words).out, words


def test_a_user_sees_the_same_backends(user: Machine) -> None:
    full = user.lbctl("backends").out
    assert "rules: nftables 0 managed by lbctl\n" in full
    # Rules are shown to nobody else; all that they are told is how to get there.
    unknown = re.sub(r"(?<=s|t|y) 0 managed by lbctl(, 0 foreign)?", " unknown", full)
    assert user.lbctl("backends", before=UNPRIVILEGED).out == unknown


def test_a_user_of_an_old_host_lacks_permission_not_iptables(user: Machine) -> None:
    user.uninstall("nft", *(name for name in FLAVOURS if "-nft-" in name))
    user.hide("nftables", "iptc")
    refused = user.lbctl("plan", before=UNPRIVILEGED)
    assert (refused.code, "CAP_NET_ADMIN" in refused.err) == (4, True)
    assert user.lbctl("render", before=UNPRIVILEGED).code == 0


# -- what is where


def stores(machine: Machine) -> dict[str, tuple[int | None, int | None]]:
    """Store → the rules of lbctl and those of others: `backends` and `status` agree, and leave no trace."""
    before = traces(machine.network)
    listed = machine.lbctl("backends", "--output", "json").json["backends"]
    entries = [entry for backend in listed for entry in backend["stores"]]
    assert machine.lbctl("status", "--output", "json").json["stores"] == entries
    assert traces(machine.network) == before
    return {entry["store"]: (entry["ours"], entry["others"]) for entry in entries}


def write(machine: Machine, flavour: str) -> None:
    """Rules of others in three tables and both families, one of them with a name like ours in it."""
    for word, rule in (
        ("iptables", "-t nat -A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE"),
        ("iptables", "-t mangle -A FORWARD -m comment --comment LBCTL-web -j ACCEPT"),
        ("iptables", "-A INPUT -p tcp --dport 22 -j ACCEPT"),
        ("ip6tables", "-A INPUT -p tcp --dport 22 -j ACCEPT"),
    ):
        machine.network.tool(f"{word}-{flavour}", *rule.split())


def held_by(machine: Machine, flavour: str) -> int:
    """Rules of lbctl in a flavour, by the plain way of looking for them."""
    saved = "".join(machine.network.tool(f"{word}-{flavour}-save") for word in ("iptables", "ip6tables"))
    return sum(line.startswith("-A") and "lbctl" in line.lower() for line in saved.splitlines())


def test_rules_are_counted_in_each_flavour(machine: Machine) -> None:
    machine.install("nft", "iptables", "iptables-save", "iptables-restore", *FLAVOURS)
    assert stores(machine) == {"nftables": (0, None), "iptables-nft": (0, 0), "iptables-legacy": (0, 0)}
    write(machine, "legacy")
    assert stores(machine) == {"nftables": (0, None), "iptables-nft": (0, 0), "iptables-legacy": (0, 4)}
    assert machine.lbctl("apply", "--yes", "--driver", "nf_tables").code == 0
    ours = held_by(machine, "nft")
    assert ours
    assert stores(machine) == {"nftables": (0, None), "iptables-nft": (ours, 0), "iptables-legacy": (0, 4)}
    assert "iptables-legacy 0 managed by lbctl, 4 foreign" in machine.lbctl("status").out
    assert machine.lbctl("remove", "--yes").code == 0
    write(machine, "nft")
    assert machine.lbctl("apply", "--yes", "--driver", "legacy").code == 0
    # The comment of somebody else is no rule of ours.
    ours = held_by(machine, "legacy") - 1
    assert stores(machine) == {"nftables": (0, None), "iptables-nft": (0, 4), "iptables-legacy": (ours, 4)}
    assert machine.lbctl("remove", "--yes").code == 0
    assert machine.lbctl("apply", "--yes").code == 0
    # A table with a name like ours, in a family in which we have none.
    machine.network.tool("nft", "add", "table", "inet", "lbctl")
    machine.network.tool("nft", "add", "chain", "inet", "lbctl", "x")
    machine.network.tool("nft", "add", "rule", "inet", "lbctl", "x", "accept")
    counted = stores(machine)
    tables = "".join(
        machine.network.tool("nft", "--json", "list", "table", f, "lbctl") for f in ("ip", "ip6")
    )
    assert counted == {
        "nftables": (tables.count('{"rule": {'), None),
        "iptables-nft": (0, 4),
        "iptables-legacy": (0, 4),
    }


@pytest.mark.parametrize(("flavour", "other"), [("legacy", "nft"), ("nft", "legacy")])
def test_plain_names_count_their_own_flavour_alone(machine: Machine, flavour: str, other: str) -> None:
    names = [f"{word}-{verb}" for word in ("iptables", "ip6tables") for verb in ("save", "restore")]
    machine.install(**dict.fromkeys(names, f"xtables-{flavour}-multi"))
    machine.hide("nftables", "iptc")
    write(machine, flavour)
    write(machine, other)
    assert stores(machine) == {
        "nftables": (None, None),
        f"iptables-{flavour}": (0, 4),
        # There are rules, but no tool of that flavour to count them.
        f"iptables-{other}": (None, None),
    }


def test_the_choice_tells_of_the_other_flavour(machine: Machine) -> None:
    machine.install(*FLAVOURS)
    machine.hide("nftables", "iptc")
    assert "rules too" not in machine.lbctl("backends").out
    write(machine, "nft")
    said = machine.lbctl("backends").out.splitlines()[-1]
    assert said.startswith("chosen: iptables through legacy (")
    assert said.endswith("; iptables-nft holds 4 rules too, and the kernel runs both)")
    asked = machine.lbctl("backends", "--driver", "nf_tables", "--output", "json").json["reason"]
    assert asked == "asked for"


# -- looking is passive


def traces(network: Network) -> dict[str, str]:
    """All that a curious program may leave in the kernel."""
    with network.host.entered():
        texts = {
            word: Path(f"/proc/thread-self/net/{word}_names").read_text()
            for word in ("ip_tables", "ip6_tables")
        }
    texts["ruleset"] = network.tool("nft", "list", "ruleset")
    modules = Path("/proc/modules")
    texts["modules"] = "".join(sorted(line.split()[0] for line in modules.open())) if modules.exists() else ""
    return texts


def test_looking_leaves_no_trace(machine: Machine) -> None:
    machine.install("nft", "conntrack", "iptables", "iptables-restore", *FLAVOURS)
    fresh = traces(machine.network)
    assert fresh["ip_tables"] == fresh["ip6_tables"] == fresh["ruleset"] == ""
    for words in (
        ("backends",),
        ("backends", "--output", "json"),
        ("check",),
        ("render",),
        ("render", "--backend", "iptables"),
        ("render", "--driver", "iptc"),
        ("plan",),
        ("plan", "--driver", "legacy"),
        ("plan", "--driver", "nf_tables"),
        ("plan", "--driver", "iptc"),
        ("status",),
        ("remove",),
    ):
        assert machine.lbctl(*words).code == 0, words
        assert traces(machine.network) == fresh, words


@pytest.mark.parametrize("driver", ["libnftables", "nft", "nf_tables"])
def test_having_the_kernel_check_leaves_no_rule(machine: Machine, driver: str) -> None:
    machine.install("nft", *FLAVOURS)
    fresh = traces(machine.network)
    assert machine.lbctl("check", "--kernel", "--driver", driver).code == 0
    after = traces(machine.network)
    assert after.pop("modules") is not None
    assert after == {key: value for key, value in fresh.items() if key != "modules"}


def test_a_refused_apply_leaves_no_trace(machine: Machine) -> None:
    machine.install("nft", *FLAVOURS)
    fresh = traces(machine.network)
    for driver in ("legacy", "nf_tables", "nft"):
        assert machine.lbctl("apply", "--driver", driver).code == 2
        assert traces(machine.network) == fresh, driver
