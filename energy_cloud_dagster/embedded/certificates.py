"""A certificate authority of one machine and a server's certificate by it, for the TLS listener of the broker."""

from __future__ import annotations

import ipaddress
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from energy_cloud_dagster.embedded.claims import write_private

if TYPE_CHECKING:
    from cryptography import x509

LIFETIME: Final = timedelta(days=3650)
#: A certificate that ends sooner than this is made anew, and with it the authority.
RENEW_BEFORE: Final = timedelta(days=30)


class Certificates(NamedTuple):
    """PEM files: the authority that clients trust, the server's certificate and its key."""

    ca: Path
    certificate: Path
    key: Path


def ensure_certificates(folder: Path) -> Certificates:
    """Return the certificates kept in ``folder``, made at first use and when they are about to end.

    The server's is for ``localhost``, this machine's name and the loopback addresses. The authority's own key is
    thrown away: nobody, we included, can sign another server with it.
    """
    files = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    now = datetime.now(UTC)
    if not all(file.exists() for file in files) or _end(files.certificate) - now < RENEW_BEFORE:
        _make(files, now)
    return files


def _end(certificate: Path) -> datetime:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def _make(files: Certificates, now: datetime) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import ExtendedKeyUsageOID

    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority, server = _name(f"Energy Cloud broker of {socket.gethostname()}"), _name("localhost")
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )

    def usages(*, signs_certificates: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=not signs_certificates,
            key_cert_sign=signs_certificates,
            crl_sign=signs_certificates,
            decipher_only=False,
            **usage,
        )

    def start(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + LIFETIME)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )

    ca = (
        start(authority, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usages(signs_certificates=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    hosts = [x509.DNSName(name) for name in dict.fromkeys(("localhost", socket.gethostname())) if name.isascii()]
    addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    certificate = (
        start(server, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usages(signs_certificates=False), critical=True)
        .add_extension(x509.SubjectAlternativeName([*hosts, *addresses]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(files.key, private.decode())
    write_private(files.certificate, certificate.public_bytes(Encoding.PEM).decode())
    write_private(files.ca, ca.public_bytes(Encoding.PEM).decode())
    files.ca.chmod(0o644)


def _name(common: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])
