"""The signal as it moves through Linewatch: blocks of samples, the devices they come from, batches of windows.

Invariant: everything before an alert is an array. A block is one C-contiguous float32 matrix in SI units with
either a uniform clock (``start_ns`` and an exact rate) or one event time a row; time is Unix UTC nanoseconds.
This module is pure: it reads no clock and does no I/O.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from fractions import Fraction
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

NS_PER_S = 1_000_000_000


class Clock(enum.StrEnum):
    """How far a block's event time can be trusted."""

    SYNCED = "synced"  # the sender's clock is disciplined (NTP, PTP)
    DEVICE = "device"  # the sender's own clock, of unknown quality
    ARRIVAL = "arrival"  # no time in the payload: stamped on arrival


class Mode(enum.StrEnum):
    """How a device's samples lie in time."""

    CONTINUOUS = "continuous"  # uniform rate: windowed by sample index, never interpolated
    IRREGULAR = "irregular"  # one time a row: resampled onto the device's grid
    BURST = "burst"  # uniform records with silence expected between them


class SampleBlock(msgspec.Struct, frozen=True, eq=False):
    """Samples of one device: ``values`` float32[n, c] in SI units; NaN marks a missing value.

    Exactly one of (``start_ns`` with ``rate_hz``) and ``time_ns`` (int64[n]) is given. ``arrival_ns`` is when the gateway
    received the block. Build one with :meth:`uniform` or :meth:`irregular`, which check shapes.
    """

    device_id: str
    channels: tuple[str, ...]
    values: NDArray[np.float32]
    arrival_ns: int
    start_ns: int | None = None
    rate_hz: Fraction | None = None
    time_ns: NDArray[np.int64] | None = None
    clock: Clock = Clock.DEVICE

    @classmethod
    def uniform(
        cls,
        device_id: str,
        channels: tuple[str, ...],
        values: NDArray[np.floating],
        *,
        start_ns: int,
        rate_hz: Fraction,
        arrival_ns: int,
        clock: Clock = Clock.DEVICE,
    ) -> SampleBlock:
        """A block whose row i was taken at ``start_ns + i / rate_hz``.

        Raises ValueError when ``values`` is not [n, len(channels)] or the rate is not positive.
        """
        if rate_hz <= 0:
            raise ValueError(f"rate_hz must be positive, not {rate_hz}")
        return cls(device_id, channels, _matrix(values, channels), arrival_ns, start_ns, rate_hz, None, clock)

    @classmethod
    def irregular(
        cls,
        device_id: str,
        channels: tuple[str, ...],
        values: NDArray[np.floating],
        *,
        time_ns: NDArray[np.int64],
        arrival_ns: int,
        clock: Clock = Clock.DEVICE,
    ) -> SampleBlock:
        """A block whose row i was taken at ``time_ns[i]``; rows may be in any order.

        Raises ValueError when shapes do not agree.
        """
        matrix = _matrix(values, channels)
        times = np.ascontiguousarray(time_ns, dtype=np.int64)
        if times.shape != (matrix.shape[0],):
            raise ValueError(f"time_ns has shape {times.shape}, expected ({matrix.shape[0]},)")
        return cls(device_id, channels, matrix, arrival_ns, None, None, times, clock)

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.values.shape[0])

    @property
    def n_samples(self) -> int:
        """Number of values: the unit of every sample counter (one channel at one time)."""
        return int(self.values.size)

    def times(self) -> NDArray[np.int64]:
        """Event time of each row, int64[n]; uniform times are exact, rounded down to 1 ns."""
        if self.time_ns is not None:
            return self.time_ns
        assert self.start_ns is not None
        assert self.rate_hz is not None
        return uniform_times(self.start_ns, self.rate_hz, self.n)

    def without_empty(self, known: Collection[str]) -> SampleBlock:
        """Without the channels that are not ``known`` and have no value at all: of a table that several devices share,
        the columns of the others."""
        if all(name in known for name in self.channels):
            return self
        filled = np.logical_or.reduce(np.isfinite(self.values), axis=0)
        kept = [i for i, name in enumerate(self.channels) if name in known or filled[i]]
        names = tuple(self.channels[i] for i in kept)
        return msgspec.structs.replace(
            self, channels=names, values=np.ascontiguousarray(self.values[:, kept])
        )

    def slice(self, start: int, stop: int) -> SampleBlock:
        """Rows ``start:stop`` as a block of its own, with the same arrival."""
        values = self.values[start:stop]
        if self.time_ns is not None:
            times = self.time_ns[start:stop]
            return SampleBlock(
                self.device_id, self.channels, values, self.arrival_ns, None, None, times, self.clock
            )
        assert self.start_ns is not None
        assert self.rate_hz is not None
        first = self.start_ns + samples_to_ns(start, self.rate_hz)
        return SampleBlock(
            self.device_id, self.channels, values, self.arrival_ns, first, self.rate_hz, None, self.clock
        )


