"""What every payload format needs: where a device's values are, how raw numbers and times become blocks.

A :class:`Layout` is a device, its channels in the order of the values, and their scaling. This module is
pure.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from edge_node.sources.payload_spec import PayloadSpec, PeriodUnit, TimeUnit
from models.codec import parse_rate, plain_float
from models.signal import NS_PER_S, Channel, Clock, Device, DropReason, Mode, SampleBlock, samples_to_ns

UNIT_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": NS_PER_S}

_MAX_NS = 1 << 62  # sums of two times stay within int64
_MAX_RATE_TERM = 10**9  # of a rate's numerator and denominator: index * numerator stays within int64
_LARGE = 1e38  # float32 holds somewhat more
_FEW = 100  # values that Python looks at sooner than numpy
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ISO = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:[.,](\d+))?([Zz]|[+-]\d\d:?\d\d)?")


class Refusal(NamedTuple):
    """A payload, or one line of several, that gives no samples: what to count it as, and one line that says
    why."""

    reason: DropReason
    text: str
    number: int = 0  # of the line, from 1; 0: the payload
    line: str = ""

    @property
    def told(self) -> str:
        """``text``, and where in the payload that is."""
        return f"line {self.number}: {self.text}" if self.number else self.text


class Unreadable(Exception):
    """Raised inside the decoders; carries the Refusal they return."""

    def __init__(self, text: str, reason: DropReason = DropReason.MALFORMED) -> None:
        super().__init__(text)
        self.refusal = Refusal(reason, text)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Channels of ``device`` in the order their values come, and each one's key in the payload. Raw values smaller
    than ``harmless``, whatever their sign, are finite in float32 once they are scaled."""

    device: Device
    channels: tuple[str, ...]
    keys: tuple[str, ...]
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    identity: bool
    harmless: float

    @classmethod
    def of(cls, device: Device, keys: dict[str, str]) -> Layout:
        """``keys``: channel -> key, in order; each channel is one of ``device``."""
        by_name: dict[str, Channel] = {c.name: c for c in device.channels}
        chosen = [by_name[name] for name in keys]
        scale = np.array([c.scale for c in chosen], dtype=np.float64)
        shift = np.array([c.offset - c.origin for c in chosen], dtype=np.float64)
        return cls.scaled(device, tuple(keys), tuple(keys.values()), scale, shift)

    @classmethod
    def scaled(
        cls,
        device: Device,
        channels: tuple[str, ...],
        keys: tuple[str, ...],
        scale: NDArray[np.float64],
        shift: NDArray[np.float64],
    ) -> Layout:
        """``scale``, ``shift`` float64[c]: a value in SI units is raw * scale + shift."""
        identity = bool(np.all(scale == 1.0) and np.all(shift == 0.0))
        with np.errstate(all="ignore"):
            harmless = float(np.min((_LARGE - np.abs(shift)) / np.abs(scale), initial=_LARGE))
        return cls(device, channels, keys, scale, shift, identity, harmless)

    def subset(self, present: tuple[int, ...]) -> Layout:
        """The layout of only the channels at positions ``present``."""
        index = list(present)
        return Layout(
            self.device,
            tuple(self.channels[i] for i in index),
            tuple(self.keys[i] for i in index),
            self.scale[index],
            self.shift[index],
            self.identity,
            self.harmless,
        )

    def to_si(self, raw: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float32]:
        """``raw`` [n, c] as float32[n, c] in SI units: raw * scale + offset - origin in float64; NaN, a
        missing value, where that is not finite in float32. The only place where a gateway scales values."""
        length = math.hypot(*raw.ravel("K").tolist()) if raw.size <= _FEW else math.inf
        if length < self.harmless:  # and so is each value
            return (raw if self.identity else raw * self.scale + self.shift).astype(np.float32, "C")
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = raw if self.identity else raw * self.scale + self.shift
            values = np.ascontiguousarray(scaled, dtype=np.float32)
            total = float(np.add.reduce(values, axis=None))
        if not math.isfinite(total):  # a cheap test that only finite values pass
            values = np.where(np.isfinite(values), values, np.float32(np.nan))
        return values


