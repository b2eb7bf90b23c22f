"""The files of configuration of the demo's gateways and of its sink, as a person would write them. Pure.

What a program does by its own clock, it does ``speed`` times as often, as the plant is played so fast: the status and the
checkpoints are as many for an hour of the plant as they would be in one, and none of what is sent upstream looks smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SITE = "demo"
CLASS = "blower"
STATUS_S, CHECKPOINT_S = 30.0, 60.0  # the defaults of a gateway


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the demo's broker is, and which version of MQTT it speaks."""

    host: str
    port: int
    version: str


def gateway_toml(
    name: str, machines: Sequence[str], broker: BrokerAddress, *, page_port: int, speed: float
) -> str:
    """A gateway beside ``machines``, each of which has a model in ``models/blower``."""
    text = f"""\
[gateway]
name = "{name}"
site = "{SITE}"
metrics_port = {page_port}
status_s = {STATUS_S / speed:g}         # {STATUS_S:g} s of a plant that is played {speed:g} times as fast
checkpoint_s = {CHECKPOINT_S / speed:g}

[uplink]
host = "{broker.host}"
port = {broker.port}
version = "{broker.version}"

[models]
trusted_keys = ["plant.pub"]

[defaults]
class = "{CLASS}"
model = "models/{CLASS}"
alerts_per_week = 1
n_reservoir = 64
time = {{ stale_after_s = 3600 }} # between days nothing is played

[[source]]
type = "mqtt"
host = "{broker.host}"
port = {broker.port}
"""
    for machine in machines:
        text += f"""
[[source.subscribe]]
topic = "plant/packed/vibration/{machine}"
device = "{machine}"
format = "packed"
"""
    for machine in machines:
        text += f"""
[[device]]
id = "{machine}"
rate_hz = 1000
channels = ["x"]
unit = "m/s2"
"""
    return text


def sink_toml(broker: BrokerAddress) -> str:
    """The one sink."""
    return f"""\
[sink]
name = "sink-1"
metrics_port = 0

[broker]
host = "{broker.host}"
port = {broker.port}
version = "{broker.version}"

[rollout]
every_s = 0.5
"""
