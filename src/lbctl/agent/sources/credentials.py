"""What a source shows to be let in: certificates, and secrets in files that only their owner can read."""

from __future__ import annotations

import os
import ssl
import stat
from typing import TYPE_CHECKING

from lbctl.agent.sources.source import SourceFailed

if TYPE_CHECKING:
    from lbctl.model import TlsFiles

#: Bytes of a secret: tokens of Kubernetes are about 1 KiB.
_LONGEST = 16 << 10


def context(files: TlsFiles, what: str) -> ssl.SSLContext:
    """Return the TLS of a client. The certificate of the server is always verified.

    Raises `SourceFailed` if a file cannot be used; `what` names the table with the files.
    """
    try:
        found = ssl.create_default_context(cafile=files.ca)
        if files.cert is not None:
            # Without a password, OpenSSL would ask for one on the terminal.
            found.load_cert_chain(files.cert, files.key, password="")
    except OSError as error:
        raise SourceFailed(f"the certificates of {what} cannot be used: {error.strerror or error}") from error
    return found


def secret(path: str, *, shared: bool = False, longest: int = _LONGEST) -> str:
    """Return the secret in a file, without the newline at its end; raises `SourceFailed`.

    The file is that of root or of the user of this process, and no other user can read it. `shared` is True
    for a file that its maker lets others read, as Kubernetes does in a pod. `longest` is in bytes.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if shared else os.O_NOFOLLOW)
    try:
        with os.fdopen(os.open(path, flags), "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise SourceFailed(f"{path} is not a regular file")
            if not shared and (found.st_mode & 0o077 or found.st_uid not in {0, os.geteuid()}):
                raise SourceFailed(f"{path} can be read by other users: chmod 0600 it")
            text = stream.read(longest + 1).decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise SourceFailed(f"{path} is not a text") from error
    except OSError as error:
        raise SourceFailed(f"{path} cannot be read: {error.strerror}") from error
    if not text or len(text) > longest:
        raise SourceFailed(f"{path} holds no secret of at most {longest} bytes")
    return text


def token(path: str, *, shared: bool = False) -> str:
    """Return the secret in a file, for a header of HTTP; raises `SourceFailed`."""
    text = secret(path, shared=shared)
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise SourceFailed(f"{path} holds no token: it has spaces or control characters")
    return text
