"""Who may see what is served over HTTP on this computer: rules on a configuration that no type can express."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol

from models.config_partial import given, sure
from models.config_validation import Problem
from models.secret_values import read_secret

MIN_TOKEN = 16
_IN_A_HEADER = re.compile(r"[!-~]*\Z")


class Served(Protocol):
    """The table that says what is served, and to whom."""

    @property
    def metrics_host(self) -> str: ...
    @property
    def metrics_port(self) -> int: ...
    @property
    def http_token_file(self) -> Path | None: ...
    @property
    def http_token_env(self) -> str | None: ...


def check_http(served: Served, table: str) -> Iterator[Problem]:
    """Of ``table``: a token that can be read and is long enough; and there is one where others can reach what is served."""
    file, variable = served.http_token_file, served.http_token_env
    if given(file) and given(variable):
        yield Problem((table, "http_token_env"), "give either this or http_token_file", sure(variable), True)
    key, value = ("http_token_file", str(file)) if given(file) else ("http_token_env", variable)
    try:
        token = read_secret(sure(file), sure(variable))
    except ValueError as error:
        yield Problem((table, key), str(error), value, True)
        return
    if token is not None and (len(token) < MIN_TOKEN or not _IN_A_HEADER.match(token)):
        what = f"the token there is not what is expected: at least {MIN_TOKEN} printable ASCII characters, no spaces"
        yield Problem((table, key), what, value, True)
    if token is None and served.metrics_port and not is_loopback(sure(served.metrics_host)):
        text = "others than this computer could read what is served there: give http_token_file or http_token_env"
        yield Problem((table, "metrics_host"), text, served.metrics_host, True)


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches what is served on ``host``."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