class Channel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One sensor channel of a device.

    ``scale``, ``offset`` and ``origin`` are applied by the source, in float64, before the cast to float32:
    ``value = raw * scale + offset - origin``. ``origin`` keeps float32's precision for quantities that vary little around
    a large value (ambient pressure in Pa); it is added back wherever a person reads a value. ``valid_range`` and
    ``full_scale`` are in ``unit``, before the origin is subtracted.
    """

    name: str
    unit: str = ""
    scale: float = 1.0
    offset: float = 0.0
    origin: float = 0.0
    valid_range: tuple[float, float] | None = None
    full_scale: float | None = None
    stuck_s: float | None = (
        None  # identical values for this long are a sensor fault; None: learned in training
    )
    wear: bool = False  # a wear indicator: never re-centred


PositiveFloat = Annotated[float, msgspec.Meta(gt=0)]


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A source of one windowed signal: a machine may have several.

    ``rate_hz`` is the sampling rate of a continuous or burst device and 1 / (grid interval) of an irregular one.
    """

    device_id: str
    machine: str
    class_: str = msgspec.field(name="class", default="")
    mode: Mode = Mode.CONTINUOUS
    rate_hz: Fraction = Fraction(1)
    channels: tuple[Channel, ...] = ()

    @property
    def channel_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.channels)


class DeviceCondition(enum.StrEnum):
    """What the retained device state says (topic ``…/device/{device}/state``)."""

    NORMAL = "normal"
    ANOMALOUS = "anomalous"
    SENSOR_FAULT = "sensor_fault"
    STALE = "stale"
    IDLE = "idle"
    LEARNING = "learning"


class WindowBatch(msgspec.Struct, frozen=True, eq=False, tag="windows"):
    """Closed windows of one device, oldest first.

    ``values`` float32[w, n, c], of any strides and to be read only: windows that overlap may share memory. Where
    ``valid`` bool[w, n, c] is False the value is filled (last valid one held, 0 before the first) and means nothing.
    ``start_ns``, ``end_ns`` int64[w], half-open. ``whole``: it is known that
    every value is valid, and nobody needs to look.
    """

    device_id: str
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    whole: bool = False

    @property
    def n(self) -> int:
        """Number of windows."""
        return int(self.values.shape[0])

    def part(self, rows: slice) -> WindowBatch:
        """Some of the windows; they share memory with all."""
        return WindowBatch(
            self.device_id,
            self.start_ns[rows],
            self.end_ns[rows],
            self.values[rows],
            self.valid[rows],
            self.whole,
        )