class TimeReader:
    """Event times of one subscription as Unix ns.

    Floats carry Unix time to about 0.25 µs, so they are rounded to 1 µs; integers and texts are exact.
    ``timezone`` (an IANA name) is for texts without an offset, which are refused without it. Raises
    ValueError for an unknown time zone; the methods raise Unreadable.
    """

    def __init__(self, unit: TimeUnit, timezone: str | None = None) -> None:
        self._unit = unit
        self._scale = 0 if unit == "iso" else UNIT_NS[unit]
        try:
            self._zone = None if timezone is None else ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"unknown time zone {timezone!r}") from None

    def value(self, value: object) -> int:
        """A time as JSON or line protocol carries it."""
        if self._unit == "iso":
            if isinstance(value, str):
                return _iso_ns(value, self._zone)
        elif isinstance(value, int) and not isinstance(value, bool):
            return _in_range(value * self._scale)
        elif isinstance(value, float):
            if not abs(value) < _MAX_NS:
                raise Unreadable("time is out of range")
            return _in_range(round(value * self._scale / 1_000) * 1_000)
        hint = ' (time_unit = "iso" reads texts)' if isinstance(value, str) else ""
        raise Unreadable(f"time is {shown(value)}, expected {self._wanted()}{hint}")

    def text(self, text: str) -> int:
        """A time as a CSV cell carries it."""
        text = text.strip().strip('"')
        if self._unit == "iso":
            return _iso_ns(text, self._zone)
        if "_" not in text and text.isascii():  # Python reads 1_000, a sender that writes it is broken
            for read in (int, float):
                try:
                    return self.value(read(text))
                except ValueError:
                    continue
        raise Unreadable(f"time is {shown(text)}, expected {self._wanted()}")

    def _wanted(self) -> str:
        return "ISO 8601 such as 2026-05-04T06:00:00Z" if self._unit == "iso" else f"a number of {self._unit}"


def number(value: object, key: str, spec: PayloadSpec) -> float:
    """One value of a channel: true and false are 1 and 0, null is missing (NaN). Raises Unreadable."""
    if isinstance(value, float):
        return value
    if value is None:
        return float("nan")
    if isinstance(value, int):
        try:
            return float(value)
        except OverflowError:
            return float("nan")
    if not isinstance(value, str):
        raise Unreadable(f"{key} is {shown(value)}, expected a number")
    if value in spec.words:
        return spec.words[value]
    if not spec.numeric_strings:
        raise Unreadable(
            f"{key} is the text {shown(value)}, expected a number (numeric_strings or words accept text)"
        )
    return text_number(value, key, spec)


def text_number(text: str, key: str, spec: PayloadSpec) -> float:
    """One value of a channel in a format that is text; empty is missing (NaN). Text that is no decimal number is one
    of ``spec.words``, or wrong: ``true`` too. Raises Unreadable."""
    text = text.strip()
    if text in spec.words:
        return spec.words[text]
    try:
        return plain_float(text) if text else float("nan")
    except ValueError:
        raise Unreadable(f"{key} is {shown(text)}, expected a number") from None


def rate_of(value: object) -> Fraction:
    """A sampling rate from a payload. Raises Unreadable."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise Unreadable(f"rate is {shown(value)}, expected a number of Hz")
    return _rate(value)


def rate_of_period(value: object, unit: PeriodUnit) -> Fraction:
    """A sampling rate from the time between samples. Raises Unreadable."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unreadable(f"period is {shown(value)}, expected a number of {unit}")
    return _rate_of_period(value, unit)


def uniform_block(
    layout: Layout,
    raw: NDArray[np.floating],
    start_ns: int | None,
    rate: Fraction,
    arrival_ns: int,
    clock: Clock,
) -> SampleBlock:
    """Rows at ``rate`` from ``start_ns``; without a start the last one was taken on arrival. Raises
    Unreadable."""
    n = raw.shape[0]
    span = samples_to_ns(n, rate)
    if start_ns is None:
        start_ns, clock = arrival_ns - samples_to_ns(n - 1, rate), Clock.ARRIVAL
    if not -_MAX_NS < start_ns < _MAX_NS - span:
        raise Unreadable("time is out of range")
    values = layout.to_si(raw)
    return SampleBlock(
        layout.device.device_id, layout.channels, values, arrival_ns, start_ns, rate, None, clock
    )


