"""Sensor faults: a flat, stuck, saturated or out-of-range channel, window by window.

A fault of the sensor is not a fault of the machine; windows that have one are kept from scoring and
training. What is carried from window to window (how long a channel has read the same value) is a function of
the windows alone, so how they are split over calls does not show. The terms follow the stuck-at and clipping
faults of Ni et al., "Sensor network data fault types" (ACM Trans. Sensor Networks 5, 2009), and the
flat-line and gross-range tests of QARTOD.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.limits import LimitChecks as LimitChecks
from models.limits import LimitSpec as LimitSpec
from models.limits import LimitState as LimitState
from models.runs import Runs, slack
from models.signal import NS_PER_S, Channel, WindowBatch, WindowSpec

# Healthy recordings are short: a run must outlast the longest one seen by this factor, and a whole window.
RUN_FACTOR = 5.0
# Clipping starts below nominal full scale (gain tolerance), and a single hard impact may touch it.
_CLIP_FROM = 0.999
_CLIPPED_SHARE = 0.01
_MIN_CLIPPED = 3

_NEVER_NS = np.iinfo(np.int64).max
_LONG_AGO_NS = int(np.iinfo(np.int64).min)


class SensorFault(enum.StrEnum):
    """What is wrong with a channel; where several hold, the first of SATURATED, OUT_OF_RANGE, STUCK,
    FLATLINE."""

    FLATLINE = "flatline"  # one identical value for at least the limit, at an ordinary reading
    STUCK = "stuck"  # the same, far outside what healthy data read: at a rail, a dead or open line
    SATURATED = "saturated"  # at ±full_scale in 1 % of the window's samples, at least 3: clipped
    OUT_OF_RANGE = "out_of_range"  # a sample outside valid_range


# Codes of SensorChecks.check: 0 is fine, else FAULTS[code - 1].
FAULTS: tuple[SensorFault, ...] = tuple(SensorFault)
_CODE = {fault: np.uint8(i + 1) for i, fault in enumerate(FAULTS)}


def fault_of(code: int) -> SensorFault | None:
    """The fault that ``code`` stands for; None for 0."""
    return FAULTS[code - 1] if code else None


class ChannelBaseline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a channel did in healthy data; values as they come, origin subtracted.

    ``longest_run_s``: the longest time it read one identical value, as seen from the ends of windows (a run
    longer than a hop is never missed, and measured short by less than one).
    """

    longest_run_s: float
    minimum: float
    maximum: float

    @property
    def constant(self) -> bool:
        """Whether it never changed: then stillness says nothing."""
        return self.minimum == self.maximum


