"""Who may see what is served over HTTP on this computer: rules on ``[gateway]`` that no type can express."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address

from edge_node.config_partial import given, sure
from edge_node.config_schema import Gateway
from edge_node.config_validation import Problem
from edge_node.secret_values import read_secret

MIN_TOKEN = 16
_IN_A_HEADER = re.compile(r"[!-~]*\Z")


def check_http(gateway: Gateway) -> Iterator[Problem]:
    """A token that can be read and is long enough; and there is one where others can reach what is served."""
    file, variable = gateway.http_token_file, gateway.http_token_env
    if given(file) and given(variable):
        yield Problem(
            ("gateway", "http_token_env"), "give either this or http_token_file", sure(variable), True
        )
    key, value = ("http_token_file", str(file)) if given(file) else ("http_token_env", variable)
    try:
        token = read_secret(sure(file), sure(variable))
    except ValueError as error:
        yield Problem(("gateway", key), str(error), value, True)
        return
    if token is not None and (len(token) < MIN_TOKEN or not _IN_A_HEADER.match(token)):
        what = f"the token there is not what is expected: at least {MIN_TOKEN} printable ASCII characters, no spaces"
        yield Problem(("gateway", key), what, value, True)
    if token is None and gateway.metrics_port and not is_loopback(sure(gateway.metrics_host)):
        text = "others than this computer could read what is served there: give http_token_file or http_token_env"
        yield Problem(("gateway", "metrics_host"), text, gateway.metrics_host, True)


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches what is served on ``host``."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
