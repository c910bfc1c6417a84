"""A fleet with a real etcd of three members: three balancers, six endpoints, clients over ECMP."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lbctl.agent.fleet import registration
from lbctl.demo.fleet import BALANCERS, ENDPOINTS, INTENT, MEMBERS, SERVICE_ADDRESS, DemoFleet
from support.documents import validator
from support.fleet import COUNT, RATE, TAKEOVER, Clients, Established, Fabric, intent

#: Seconds that a test waits for something on a machine that does a lot besides.
PATIENCE = 60.0
#: Seconds that a connection may have been under way on such a machine when something broke.
UNDER_WAY = 2.0


@pytest.fixture
def fleet(servers: Path) -> Iterator[DemoFleet]:
    with DemoFleet(servers / "usr/bin/etcd") as made:
        made.start_etcd()
        for name in BALANCERS:
            made.start_balancer(name)
        yield made


def wait(what: Callable[[], object], why: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < until, why()
        time.sleep(0.1)


def hosts(fleet: DemoFleet) -> Any:
    found = fleet.lbctl("hosts", "--output", "json")
    assert found.returncode == 0, found.stderr
    document = json.loads(found.stdout)
    validator("hosts").validate(document)
    return document


def stand(fleet: DemoFleet) -> dict[str, tuple[str, int | None, int, int]]:
    """Return the state, the revision, and the endpoints that are up and down, of each host."""
    return {
        each["host"]: (
            each["state"],
            each["revision"],
            sum(service["up"] for service in each["services"]),
            sum(service["down"] for service in each["services"]),
        )
        for each in hosts(fleet)["hosts"]
    }


def all_stand(fleet: DemoFleet, *expected: Any, names: tuple[str, ...] = tuple(BALANCERS)) -> None:
    """Wait until these hosts stand so."""
    last: list[Any] = []

    def reached() -> bool:
        last[:] = [stand(fleet)]
        return all(last[0].get(name) == expected for name in names)

    wait(reached, lambda: (expected, last, [fleet.log(name)[-1500:] for name in BALANCERS]))


def publish(fleet: DemoFleet, text: str, *words: str, code: int = 0) -> str:
    path = fleet.folder / "edge.toml"
    path.write_text(text)
    found = fleet.lbctl("publish", str(path), "--yes", *words)
    assert found.returncode == code, (found.stdout, found.stderr)
    return found.stdout + found.stderr


def shares(fleet: DemoFleet, name: str) -> dict[str, str]:
    """Return what a balancer's kernel gives to each endpoint of the first service."""
    found = fleet.lbctl("status", "--output", "json", host=name)
    assert found.returncode == 0, found.stderr
    service = json.loads(found.stdout)["services"][0]
    return {each["to"].partition(":")[0]: each["wanted"] for each in service["endpoints"]}


def is_out(fleet: DemoFleet, name: str, endpoint: str) -> bool:
    return shares(fleet, name).get(endpoint, "0/1") == "0/1"


def done(fleet: DemoFleet, *words: str, host: str = "hub") -> None:
    found = fleet.lbctl(*words, host=host)
    assert found.returncode == 0, (found.stdout, found.stderr)


@pytest.mark.timeout(900)
def test_no_connection_is_lost_whatever_fails_and_hosts_tells_the_truth(
    fleet: DemoFleet, servers: Path
) -> None:
    fabric = Fabric(fleet)
    established = Established(fleet)
    try:
        publish(fleet, intent(), "--message", "the first")
        all_stand(fleet, "in-sync", 1, COUNT, 0)
        established.open()
        clients = Clients(fleet)
        try:
            forgiven = []
            for step in (members_are_lost, canaries, agents_start_again, drained_and_rolled_back):
                forgiven.extend(step(fleet, servers))
                assert established.lost() == {}, step.__name__
            forgiven.append(a_balancer_is_lost(fleet, fabric, established))
        finally:
            traffic = clients.stop()
    finally:
        established.close()
        fabric.close()
    print(f"{traffic.began / traffic.seconds:.0f} new connections a second for {traffic.seconds:.0f} s")
    print(traffic.began, "connections, failed:", dict(Counter(why for _, why in traffic.failed)))
    # On a machine that does much besides, the clients slow down.
    assert traffic.began > RATE / 4 * traffic.seconds
    assert traffic.failures(*forgiven) == []
    assert traffic.answers.keys() == set(ENDPOINTS)
    assert traffic.answers.total() + len(traffic.failed) == traffic.began
    # Even where something broke, nearly all went well.
    assert len(traffic.failed) < traffic.began / 20