class SensorState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that :class:`SensorChecks` carries from window to window; per channel but for ``end_ns``."""

    end_ns: int | None  # of the newest window
    value: tuple[float | None, ...]  # the last valid one; None: there was none yet
    run_start_ns: tuple[int, ...]  # since when it has been that
    run_seen_ns: tuple[int, ...]  # until when it was seen to be
    fault_end_ns: tuple[int, ...]  # end of the newest window that ended in a run over the limit
    fault_code: tuple[int, ...]


def stuck_limits_ns(
    channels: Sequence[Channel], baselines: Sequence[ChannelBaseline] | None, spec: WindowSpec
) -> NDArray[np.int64]:
    """How long each channel may read one identical value, int64[c]: ``stuck_s`` where it is given; else 5
    times the longest healthy run and at least a window; for ever where the healthy channel was constant or
    nothing is known."""
    limits = np.full(len(channels), _NEVER_NS, dtype=np.int64)
    for j, channel in enumerate(channels):
        if channel.stuck_s is not None:
            limits[j] = round(channel.stuck_s * NS_PER_S)
        elif baselines is not None and not baselines[j].constant:
            limits[j] = max(round(RUN_FACTOR * baselines[j].longest_run_s * NS_PER_S), spec.window_ns)
    return limits


def learn_baselines(batches: Iterable[WindowBatch], spec: WindowSpec) -> tuple[ChannelBaseline, ...]:
    """The baseline of each channel of healthy windows, in time order. ValueError when there is no window."""
    runs: Runs | None = None
    for batch in batches:
        if batch.n == 0:
            continue
        c = batch.values.shape[2]
        if runs is None:
            runs = Runs(c, spec)
            longest = np.zeros(c, dtype=np.int64)
            low, high = np.full(c, np.inf, dtype=np.float32), np.full(c, -np.inf, dtype=np.float32)
        starts, seen, _ = runs.push(batch)
        longest = np.maximum(longest, (seen - starts).max(axis=0))
        low = np.minimum(low, np.where(batch.valid, batch.values, np.inf).min(axis=(0, 1)))
        high = np.maximum(high, np.where(batch.valid, batch.values, -np.inf).max(axis=(0, 1)))
    if runs is None:
        raise ValueError("no window to learn a baseline from")
    return tuple(
        ChannelBaseline(longest_run_s=float(run) / NS_PER_S, minimum=float(lo), maximum=float(hi))
        if math.isfinite(lo)
        else ChannelBaseline(longest_run_s=0.0, minimum=0.0, maximum=0.0)
        for run, lo, hi in zip(longest, low, high, strict=True)
    )


class SensorChecks:
    """Checks the windows of one device, in time order.

    ``baselines``: one per channel from training, or None where there is no model; then a flat line is only a
    fault where the channel's ``stuck_s`` is given, and never STUCK. ValueError when their number is not that
    of the channels.
    """

    def __init__(
        self, channels: Sequence[Channel], baselines: Sequence[ChannelBaseline] | None, spec: WindowSpec
    ) -> None:
        if baselines is not None and len(baselines) != len(channels):
            raise ValueError(f"{len(baselines)} baselines for {len(channels)} channels")
        self._channels = tuple(channels)
        self._limit_ns = stuck_limits_ns(channels, baselines, spec)
        known = baselines if baselines is not None else ()
        # Beyond the healthy span by more than its own width: slow drift takes a sound sensor somewhat
        # outside.
        self._low = np.array([2 * b.minimum - b.maximum for b in known] or [-np.inf] * len(channels))
        self._high = np.array([2 * b.maximum - b.minimum for b in known] or [np.inf] * len(channels))
        self._runs = Runs(len(channels), spec)
        # A channel that moves from sample to sample, and has no range to keep to, cannot be faulty.
        self._moving_is_fine = bool((self._limit_ns > self._runs.sample_ns).all()) and all(
            channel.full_scale is None and channel.valid_range is None for channel in channels
        )
        self._faulty_to_ns = _LONG_AGO_NS  # the newest of:
        self._fault_end_ns = np.full(len(channels), _LONG_AGO_NS, dtype=np.int64)
        self._fault_code = np.zeros(len(channels), dtype=np.uint8)

    def check(self, batch: WindowBatch) -> NDArray[np.uint8]:
        """Fault code of each window and channel, uint8[w, c]; 0 is fine, see :func:`fault_of` and
        :meth:`examine`."""
        return self.examine(batch)[0]

    def plainly_fine(self, batch: WindowBatch) -> bool:
        """Whether it shows at a glance that no channel is faulty nor reads the value that a window ends with for
        longer than a sample, as nearly always. Takes note of the windows if so; else does nothing, and
        :meth:`examine` is due."""
        return (
            self._moving_is_fine
            and batch.n > 0
            and self._faulty_to_ns <= batch.start_ns.item(0)
            and self._runs.push_moving(batch)
        )

    def examine(self, batch: WindowBatch) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """(codes uint8[w, c]; since_ns int64[w, c]: since when the channel has read the value that the
        window ends with).

        FLATLINE and STUCK: a run of one identical value reaches the limit (:func:`stuck_limits_ns`) by the
        window's end, or did so by the end of an earlier window and reaches into this one: what is half dead
        is not scored. So a run is found with a resolution of one hop. Invalid samples neither prolong nor
        break it; see :class:`models.runs.Runs` for gaps. SATURATED and OUT_OF_RANGE look at the valid
        samples of the window alone.
        """
        w = batch.n
        since, seen, value = self._runs.push(batch)
        codes = np.zeros(since.shape, dtype=np.uint8)
        if w == 0:
            return codes, since
        over = seen - since >= self._limit_ns
        if np.count_nonzero(over) or np.count_nonzero(self._fault_end_ns > batch.start_ns[0]):
            unusual = (value < self._low) | (value > self._high)
            frozen = np.where(unusual, _CODE[SensorFault.STUCK], _CODE[SensorFault.FLATLINE])
            for i in range(w):
                self._fault_end_ns[over[i]] = batch.end_ns[i]
                self._faulty_to_ns = int(self._fault_end_ns.max())
                self._fault_code[over[i]] = frozen[i, over[i]]
                affected = over[i] | (self._fault_end_ns > batch.start_ns[i])
                codes[i, affected] = self._fault_code[affected]
        for j, channel in enumerate(self._channels):
            if channel.full_scale is not None or channel.valid_range is not None:
                self._check_range(batch, j, channel, codes)
        return codes, since

    def _check_range(self, batch: WindowBatch, j: int, channel: Channel, codes: NDArray[np.uint8]) -> None:
        column = np.ascontiguousarray(batch.values[:, :, j])
        extremes = np.stack([column.min(axis=1), column.max(axis=1)], axis=1).astype(np.float64)
        extremes += channel.origin
        # Nearly every window is well inside: only the others are looked at sample by sample.
        suspect = np.flatnonzero((_outside(extremes, channel) | _clipped(extremes, channel)).any(axis=1))
        if suspect.size == 0:
            return
        x = column[suspect].astype(np.float64) + channel.origin
        ok = batch.valid[suspect, :, j]
        n = x.shape[1]
        codes[suspect[(_outside(x, channel) & ok).any(axis=1)], j] = _CODE[SensorFault.OUT_OF_RANGE]
        enough = max(min(_MIN_CLIPPED, n), math.ceil(_CLIPPED_SHARE * n))
        clipped = (_clipped(x, channel) & ok).sum(axis=1) >= enough
        codes[suspect[clipped], j] = _CODE[SensorFault.SATURATED]

    def readings(self, batch: WindowBatch, codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The reading to show for each fault of ``codes`` uint8[w, c], in the channel's unit, float64[w, c]: the one furthest
        out of a saturated or out-of-range channel, the last valid one of a frozen one. 0 where there is no fault, NaN where
        the window has no valid sample of the channel."""
        readings = np.zeros(codes.shape)
        for j, code in _present(codes):
            rows = np.flatnonzero(codes[:, j] == code)
            x = batch.values[rows, :, j].astype(np.float64) + self._channels[j].origin
            ok = batch.valid[rows, :, j]
            fault, valid_range = fault_of(code), self._channels[j].valid_range
            if fault is SensorFault.SATURATED:
                at = np.where(ok, np.abs(x), -np.inf).argmax(axis=1)
            elif fault is SensorFault.OUT_OF_RANGE and valid_range is not None:
                out = np.maximum(valid_range[0] - x, x - valid_range[1])
                at = np.where(ok, out, -np.inf).argmax(axis=1)
            else:
                at = x.shape[1] - 1 - ok[:, ::-1].argmax(axis=1)
            readings[rows, j] = np.where(ok.any(axis=1), x[np.arange(rows.size), at], np.nan)
        return readings

    def state(self) -> SensorState:
        """Everything that :meth:`restore` needs to go on as if nothing had happened."""
        return SensorState(
            end_ns=self._runs.end_ns,
            value=tuple(None if math.isnan(v) else v for v in self._runs.value.tolist()),
            run_start_ns=tuple(self._runs.start_ns.tolist()),
            run_seen_ns=tuple(self._runs.seen_ns.tolist()),
            fault_end_ns=tuple(self._fault_end_ns.tolist()),
            fault_code=tuple(self._fault_code.tolist()),
        )

    def restore(self, state: SensorState) -> None:
        """Go on from ``state``. ValueError when it is not of this many channels or holds an unknown fault."""
        c = len(self._channels)
        columns = (state.value, state.run_start_ns, state.run_seen_ns, state.fault_end_ns, state.fault_code)
        if any(len(column) != c for column in columns):
            raise ValueError(f"sensor state is of {len(state.value)} channels, expected {c}")
        if not all(0 <= code <= len(FAULTS) for code in state.fault_code):
            raise ValueError(f"sensor state holds an unknown fault: {state.fault_code}")
        self._runs.resume(
            state.end_ns,
            np.array([math.nan if v is None else v for v in state.value], dtype=np.float32),
            np.array(state.run_start_ns, dtype=np.int64),
            np.array(state.run_seen_ns, dtype=np.int64),
        )
        self._fault_end_ns = np.array(state.fault_end_ns, dtype=np.int64)
        self._faulty_to_ns = max(state.fault_end_ns, default=_LONG_AGO_NS)
        self._fault_code = np.array(state.fault_code, dtype=np.uint8)


def _present(codes: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """(channel, code) of every fault in ``codes`` uint8[w, c]."""
    return [(j, code) for j in range(codes.shape[1]) for code in np.unique(codes[:, j]).tolist() if code]


def _outside(x: NDArray[np.float64], channel: Channel) -> NDArray[np.bool_]:
    if channel.valid_range is None:
        return np.zeros(x.shape, dtype=bool)
    low, high = channel.valid_range
    play = slack(low, high, channel.origin)
    return np.asarray((x < low - play) | (x > high + play))


def _clipped(x: NDArray[np.float64], channel: Channel) -> NDArray[np.bool_]:
    if channel.full_scale is None:
        return np.zeros(x.shape, dtype=bool)
    return np.asarray(np.abs(x) >= _CLIP_FROM * abs(channel.full_scale))
