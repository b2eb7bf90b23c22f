"""What sensors send, as arrays: one decoder per payload format.

Strategy: a :class:`Decoder` is built once per subscription and device from a :class:`PayloadSpec` and the device's
channels; ``decode`` turns one payload into blocks of float32 in SI units, or raises :class:`PayloadError` with a reason and
one line of text. The common JSON batch goes through a typed decoder and never makes a Python object per row; whatever
that decoder refuses is read again by a tolerant path, which either understands it or says what is wrong.

Values that are not finite (NaN, infinities, JSON ``null`` and the ``NaN`` literals that some encoders write, numbers too
large for float32) become NaN, a missing value, and are counted where samples are counted: by the windowing.

This module is pure: the time of arrival is an argument.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.signal import Channel, DropReason

Format = Literal["json", "number", "csv", "influx", "packed"]
TimeUnit = Literal["ns", "us", "ms", "s", "iso"]

DEFAULT_MAX_PAYLOAD_BYTES = 1 << 20

# A packed float32 block: this header, then float32[n_rows, n_channels] row by row; everything little-endian.
#   bytes 0-2   b"LWB"
#   byte  3     version: 1
#   bytes 4-5   n_channels, uint16
#   bytes 6-7   flags, uint16: bit 0 set when the sender's clock is disciplined (NTP, PTP); the others 0
#   bytes 8-11  n_rows, uint32
#   bytes 12-19 sampling rate in Hz as a fraction: numerator, denominator, uint32 each
#   bytes 20-23 reserved: 0
#   bytes 24-31 Unix time of the first row in ns, int64; 0 when the sender has no clock
PACKED_HEADER = struct.Struct("<3sBHHIIIIq")
PACKED_MAGIC = b"LWB"
PACKED_VERSION = 1
PACKED_SYNCED = 1


class PayloadSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the payloads of one subscription are written. Keys of nested JSON objects are joined by dots.

    JSON: an object with one value per channel is one row; an object whose channel keys hold arrays is a batch, either
    uniform (start time under ``time_key``, rate or period) or with an array of times; an array of objects is rows.
    """

    format: Format = "json"
    time_key: str | None = None  # JSON key or CSV column of the event time; None: the time of arrival
    time_unit: TimeUnit = "ns"
    timezone: str | None = None  # of "iso" times without an offset, e.g. "Europe/Berlin"; None: they are refused
    rate_key: str | None = None  # JSON key of the sampling rate in Hz
    period_key: str | None = None  # JSON key of the sampling period
    period_unit: Literal["ns", "us", "ms", "s"] = "s"
    rate_hz: Fraction | None = None  # of batches that do not carry it
    rows_key: str | None = None  # JSON key of an array of rows, each one value per channel in order
    channels: dict[str, str] = {}  # channel: its JSON key, CSV column or Influx field; default its own name
    columns: tuple[str, ...] = ()  # CSV columns in order, "" to skip one; default the channels in order
    header: bool = False  # the first line of each CSV payload names the columns
    separator: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","
    measurement: str | None = None  # Influx: only lines of this measurement
    tags: dict[str, str] = {}  # Influx: only lines with these tags
    numeric_strings: bool = False  # accept numbers written as strings
    words: dict[str, float] = {}  # text that stands for a value: {ON = 1, OFF = 0}
    synced: bool = False  # the sender's clock is disciplined
    max_payload_bytes: Annotated[int, msgspec.Meta(ge=1)] = DEFAULT_MAX_PAYLOAD_BYTES


class PayloadError(Exception):
    """A payload that gives no samples: ``reason`` to count it by, and one line that says why."""

    def __init__(self, reason: DropReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


def to_si(raw: NDArray[np.float64], channels: tuple[Channel, ...]) -> NDArray[np.float32]:
    """``raw`` float64[n, c] as float32[n, c] in SI units: raw * scale + offset - origin in float64, NaN where not finite.

    The only place where a gateway scales values.
    """
    scale = np.array([c.scale for c in channels])
    shift = np.array([c.offset - c.origin for c in channels])
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.ascontiguousarray(raw * scale + shift, dtype=np.float32)
    values[~np.isfinite(values)] = np.nan
    return values


def encode_packed(
    values: NDArray[np.floating], *, start_ns: int, rate_hz: Fraction, synced: bool = False
) -> bytes:
    """``values`` [n, c] as a packed float32 block (the fastest payload to read): what a sender writes."""
    matrix = np.ascontiguousarray(values, dtype="<f4")
    n_rows, n_channels = matrix.shape
    header = PACKED_HEADER.pack(
        PACKED_MAGIC,
        PACKED_VERSION,
        n_channels,
        PACKED_SYNCED if synced else 0,
        n_rows,
        rate_hz.numerator,
        rate_hz.denominator,
        0,
        start_ns,
    )
    return header + matrix.tobytes()
