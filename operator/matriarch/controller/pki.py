"""Keys and certificates of a cluster: one authority, a certificate for each instance and each Job.

Only here are private keys made. Which certificate is due is decided by `decide/certificates.py`; this module makes
what was decided and describes what exists.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from matriarch.decide.certificates import AUTHORITY_LIFE, LEAF_LIFE, Certificate
from matriarch.errors import Corrupt

_BACKDATED = timedelta(minutes=10)  # clocks of nodes differ


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: str
    key: str

    def __repr__(self) -> str:
        return "Pair(…)"


def make_authority(cluster: str, namespace: str, now: datetime) -> Pair:
    """A self-signed authority for one cluster."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"matriarch {namespace}/{cluster}"[:64])])
    builder = (
        _builder(name, name, key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def issue(
    authority: Pair, common_name: str, hosts: Iterable[str], now: datetime, life: timedelta = LEAF_LIFE, *, server: bool
) -> Pair:
    """A certificate signed by `authority`; `server` says whether it may serve as well as call.

    Raises:
        Corrupt: the authority's key or certificate cannot be read.
    """
    ca, ca_key = _load(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])]
    until = min(now + life, ca.not_valid_after_utc) - now
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        _builder(subject, ca.subject, key.public_key(), now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
    )
    if names := [x509.DNSName(h) for h in hosts]:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _pair(builder.sign(ca_key, hashes.SHA256()), key)


def new_heartbeat_key() -> str:
    """32 random bytes, in hex."""
    return secrets.token_hex(32)


def new_password() -> str:
    """190 random bits that need no quoting anywhere: letters and digits."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    return "".join(secrets.choice(alphabet) for _ in range(32))


def describe(pem: str) -> Certificate | None:
    """The facts of the first certificate in `pem`, None when there is none that can be read."""
    try:
        found = x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        return None
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = frozenset(names.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        hosts = frozenset()
    try:
        issuer = found.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier or b""
    except x509.ExtensionNotFound:
        issuer = b""
    return Certificate(
        fingerprint=found.fingerprint(hashes.SHA256()).hex(),
        key_id=x509.SubjectKeyIdentifier.from_public_key(found.public_key()).digest.hex(),
        issuer_key_id=issuer.hex(),
        hosts=hosts,
        not_before=found.not_valid_before_utc,
        not_after=found.not_valid_after_utc,
    )


def belongs(pair: Pair) -> bool:
    """Whether the key can be read and is the certificate's."""
    try:
        _load(pair)
    except Corrupt:
        return False
    return True


def fingerprints(bundle: str) -> frozenset[str]:
    """Of every certificate in a PEM bundle; empty when it cannot be read."""
    try:
        return frozenset(c.fingerprint(hashes.SHA256()).hex() for c in x509.load_pem_x509_certificates(bundle.encode()))
    except ValueError:
        return frozenset()


def first(bundle: str) -> str:
    """The first certificate of a PEM bundle, empty when there is none."""
    try:
        found = x509.load_pem_x509_certificates(bundle.encode())
    except ValueError:
        return ""
    return found[0].public_bytes(serialization.Encoding.PEM).decode()


def text(secret: Mapping[str, object] | None, key: str) -> str:
    """One value of a Secret, decoded; empty when it is not there or not text."""
    data = (secret or {}).get("data")
    value = data.get(key) if isinstance(data, Mapping) else None
    try:
        return base64.b64decode(str(value or "")).decode()
    except ValueError:
        return ""


def _load(pair: Pair) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate.encode())
        key = serialization.load_pem_private_key(pair.key.encode(), password=None)
    except ValueError as e:
        raise Corrupt("the authority's certificate or key cannot be read; restore its Secret", reason="BadCA") from e
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise Corrupt("the authority's key does not belong to its certificate; restore its Secret", reason="BadCA")
    return certificate, key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(pem, private.decode())
