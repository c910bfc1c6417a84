"""The etcd source against a real etcd, with and without authentication and TLS."""

import asyncio
import socket
import subprocess
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing, closing
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lbctl.agent.etcd import Client
from lbctl.agent.sources import Access, Answer, SourceFailed, etcd as source
from lbctl.model import Endpoint, EtcdAccess, State

T = TypeVar("T")
PREFIX = "/services/api/"


def at(address: str, port: int = 80, **keys: object) -> Endpoint:
    return Endpoint(address=ip_address(address), port=port, **keys)  # type: ignore[arg-type]


A, B = at("10.0.0.1", name="a"), at("10.0.0.2", name="b")


def run(work: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(60):
            return await work

    return asyncio.run(bounded())


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


class Etcd:
    """One member on loopback."""

    def __init__(self, servers: Path, folder: Path, scheme: str = "http", *options: str) -> None:
        self.port = free_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        peer = f"http://127.0.0.1:{free_port()}"
        self.process = subprocess.Popen(
            [
                servers / "usr/bin/etcd",
                f"--data-dir={folder / 'etcd'}",
                f"--listen-client-urls={self.url}",
                f"--advertise-client-urls={self.url}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def access(self, **keys: Any) -> EtcdAccess:
        return EtcdAccess(endpoints=(self.url,), **keys)

    async def client(self, **keys: Any) -> Client:
        """Return a client, once the member answers."""
        while True:
            try:
                return await Client.of(self.access(**keys))
            except SourceFailed:
                assert self.process.poll() is None
                await asyncio.sleep(0.05)

    def close(self) -> None:
        """End the member, if it still runs."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def etcd(servers: Path, tmp_path: Path) -> Iterator[Etcd]:
    made = Etcd(servers, tmp_path)
    yield made
    made.close()


def encoded(text: str) -> str:
    return b64encode(text.encode()).decode()


async def put(client: Client, name: str, value: str, **keys: object) -> None:
    await client.call("/v3/kv/put", {"key": encoded(PREFIX + name), "value": encoded(value), **keys})


async def delete(client: Client, name: str) -> None:
    await client.call("/v3/kv/deleterange", {"key": encoded(PREFIX + name)})


def answers(etcd: Etcd, **keys: Any) -> "aclosing[AsyncGenerator[Answer, None]]":
    return aclosing(source.answers(PREFIX, Access(etcd=etcd.access(**keys))))


def test_keys_are_endpoints_and_changes_arrive(etcd: Etcd) -> None:
    async def story() -> None:
        client = await etcd.client()
        await put(client, "a", "10.0.0.1:80")
        await client.call("/v3/kv/put", {"key": encoded("/services/apix"), "value": encoded("10.9.9.9:80")})
        async with answers(etcd) as found:
            assert await anext(found) == (A,)
            await put(client, "b", '{"address": "10.0.0.2:80", "weight": 3, "state": "drain"}')
            assert await anext(found) == (A, at("10.0.0.2", name="b", weight=3, state=State.DRAIN))
            await delete(client, "a")
            assert len(await anext(found)) == 1

    run(story())


def test_a_lease_that_ends_takes_its_endpoint_out(etcd: Etcd) -> None:
    async def story() -> None:
        client = await etcd.client()
        lease = await client.call("/v3/lease/grant", {"TTL": 1})
        await put(client, "a", "10.0.0.1:80", lease=lease["ID"])
        await put(client, "b", "10.0.0.2:80")
        async with answers(etcd) as found:
            assert await anext(found) == (A, B)
            assert await anext(found) == (B,)

    run(story())


def test_a_watch_behind_a_compaction_ends_and_all_is_read_again(etcd: Etcd) -> None:
    async def story() -> None:
        client = await etcd.client()
        await put(client, "a", "10.0.0.1:80")
        first, _ = await client.range(PREFIX)
        for _ in range(5):
            await put(client, "b", "10.0.0.2:80")
        await delete(client, "a")
        revision, keys = await client.range(PREFIX)
        await client.call("/v3/kv/compaction", {"revision": str(revision)})
        async with aclosing(client.watch(PREFIX, first)) as changes:
            assert [change async for change in changes] == []
        assert keys == {f"{PREFIX}b": "10.0.0.2:80"}

    run(story())


@pytest.mark.parametrize("value", ["web.test:80", '{"address": 5}', '{"address"', "{}", "10.0.0.1:80;"])
def test_a_value_that_is_no_endpoint_is_no_answer(etcd: Etcd, value: str) -> None:
    async def story() -> None:
        client = await etcd.client()
        await put(client, "a", value)
        async with answers(etcd) as found:
            with pytest.raises(SourceFailed):
                await anext(found)

    run(story())


def test_the_next_member_is_asked_and_none_is_a_clear_error(etcd: Etcd) -> None:
    async def story() -> None:
        await put(await etcd.client(), "a", "10.0.0.1:80")
        lost = f"http://127.0.0.1:{free_port()}"
        access = Access(etcd=EtcdAccess(endpoints=(lost, etcd.url)))
        async with aclosing(source.answers(PREFIX, access)) as found:
            assert await anext(found) == (A,)
        access = Access(etcd=EtcdAccess(endpoints=(lost,)))
        async with aclosing(source.answers(PREFIX, access)) as found:
            with pytest.raises(SourceFailed, match=f"{lost}: .*refused|{lost}: Connect call failed"):
                await anext(found)
        async with aclosing(source.answers(PREFIX, Access())) as found:
            with pytest.raises(SourceFailed, match=r"no \[etcd\] table"):
                await anext(found)

    run(story())


def test_a_member_that_dies_ends_the_watch(etcd: Etcd) -> None:
    async def story() -> None:
        await put(await etcd.client(), "a", "10.0.0.1:80")
        async with answers(etcd) as found:
            assert await anext(found) == (A,)
            etcd.close()
            with pytest.raises((SourceFailed, OSError)):
                await anext(found)

    run(story())


def test_a_user_reads_what_its_role_may_and_errors_are_clear(etcd: Etcd, tmp_path: Path) -> None:
    def password(text: str, mode: int = 0o600) -> str:
        path = tmp_path / "password"
        path.unlink(missing_ok=True)
        path.write_text(f"{text}\n")
        path.chmod(mode)
        return str(path)

    async def fails(path: str, user: str = "agent", prefix: str = PREFIX) -> str:
        access = Access(etcd=etcd.access(user=user, password_file=path))
        async with aclosing(source.answers(prefix, access)) as found:
            with pytest.raises(SourceFailed) as raised:
                await anext(found)
        return str(raised.value)

    async def story() -> None:
        client = await etcd.client()
        await put(client, "a", "10.0.0.1:80")
        for user in ("root", "agent"):
            await client.call("/v3/auth/user/add", {"name": user, "password": "secret"})
            await client.call("/v3/auth/role/add", {"name": user})
            await client.call("/v3/auth/user/grant", {"user": user, "role": user})
        end = PREFIX[:-1] + "0"
        permission = {"permType": "READ", "key": encoded(PREFIX), "range_end": encoded(end)}
        await client.call("/v3/auth/role/grant", {"name": "agent", "perm": permission})
        await client.call("/v3/auth/enable", {})
        async with answers(etcd, user="agent", password_file=password("secret")) as found:
            assert await anext(found) == (A,)
            root = await Client.of(etcd.access(user="root", password_file=password("secret")))
            await put(root, "b", "10.0.0.2:80")
            assert await anext(found) == (A, B)
        assert "authentication failed" in await fails(password("wrong"))
        assert "permission denied" in await fails(password("secret"), prefix="/other/")
        assert "can be read by other users: chmod 0600" in await fails(password("secret", 0o644))
        assert "No such file" in await fails(str(tmp_path / "missing"))
        async with answers(etcd) as found:
            with pytest.raises(SourceFailed, match="user name is empty"):
                await anext(found)

    run(story())


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def certificate(folder: Path, name: str, subject: str) -> tuple[str, str]:
    """Return the files of a certificate of its own, and its key."""
    openssl(
        folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", "/CN=etcd",
        "-addext", f"subjectAltName={subject}",
    )  # fmt: skip
    return str(folder / f"{name}.pem"), str(folder / f"{name}.key")


def test_a_certificate_is_verified(servers: Path, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "server", "IP:127.0.0.1")
    other, _ = certificate(tmp_path, "other", "IP:127.0.0.1")
    etcd = Etcd(servers, tmp_path, "https", f"--cert-file={cert}", f"--key-file={key}")

    async def story() -> None:
        await put(await etcd.client(ca=cert), "a", "10.0.0.1:80")
        async with answers(etcd, ca=cert) as found:
            assert await anext(found) == (A,)
        wrong: tuple[tuple[Callable[[], Any], str], ...] = (
            (lambda: answers(etcd, ca=other), "the certificate is not valid: self.signed certificate"),
            (lambda: answers(etcd), "the certificate is not valid: self.signed certificate"),
            (lambda: answers(etcd, ca=key), "the certificates of .etcd. cannot be used"),
        )
        for opened, text in wrong:
            async with opened() as found:
                with pytest.raises(SourceFailed, match=text):
                    await anext(found)

    try:
        run(story())
    finally:
        etcd.close()


def test_keys_are_swapped_only_if_nobody_else_wrote_them(etcd: Etcd) -> None:
    async def story() -> None:
        client = await etcd.client()
        assert await client.get("/a") is None
        assert await client.swap({"/a": 0}, {"/a": "1", "/b": "x"})
        assert not await client.swap({"/a": 0}, {"/a": "2"})
        first = await client.get("/a")
        assert first is not None
        assert (first.value, first.lease) == ("1", 0)
        assert await client.swap({"/a": first.revision}, {"/a": "2"}, delete=("/b",))
        assert not await client.swap({"/a": first.revision}, {"/a": "3"})
        _, found = await client.entries("/")
        assert {key: entry.value for key, entry in found.items()} == {"/a": "2"}

    run(story())


def test_a_lease_lives_while_it_is_kept(etcd: Etcd) -> None:
    async def story() -> None:
        client = await etcd.client()
        lease = await client.grant(2)
        await client.put("/a", "1", lease=lease)
        entry = await client.get("/a")
        assert entry is not None
        assert entry.lease == lease
        for _ in range(4):
            await asyncio.sleep(1)
            assert await client.keep_alive(lease)
        assert await client.get("/a") is not None
        await client.revoke(lease)
        assert await client.get("/a") is None
        assert not await client.keep_alive(lease)

    run(story())


def test_values_that_are_no_text_are_no_answer(etcd: Etcd) -> None:
    async def story() -> None:
        client = await etcd.client()
        await client.call("/v3/kv/put", {"key": encoded("/a"), "value": b64encode(b"\xff").decode()})
        with pytest.raises(SourceFailed, match="not an answer from etcd"):
            await client.get("/a")

    run(story())
