"""Rules on a broker in a configuration that no type can express."""

from __future__ import annotations

import os
from collections.abc import Iterator

from models.broker_options import Broker
from models.config_partial import as_far_as_known, given, sure
from models.config_validation import Problem
from models.secret_values import read_secret
from models.toml_positions import KeyPath
from models.topics import check_level

_LOCAL = ("localhost", "127.0.0.1", "::1")


def check_broker(broker: Broker, path: KeyPath) -> Iterator[Problem]:
    """Credentials and certificates: present, readable and complete; pauses in order."""
    yield from as_far_as_known(
        _check_password(broker, path), _check_tls(broker, path), _check_pauses(broker, path)
    )


def _check_password(broker: Broker, path: KeyPath) -> Iterator[Problem]:
    file, variable = broker.password_file, broker.password_env
    if given(file) and given(variable):
        yield Problem((*path, "password_env"), "give either this or password_file", variable, True)
    if (given(file) or given(variable)) and not given(broker.username):
        yield Problem(path, "username is missing: a password needs one")
    sure(file)
    sure(variable)
    try:
        read_secret(file, variable)
    except ValueError as error:
        key, value = ("password_file", str(file)) if given(file) else ("password_env", variable)
        yield Problem((*path, key), str(error), value, True)


def _check_tls(broker: Broker, path: KeyPath) -> Iterator[Problem]:
    if given(broker.tls):
        for key in ("ca_file", "cert_file", "key_file"):
            file = getattr(broker.tls, key)
            if given(file) and not os.access(file, os.R_OK):
                yield Problem((*path, "tls", key), "this file cannot be read", str(file), True)
        if given(broker.tls.key_file) and not given(broker.tls.cert_file):
            yield Problem((*path, "tls"), "cert_file is missing: a key_file needs one")


def _check_pauses(broker: Broker, path: KeyPath) -> Iterator[Problem]:
    if broker.reconnect_min_s > broker.reconnect_max_s:
        text = f"expected at most reconnect_max_s = {broker.reconnect_max_s:g}"
        yield Problem((*path, "reconnect_min_s"), text, broker.reconnect_min_s, True)


def check_prefix(prefix: str, path: KeyPath) -> Iterator[Problem]:
    """``prefix`` of topics, at ``path``."""
    for level in prefix.split("/"):
        try:
            check_level(level, "a level of the prefix")
        except ValueError as error:
            yield Problem(path, str(error), prefix, True)


def same_broker(a: Broker, b: Broker) -> bool:
    """Whether both are the same address, as far as names tell."""
    (one, port), (two, other) = a.address, b.address
    local = one.lower() in _LOCAL and two.lower() in _LOCAL
    return port == other and (local or one.lower() == two.lower())
