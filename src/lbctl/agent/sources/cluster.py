"""How the API of Kubernetes is reached: as the intent says, by a kubeconfig, or as a pod reaches it.

A kubeconfig that starts a program for its credentials, or leaves certificates unverified, is refused.
"""

from __future__ import annotations

import asyncio
import os
from base64 import b64decode
from contextlib import ExitStack
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbctl.agent.sources import credentials
from lbctl.agent.sources.source import SourceFailed
from lbctl.agent.sources.strict import member, optional, rows
from lbctl.agent.sources.text import shown
from lbctl.agent.sources.wire import Ask, HttpPeer
from lbctl.model import KubernetesAccess
from lbctl.values import dataclass

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

#: Where a pod finds the token of its service account, and what else it needs.
POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_HOST, _PORT = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"
_NAMESPACE = "default"
#: Bytes of a kubeconfig.
_LIMIT = 1 << 20
#: Keys of a user in a kubeconfig that are not followed.
_REFUSED = ("exec", "auth-provider", "username", "password", "as")


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """One API; `namespace` is that of a service whose name has none.

    A token in a file is read for each request: it may be replaced at any time.
    """

    peer: HttpPeer
    namespace: str = _NAMESPACE
    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    #: Whether the file of the token may be read by others, as in a pod.
    shared: bool = False

    async def ask(self, target: str) -> Ask:
        """Return a request; raises `SourceFailed` if the token cannot be read."""
        token = self.token
        if self.token_file is not None:
            token = await asyncio.to_thread(credentials.token, self.token_file, shared=self.shared)
        return Ask(target=target, headers={} if token is None else {"Authorization": f"Bearer {token}"})


def find(access: KubernetesAccess | None) -> Api:
    """Return the API that the intent names, or that a pod has; raises `SourceFailed`."""
    if access is not None and access.kubeconfig is not None:
        return _from_kubeconfig(access.kubeconfig)
    if access is not None and access.server is not None:
        peer = HttpPeer.of(access.server, lambda: credentials.context(access, "[kubernetes]"))
        return Api(peer=peer, token_file=access.token_file)
    return _from_pod()


def _from_pod() -> Api:
    host, port = os.environ.get(_HOST), os.environ.get(_PORT, "443")
    if not host:
        raise SourceFailed("this is not a pod: write a table [kubernetes] that says where the API is")
    server = f"https://{f'[{host}]' if ':' in host else host}:{port}"
    files = KubernetesAccess(server=server, ca=str(POD / "ca.crt"))
    return Api(
        peer=HttpPeer.of(server, lambda: credentials.context(files, "the pod")),
        namespace=credentials.token(str(POD / "namespace"), shared=True),
        token_file=str(POD / "token"),
        shared=True,
    )


def _from_kubeconfig(path: str) -> Api:
    try:
        import yaml
    except ImportError:
        raise SourceFailed("a kubeconfig is read by PyYAML: pip install 'lbctl[agent]'") from None
    try:
        config = yaml.safe_load(credentials.secret(path, longest=_LIMIT))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SourceFailed(f"{path} is not a kubeconfig: {shown(str(error))}") from error
    try:
        context = _named(config, "context", member(config, "current-context", str))
        cluster = _named(config, "cluster", member(context, "cluster", str))
        user = _named(config, "user", optional(context, "user", ""))
        return _api(cluster, user, optional(context, "namespace", _NAMESPACE), Path(path).parent)
    except (SourceFailed, ValueError) as error:
        raise SourceFailed(f"{path}: {error}") from error


def _api(cluster: Mapping[str, Any], user: Mapping[str, Any], namespace: str, folder: Path) -> Api:
    for key in _REFUSED:
        if key in user:
            raise SourceFailed(f"`{key}` of a user is not supported: use a token or a certificate")
    if optional(cluster, "insecure-skip-tls-verify", False):
        raise SourceFailed("`insecure-skip-tls-verify` is not supported: certificates are always verified")
    file = optional(user, "tokenFile", "")
    return Api(
        peer=HttpPeer.of(member(cluster, "server", str), lambda: _context(cluster, user, folder)),
        namespace=namespace,
        token=optional(user, "token", "") or None,
        token_file=str(folder / file) if file else None,
    )


def _context(cluster: Mapping[str, Any], user: Mapping[str, Any], folder: Path) -> ssl.SSLContext:
    """Return the TLS of a kubeconfig, whose certificates are in files or in the text."""
    with ExitStack() as stack:

        def path_of(table: Mapping[str, Any], key: str) -> str | None:
            if data := optional(table, f"{key}-data", ""):
                # OpenSSL reads a certificate and its key from files only: this one has no name on a disk.
                handle = os.memfd_create("lbctl", os.MFD_CLOEXEC)
                stack.callback(os.close, handle)
                os.write(handle, b64decode(data, validate=True))
                return f"/proc/self/fd/{handle}"
            return str(folder / found) if (found := optional(table, key, "")) else None

        files = KubernetesAccess(
            server="https://unused:1",
            ca=path_of(cluster, "certificate-authority"),
            cert=path_of(user, "client-certificate"),
            key=path_of(user, "client-key"),
        )
        return credentials.context(files, "the kubeconfig")


def _named(config: object, kind: str, name: str) -> dict[str, Any]:
    """Return the cluster, the context or the user of a name."""
    for each in rows(config, f"{kind}s"):
        if optional(each, "name", "") == name:
            return member(each, kind, dict)
    if kind == "user" and not name:
        return {}
    raise SourceFailed(f"there is no {kind} {shown(name)}")
