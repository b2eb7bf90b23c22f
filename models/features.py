"""Declared feature sets: windows [w, n, c] in, one row of features a window out; one code for training, replay, serving."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.recentring import RecentringSpec
from models.signal import Channel, WindowSpec

FeatureSet = Literal["slow", "vibration"]
FeatureKind = Literal["mean", "log_std", "last", "log_band", "log_rms", "crest", "kurtosis", "peak"]


class FeatureSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which features: the set, its version, its parameters."""

    set: FeatureSet
    version: int = 1
    n_fast: Annotated[int, msgspec.Meta(ge=0)] = 10
    n_bands: Annotated[int, msgspec.Meta(ge=1)] = 8
    floors: tuple[float, ...] = ()


class FeatureInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What one column of the feature matrix is."""

    name: str
    channel: str
    kind: FeatureKind
    unit: str
    label: str
    recentred: bool
    log: bool
    low_hz: float | None = None
    high_hz: float | None = None


def describe(
    spec: FeatureSpec, channels: Sequence[Channel], rate_hz: Fraction, n: int
) -> tuple[FeatureInfo, ...]:
    """The columns of :func:`extract`, in their order."""
    raise NotImplementedError


def schema_id(
    spec: FeatureSpec, channel_names: Sequence[str], window: WindowSpec, recentring: RecentringSpec | None
) -> str:
    """Sixteen hex digits that bind a model to its features."""
    raise NotImplementedError


def extract(
    spec: FeatureSpec, values: NDArray[np.float32], valid: NDArray[np.bool_], rate_hz: Fraction
) -> NDArray[np.float32]:
    """Features float32[w, k] of windows ``values`` float32[w, n, c]."""
    raise NotImplementedError


def readable(info: FeatureInfo, value: float, origin: float) -> float:
    """``value`` of a feature as a person reads it, in ``info.unit``."""
    raise NotImplementedError


def learn_floors(windows: Sequence[NDArray[np.float32]]) -> tuple[float, ...]:
    """Amplitude floors per channel, for ``FeatureSpec.floors``."""
    raise NotImplementedError
