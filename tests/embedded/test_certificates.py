from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from energy_cloud_dagster.embedded import certificates
from energy_cloud_dagster.embedded.certificates import ensure_certificates


def test_they_are_made_once_private_and_signed_by_their_authority(tmp_path: Path) -> None:
    made = ensure_certificates(tmp_path)
    before = [file.read_bytes() for file in made]
    assert [file.read_bytes() for file in ensure_certificates(tmp_path)] == before
    assert made.key.stat().st_mode & 0o777 == 0o600
    authority, server = (x509.load_pem_x509_certificate(file.read_bytes()) for file in (made.ca, made.certificate))
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    assert sorted(map(str, names.get_values_for_type(x509.IPAddress))) == ["127.0.0.1", "::1"]
    assert not list(tmp_path.glob("*ca*key*"))


def test_what_is_about_to_end_or_unreadable_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(certificates, "LIFETIME", timedelta(days=29))
        made = ensure_certificates(tmp_path)
    short = made.certificate.read_bytes()
    ensure_certificates(tmp_path)
    long = made.certificate.read_bytes()
    assert long != short
    made.certificate.write_text("nonsense")
    ensure_certificates(tmp_path)
    assert made.certificate.read_bytes().startswith(b"-----BEGIN CERTIFICATE")
