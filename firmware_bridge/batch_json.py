"""Rows as the JSON batch that the ``mqtt`` source reads: {"t": ns, "rate_hz": 1000, "x": [...], "y": [...]}. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from firmware_bridge.protocol import BoardChannel
from firmware_bridge.session_items import Rows

TIME_KEY, RATE_KEY = "t", "rate_hz"  # no channel may be called so
SUBSCRIPTION = f'time_key = "{TIME_KEY}", rate_key = "{RATE_KEY}"'  # what reads it
_KEPT_DIGITS = 6  # behind the last one of a count's step

_encoder = msgspec.json.Encoder()


def batch(rows: Rows) -> bytes:
    """``rows`` in the units of the Hello, at their UTC; of an irregular board "t" is an array. NaN is null."""
    channels = rows.hello.channels
    head: dict[str, object] = {TIME_KEY: rows.start_ns if rows.time_ns is None else rows.time_ns.tolist()}
    rate = rows.hello.rate_hz
    if rate is not None:
        head[RATE_KEY] = rate.numerator if rate.denominator == 1 else str(rate)
    values = _shortened(rows.to_si(), channels) if rows.counts.dtype.kind == "i" else rows.to_si()
    columns = dict(zip((c.name for c in channels), values.T.tolist(), strict=True))
    return _encoder.encode({**head, **columns})


def _shortened(values: NDArray[np.float64], channels: Sequence[BoardChannel]) -> NDArray[np.float64]:
    """0.57 for the 0.5700000000000001 that 57 counts of 0.01 are."""
    for i, channel in enumerate(channels):
        digits = _KEPT_DIGITS + math.ceil(-math.log10(abs(channel.scale)))
        values[:, i] = np.round(values[:, i], digits)
    return values
