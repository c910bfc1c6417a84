"""What a source shows to be let in: certificates, and secrets in files that only their owner can read."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from lbctl.agent.sources import files
from lbctl.agent.sources.source import SourceFailed

if TYPE_CHECKING:
    from lbctl.model import TlsFiles

#: Bytes of a secret: tokens of Kubernetes are about 1 KiB.
_LONGEST = 16 << 10


def context(tls: TlsFiles, what: str) -> ssl.SSLContext:
    """Return the TLS of a client. The certificate of the server is always verified.

    Raises `SourceFailed` if a file cannot be used; `what` names the table with the files.
    """
    try:
        found = ssl.create_default_context(cafile=tls.ca)
        # Python 3.13 refuses authorities without a key usage extension, which `openssl req -x509` makes. What
        # was let in before an upgrade of Python is let in after it, as by checks and by other clients.
        found.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if tls.cert is not None:
            # Without a password, OpenSSL would ask for one on the terminal.
            found.load_cert_chain(tls.cert, tls.key, password="")
    except OSError as error:
        raise SourceFailed(f"the certificates of {what} cannot be used: {error.strerror or error}") from error
    return found


def secret(path: str, *, shared: bool = False, longest: int = _LONGEST) -> str:
    """Return the secret in a file, without the newline at its end; raises `SourceFailed`.

    The file is that of root or of the user of this process, and no other user can read it. `shared` is True
    for a file that its maker lets others read, as Kubernetes does in a pod. `longest` is in bytes.
    """
    try:
        text = files.read(path, longest, private=not shared).decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise SourceFailed(f"{path} is not a text file") from error
    if not text:
        raise SourceFailed(f"{path} is empty")
    return text


def token(path: str, *, shared: bool = False) -> str:
    """Return the secret in a file, for a header of HTTP; raises `SourceFailed`."""
    text = secret(path, shared=shared)
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise SourceFailed(f"{path} holds no token: it has spaces or control characters")
    return text