def members_are_lost(fleet: DemoFleet, servers: Path) -> Iterator[tuple[float, float]]:
    """Kill a member of etcd, then another one and an endpoint; yields when connections may fail."""
    fleet.kill("etcd1")
    publish(fleet, intent(INTENT.replace('name = "web"', 'name = "web"\nseed = 7')))
    all_stand(fleet, "in-sync", 2, COUNT, 0)
    # Without quorum nothing can be published, and each host goes on alone.
    fleet.kill("etcd2")
    assert "etcd" in publish(fleet, intent(), code=3)
    alone = hosts(fleet)
    assert not alone["quorum"]
    assert [each["revision"] for each in alone["hosts"]] == [2, 2, 2]
    killed = time.monotonic()
    fleet.kill(ENDPOINTS[5])
    for name in BALANCERS:
        wait(partial(is_out, fleet, name, ENDPOINTS[5]), partial(fleet.log, name))
    yield killed - UNDER_WAY, time.monotonic()
    # A host that starts now has what it accepted last.
    assert fleet.stop("lb3") == 0
    fleet.start_balancer("lb3")
    wait(lambda: "is down" in fleet.log("lb3").rpartition("Intent:")[2], lambda: fleet.log("lb3"))
    assert shares(fleet, "lb3") == {each: "0/1" if each == ENDPOINTS[5] else "1/5" for each in ENDPOINTS}
    # They are back: the hosts report what has happened.
    fleet.start_member("etcd1")
    fleet.start_member("etcd2")
    all_stand(fleet, "in-sync", 2, COUNT - 1, 1)
    fleet.start_endpoint(ENDPOINTS[5])
    all_stand(fleet, "in-sync", 2, COUNT, 0)


def canaries(fleet: DemoFleet, servers: Path) -> Iterator[tuple[float, float]]:
    """Publish with a canary that is well, and with one that is not: no connection may fail."""
    said = publish(fleet, intent(), "--canary", "lb1", "--for", "2s")
    assert "The canary is in sync." in said
    all_stand(fleet, "in-sync", 3, COUNT, 0)
    bad = intent(INTENT.replace(f"{ENDPOINTS[0]}:8080", f"{ENDPOINTS[0]}:9"))
    assert "The canary was stopped" in publish(fleet, bad, "--canary", "lb1", "--for", "30s", code=1)
    all_stand(fleet, "in-sync", 3, COUNT, 0)
    yield from ()


def agents_start_again(fleet: DemoFleet, servers: Path) -> Iterator[tuple[float, float]]:
    """Compact etcd, and start the agents again: no connection may fail."""
    compact(fleet, servers)
    for name in BALANCERS:
        assert fleet.stop(name) == 0
        fleet.start_balancer(name)
    all_stand(fleet, "in-sync", 3, COUNT, 0)
    yield from ()


def drained_and_rolled_back(fleet: DemoFleet, servers: Path) -> Iterator[tuple[float, float]]:
    """Drain an endpoint everywhere, activate it, and go back: no connection may fail."""
    endpoint = f"web/{ENDPOINTS[0]}:8080"
    done(fleet, "drain", "--fleet", endpoint, "--yes")
    all_stand(fleet, "in-sync", 4, COUNT, 0)
    for name in BALANCERS:
        assert is_out(fleet, name, ENDPOINTS[0])
    done(fleet, "activate", "--fleet", endpoint, "--yes")
    all_stand(fleet, "in-sync", 5, COUNT, 0)
    done(fleet, "rollback", "--fleet", "--yes")
    all_stand(fleet, "in-sync", 6, COUNT, 0)
    current = hosts(fleet)["current"]
    assert (current["revision"], current["origin"]) == (6, 2)
    # What is done on one host shows, and lasts until the next publication.
    assert fleet.lbctl("rollback", "--yes", host="lb1").returncode == 0
    all_stand(fleet, "diverged", 6, COUNT, 0, names=("lb1",))
    publish(fleet, intent())
    all_stand(fleet, "in-sync", 7, COUNT, 0)
    yield from ()


