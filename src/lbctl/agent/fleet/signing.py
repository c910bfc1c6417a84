"""Signatures of publications, made and verified by ssh-keygen (OpenSSH 8.2 and later): keys that admins have.

The signers that a host accepts stand in a file as ssh-keygen(1) describes it under ALLOWED SIGNERS:

    alice@example.org namespaces="lbctl-intent" ssh-ed25519 AAAA…
"""

from __future__ import annotations

from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from lbctl.errors import IntentError
from lbctl.host.files import untrusted

if TYPE_CHECKING:
    from lbctl.host import Host

#: What a signature is for: one made for something else is none.
NAMESPACE = "lbctl-intent"
_MAX_SIGNATURE = 16 << 10


class NotSigned(Exception):
    """A publication that no accepted signer has signed: one sentence says why."""


def sign(host: Host, body: str, key: Path) -> str:
    """Return the signature of a text by a private key, or by the agent of ssh for a public one.

    Raises `IntentError`.
    """
    done = host.run([_keygen(host), "-Y", "sign", "-n", NAMESPACE, "-f", str(key)], stdin=body)
    if done.code or not done.out.startswith("-----BEGIN SSH SIGNATURE-----"):
        reason = (done.err.strip().splitlines() or ["no reason given"])[-1]
        raise IntentError(f"not signed with {key}: {reason}", hint="--sign takes a private key of OpenSSH")
    return done.out


def verify(host: Host, body: str, signature: str | None, signers: str) -> str:
    """Return which of the allowed signers has signed a text; raises `NotSigned`."""
    if signature is None:
        raise NotSigned("it is not signed")
    if len(signature) > _MAX_SIGNATURE:
        raise NotSigned("its signature is too long")
    if (reason := untrusted(Path(signers))) is not None:
        raise NotSigned(f"signed-by: {reason}")
    try:
        keygen = _keygen(host)
    except IntentError as error:
        raise NotSigned(error.message) from error
    with NamedTemporaryFile("w", encoding="utf-8", prefix="lbctl-signature-") as file:
        file.write(signature)
        file.flush()
        common = ["-n", NAMESPACE, "-f", signers, "-s", file.name]
        found = host.run([keygen, "-Y", "find-principals", "-f", signers, "-s", file.name])
        for principal in found.out.splitlines() if not found.code else ():
            argv = [keygen, "-Y", "verify", *common, "-I", principal]
            if not host.run(argv, stdin=body).code:
                return principal
    raise NotSigned(f"its signature is not by a signer of {signers}")


def _keygen(host: Host) -> str:
    found = host.which("ssh-keygen")
    if found is None:
        raise IntentError("ssh-keygen is missing", hint="apt-get install openssh-client")
    return found
