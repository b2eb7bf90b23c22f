"""A certificate authority for tests, and what it signs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Own(NamedTuple):
    """A certificate and its key, as files."""

    cert: Path
    key: Path


class Authority:
    """``name`` is what it calls itself; its certificate is ``pem``."""

    def __init__(self, folder: Path, name: str = "Test CA") -> None:
        self._folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.pem = folder / f"{name.replace(' ', '-').lower()}.pem"
        self.pem.write_bytes(self._sign(name, self._key.public_key(), timedelta(days=1), ca=True))

    def issue(self, name: str, *, ended: timedelta | None = None, passphrase: str | None = None) -> Own:
        """A certificate for the common name ``name``, at 127.0.0.1; valid for a day, or until ``ended`` ago."""
        key = ec.generate_private_key(ec.SECP256R1())
        lasts = timedelta(days=1) if ended is None else -ended
        stem = self._folder / name.replace("/", "-")
        own = Own(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        own.cert.write_bytes(self._sign(name, key.public_key(), lasts, ca=False))
        secrecy: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            secrecy = serialization.BestAvailableEncryption(passphrase.encode())
        pem = serialization.Encoding.PEM
        own.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, secrecy))
        return own

    def _sign(self, name: str, public: ec.EllipticCurvePublicKey, lasts: timedelta, *, ca: bool) -> bytes:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=30))
            .not_valid_after(now + lasts)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        if not ca:
            names = [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