def a_balancer_is_lost(fleet: DemoFleet, fabric: Fabric, established: Established) -> tuple[float, float]:
    """Cut a balancer off: established connections move to the others; returns when new ones may fail."""
    before = {name: tracked(fleet, name) for name in BALANCERS}
    assert min(before.values()) > 0
    cut = time.monotonic()
    fabric.unplug("lb2")
    fabric.route("lb1", "lb3")
    forgiven = (cut - UNDER_WAY, time.monotonic() + 0.5)
    assert established.lost() == {}
    assert tracked(fleet, "lb1") + tracked(fleet, "lb3") >= sum(before.values())
    all_stand(fleet, "silent", None, 0, 0, names=("lb2",))
    all_stand(fleet, "in-sync", 7, COUNT, 0, names=("lb1", "lb3"))
    assert established.lost() == {}
    return forgiven


def tracked(fleet: DemoFleet, name: str) -> int:
    """Return how many established connections of the services with `takeover` a balancer's kernel knows."""
    words = ["conntrack", "-L", "-p", "tcp", "--state", "ESTABLISHED", "--orig-dst", SERVICE_ADDRESS]
    listed = fleet.hosts[name].run(*words)
    return sum(listed.count(f" dport={port} ") for port, _ in TAKEOVER.values())


def test_two_hosts_with_one_name_are_a_problem_of_it(fleet: DemoFleet) -> None:
    publish(fleet, INTENT)
    all_stand(fleet, "in-sync", 1, 6, 0)
    path = fleet.folder / "lb2.toml"
    own = path.read_text()
    path.write_text(own.replace('host = "lb2"', 'host = "lb1"'))
    fleet.reload("lb2")
    all_stand(fleet, "problem", 1, 6, 0, names=("lb1",))
    all_stand(fleet, "silent", None, 0, 0, names=("lb2",))
    [problem] = next(each["problems"] for each in hosts(fleet)["hosts"] if each["host"] == "lb1")
    assert problem == 'another host reports as "lb1" too: give each its own `host` in [follow]'
    assert problem in fleet.lbctl("status", host="lb1").stdout.replace("\n  ", " ")
    path.write_text(own)
    fleet.reload("lb2")
    all_stand(fleet, "in-sync", 1, 6, 0)


def test_tables_that_differ_are_seen_while_hosts_are_watched(fleet: DemoFleet) -> None:
    endpoint = f"web/{ENDPOINTS[0]}:8080"
    publish(fleet, INTENT.replace('source-nat = "always"', 'scheduler = "maglev"\ntakeover = true'))
    all_stand(fleet, "in-sync", 1, 6, 0)
    with fleet.hosts["hub"].entered():
        watch = subprocess.Popen(
            [sys.executable, "-m", "lbctl", "hosts", "--watch", "--output", "json"],
            stdout=subprocess.PIPE,
            env={**os.environ, "LBCTL_CONFIG": str(fleet.folder / "admin.toml")},
        )
    assert watch.stdout is not None
    shown = map(json.loads, watch.stdout)
    try:
        assert next(shown)["uneven"] == []
        done(fleet, "weight", endpoint, "3", "--yes", host="lb1")
        assert next(each for each in shown if each["uneven"])["uneven"] == ["web"]
        assert "web: its tables differ between hosts of one revision." in fleet.lbctl("hosts").stdout
        done(fleet, "weight", "--fleet", endpoint, "3", "--yes")
        even = next(
            each
            for each in shown
            if not each["uneven"] and all(host["revision"] == 2 for host in each["hosts"])
        )
        assert len({host["tables"]["web"] for host in even["hosts"]}) == 1
        watch.send_signal(signal.SIGINT)
        assert watch.wait(PATIENCE) == 0
    finally:
        watch.kill()
        watch.communicate()


GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "many-hosts.md"
OTHER = INTENT.replace("192.0.2.1", "192.0.2.200")


def user(fleet: DemoFleet, name: str) -> str:
    path = fleet.folder / f"{name}-password"
    path.write_text(f"{name}-password\n")
    path.chmod(0o600)
    return f'user = "{name}"\npassword-file = "{path}"\n'


