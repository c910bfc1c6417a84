"""Certificates of a test, made by openssl."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

_NEW = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """An authority of its own, and what it signs."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder, self._name = folder, name
        self.ca = str(folder / f"{name}.pem")
        self._openssl(
            "req", "-x509", *_NEW, "-keyout", f"{name}.key", "-out", f"{name}.pem",
            "-subj", f"/CN={name}", "-days", "2",
        )  # fmt: skip

    def server(self, address: str) -> ssl.SSLContext:
        """Return the TLS of a server at an address."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        # As other servers do, it takes authorities that Python 3.13 would refuse: see `credentials.context`.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.load_cert_chain(*self._signed("server", f"IP:{address}"))
        return context

    def client(self) -> tuple[str, str]:
        """Return the files of a certificate of a client, and of its key."""
        return self._signed("client", "DNS:client")

    def _signed(self, name: str, subject: str) -> tuple[str, str]:
        (self._folder / f"{name}.ext").write_text(f"subjectAltName={subject}\n")
        self._openssl("req", *_NEW, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        self._openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", f"{self._name}.pem", "-CAkey", f"{self._name}.key",
            "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem",
        )  # fmt: skip
        return str(self._folder / f"{name}.pem"), str(self._folder / f"{name}.key")

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self._folder, check=True, capture_output=True)
