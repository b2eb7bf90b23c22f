"""What it takes to be let in by a broker (certificates, a password), and one line of text for why one is not."""

from __future__ import annotations

import os
import socket
import ssl

from edge_node.config_schema import MqttSource, Tls, Uplink


def tls_context(tls: Tls) -> ssl.SSLContext:
    """The client's side of ``tls``. Raises OSError (ssl.SSLError included) naming the file that cannot be
    used."""
    for key in ("ca_file", "cert_file", "key_file"):
        path = getattr(tls, key)
        if path is not None and not os.access(path, os.R_OK):
            raise OSError(f"tls.{key} {path} cannot be read")
    context = ssl.create_default_context(cafile=None if tls.ca_file is None else str(tls.ca_file))
    context.check_hostname = tls.verify_host
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


def read_password(broker: MqttSource | Uplink) -> str | None:
    """The broker's password, read when it is needed. Raises OSError naming what cannot be read."""
    if broker.password_file is not None:
        return broker.password_file.read_text(encoding="utf-8").rstrip("\r\n")
    if broker.password_env is not None:
        if broker.password_env not in os.environ:
            raise OSError(f"password_env: the environment has no {broker.password_env}")
        return os.environ[broker.password_env]
    return None


def explain(error: BaseException, tls: Tls | None) -> str:
    """One line for a person: why a connection could not be made."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}: does the broker speak TLS on this port?"
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
