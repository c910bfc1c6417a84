"""How the servers behind sources of endpoints are reached: the values behind `etcd`, `docker` and the like.

Secrets are in files: a value holds their paths. What is in a file is checked when it is used.
"""

from __future__ import annotations

import re
from typing import Protocol

from lbctl.model.check import check_file
from lbctl.values import dataclass

#: Members of etcd that can be named.
MAX_MEMBERS = 16
SERVER_URL = re.compile(
    r"(?P<scheme>https?)://(?:(?P<host>[A-Za-z0-9._-]{1,253})|\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})\])"
    r":(?P<port>[1-9][0-9]{0,4})/?\Z"
)
ETCD_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\Z")


class TlsFiles(Protocol):
    """The files of TLS: certificates to verify the server's, and the certificate and key of this host."""

    @property
    def ca(self) -> str | None:
        """The certificates that the server's is verified against; None for those of the system."""

    @property
    def cert(self) -> str | None:
        """The certificate of this host; None for none."""

    @property
    def key(self) -> str | None:
        """The key of `cert`; None if it is in the same file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdAccess:
    """How etcd is reached: URLs of its members, files of TLS, a user and the file with the password."""

    endpoints: tuple[str, ...]
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    user: str | None = None
    password_file: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.endpoints) <= MAX_MEMBERS:
            raise ValueError(f"etcd has 1 to {MAX_MEMBERS} endpoints")
        for url in self.endpoints:
            check_server(url)
        _check_files(self, self.password_file)
        if (self.user is None) is not (self.password_file is None):
            raise ValueError("a user of etcd needs a password-file, and a password-file a user")
        if self.user is not None and not ETCD_USER.match(self.user):
            raise ValueError(f"{self.user!r} is not a user of etcd")

    def __str__(self) -> str:
        return ", ".join(self.endpoints)


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerAccess:
    """How Docker is reached, or Podman: the unix socket of its API."""

    socket: str = "/run/docker.sock"

    def __post_init__(self) -> None:
        check_file(self.socket)

    def __str__(self) -> str:
        return self.socket


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsulAccess:
    """How Consul is reached: the URL of an agent, files of TLS, and the file with a token."""

    server: str = "http://127.0.0.1:8500"
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    token_file: str | None = None

    def __post_init__(self) -> None:
        check_server(self.server)
        _check_files(self, self.token_file)

    def __str__(self) -> str:
        return self.server


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesAccess:
    """How the API of Kubernetes is reached: by a URL and files, by a kubeconfig, or as from a pod."""

    server: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    token_file: str | None = None
    kubeconfig: str | None = None

    def __post_init__(self) -> None:
        if self.server is not None:
            check_server(self.server)
        _check_files(self, self.token_file, self.kubeconfig)
        others = (self.ca, self.cert, self.key, self.token_file)
        if self.kubeconfig is not None and (self.server is not None or any(others)):
            raise ValueError("a kubeconfig says all that other keys would")
        if self.server is None and any(others):
            raise ValueError("files without the server that they are for")

    def __str__(self) -> str:
        return self.server or self.kubeconfig or "as from a pod"


def check_server(url: str) -> str:
    """Return `url`, or raise ValueError if it is not that of a server: no path, no user, a port."""
    found = SERVER_URL.match(url)
    if not found or not 1 <= int(found["port"]) <= 65535:
        raise ValueError(f"{url!r} is not a URL like https://192.0.2.1:2379")
    return url


def server_place(url: str) -> tuple[bool, str, int]:
    """Return whether a server is reached by TLS, its host and its port; raises `ValueError`."""
    found = SERVER_URL.match(check_server(url))
    if found is None:
        raise ValueError(url)
    return found["scheme"] == "https", found["host"] or found["ipv6"], int(found["port"])


def _check_files(files: TlsFiles, *others: str | None) -> None:
    for path in (files.ca, files.cert, files.key, *others):
        if path is not None:
            check_file(path)
    if files.key is not None and files.cert is None:
        raise ValueError("a key without its certificate")