class DropReason(enum.StrEnum):
    """Why a sample, window or event went no further. Closed: every counter's ``reason`` is one of these."""

    # samples
    NOT_FINITE = "not_finite"
    DUPLICATE = "duplicate"
    LATE = "late"
    FUTURE = "future"
    TOO_OLD = "too_old"
    UNKNOWN_DEVICE = "unknown_device"  # also another board than the one that is looked for
    UNKNOWN_CHANNEL = "unknown_channel"
    WRONG_RATE = "wrong_rate"
    QUEUE_FULL = "queue_full"
    LOST = "lost"  # on the line: numbered by the board, never received
    UNEXPLAINED = "unexplained"  # the board did not say what they are
    DOWN = "down"
    # samples on their way into the black box
    DISK_FULL = "disk_full"
    UNWRITABLE = "unwritable"
    # payloads, before they become samples
    MALFORMED = "malformed"
    OVERSIZE = "oversize"
    UNKNOWN_TOPIC = "unknown_topic"
    # frames of a serial line, before they become samples
    BAD_CRC = "bad_crc"
    BAD_COBS = "bad_cobs"
    SHORT = "short"
    CUT_IN = "cut_in"  # the line was joined in the middle of a frame
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_VERSION = "unknown_version"
    NO_ANSWER = "no_answer"  # of a Modbus slave that was asked
    # windows
    GAP = "gap"
    INACTIVE = "inactive"
    SENSOR_FAULT = "sensor_fault"
    WARM_UP = "warm_up"
    NO_MODEL = "no_model"
    LEARNING = "learning"  # a model is learned from it, or would be if its limits were kept
    BACKPRESSURE = "backpressure"
    INFERENCE_FAILED = "inference_failed"
    NOT_FINITE_SCORE = "not_finite_score"
    # events
    REFUSED = "refused"  # also by a Modbus slave, before there are samples
    EVICTED = "evicted"
    EXPIRED = "expired"  # waited too long for a connection
    CORRUPT = "corrupt"  # could not be read back from disk


WindowLength = Annotated[int, msgspec.Meta(ge=2)]
Hop = Annotated[int, msgspec.Meta(ge=1)]


class WindowSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a device's samples become windows. Lengths are in samples of ``rate_hz``.

    ``n_fast``, where not 0, is the tail of each window that feature sets with a fast window also look at.
    """

    n: WindowLength
    hop: Hop
    rate_hz: Fraction
    mode: Mode
    n_fast: int = 0

    @property
    def window_ns(self) -> int:
        return samples_to_ns(self.n, self.rate_hz)

    @property
    def hop_ns(self) -> int:
        return samples_to_ns(self.hop, self.rate_hz)

    @property
    def overlap(self) -> float:
        """How many windows hold one sample, where they overlap: n / hop; else 1."""
        return max(1.0, self.n / self.hop)


def samples_to_ns(index: int, rate_hz: Fraction) -> int:
    """Time of sample ``index`` at ``rate_hz``, exact, rounded down to 1 ns."""
    return index * NS_PER_S * rate_hz.denominator // rate_hz.numerator


def ns_to_samples(time_ns: int, rate_hz: Fraction) -> int:
    """Index of the sample nearest to ``time_ns`` (halves up) on the grid that starts at the epoch."""
    numerator = 2 * time_ns * rate_hz.numerator + NS_PER_S * rate_hz.denominator
    return numerator // (2 * NS_PER_S * rate_hz.denominator)


def uniform_times(start_ns: int, rate_hz: Fraction, n: int) -> NDArray[np.int64]:
    """Event times int64[n] of ``n`` samples from ``start_ns``; exact to 1 ns, rounded down, without overflow."""
    period_num = NS_PER_S * rate_hz.denominator
    whole, rest = divmod(period_num, rate_hz.numerator)
    index = np.arange(n, dtype=np.int64)
    times: NDArray[np.int64] = start_ns + index * whole + (index * rest) // rate_hz.numerator
    return times


def _matrix(values: NDArray[np.floating], channels: tuple[str, ...]) -> NDArray[np.float32]:
    matrix = np.ascontiguousarray(values, dtype=np.float32)
    if matrix.ndim != 2 or matrix.shape[1] != len(channels):
        raise ValueError(f"values have shape {matrix.shape}, expected (n, {len(channels)}) for {channels}")
    return matrix


ArtifactTarget = Literal["cpu-float32", "cpu-int8", "edgetpu-int8"]
ScoredOn = Literal[
    "cpu-float32", "cpu-int8", "edgetpu-int8", "cloud"
]  # an artifact of the gateway's, or a sink
