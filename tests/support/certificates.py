"""Certificates for tests: an authority, and what it signs.

Authority(folder, name) --issue(name)--> Certificate: PEM files of certificate and key
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Certificate:
    """Paths of PEM files."""

    cert: str
    key: str


class Authority:
    """Signs certificates for localhost; `cert` is the file that those who trust it are given."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = _common_name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.cert = str(folder / f"{name}.pem")
        _write(Path(self.cert), self._sign(self._name, self._key, authority=True))

    def issue(self, name: str) -> Certificate:
        """A certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert, key_file = self._folder / f"{name}.cert.pem", self._folder / f"{name}.key.pem"
        _write(cert, self._sign(_common_name(name), key, authority=False))
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        key_file.write_bytes(key.private_bytes(*form))
        return Certificate(str(cert), str(key_file))

    def trusting(self, client: Certificate | None = None) -> ssl.SSLContext:
        """A client's context that trusts this authority and shows that certificate."""
        context = ssl.create_default_context(cafile=self.cert)
        if client is not None:
            context.load_cert_chain(client.cert, client.key)
        return context

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(own, critical=False)
            .add_extension(signer, critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
