"""Devices whose samples come in and of which nothing is seen all the same: what they send is dropped, or none of their windows
can be scored. Their stream is not silent, so no ``stale`` alert says it. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge_node.counters import Counters
from edge_node.plans import DevicePlan
from models.messages import rfc3339
from models.signal import NS_PER_S, DropReason
from models.time_policy import TimePolicy

EVERY_S = 5.0  # to look through many devices takes a while
LEAST_S = 30.0  # so long it may be a hiccup

# Somebody sees such windows: they are inactive by the machine's own gate, a sensor alert is open, or inference fails, which
# is another trouble; with no model, or none yet, there is nothing to score.
_SEEN = (
    DropReason.INACTIVE,
    DropReason.SENSOR_FAULT,
    DropReason.NO_MODEL,
    DropReason.LEARNING,
    DropReason.INFERENCE_FAILED,
    DropReason.DOWN,
)


@dataclass(frozen=True, slots=True)
class _Seen:
    """When something of a device was last seen, or nothing came, and what had been counted then."""

    at_s: float
    counters: Counters


class Blindness:
    """Of the devices of ``plans``, as they are asked from time to time."""

    def __init__(self, plans: Iterable[DevicePlan]) -> None:
        self._plans = {plan.device.device_id: plan for plan in plans}
        self._seen: dict[str, _Seen] = {}
        self._asked_s: float | None = None
        self._blind: dict[str, str] = {}

    def due(self, monotonic_s: float) -> bool:
        """Whether it is worth while to ask again."""
        return self._asked_s is None or monotonic_s - self._asked_s >= EVERY_S

    def step(self, counters: Mapping[str, Counters], now_ns: int, monotonic_s: float) -> dict[str, str]:
        """What is wrong, by device, where nothing has been seen of it for as long as two windows and a device's silence
        may take, although samples came all the while. ``now_ns``: what this gateway's clock reads."""
        self._asked_s = monotonic_s
        blind: dict[str, str] = {}
        for device_id, plan in self._plans.items():
            if (now := counters.get(device_id)) is None:
                continue
            since = self._seen.get(device_id)
            if since is None or _something_seen(since.counters, now):
                self._seen[device_id] = _Seen(monotonic_s, now)
                continue
            for_s = monotonic_s - since.at_s
            if for_s >= _patience_s(plan):
                blind[device_id] = _sentence(plan, since.counters, now, for_s, now_ns)
        self._blind = blind
        return blind

    @property
    def blind(self) -> Mapping[str, str]:
        """What the last :meth:`step` said."""
        return self._blind


def _patience_s(plan: DevicePlan) -> float:
    window, time = plan.window, plan.time
    return max(LEAST_S, time.stale_after_s + time.lateness_s + 2 * window.window_ns / NS_PER_S)


def _something_seen(before: Counters, now: Counters) -> bool:
    if now.n_samples_in == before.n_samples_in or now.n_windows_scored > before.n_windows_scored:
        return True
    return any(now.window_drops.get(r, 0) > before.window_drops.get(r, 0) for r in _SEEN)


def _sentence(plan: DevicePlan, before: Counters, now: Counters, for_s: float, now_ns: int) -> str:
    device_id = plan.device.device_id
    came = now.n_samples_in - before.n_samples_in
    dropped = _grown(before.sample_drops, now.sample_drops)
    said = f"nothing is seen of {device_id}, though it sends: "
    if 2 * sum(dropped.values()) >= came:
        reason, n = dropped.most_common(1)[0]
        return f"{said}{n} of its {came} values in {for_s:.0f} s were dropped as {reason.value}{_hint(reason, plan.time, now_ns)}"
    lost = _grown(before.window_drops, now.window_drops)
    if not lost:
        return f"{said}no window of it is complete since {for_s:.0f} s"
    reason, n = lost.most_common(1)[0]
    hint = ""
    if reason is DropReason.GAP:
        share = f"{plan.time.min_valid:.0%} of each channel"
        hint = (
            f": they lack samples, and {share} must be there (time.min_valid); are messages lost, or does a channel come more "
            "rarely than the others (hold_s, or a device of its own)?"
        )
    return f"{said}its last {n} windows, of {for_s:.0f} s, were dropped as {reason.value}{hint}"


def _grown(before: Mapping[DropReason, int], now: Mapping[DropReason, int]) -> Counter[DropReason]:
    return Counter(
        {reason: n - before.get(reason, 0) for reason, n in now.items() if n > before.get(reason, 0)}
    )


def _hint(reason: DropReason, time: TimePolicy, now_ns: int) -> str:
    match reason:
        case DropReason.TOO_OLD:
            return f": their times are more than {time.max_age_s:g} s ago; is time_unit right, and the sender's clock?"
        case DropReason.FUTURE:
            return (
                f": their times are more than {time.max_future_s:g} s ahead of this gateway's clock, which reads "
                f"{rfc3339(now_ns)}; is it right, and the sender's, and time_unit?"
            )
        case DropReason.LATE:
            return ": their times lie before what has been judged already; did one message come with a time ahead of its own?"
        case DropReason.DUPLICATE:
            return ": samples of their times are there already; do two senders share the device's topic?"
        case DropReason.WRONG_RATE:
            return ": they come at another rate than the device's rate_hz"
        case DropReason.NOT_FINITE:
            return ": they are no finite numbers"
        case _:
            return ""
