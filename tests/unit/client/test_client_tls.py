"""The client over TLS: what it trusts, what it shows, what it says when the handshake fails."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from client_service import saying, scripted, serving, silent
from thriftserve_client import Client, ConnectionFailed, SslOptions


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for localhost and 127.0.0.1; `pem` holds certificate and key."""

    pem: str


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path_factory.mktemp("tls") / "both.pem"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(*form))
    return Certificate(str(pem))


@pytest.fixture
def context(certificate: Certificate) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate.pem)
    return made


def test_trusted(certificate: Certificate, context: ssl.SSLContext) -> None:
    """A server whose certificate the given authority signed is called, large messages included."""
    with (
        serving(context=context) as service,
        Client(port=service.port, ssl=SslOptions(certificate.pem)) as client,
    ):
        client.ping()
        assert client.predict("echo", {"x": bytes(300_000)})["x"].item() == bytes(300_000)


def test_mutual(certificate: Certificate, context: ssl.SSLContext) -> None:
    """A server that asks for the client's certificate gets it."""
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate.pem)
    options = SslOptions(certificate.pem, cert_file=certificate.pem)
    with serving(context=context) as service, Client(port=service.port, ssl=options) as client:
        client.ping()


def test_untrusted(context: ssl.SSLContext) -> None:
    """A certificate of an authority that is not trusted is refused, with the reason."""
    refused = pytest.raises(ConnectionFailed, match="certificate is not accepted: self-signed")
    with serving(context=context) as service, Client(port=service.port, ssl=SslOptions()) as client, refused:
        client.ping()


def test_wrong_name(certificate: Certificate, context: ssl.SSLContext) -> None:
    """The certificate must carry the name expected; the right one may be given."""
    with serving(context=context) as service:
        stranger = Client(port=service.port, ssl=SslOptions(certificate.pem, server_hostname="else.where"))
        with stranger, pytest.raises(ConnectionFailed, match="Hostname mismatch"):
            stranger.ping()
        with Client(port=service.port, ssl=SslOptions(certificate.pem, server_hostname="localhost")) as client:
            client.ping()


def test_server_without_tls(certificate: Certificate) -> None:
    """A server that answers the handshake with something else is asked about TLS."""
    failed = pytest.raises(ConnectionFailed, match="does it expect TLS")
    with scripted(saying(b"plain text")) as port, Client(port=port, ssl=SslOptions(certificate.pem)) as client, failed:
        client.ping()


def test_silent_handshake(certificate: Certificate) -> None:
    """A server that never answers the handshake costs the connect time-out."""
    options = SslOptions(certificate.pem)
    late = pytest.raises(ConnectionFailed, match="did not reply in time")
    with scripted(silent) as port, Client(port=port, ssl=options, connect_timeout_s=0.2) as client, late:
        client.ping()


def test_files_that_are_no_certificates(tmp_path: Path) -> None:
    """A wrong file is named, before anything is connected."""
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("nothing")
    for options in (SslOptions(str(wrong)), SslOptions(str(tmp_path / "none.pem")), SslOptions(cert_file=str(wrong))):
        with pytest.raises(ConnectionFailed, match="pem"):
            Client(port=1, ssl=options).ping()