def timed_block(
    layout: Layout, raw: NDArray[np.floating], times: NDArray[np.int64], arrival_ns: int, clock: Clock
) -> SampleBlock:
    """Rows with a time each. A continuous device's rows that lie on its rate, to half a period, are a
    uniform block: they are windowed by index, and their stamps only carry the sender's jitter."""
    device = layout.device
    if device.mode is not Mode.IRREGULAR:
        period = samples_to_ns(1, device.rate_hz)
        start = int(times[0])
        ideal = np.arange(len(times)) * (NS_PER_S / float(device.rate_hz))
        if np.all(np.abs((times - start) - ideal) <= period / 2):
            return uniform_block(layout, raw, start, device.rate_hz, arrival_ns, clock)
    return SampleBlock.irregular(
        device.device_id,
        layout.channels,
        layout.to_si(raw),
        time_ns=times,
        arrival_ns=arrival_ns,
        clock=clock,
    )


def untimed_block(layout: Layout, raw: NDArray[np.floating], arrival_ns: int) -> SampleBlock:
    """Rows without a time: stamped on arrival, the last one of a continuous device with the arrival
    itself."""
    if layout.device.mode is not Mode.IRREGULAR:
        return uniform_block(layout, raw, None, layout.device.rate_hz, arrival_ns, Clock.ARRIVAL)
    times = np.full(raw.shape[0], arrival_ns, dtype=np.int64)
    return timed_block(layout, raw, times, arrival_ns, Clock.ARRIVAL)


@lru_cache(maxsize=256)
def _rate(value: int | float | str) -> Fraction:
    try:
        return rate_bounded(parse_rate(value))
    except ValueError as error:
        raise Unreadable(str(error)) from None


@lru_cache(maxsize=256)
def _rate_of_period(value: int | float, unit: PeriodUnit) -> Fraction:
    try:
        period = Fraction(repr(value)) * Fraction(UNIT_NS[unit], NS_PER_S)  # the decimal that was written
    except ValueError:
        raise Unreadable(f"period {value} {unit} is not finite") from None
    if period <= 0:
        raise Unreadable(f"period must be positive, not {value} {unit}")
    return rate_bounded(1 / period)


def rate_bounded(rate: Fraction) -> Fraction:
    """``rate`` if times can be computed from it within int64. Raises Unreadable."""
    if rate.numerator > _MAX_RATE_TERM or rate.denominator > _MAX_RATE_TERM:
        raise Unreadable("rate is out of range")
    return rate


def _iso_ns(text: str, zone: ZoneInfo | None) -> int:
    match = _ISO.fullmatch(text.strip())
    if match is None:
        raise Unreadable(f"time is {shown(text)}, expected ISO 8601 such as 2026-05-04T06:00:00Z")
    base, fraction, offset = match.groups()
    if offset is None and zone is None:
        raise Unreadable(f"time {text!r} has no UTC offset: set timezone, or send it with 'Z' or '+02:00'")
    try:
        moment = datetime.fromisoformat(base.upper() + ("+00:00" if offset in ("Z", "z") else offset or ""))
        since = (moment if offset else moment.replace(tzinfo=zone)) - _EPOCH
    except (ValueError, OverflowError) as error:
        raise Unreadable(f"time {text!r}: {error}") from None
    nanos = int((fraction or "0")[:9].ljust(9, "0"))
    return _in_range((since.days * 86_400 + since.seconds) * NS_PER_S + nanos)


def _in_range(value: int) -> int:
    if not -_MAX_NS < value < _MAX_NS:
        raise Unreadable("time is out of range")
    return value


def shown(value: object) -> str:
    """A value from a payload, short enough for a log line."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "a huge integer"  # whose digits Python may refuse to print
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
