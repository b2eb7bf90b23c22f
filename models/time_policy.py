"""The numbers that say how a device's event time is treated. See docs/windowing.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from models.gating import GateSpec
from models.signal import NS_PER_S, Device, Mode, WindowSpec

Seconds = Annotated[float, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class TimePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a device's event time is treated. Times are in seconds.

    ``lateness_s``: how far behind the newest sample a missing one may still arrive; a window with nothing
    missing never waits. ``max_future_s`` / ``max_age_s``: event times further than this after / before
    arrival are dropped (``max_age_s`` None: any age). ``stale_after_s``: a channel without a usable value for
    this long is silent. ``jitter_s`` (uniform): blocks whose start is within this of where the stream expects
    it follow without a gap; keep it under half the shortest block's duration, or a lost or repeated block
    looks like jitter. ``hold_s`` (irregular): how long a value stands in for those that do not come.
    ``min_valid``: share of a window's samples that every channel needs. ``reset_after_s``: when nothing but
    late samples arrived for this long, the device's clock was set back, and event time starts anew.
    """

    lateness_s: Seconds
    max_future_s: Seconds = 60.0
    max_age_s: Seconds | None = 7 * 86_400.0
    stale_after_s: Seconds
    jitter_s: Seconds
    hold_s: Seconds
    min_valid: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.9
    reset_after_s: Seconds


class TimeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a configuration says of a device's :class:`TimePolicy` (``time = {…}``); None: as suits its window."""

    lateness_s: Seconds | None = None
    max_future_s: Seconds | None = None
    max_age_s: Positive | None = None
    stale_after_s: Positive | None = None
    jitter_s: Seconds | None = None
    hold_s: Seconds | None = None
    min_valid: Share | None = None
    reset_after_s: Positive | None = None

    def over(self, policy: TimePolicy) -> TimePolicy:
        """``policy`` with what is given here in its place."""
        given = {k: v for k, v in msgspec.structs.asdict(self).items() if v is not None}
        return msgspec.structs.replace(policy, **given)


# A manifest may be anybody's: int64 nanoseconds must hold what it says.
_BoundedSeconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class TimeTreatment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What of a :class:`TimePolicy` decides which windows there are and what they hold. A model learned from windows
    that were made with one, and is served others otherwise."""

    jitter_s: _BoundedSeconds
    hold_s: _BoundedSeconds
    min_valid: Annotated[float, msgspec.Meta(ge=0, le=1)]

    @classmethod
    def of(cls, policy: TimePolicy) -> TimeTreatment:
        return cls(jitter_s=policy.jitter_s, hold_s=policy.hold_s, min_valid=policy.min_valid)

    def over(self, policy: TimePolicy) -> TimePolicy:
        """``policy`` with this treatment in place of its own."""
        return msgspec.structs.replace(policy, **msgspec.structs.asdict(self))

    def departures(self, policy: TimePolicy, mode: Mode) -> Iterator[tuple[str, float, float]]:
        """(name, number of ``policy``, number here) of all in which ``policy`` treats a signal of ``mode`` otherwise."""
        used = "hold_s" if mode is Mode.IRREGULAR else "jitter_s"
        for name in (used, "min_valid"):
            other, own = getattr(policy, name), getattr(self, name)
            if other != own:
                yield name, other, own


class RecordedDevice(Device, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A device as a recording describes it: with what its configuration says of time, on which its windows
    depend, and of when its machine runs, on which it depends which of them count. ``interval_s``: from record
    to record, or from value to value."""

    time: TimeOptions = TimeOptions()
    interval_s: float | None = None
    gate: GateSpec | None = None


def default_policy(spec: WindowSpec) -> TimePolicy:
    """A policy for a device that sends at least every few seconds or every few samples, whichever is
    longer."""
    period_s = float(1 / spec.rate_hz)
    return TimePolicy(
        lateness_s=max(2.0, 2 * period_s),
        stale_after_s=max(60.0, 10 * period_s, 3 * float(spec.hop / spec.rate_hz)),
        jitter_s=max(0.005, 0.5 * period_s) if spec.mode is not Mode.IRREGULAR else 0.0,
        hold_s=5 * period_s if spec.mode is Mode.IRREGULAR else 0.0,
        reset_after_s=max(60.0, 30 * period_s),
    )


def between_records(policy: TimePolicy, interval_s: float | None) -> TimePolicy:
    """``policy`` of a device whose records (bursts) or values come ``interval_s`` apart: no window tells how long it is
    silent between them. None: they follow each other."""
    if interval_s is None:
        return policy
    return msgspec.structs.replace(
        policy,
        stale_after_s=max(policy.stale_after_s, 3 * interval_s),
        reset_after_s=max(policy.reset_after_s, 3 * interval_s),
    )


def to_ns(seconds: float) -> int:
    """``seconds`` as the nearest whole nanosecond."""
    return round(seconds * NS_PER_S)
