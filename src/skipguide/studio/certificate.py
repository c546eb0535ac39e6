"""The TLS certificate of the server for raters: one that is given, or one that is made here.

A certificate that is made here is kept with the user, as the secret of the links is, one for each
run and address, so that a phone that has accepted it once does so after a restart.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import ssl
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipguide.files.text import displayable
from skipguide.studio.secret import is_private, secret_path, write_private

DAYS = 90  # that one of our own is valid; a study takes weeks
_RENEW_DAYS = 7  # before its end, at a start


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, in files.

    Args:
        fingerprint: its SHA-256, as browsers show it.
        until: when it ends.
        is_own: it was made here and is signed by nobody else.
        told: what else a person should know, in sentences.
    """

    file: Path
    key: Path
    fingerprint: str
    until: datetime.datetime
    is_own: bool
    told: str = ""


def load_given(file: Path, key: Path, name: str) -> Certificate:
    """Return a certificate that is given.

    Args:
        name: the address or name in the link.

    Raises:
        ValueError: if it is none, the key is not its own or is locked by a passphrase, or it is not
            valid now.
    """
    for flag, path in (("--cert", file), ("--key", key)):
        if not path.is_file():
            raise ValueError(f"{flag} must be a PEM file, but {path} is none. Correct it.")
    try:
        # A passphrase that is asked for would stop the start.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file, key, password=lambda: "")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ValueError(
            "--cert and --key must be PEM files of a certificate, with those that signed it below,"
            f" and of its key without a passphrase, but {file} and {key} are not:"
            f" {_reason(error)}. Correct them."
        ) from None
    found = _read(file)
    now = datetime.datetime.now(datetime.timezone.utc)
    if not found.not_valid_before_utc <= now < found.not_valid_after_utc:
        raise ValueError(
            f"--cert must be valid now, but {file} is from {found.not_valid_before_utc:%Y-%m-%d} to"
            f" {found.not_valid_after_utc:%Y-%m-%d}. Renew it."
        )
    names = names_of(found)
    told = f"The certificate is for {', '.join(sorted(names)) or 'no name'}, not for {name}:"
    told += " browsers will warn. Use --share with one of its names."
    told = "" if _is_for(name, names) else told
    return Certificate(file, key, _fingerprint(found), found.not_valid_after_utc, False, told)


def load_own(folder: Path, names: Sequence[str]) -> Certificate:
    """Return the certificate of a run, which is made the first time.

    There is one for each address; a new one is made where it ends within a week, is damaged, or
    could be read by others.

    Args:
        names: addresses and names under which the server is reached, that of the link first.

    Raises:
        OSError: if it cannot be kept.
        ValueError: if cryptography is not installed.
    """
    path = secret_path().with_name("tls") / f"{_file_name(folder, names)}.pem"
    is_kept, told = os.path.lexists(path), ""
    if is_kept and (why := _why_not(path, names)):
        is_kept = False
        told = f"The certificate of before {why}: there is a new one, with another fingerprint."
    if not is_kept:
        write_private(path, _make(folder, names))
    found = _read(path)
    return Certificate(path, path, _fingerprint(found), found.not_valid_after_utc, True, told)


def _why_not(path: Path, names: Sequence[str]) -> str | None:
    """Return why a certificate that is kept cannot be used any longer; None if it can."""
    if not is_private(path):
        return "could be read by others, with its key"
    try:
        found = _read(path)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)
    except (ValueError, ssl.SSLError):
        return "is damaged"
    left = found.not_valid_after_utc - datetime.datetime.now(datetime.timezone.utc)
    if left < datetime.timedelta(days=_RENEW_DAYS):
        return f"ends on {found.not_valid_after_utc:%Y-%m-%d}"
    missing = [name for name in names if name not in names_of(found)]
    return f"is not for {', '.join(missing)}" if missing else None


def _make(folder: Path, names: Sequence[str]) -> bytes:
    """Return a new key and a certificate signed by it, in PEM."""
    x509 = _cryptography()
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    title = f"skipguide studio, {displayable(folder.resolve().name)}"[:64]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
    now = datetime.datetime.now(datetime.timezone.utc)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # a phone whose clock is slow
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _general_name(name: str) -> Any:
    x509 = _cryptography()
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def names_of(certificate: Any) -> set[str]:
    """Return the addresses and names that a certificate is for."""
    x509 = _cryptography()
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    addresses = {str(address) for address in found.get_values_for_type(x509.IPAddress)}
    return addresses | {name.lower() for name in found.get_values_for_type(x509.DNSName)}


def _is_for(name: str, names: Set[str]) -> bool:
    """Return whether a certificate for some names is for another; "*.a.b" is for "c.a.b"."""
    return name.lower() in names or f"*.{name.lower().partition('.')[2]}" in names


def _read(path: Path) -> Any:
    return _cryptography().load_pem_x509_certificate(path.read_bytes())


def _fingerprint(certificate: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    digest = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest().upper()
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))


def _file_name(folder: Path, names: Sequence[str]) -> str:
    """Return a name for a run and an address; who comes back to one finds its certificate."""
    said = b"\n".join([os.fsencode(folder.resolve()), *(name.encode() for name in sorted(names))])
    return hashlib.sha256(said).hexdigest()[:32]


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)


def _cryptography() -> Any:
    """Return `cryptography.x509`.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        from cryptography import x509
    except ImportError as error:
        raise ValueError(
            f"TLS needs cryptography, but {error}. Run pip install 'skipguide[studio]', or pass"
            " --no-tls if whoever listens may read and change the votes."
        ) from None
    return x509
