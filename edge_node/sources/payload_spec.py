"""How the payloads of a subscription are written: what a user can say about them in the configuration."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal

import msgspec

from models.signal import Clock

Format = Literal["json", "number", "csv", "influx", "packed"]
TimeUnit = Literal["ns", "us", "ms", "s", "iso"]
PeriodUnit = Literal["ns", "us", "ms", "s"]


class PayloadSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the payloads of one subscription are written. Keys of nested JSON objects are joined by dots.

    JSON: an object with one value per channel is one row; an object whose channel keys hold arrays is a
    batch, either uniform (start time under ``time_key``, rate or period) or with an array of times; an
    array of objects is rows.
    """

    format: Format = "json"
    time_key: str | None = None  # JSON key or CSV column of the event time; None: the time of arrival
    time_unit: TimeUnit = "ns"
    timezone: str | None = (
        None  # of "iso" times without an offset, e.g. "Europe/Berlin"; None: they are refused
    )
    rate_key: str | None = None  # JSON key of the sampling rate in Hz
    period_key: str | None = None  # JSON key of the sampling period
    period_unit: PeriodUnit = "s"
    rate_hz: Fraction | None = None  # of batches that do not carry it
    rows_key: str | None = None  # JSON key of an array of rows, each one value per channel in order
    channels: dict[str, str] = {}  # channel: its JSON key, CSV column or Influx field; default its own name
    value_key: str = (
        "value"  # the JSON key of the value where the topic or the subscription names the channel
    )
    device_key: str | None = None  # JSON key, CSV column or Influx tag that names the device
    columns: tuple[str, ...] = ()  # CSV columns in order, "" to skip one; default the channels in order
    header: bool = False  # the first line of each CSV payload names the columns
    separator: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","
    measurement: str | None = None  # Influx: only lines of this measurement
    tags: dict[str, str] = {}  # Influx: only lines with these tags
    numeric_strings: bool = False  # accept numbers written as strings
    words: dict[str, float] = {}  # text that stands for a value: {ON = 1, OFF = 0}
    synced: bool = False  # the sender's clock is disciplined
    max_payload_bytes: Annotated[int, msgspec.Meta(ge=1)] = 1 << 20

    @property
    def clock(self) -> Clock:
        """How far the times in the payload can be trusted."""
        return Clock.SYNCED if self.synced else Clock.DEVICE