@pytest.mark.timeout(900)
def test_users_can_do_what_their_roles_say_and_a_host_keeps_to_its_bounds(servers: Path) -> None:
    with DemoFleet(servers / "usr/bin/etcd") as fleet:
        fleet.start_etcd()
        roles = [line for line in GUIDE.read_text().splitlines() if line.startswith("etcdctl ")]
        assert len(roles) == 18
        for line in ("etcdctl user add root:secret", "etcdctl user grant-role root root", *roles):
            etcdctl(fleet, servers, *shlex.split(line)[1:])
        etcdctl(fleet, servers, "auth", "enable")
        publisher, agent, registrar = (
            fleet.config(fleet.folder / f"{name}.toml", more=user(fleet, name))
            for name in ("publisher", "agent", "registrar")
        )
        fleet.start_balancer("lb1", more=user(fleet, "agent"))
        fleet.config(fleet.folder / "admin.toml", more=user(fleet, "publisher"))
        publish(fleet, INTENT)
        all_stand(fleet, "in-sync", 1, 6, 0, names=("lb1",))
        edge = str(fleet.folder / "edge.toml")
        other = fleet.folder / "other.toml"
        other.write_text(OTHER)
        # Neither an agent nor an endpoint can publish, nor the publisher register, nor anyone without a name.
        for config in (agent, registrar):
            failed = fleet.lbctl("publish", str(other), "--yes", config=config)
            assert (failed.returncode, "permission denied" in failed.stderr) == (3, True), failed
        nobody = fleet.config(fleet.folder / "nobody.toml")
        assert "user name is empty" in fleet.lbctl("publish", edge, "--yes", config=nobody).stderr
        wrong = fleet.folder / "agent-password"
        wrong.write_text("wrong\n")
        assert "authentication failed" in fleet.lbctl("hosts", config=agent).stderr
        wrong.write_text("agent-password\n")
        # Beyond the bounds of the host: published, refused, and the last intent stays.
        publish(fleet, OTHER)
        all_stand(fleet, "refused", 1, 6, 0, names=("lb1",))
        assert "listener 192.0.2.200:80/tcp is not in a network of listen-within" in fleet.log("lb1")
        [host] = hosts(fleet)["hosts"]
        assert "listen-within" in host["refused"]
        # The bounds are those of the file when the agent read it last.
        path = fleet.folder / "lb1.toml"
        narrow = path.read_text()
        path.write_text(narrow.replace('["192.0.2.1"]', '["192.0.2.1", "192.0.2.200"]'))
        all_stand(fleet, "refused", 1, 6, 0, names=("lb1",))
        fleet.reload("lb1")
        all_stand(fleet, "in-sync", 2, 6, 0, names=("lb1",))
        path.write_text(narrow)
        fleet.reload("lb1")
        all_stand(fleet, "refused", 2, 6, 0, names=("lb1",))
        document = json.loads(publish(fleet, INTENT, "--output", "json").partition("\n}\n")[0] + "}")
        validator("publish").validate(document)
        assert (document["before"], document["published"]) == (2, True)
        assert document["publication"]["revision"] == 3
        all_stand(fleet, "in-sync", 3, 6, 0, names=("lb1",))
        bad = fleet.folder / "bad.toml"
        bad.write_text(INTENT + '[service.health]\nnotify = ["/bin/true"]\n')
        refused = fleet.lbctl("publish", str(bad), "--yes", config=publisher)
        assert (refused.returncode, "`health.notify` cannot be published" in refused.stderr) == (2, True)
        done(fleet, "check", "etcd://edge")
        # Without a name in its file's table, an agent follows what it is started with.
        fleet.start_balancer("lb2", "--config", "etcd://edge", more=user(fleet, "agent"))
        all_stand(fleet, "in-sync", 3, 6, 0, names=("lb2",))


def publish_discovering(fleet: DemoFleet, servers: Path) -> None:
    """Publish an intent that finds endpoints in etcd: two, of which the file has one."""
    source = '[service.discover]\nsource = "etcd"\nname = "/services/web/"\nwithin = ["10.0.0.0/24"]\n'
    endpoints = INTENT.split("endpoints = ")[1].splitlines()[0]
    publish(fleet, INTENT.replace(endpoints, f'["{ENDPOINTS[0]}:8080"]') + source)
    etcdctl(fleet, servers, "put", "/services/web/stays", f"{ENDPOINTS[2]}:8080")
    all_stand(fleet, "in-sync", 1, 2, 0)


