"""Event time: blocks of samples in, closed windows out.

See docs/windowing.md for the rules with pictures. This module is pure: time comes in as arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from models.signal import Device, DropReason, SampleBlock, WindowBatch, WindowSpec

Seconds = Annotated[float, msgspec.Meta(ge=0)]


class TimePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a device's event time is treated. All in seconds but ``min_valid``, the share of a window's samples that every
    channel needs."""

    lateness_s: Seconds
    max_future_s: Seconds = 60.0
    max_age_s: Seconds | None = 604_800.0
    stale_after_s: Seconds
    jitter_s: Seconds
    hold_s: Seconds
    min_valid: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.9
    reset_after_s: Seconds


def default_policy(spec: WindowSpec) -> TimePolicy:
    """A policy that suits most devices with windows like ``spec``."""
    raise NotImplementedError


@dataclass(frozen=True, slots=True)
class ClockEvent:
    """A device's event time went back for good at ``at_ns``: what follows starts at ``to_ns``."""

    kind: Literal["restart"]
    at_ns: int
    to_ns: int


class Windower:
    """Windows of one device."""

    n_samples_in: int
    n_windowed: int
    sample_drops: dict[DropReason, int]
    n_closed: int
    window_drops: dict[DropReason, int]
    last_event_ns: int | None
    last_arrival_ns: int | None

    def __init__(self, device: Device, spec: WindowSpec, policy: TimePolicy) -> None:
        raise NotImplementedError

    def push(self, block: SampleBlock) -> None:
        """Files the samples of ``block``; every value is counted as windowed or dropped."""
        raise NotImplementedError

    def advance(self, now_ns: int) -> None:
        """The gateway's clock: closes what a silent stream left open."""
        raise NotImplementedError

    def resume(self, now_ns: int) -> None:
        """After a restore: silence counts from ``now_ns``, not from before the daemon stopped."""
        raise NotImplementedError

    @property
    def stale(self) -> bool:
        """Whether a channel has brought no usable value for ``stale_after_s``."""
        return bool(self.stale_channels)

    @property
    def stale_channels(self) -> tuple[str, ...]:
        """The channels that are silent, in the device's order."""
        raise NotImplementedError

    def take(self) -> list[WindowBatch]:
        """Windows closed since the last take, oldest first, each with at least ``min_valid`` on every channel."""
        raise NotImplementedError

    def take_clock_events(self) -> list[ClockEvent]:
        """Restarts since the last call."""
        raise NotImplementedError

    def snapshot(self) -> bytes:
        """All state, buffers and untaken windows included."""
        raise NotImplementedError

    def restore(self, state: bytes) -> None:
        """The inverse of :meth:`snapshot`; ValueError when it is of another device or window."""
        raise NotImplementedError
