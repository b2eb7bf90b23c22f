"""Rows of features of a machine that is well, with all that a model of them needs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.cross_fit import effective_windows
from models.features import FeatureSpec
from models.sensor_checks import ChannelBaseline
from models.signal import Device, Mode, WindowSpec
from models.time_policy import TimeTreatment


@dataclass(frozen=True, slots=True, eq=False)
class HealthyRows:
    """Windows of one device that is well, in time order: ``rows`` float32[w, k] as ``spec`` makes them, before re-centring;
    ``start_ns``, ``end_ns`` int64[w]; ``examples`` float32[e, n, c], wholly valid, the first and the last of them early and
    late. ``set_aside``: how many windows were left out, by reason; ``notes``: what who serves the model should know."""

    device: Device
    window: WindowSpec
    time: TimeTreatment
    spec: FeatureSpec
    baselines: tuple[ChannelBaseline, ...]
    examples: NDArray[np.float32] = field(repr=False)
    start_ns: NDArray[np.int64] = field(repr=False)
    end_ns: NDArray[np.int64] = field(repr=False)
    rows: NDArray[np.float32] = field(repr=False)
    set_aside: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def step_ns(self) -> int:
        """The usual time from one window to the next: the hop, or more where records come in bursts."""
        if self.window.mode is not Mode.BURST or self.start_ns.size < 2:
            return self.window.hop_ns
        span_ns = int(self.start_ns[-1] - self.start_ns[0])
        return max(self.window.hop_ns, span_ns // (self.start_ns.size - 1))


def effective_rows(inputs: NDArray[np.float32], overlap: float) -> float:
    """How many independent rows ``inputs`` float32[w, k], normalised, are worth: by their distance from the centre, which
    is what a score grows with. ``overlap`` = n / hop."""
    power = np.mean(np.square(inputs, dtype=np.float64), axis=1)
    return effective_windows(np.log(np.maximum(power, 1e-12)), overlap)