@contextmanager
def registered(fleet: DemoFleet, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Have `lbctl register` keep an endpoint, until it is ended or this block is left."""
    command = [sys.executable, "-m", "lbctl", "register", "web", f"{ENDPOINTS[1]}:8080"]
    with fleet.hosts["hub"].entered():
        process = subprocess.Popen(
            [*command, "--config", str(fleet.folder / "admin.toml"), *words],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_an_endpoint_is_registered_while_its_program_runs(fleet: DemoFleet, servers: Path) -> None:
    publish_discovering(fleet, servers)
    waits = "import signal, sys; signal.signal(15, lambda *_: sys.exit(7)); signal.pause()"
    key = f"/services/web/{ENDPOINTS[1]}:8080"
    with registered(fleet, "--drain", "15s", "--", sys.executable, "-c", waits) as register:
        all_stand(fleet, "in-sync", 1, 3, 0)
        assert set(shares(fleet, "lb1").values()) == {"1/3"}
        register.terminate()
        wait(lambda: '"state": "drain"' in etcdctl(fleet, servers, "get", key), lambda: "not drained")
        for name in BALANCERS:
            wait(partial(is_out, fleet, name, ENDPOINTS[1]), partial(fleet.log, name))
        assert register.wait(PATIENCE) == 7
        assert etcdctl(fleet, servers, "get", key) == ""
        all_stand(fleet, "in-sync", 1, 2, 0)


def test_an_endpoint_leaves_with_its_lease_if_its_program_is_killed(fleet: DemoFleet, servers: Path) -> None:
    publish_discovering(fleet, servers)
    key = f"/services/web/{ENDPOINTS[1]}:8080"
    with registered(fleet) as register:
        all_stand(fleet, "in-sync", 1, 3, 0)
        # The lease is kept alive: the endpoint stays for longer than that lasts.
        time.sleep(registration.LEASE + 1)
        assert etcdctl(fleet, servers, "get", key)
        register.kill()
        register.wait()
        # Nothing withdraws it: only the lease takes it away.
        assert etcdctl(fleet, servers, "get", key)
    wait(lambda: etcdctl(fleet, servers, "get", key) == "", lambda: "the lease does not end")
    all_stand(fleet, "in-sync", 1, 2, 0)
    assert set(shares(fleet, "lb1").values()) == {"1/2"}


def test_a_plan_of_a_published_intent_is_a_file_that_apply_takes(fleet: DemoFleet) -> None:
    publish(fleet, INTENT)
    all_stand(fleet, "in-sync", 1, 6, 0)
    assert fleet.stop("lb1") == 0
    publish(fleet, INTENT.replace(f'"{ENDPOINTS[0]}:8080", ', ""))
    path = str(fleet.folder / "plan.json")
    planned = fleet.lbctl("plan", "--config", "etcd://edge", "--out", path, host="lb1")
    assert planned.returncode == 0, planned.stderr
    assert "Follows revision 2 of edge" in planned.stderr
    # Another publication makes it stale, as another text of a file would.
    publish(fleet, INTENT.replace(f'"{ENDPOINTS[1]}:8080", ', ""))
    before = fleet.hosts["lb1"].run("nft", "--stateless", "list", "ruleset")
    stale = fleet.lbctl("apply", path, "--yes", host="lb1")
    assert (stale.returncode, "changed since the plan was made" in stale.stderr) == (7, True), stale.stderr
    assert fleet.hosts["lb1"].run("nft", "--stateless", "list", "ruleset") == before
    assert fleet.lbctl("plan", "--config", "etcd://edge", "--out", path, host="lb1").returncode == 0
    applied = fleet.lbctl("apply", path, "--yes", host="lb1")
    assert applied.returncode == 0, applied.stderr
    left = [each for each in ENDPOINTS if each != ENDPOINTS[1]]
    assert shares(fleet, "lb1") == dict.fromkeys(left, "1/5")
    fleet.start_balancer("lb1")
    all_stand(fleet, "in-sync", 3, 5, 0)


def etcdctl(fleet: DemoFleet, servers: Path, *words: str) -> str:
    with fleet.hosts["hub"].entered():
        return subprocess.run(
            [servers / "usr/bin/etcdctl", "--endpoints", f"http://{MEMBERS['etcd1']}:2379", *words],
            env={"ETCDCTL_API": "3"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout


def compact(fleet: DemoFleet, servers: Path) -> None:
    """Have etcd forget all revisions but the last."""
    found = json.loads(etcdctl(fleet, servers, "get", "/none", "--write-out", "json"))
    etcdctl(fleet, servers, "compact", "--physical", str(found["header"]["revision"]))


def test_the_demo_shows_a_fleet(servers: Path) -> None:
    assert (servers / "usr/bin/etcd").exists()
    command = [sys.executable, "-m", "lbctl", "demo", "--fleet", "--connections", "12"]
    found = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "lb2   silent" in found.stdout
    assert "web/10.0.0.11:8080: drained by" in found.stdout
    assert sum(int(count) for count in re.findall(r"(\d+) connections", found.stdout)) == 4 * 12
