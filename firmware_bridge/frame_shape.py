"""What a board's Hello makes of its frames: how long one lasts, and at what pace they follow each other. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from firmware_bridge.protocol import U32, Hello

PACE_US = 100_000  # by which frames may be off the pace of their row numbers,
PACE = 0.02  # and this share of the time between them
MAX_SPAN_US = U32 // 2  # of a frame: what takes longer cannot be told from what wrapped


@dataclass(frozen=True, slots=True, eq=False)
class FrameShape:
    """What ``hello`` makes of frames of so many rows and channels: how long one lasts, and how far apart the first rows
    of two may be; ``refused``: why it makes nothing of them."""

    hello: Hello
    n_rows: int
    n_channels: int
    refused: str | None
    span_us: int
    least_us: float
    most_us: float
    us_of: tuple[int, int]  # a row, as a fraction

    def us(self, n: int) -> int:
        """That ``n`` rows last."""
        numerator, denominator = self.us_of
        return n * numerator // denominator


def frame_shape(hello: Hello, n_rows: int, n_channels: int) -> FrameShape:
    rate = hello.rate_hz
    us_of = (0, 1) if rate is None else (1_000_000 * rate.denominator, rate.numerator)
    span_us = (n_rows - 1) * us_of[0] // us_of[1]
    least_us, most_us = 0.0, float(U32)
    if rate is not None:
        pace_us = n_rows * us_of[0] / us_of[1]
        slack_us = PACE_US + PACE * pace_us
        least_us, most_us = pace_us - slack_us, pace_us + slack_us
    refused = None
    if n_channels != len(hello.channels):
        refused = f"SAMPLES of {n_channels} channels, the Hello names {len(hello.channels)}"
    elif rate is None and n_rows > 1:
        refused = f"SAMPLES of {n_rows} rows a frame, the Hello names no rate: each row needs its own time"
    elif span_us > MAX_SPAN_US:
        refused = (
            f"SAMPLES of {n_rows} rows at {rate} Hz: a frame may span {MAX_SPAN_US // 60_000_000} minutes"
        )
    return FrameShape(hello, n_rows, n_channels, refused, span_us, least_us, most_us, us_of)
