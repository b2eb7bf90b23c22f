"""What to say of a replay in which a device was not scored at all, or scored high without an alert: why not, and what
would help. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from edge_node.plans import DevicePlan
from models.alerting import duration
from models.calibration import AlertLevel, Calibration, budget_for_level
from models.signal import NS_PER_S, DropReason, samples_to_ns

WEEK_NS = 7 * 86_400 * NS_PER_S


def advice(
    plans: tuple[DevicePlan, ...],
    rows_of: Mapping[str, int],
    scored: Mapping[str, int],
    window_drops: Mapping[DropReason, int],
    *,
    span_ns: int,
    named_by_file: str | None,
    learning: Mapping[str, tuple[float, float]] = MappingProxyType({}),
) -> Iterator[str]:
    """One sentence per cause. ``rows_of`` and ``scored``: rows and windows by device; ``span_ns``: from the log's
    first row to its last; ``named_by_file``: the device that a log without device names was taken for; ``learning``: of those
    that still learn, how far they are and how many seconds of running are wanted yet."""
    known = {plan.device.device_id for plan in plans}
    unknown = sorted(set(rows_of) - known)
    if unknown:
        said = f"rows of {', '.join(unknown)} were left out: the configuration has {', '.join(sorted(known))}"
        if unknown == [named_by_file]:
            said += "; the log names no device, so say whose it is with --device"
        elif len(rows_of) == len(unknown):
            said += f"; rename a device there, or replay with --model BUNDLE --device {unknown[0]}"
        yield said
    for plan in plans:
        device = plan.device.device_id
        if (plan.model is None and plan.learn is None) or scored.get(device) or not rows_of.get(device):
            continue
        progress, left_s = learning.get(device, (0.0, 0.0))
        if progress > 0.0:
            left = duration(round(left_s * NS_PER_S))
            yield (
                f"{device}: nothing was scored, for it still learns: {progress:.0%} is there, and {left} of running are wanted "
                "yet. Replay a longer log"
            )
            continue
        window, gate = plan.window, plan.gate
        length_ns = samples_to_ns(window.n - 1, window.rate_hz)
        if rows_of[device] < window.n and span_ns < length_ns:
            yield (
                f"{device}: a window needs {window.n} rows ({duration(window.window_ns)}), and the log has "
                f"{rows_of[device]}: replay a longer one"
            )
        elif gate is not None and gate.device_id not in rows_of and window_drops.get(DropReason.INACTIVE):
            yield (
                f"{device}: nothing was scored, for active_when watches {gate.device_id}.{gate.channel}, and the log "
                f"has no row of {gate.device_id}: what is not known counts as not running"
            )
        elif window_drops.get(DropReason.GAP):
            yield (
                f"{device}: nothing was scored, for all of its windows have samples missing. Where a channel comes more rarely "
                "than the others, hold_s says how long its last value holds; or make it a device of its own"
            )


def unraised(
    plan: DevicePlan, level: AlertLevel, calibration: Calibration, *, highest: float, p_raise: float | None
) -> str | None:
    """A sentence on a device without a machine alert whose scores rose beyond what training saw, and long enough for an
    alert at a level that its healthy windows did not reach; None where they did not. ``highest``: its highest score;
    ``p_raise``: the level at which the first alert would have come."""
    scores = calibration.scores()
    seen = float(scores.max()) if scores.size else math.inf
    if p_raise is None or highest <= seen:
        return None
    budget = budget_for_level(calibration, plan.alert, plan.window.hop_ns, p_raise)
    if budget is None or (level.alerts_per_week is not None and budget <= level.alerts_per_week):
        return None
    step_ns = calibration.step_ns or plan.window.hop_ns
    if budget > WEEK_NS / (calibration.n_windows * step_ns):
        return None
    return (
        f"{plan.device.device_id}: no machine alert, but scores rose to {highest:.3g}, and training saw none above "
        f"{seen:.3g}; the level is {level.score_raise:.3g}. The first alert would come with --alerts-per-week "
        f"{rounded_up(budget)}."
    )


def rounded_up(value: float) -> str:
    """``value`` to two digits, and not less than it is."""
    exponent = math.floor(math.log10(value)) - 1
    return f"{math.ceil(value / 10.0**exponent * (1.0 - 1e-12)) * 10.0**exponent:.10g}"
