"""Every MQTT topic of Linewatch, in one place.

A name that goes into a topic level is checked once by :func:`check_level`; the builders below then only join. The same
prefix is shared by all gateways of one installation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_PREFIX = "linewatch"
MODELS_LEVEL = "models"  # below the prefix, where sites are: no site may be called that
GATEWAY_DEVICE = "_gateway"  # stands in for the device in alerts of kind "system"

_LEVEL = re.compile(r"^[^/+#\x00-\x1f]{1,128}$")


def check_level(value: str, what: str) -> str:
    """``value`` if it can be one level of a topic; else ValueError naming ``what``."""
    if not _LEVEL.match(value) or value.startswith("$"):
        raise ValueError(
            f"{what} {value!r} cannot be part of an MQTT topic: use 1 to 128 characters without '/', '+', '#', "
            "control characters or a leading '$'"
        )
    return value


@dataclass(frozen=True, slots=True)
class GatewayTopics:
    """Topics under which one gateway publishes: ``{prefix}/{site}/{gateway}/…``."""

    prefix: str
    site: str
    gateway: str

    def __post_init__(self) -> None:
        for level in self.prefix.split("/"):
            check_level(level, "prefix")
        check_level(self.site, "site")
        if self.site == MODELS_LEVEL:
            raise ValueError(f"site {self.site!r} is where models are published: choose another name")
        check_level(self.gateway, "gateway")

    @property
    def root(self) -> str:
        return f"{self.prefix}/{self.site}/{self.gateway}"

    @property
    def status(self) -> str:
        return f"{self.root}/status"

    def device_state(self, device_id: str) -> str:
        return f"{self.root}/device/{device_id}/state"

    def alert(self, device_id: str) -> str:
        return f"{self.root}/alert/{device_id}"

    def summary(self, device_id: str) -> str:
        return f"{self.root}/summary/{device_id}"

    def model(self, model_id: str) -> str:
        return f"{self.root}/model/{model_id}"

    @property
    def requests(self) -> str:
        """The filter of all that is asked of the gateway."""
        return f"{self.root}/request/+"

    def request(self, name: str) -> str:
        return f"{self.root}/request/{name}"

    def response(self, name: str) -> str:
        return f"{self.root}/response/{name}"

    @property
    def score_request(self) -> str:
        """Features that a sink is asked to score."""
        return f"{self.root}/score/request"

    @property
    def score_response(self) -> str:
        """What it answers."""
        return f"{self.root}/score/response"


@dataclass(frozen=True, slots=True)
class ModelTopics:
    """Where one model is published to all gateways of an installation: ``{prefix}/models/{model_id}/…``. ValueError for
    a model whose name cannot be a level."""

    prefix: str
    model_id: str

    def __post_init__(self) -> None:
        for level in self.prefix.split("/"):
            check_level(level, "prefix")
        check_level(self.model_id, "model")

    @property
    def root(self) -> str:
        return f"{self.prefix}/{MODELS_LEVEL}/{self.model_id}"

    @property
    def stable(self) -> str:
        """The manifest for every gateway."""
        return f"{self.root}/stable"

    def canary(self, gateway: str) -> str:
        """The manifest for one gateway, ``site/gateway``, which goes before ``stable`` for as long as it is there."""
        site, slash, name = gateway.partition("/")
        if not slash:
            raise ValueError(f"gateway {gateway!r} is of no site: write SITE/GATEWAY")
        return f"{self.root}/gateway/{check_level(site, 'site')}/{check_level(name, 'gateway')}"

    def blob(self, sha256: str) -> str:
        """The .tflite of this digest."""
        return f"{self.root}/blob/{sha256}"


def filter_matches(pattern: str, topic: str) -> bool:
    """Whether MQTT topic ``topic`` matches the subscription filter ``pattern`` (MQTT 5.0 section 4.7)."""
    wanted, given = pattern.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    for i, level in enumerate(wanted):
        if level == "#":
            return True
        if i >= len(given) or (level != "+" and level != given[i]):
            return False
    return len(wanted) == len(given)


def filters_overlap(a: str, b: str) -> bool:
    """Whether some topic could match both subscription filters."""
    left, right = a.split("/"), b.split("/")
    for i in range(max(len(left), len(right))):
        one = left[i] if i < len(left) else None
        two = right[i] if i < len(right) else None
        if one == "#" or two == "#":
            return True
        if one is None or two is None:
            return False
        if "+" not in (one, two) and one != two:
            return False
    return True
