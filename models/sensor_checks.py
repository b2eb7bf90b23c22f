"""Sensor faults (a flat, stuck, saturated or out-of-range channel) and absolute limits, window by window."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.messages import Severity
from models.signal import Channel, WindowBatch, WindowSpec


class SensorFault(enum.StrEnum):
    FLATLINE = "flatline"
    STUCK = "stuck"
    SATURATED = "saturated"
    OUT_OF_RANGE = "out_of_range"


# Codes of SensorChecks.check: 0 is fine, else FAULTS[code - 1].
FAULTS: tuple[SensorFault, ...] = tuple(SensorFault)


def fault_of(code: int) -> SensorFault | None:
    """The fault that ``code`` stands for; None for 0."""
    return FAULTS[code - 1] if code else None


class ChannelBaseline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a channel did in healthy data, origin subtracted like the values themselves."""

    longest_run_s: float
    minimum: float
    maximum: float


class SensorState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that :class:`SensorChecks` carries from window to window."""


class LimitState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that :class:`LimitChecks` carries from window to window."""


def learn_baselines(batches: Iterable[WindowBatch], spec: WindowSpec) -> tuple[ChannelBaseline, ...]:
    """The baseline of each channel of healthy windows."""
    raise NotImplementedError


class SensorChecks:
    def __init__(
        self, channels: Sequence[Channel], baselines: Sequence[ChannelBaseline] | None, spec: WindowSpec
    ) -> None:
        raise NotImplementedError

    def check(self, batch: WindowBatch) -> NDArray[np.uint8]:
        """Fault code of each window and channel, uint8[w, c]; 0 is fine, see :func:`fault_of`."""
        raise NotImplementedError

    def examine(self, batch: WindowBatch) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """(codes uint8[w, c], since_ns int64[w, c]: since when the channel has read the value it ends the window with)."""
        raise NotImplementedError

    def state(self) -> SensorState:
        raise NotImplementedError

    def restore(self, state: SensorState) -> None:
        raise NotImplementedError


class LimitSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An absolute limit on one channel, in its unit: needs no model."""

    name: str
    channel: str
    above: float | None = None
    below: float | None = None
    for_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    severity: Severity = "critical"
    hysteresis: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class LimitChecks:
    def __init__(self, limits: Sequence[LimitSpec], channels: Sequence[Channel], spec: WindowSpec) -> None:
        raise NotImplementedError

    def check(self, batch: WindowBatch) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """(violated bool[w, l], extreme float64[w, l] in the channel's unit)."""
        raise NotImplementedError

    def state(self) -> LimitState:
        raise NotImplementedError

    def restore(self, state: LimitState) -> None:
        raise NotImplementedError
