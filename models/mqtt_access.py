"""What it takes to be let in by a broker (certificates, a password), and one line of text for why one is not."""

from __future__ import annotations

import os
import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from models.broker_options import Broker, Tls
from models.secret_values import read_secret

ASK_AGAIN_S = 2.0


class TlsSocket(ssl.SSLSocket):
    """Keeps why it failed: with TLS 1.3 a broker refuses our certificate after the handshake, when paho reads."""

    failure: ssl.SSLError | None = None

    def recv(self, *args: Any) -> bytes:
        try:
            return super().recv(*args)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.failure = error
            raise


def tls_context(tls: Tls) -> ssl.SSLContext:
    """The client's side of ``tls``. Raises OSError naming the file that cannot be used."""
    for key in ("ca_file", "cert_file", "key_file"):
        path = getattr(tls, key)
        if path is not None and not (path.is_file() and os.access(path, os.R_OK)):
            raise OSError(f"tls.{key} {path} cannot be read")
    try:
        context = ssl.create_default_context(cafile=None if tls.ca_file is None else str(tls.ca_file))
    except ssl.SSLError as error:
        raise OSError(f"tls.ca_file {tls.ca_file} is not of certificates as PEM: {_what(error)}") from None
    context.sslsocket_class = TlsSocket
    context.check_hostname = tls.verify_host
    if tls.cert_file is not None:
        _load_own(context, tls.cert_file, tls.key_file)
    return context


def _load_own(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    asked = False

    def passphrase() -> str:
        nonlocal asked
        asked = True
        return ""  # without this function OpenSSL would ask on the terminal, and wait

    try:
        context.load_cert_chain(cert, key, passphrase)
    except ssl.SSLError as error:
        own = f"tls.key_file {key}" if key is not None else f"tls.cert_file {cert} (there is no key_file)"
        if asked:
            raise OSError(
                f"{own}: the key has a passphrase, which nobody is there to give: remove it"
            ) from None
        if "MISMATCH" in (error.reason or ""):
            raise OSError(f"{own} is not the key of tls.cert_file {cert}") from None
        if _certificate(cert) is None:
            raise OSError(f"tls.cert_file {cert} is not a certificate as PEM: {_what(error)}") from None
        raise OSError(f"{own} holds no private key as PEM: {_what(error)}") from None


def another_s_certificate(tls: Tls | None, site: str, gateway: str) -> str | None:
    """What there is to say where the certificate in ``tls`` names somebody else than ``gateway`` of ``site``: a broker with the
    rules that we give (examples/mosquitto/acl) then takes nothing of what it publishes. None where it does not."""
    if tls is None or tls.cert_file is None or (found := _certificate(tls.cert_file)) is None:
        return None
    names = [str(a.value) for a in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if not names or f"{site}/{gateway}" in names:
        return None
    return f"tls.cert_file {tls.cert_file} is the certificate of {names[0]!r}, and this gateway is {site}/{gateway}"


def read_password(broker: Broker) -> str | None:
    """The broker's password, read when it is needed. Raises OSError naming what cannot be read."""
    try:
        return read_secret(broker.password_file, broker.password_env)
    except ValueError as error:
        file = broker.password_file
        where = f"password_file {file}" if file is not None else f"password_env {broker.password_env}"
        raise OSError(f"{where}: {error}") from None


def explain(error: BaseException, tls: Tls | None) -> str:
    """One line for a person: why a connection could not be made."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        refusal = _refusal(error.reason or "", tls)
        return refusal or f"TLS failed: {_what(error)}: does the broker speak TLS on this port?"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: no broker listens there"
    if isinstance(error, socket.gaierror):
        return f"the host name cannot be resolved: {error.strerror}"
    if isinstance(error, TimeoutError):
        return "no answer: the connection timed out" + (" (during the TLS handshake?)" if tls else "")
    if isinstance(error, OSError):
        named = f"{error.filename}: " if error.filename else ""
        return f"{named}{error.strerror or error}"
    return f"it does not speak MQTT: {type(error).__name__}: {error}"


def explain_close(address: tuple[str, int], tls: Tls | None) -> str:
    """One line: why the broker there may have closed a connection before accepting it, without a word."""
    if tls is not None and (refusal := _ask_again(address, tls)) is not None:
        return refusal
    if tls is None:
        hint = "is this an MQTT port, and does it want TLS?"
    elif tls.cert_file is None:
        hint = "is this an MQTT port, and does it want a client certificate (tls.cert_file)?"
    else:
        hint = _expiry(tls.cert_file) or f"is this an MQTT port, and does it trust {tls.cert_file}?"
    return f"it closed the connection before accepting it: {hint}"


def _ask_again(address: tuple[str, int], tls: Tls) -> str | None:
    """Why the broker refuses our certificate. With TLS 1.3 it says so after the handshake, and what had been sent to it by
    then can destroy that word on the way; so it is asked once more, and sent nothing. None: it says nothing."""
    try:
        with (
            socket.create_connection(address, ASK_AGAIN_S) as tcp,
            tls_context(tls).wrap_socket(tcp, server_hostname=address[0]) as asked,
        ):
            asked.recv(1)
    except ssl.SSLError as error:
        return None if isinstance(error, ssl.SSLEOFError) else explain(error, tls)
    except OSError:
        return None
    return None


def _refusal(reason: str, tls: Tls | None) -> str | None:
    """What a TLS alert of the broker's says of our certificate; None: nothing."""
    own = tls.cert_file if tls is not None else None
    if own is None:
        wanted = any(w in reason for w in ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE", "BAD_CERTIFICATE"))
        return "the broker wants a client certificate: set tls.cert_file and tls.key_file" if wanted else None
    if "EXPIRED" in reason:
        when = _expiry(own)
        return f"the broker says that {own} has expired" + (f": {when}" if when else "")
    if "REVOKED" in reason:
        return f"the broker says that {own} has been revoked"
    if "UNKNOWN_CA" in reason:
        return f"the broker does not trust who signed {own}"
    if "ALERT" in reason and "CERTIFICATE" in reason:
        return f"the broker refuses {own}: {_expiry(own) or _spaced(reason)}"
    return None


def _expiry(path: Path) -> str | None:
    """In words, that the certificate is not valid now; None where it is, or cannot be read."""
    certificate, now = _certificate(path), datetime.now(UTC)
    if certificate is None:
        return None
    ends, begins = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    if now > ends:
        return f"{path} was valid until {ends:%Y-%m-%d %H:%M} UTC"
    if now < begins:
        return f"{path} is valid from {begins:%Y-%m-%d %H:%M} UTC on, and the clock here says {now:%Y-%m-%d %H:%M}"
    return None


def _certificate(path: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return None


def _what(error: ssl.SSLError) -> str:
    return _spaced(error.reason) if error.reason else str(error).partition(" (_ssl.c")[0]


def _spaced(reason: str) -> str:
    return reason.replace("_", " ").lower()
