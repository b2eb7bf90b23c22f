"""gateway.toml as frozen values: every problem at once, each with file, line, key, value and what would be right."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edge_node.config_schema import Backend, Gateway, Precision, Privacy, Source, Uplink
from edge_node.gating import GateSpec
from edge_node.toml_positions import KeyPath, Positions
from models.alerting import AlertPolicy
from models.sensor_checks import LimitSpec
from models.signal import Device


class ConfigError(ValueError):
    """A configuration that cannot be used; the text has one line a problem, in the order of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """One device, defaults merged in, all names resolved."""

    device: Device
    n: int | None  # window in samples; None: the model's
    hop: int | None
    features: str | None
    model: Path | None
    backend: Backend
    precision: Precision
    alerts_per_week: float | None  # exactly one of this and p_threshold; the gateway's cap is already shared out
    p_threshold: float | None
    alert: AlertPolicy
    limits: tuple[LimitSpec, ...]
    gate: GateSpec | None
    privacy: Privacy
    summary_s: float
    n_reservoir: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A valid configuration. ``config_hash`` is 64 hex digits of SHA-256 over all of it but secrets."""

    path: Path
    gateway: Gateway
    uplink: Uplink | None
    sources: tuple[Source, ...]
    devices: tuple[DeviceConfig, ...]
    config_hash: str
    positions: Positions = field(repr=False, compare=False)


def load_config(path: Path, *, need_models: bool = True) -> Config:
    """The configuration in the TOML file ``path``; ConfigError lists everything that is wrong with it.

    ``need_models`` False accepts models that are not there yet (for ``edge-node record``, which makes them possible).
    """
    raise NotImplementedError
