"""What the sources docker, consul and kubernetes read, from servers with recorded answers on real sockets."""

from __future__ import annotations

import asyncio
import json
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from lbctl.agent.sources import Access, Answer, SourceFailed, cluster, consul, docker, find
from lbctl.agent.sources.kubernetes import SliceQuery
from lbctl.model import ConsulAccess, Endpoint, KubernetesAccess, State
from support.certificates import Authority
from support.sources import (
    ConsulRig,
    ConsulServer,
    DockerRig,
    KubernetesRig,
    KubernetesServer,
    Rig,
    container,
    endpoint_slice,
    instance,
)
from support.web import WebServer


def at(address: str, port: int = 8080, **keys: object) -> Endpoint:
    return Endpoint(address=ip_address(address), port=port, **keys)  # type: ignore[arg-type]


A, B, C = at("10.0.0.1"), at("10.0.0.2"), at("10.0.0.3")
DRAINED = replace(B, state=State.DRAIN)


def run(work: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await work

    asyncio.run(bounded())


def places(answer: Answer) -> list[tuple[str, str]]:
    return [(each.to, str(each.state)) for each in answer]


@asynccontextmanager
async def served(*servers: WebServer | Rig) -> AsyncIterator[None]:
    for each in servers:
        await each.start()
    try:
        yield
    finally:
        for each in servers:
            await each.stop()


async def first(source: str, name: str, access: Access) -> Answer:
    async with aclosing(find(source).answers(name, access)) as answers:
        return await anext(answers)


# docker


def test_a_container_is_an_endpoint_at_its_address() -> None:
    rows = [
        container(replace(A, weight=3, name="a"), 1),
        container(DRAINED, 2),
        container(C, 3, State="exited", Status="Exited (0) 1 second ago"),
        container(C, 4, Status="Up 2 minutes (unhealthy)"),
    ]
    assert docker.parse(rows) == (
        replace(A, weight=3, name="a-1"),
        replace(DRAINED, name="api-2"),
        replace(C, state=State.DRAIN, name="api-4"),
    )


def test_a_container_with_ipv6_is_an_endpoint_of_each_family() -> None:
    row = container(A)
    row["NetworkSettings"]["Networks"]["bridge"]["GlobalIPv6Address"] = "2001:db8::1"
    assert [each.to for each in docker.parse([row])] == ["10.0.0.1:8080", "[2001:db8::1]:8080"]


def test_a_published_port_is_a_port_of_this_host() -> None:
    ports = [
        {"IP": host, "PrivatePort": 8080, "PublicPort": 32768, "Type": "tcp"} for host in ("0.0.0.0", "::")
    ]
    labels = {"lbctl.service": "api", "lbctl.publish": "true"}
    assert docker.parse([container(A, Ports=ports, Labels=labels)])[0].to == "32768"
    host = container(A, HostConfig={"NetworkMode": "host"}, Ports=[])
    host["Labels"]["lbctl.port"] = "8001"
    assert docker.parse([host])[0].to == "8001"


def test_a_label_chooses_among_several_networks_and_ports() -> None:
    row = container(A)
    row["NetworkSettings"]["Networks"]["front"] = {"IPAddress": "10.7.0.1", "GlobalIPv6Address": ""}
    row["Ports"].append({"PrivatePort": 9090, "Type": "tcp"})
    row["Labels"] |= {"lbctl.network": "front", "lbctl.port": "9090"}
    assert docker.parse([row])[0].to == "10.7.0.1:9090"


@pytest.mark.parametrize(
    ("keys", "wrong"),
    [
        ({"Ports": []}, r"container 'api-1': it exposes 0 ports: label it with lbctl\.port"),
        ({"Ports": [{"PrivatePort": n, "Type": "tcp"} for n in (80, 443)]}, "it exposes 2 ports"),
        ({"Labels": {"lbctl.port": "http"}}, "label lbctl.port is 'http'"),
        ({"Labels": {"lbctl.port": "0"}}, "cannot be an endpoint"),
        ({"Labels": {"lbctl.weight": "many"}}, "is not a whole number"),
        ({"Labels": {"lbctl.publish": "true"}}, "port 8080 is published as 0 ports of this host"),
        ({"Labels": {"lbctl.network": "other"}}, "it is in 1 networks: not in 'other'"),
        (
            {"NetworkSettings": {"Networks": {"a": {}, "b": {}}}},
            r"in 2 networks: label it with lbctl\.network",
        ),
        ({"NetworkSettings": {"Networks": {"a": {"IPAddress": "010.0.0.1"}}}}, "cannot be an endpoint"),
        ({"State": 5}, "`State` is 5, not a string"),
    ],
)
def test_a_container_that_says_too_little_is_wrong_and_named(keys: dict[str, Any], wrong: str) -> None:
    with pytest.raises(SourceFailed, match=wrong):
        docker.parse([container(A, 1, **keys)])


def test_only_get_requests_are_made_and_events_come_first(tmp_path: Path) -> None:
    rig = DockerRig(tmp_path)

    async def story() -> None:
        async with served(rig):
            await rig.give(A)
            async with aclosing(find("docker").answers(rig.name, rig.access)) as answers:
                assert places(await anext(answers)) == [("10.0.0.1:8080", "active")]
                await rig.give(A, B)
                assert len(await anext(answers)) == 2
        assert [each.path for each in rig.docker.requests] == [
            "/events", "/containers/json", "/containers/json",
        ]  # fmt: skip
        assert {each.method for each in rig.docker.requests} == {"GET"}

    run(story())


def test_a_socket_that_is_not_there_is_named(tmp_path: Path) -> None:
    rig = DockerRig(tmp_path)
    with pytest.raises(SourceFailed, match=rf"{tmp_path}/docker\.sock: No such file"):
        run(first("docker", rig.name, rig.access))  # type: ignore[arg-type]


# consul


def test_an_instance_is_drained_unless_all_its_checks_pass_or_warn() -> None:
    warned = instance(B, 2)
    warned["Checks"][1]["Status"] = "warning"
    warned["Service"]["Weights"] = {"Passing": 5, "Warning": 2}
    kept = instance(C, 4)
    kept["Checks"][1]["Status"] = "maintenance"
    rows = [instance(replace(A, weight=3), 1), warned, instance(replace(C, state=State.DRAIN), 3)]
    found = consul.parse([*rows, kept])
    assert [(each.to, each.weight, str(each.state)) for each in found] == [
        ("10.0.0.1:8080", 3, "active"),
        ("10.0.0.2:8080", 2, "active"),
        ("10.0.0.3:8080", 1, "drain"),
        ("10.0.0.3:8080", 1, "drain"),
    ]
    assert found[0].name == "api-1"


def test_an_instance_without_an_address_has_that_of_its_node() -> None:
    row = instance(A)
    row["Service"]["Address"] = ""
    assert consul.parse([row])[0].to == "10.9.9.9:8080"


@pytest.mark.parametrize(
    "address", ["web.example.org", "10.0.0.01", "10.0.0.1:80", "fe80::1%eth0", "\u0661.1.1.1"]
)
def test_an_instance_without_a_plain_address_is_wrong(address: str) -> None:
    row = instance(A)
    row["Service"]["Address"] = address
    with pytest.raises(SourceFailed, match="cannot be an endpoint"):
        consul.parse([row])


def test_a_server_that_is_not_there_is_named_with_the_reason(tmp_path: Path) -> None:
    rig = ConsulRig(tmp_path)

    async def story() -> None:
        await rig.start()
        await rig.stop()
        with pytest.raises(SourceFailed, match=f"{rig.consul.url}: Connection refused"):
            await first("consul", rig.name, rig.access)
        access = Access(consul=ConsulAccess(server="http://no-such-host.invalid:8500"))
        with pytest.raises(SourceFailed, match=r"http://no-such-host\.invalid:8500: "):
            await first("consul", rig.name, access)

    run(story())


def test_a_query_goes_on_from_the_index_and_from_none_after_a_restart(tmp_path: Path) -> None:
    rig = ConsulRig(tmp_path)

    async def story() -> None:
        async with served(rig):
            await rig.give(A)
            async with aclosing(find("consul").answers(rig.name, rig.access)) as answers:
                await anext(answers)
                await rig.give(A, B)
                assert len(await anext(answers)) == 2
                rig.consul.index = 3
                await rig.consul.changes.tell()
                await anext(answers)
                await anext(answers)
        asked = [each.parameters["index"] for each in rig.consul.requests]
        assert asked[:4] == ["0", "11", "12", "0"]

    run(story())


def test_tokens_and_what_consul_says_about_wrong_ones(tmp_path: Path) -> None:
    token = tmp_path / "token"
    server = ConsulServer()
    server.rows, server.token = [instance(A)], "right"

    def write(text: str, mode: int = 0o600) -> None:
        token.write_text(text)
        token.chmod(mode)

    async def asked(**keys: Any) -> Answer:
        access = Access(consul=ConsulAccess(server=server.url, **keys))
        return await first("consul", "api", access)

    async def story() -> None:
        async with served(server):
            write("right\n")
            assert len(await asked(token_file=str(token))) == 1
            for text, mode, wrong in (
                ("other", 0o600, "HTTP 403: 'ACL not found'"),
                ("right", 0o640, "can be read by other users: chmod 0600 it"),
                ("a\r\nX-Evil: 1", 0o600, "has spaces or control characters"),
                ("", 0o600, "is empty"),
            ):
                write(text, mode)
                with pytest.raises(SourceFailed, match=wrong):
                    await asked(token_file=str(token))
            with pytest.raises(SourceFailed, match="the token may not read service api"):
                await asked()

    run(story())


def test_the_certificate_of_consul_is_verified(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    good = ConsulServer(tls=authority.server("127.0.0.1"))
    elsewhere = ConsulServer(tls=authority.server("127.0.0.2"))
    good.rows = elsewhere.rows = [instance(A)]
    key = authority.ca.replace(".pem", ".key")

    async def fails(server: str, **keys: Any) -> str:
        with pytest.raises(SourceFailed) as raised:
            await first("consul", "api", Access(consul=ConsulAccess(server=server, **keys)))
        return str(raised.value)

    async def story() -> None:
        async with served(good, elsewhere):
            ca = authority.ca
            access = Access(consul=ConsulAccess(server=good.url, ca=ca))
            assert len(await first("consul", "api", access)) == 1
            assert "the certificate is not valid" in await fails(good.url)
            assert "the certificate is not valid" in await fails(good.url, ca=other.ca)
            assert "IP address mismatch" in await fails(elsewhere.url, ca=ca)
            assert "closed" in await fails(good.url.replace("https:", "http:"))
            for wrong in (key, str(tmp_path / "missing.pem")):
                assert "the certificates of [consul] cannot be used" in await fails(good.url, ca=wrong)

    run(story())


# kubernetes


def test_slices_of_both_families_are_one_answer() -> None:
    slices = {"a": endpoint_slice("a", A, DRAINED), "b": endpoint_slice("b", at("2001:db8::1"))}
    found = SliceQuery.of("api", "shop").endpoints(slices)
    assert places(found) == [
        ("10.0.0.1:8080", "active"),
        ("10.0.0.2:8080", "drain"),
        ("[2001:db8::1]:8080", "active"),
    ]
    assert found[0].name == "api-1"


@pytest.mark.parametrize(
    ("conditions", "state"),
    [
        (None, State.ACTIVE),
        ({}, State.ACTIVE),
        ({"ready": True}, State.ACTIVE),
        ({"ready": None, "serving": None, "terminating": None}, State.ACTIVE),
        ({"ready": False}, State.DRAIN),
        ({"ready": False, "serving": True, "terminating": True}, State.DRAIN),
        ({"ready": True, "terminating": True}, State.DRAIN),
    ],
)
def test_conditions_decide_the_state(conditions: object, state: State) -> None:
    found = endpoint_slice("a", A)
    found["endpoints"][0]["conditions"] = conditions
    assert SliceQuery.of("api", "shop").endpoints({"a": found})[0].state is state


def test_an_endpoint_in_two_slices_counts_once_and_where_it_is_ready() -> None:
    slices = {
        "a": endpoint_slice("a", DRAINED),
        "b": endpoint_slice("b", B),
        "c": endpoint_slice("c", DRAINED),
    }
    assert places(SliceQuery.of("api", "shop").endpoints(slices)) == [("10.0.0.2:8080", "active")]


@pytest.mark.parametrize(
    ("name", "port"), [("shop/api:http", 8080), ("shop/api:metrics", 9090), ("api:9090", 9090)]
)
def test_a_port_is_chosen_by_name_or_number(name: str, port: int) -> None:
    found = endpoint_slice("a", A)
    found["ports"].append({"name": "metrics", "port": 9090, "protocol": "TCP"})
    assert SliceQuery.of(name, "shop").endpoints({"a": found})[0].port == port
    with pytest.raises(SourceFailed, match="has 2 ports: name one, as api:PORT"):
        SliceQuery.of("api", "shop").endpoints({"a": found})
    with pytest.raises(SourceFailed, match="has no port other"):
        SliceQuery.of("api:other", "shop").endpoints({"a": found})


@pytest.mark.parametrize("by_status", [True, False])
def test_a_version_that_is_forgotten_has_all_slices_listed_again(
    by_status: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lbctl.agent.sources.kubernetes._AGAIN", 0.01)
    rig = KubernetesRig(tmp_path)
    api = rig.kubernetes
    api.gone_by_status, api.longest_watch, api.bookmarks = by_status, 0.05, False

    async def story() -> None:
        async with served(rig):
            await api.put(endpoint_slice("api-1", A))
            await api.put(endpoint_slice("api-2", B))
            async with aclosing(find("kubernetes").answers(rig.name, rig.access)) as answers:
                assert len(await anext(answers)) == 2
                # What is deleted while nothing watches is in no event.
                api.slices.pop("api-2")
                api.forget()
                while len(found := await anext(answers)) == 2:
                    pass
                assert places(found) == [("10.0.0.1:8080", "active")]
        lists = [each for each in api.requests if "watch" not in each.parameters]
        assert len(lists) == 2

    run(story())


def test_a_watch_goes_on_from_the_last_version_and_deletions_are_followed(tmp_path: Path) -> None:
    rig = KubernetesRig(tmp_path)

    async def story() -> None:
        async with served(rig):
            await rig.kubernetes.put(endpoint_slice("api-1", A))
            await rig.kubernetes.put(endpoint_slice("api-2", B))
            async with aclosing(find("kubernetes").answers(rig.name, rig.access)) as answers:
                assert len(await anext(answers)) == 2
                await rig.kubernetes.delete("api-2")
                assert places(await anext(answers)) == [("10.0.0.1:8080", "active")]
        lists = [each for each in rig.kubernetes.requests if "watch" not in each.parameters]
        assert len(lists) == 1

    run(story())


class Cluster:
    """An API behind TLS that wants a token, and what a pod and kubectl know of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.authority = folder, Authority(folder)
        self.server = KubernetesServer(tls=self.authority.server("127.0.0.1"))
        self.server.token = "secret-token"
        self.server.slices = {"api-1": endpoint_slice("api-1", A)}

    def pod(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, text in (("token", "secret-token"), ("namespace", "shop")):
            (self.folder / name).write_text(text)
        (self.folder / "ca.crt").write_bytes(Path(self.authority.ca).read_bytes())
        monkeypatch.setattr(cluster, "POD", self.folder)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(self.server.port))

    def kubeconfig(self, user: object = None, **of_cluster: object) -> Access:
        ca = b64encode(Path(self.authority.ca).read_bytes()).decode()
        known = {"server": self.server.url, "certificate-authority-data": ca}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [
                {"name": "other", "context": {"cluster": "x", "user": "x"}},
                {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "shop"}},
            ],
            "clusters": [{"name": "c", "cluster": known | of_cluster}],
            "users": [{"name": "u", "user": {"token": "secret-token"} if user is None else user}],
        }
        path = self.folder / "kubeconfig"
        # JSON is YAML.
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        return Access(kubernetes=KubernetesAccess(kubeconfig=str(path)))


def test_a_pod_a_kubeconfig_and_a_table_lead_to_the_api(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Cluster(tmp_path)
    token = tmp_path / "own"
    token.write_text("secret-token\n")
    token.chmod(0o600)

    async def story() -> None:
        async with served(known.server):
            assert len(await first("kubernetes", "api", known.kubeconfig())) == 1
            table = KubernetesAccess(server=known.server.url, ca=known.authority.ca, token_file=str(token))
            assert len(await first("kubernetes", "shop/api", Access(kubernetes=table))) == 1
            with pytest.raises(SourceFailed, match="this is not a pod"):
                await first("kubernetes", "api", Access())
            known.pod(monkeypatch)
            assert len(await first("kubernetes", "api", Access())) == 1

    run(story())


def test_bad_credentials_and_certificates_are_clear_errors(tmp_path: Path) -> None:
    known = Cluster(tmp_path)
    other = Authority(tmp_path, "other")

    async def fails(access: Access) -> str:
        with pytest.raises(SourceFailed) as raised:
            await first("kubernetes", "api", access)
        return str(raised.value)

    async def story() -> None:
        async with served(known.server):
            assert "HTTP 401: Unauthorized" in await fails(known.kubeconfig({"token": "wrong"}))
            assert "HTTP 401: Unauthorized" in await fails(known.kubeconfig({}))
            data = {"certificate-authority-data": b64encode(Path(other.ca).read_bytes()).decode()}
            assert "the certificate is not valid" in await fails(known.kubeconfig(**data))
            for user in ({"exec": {"command": "aws"}}, {"auth-provider": {}}):
                assert "of a user is not supported" in await fails(known.kubeconfig(user))
            text = await fails(known.kubeconfig(**{"insecure-skip-tls-verify": True}))
            assert "certificates are always verified" in text
            assert "is not a URL" in await fails(known.kubeconfig(server="https://x/k8s/clusters/c-1"))
            access = known.kubeconfig()
            (tmp_path / "kubeconfig").chmod(0o644)
            assert "chmod 0600" in await fails(access)
            (tmp_path / "kubeconfig").chmod(0o600)
            for wrong in ("a: [", "- 1", "{}", "&a [*a]"):
                (tmp_path / "kubeconfig").write_text(wrong)
                assert "kubeconfig" in await fails(access)

    run(story())


def test_a_client_certificate_of_a_kubeconfig_is_shown(tmp_path: Path) -> None:
    known = Cluster(tmp_path)
    known.server.token = None
    cert, key = known.authority.client()
    assert known.server.tls is not None
    known.server.tls.verify_mode = ssl.CERT_REQUIRED
    known.server.tls.load_verify_locations(known.authority.ca)

    async def story() -> None:
        async with served(known.server):
            files = {"client-certificate": cert, "client-key": Path(key).name}
            assert len(await first("kubernetes", "api", known.kubeconfig(files))) == 1
            data = {
                f"{name}-data": b64encode((tmp_path / path).read_bytes()).decode()
                for name, path in files.items()
            }
            assert len(await first("kubernetes", "api", known.kubeconfig(data))) == 1
            with pytest.raises(SourceFailed, match=r"TLS: |the connection was closed"):
                await first("kubernetes", "api", known.kubeconfig({}))

    run(story())
