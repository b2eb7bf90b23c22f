"""What an alert says: which channel did it, what was seen against what was expected, in one sentence.

A sentence begins with the machine and can be read aloud; "for 4 min" is the time from the episode's start to
its newest window. When an alert is raised is decided in ``episodes.py``, how numbers are written in
``wording.py``; all are imported from here. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.episode_counts import count_episodes
from models.episodes import AlertPolicy, Episodes, EpisodesState, Transition
from models.features import FeatureInfo, FeatureSet, readable
from models.limits import LimitSpec
from models.messages import AlertState, Contribution
from models.signal import NS_PER_S, Channel, WindowSpec
from models.wording import against, compared, duration, quantity, significant, times_normal

__all__ = [
    "AlertPolicy",
    "Episodes",
    "EpisodesState",
    "Transition",
    "accepted_sentence",
    "blame",
    "contribution",
    "count_episodes",
    "drift_sentence",
    "duration",
    "limit_sentence",
    "machine_sentence",
    "quantity",
    "sensor_sentence",
    "stale_sentence",
    "usual_policy",
]

NEVER = 1e300  # a ratio that nothing reaches

EXPECTED_SIGMA = 3.0  # half the width of an expected range, in healthy standard deviations

MIN_SHARE = 0.05  # a channel with less of the score than this is not worth a reader's time

_FAULTS = {"flatline": "flat", "stuck": "stuck", "saturated": "saturated", "out_of_range": "out of range"}


def usual_policy(features: FeatureSet, window: WindowSpec) -> AlertPolicy:
    """How windows become alerts where nothing else is configured.

    A new extreme of telemetry is new in one window alone, so one raises; then there is rest for as long as windows share
    samples with it. It is a warning, and has its rest to wait for, however far it is: its score says that it is beyond,
    and not how bad that is.
    """
    if features != "telemetry":
        return AlertPolicy()
    cooldown_s = max(300.0, window.window_ns / NS_PER_S)
    return AlertPolicy(n_raise=1, m_raise=1, cooldown_s=cooldown_s, critical_p_ratio=NEVER, worse_ratio=NEVER)


def contribution(
    info: FeatureInfo,
    value: float,
    centre: float,
    scale: float,
    share: float,
    origin: float,
    sigma: float = EXPECTED_SIGMA,
) -> Contribution:
    """One feature's part in an alert: ``value`` as a person reads it, expected within ``sigma`` times
    ``scale`` of ``centre``."""
    low = readable(info, centre - sigma * scale, origin)
    return Contribution(
        channel=info.channel,
        feature=info.name,
        share=share,
        observed=readable(info, value, origin),
        # Of what cannot be negative, a Gaussian range would say so.
        expected_low=max(low, 0.0) if info.kind == "peak" else low,
        expected_high=readable(info, centre + sigma * scale, origin),
        unit=info.unit,
    )


def blame(
    residual: NDArray[np.float32],
    infos: Sequence[FeatureInfo],
    observed: NDArray[np.float32],
    centre: NDArray[np.float64],
    scale: NDArray[np.float64],
    origins: Sequence[float],
    n: int = 3,
    sigma: float = EXPECTED_SIGMA,
) -> tuple[Contribution, ...]:
    """The ``n`` channels that did most, each by its strongest feature, the strongest channel first.

    ``residual`` float32[k] of one window; a channel's share is its part of the squared residual, and one
    below 5 % is left out (never the first). ``observed`` float32[k] are the features as measured, ``centre``
    float64[k] where re-centring stood, ``scale`` float64[k] the commissioned spread, ``origins`` one per
    channel in order of first appearance in ``infos``; expected is what lies within ``sigma`` times the spread.
    """
    power = residual.astype(np.float64) ** 2
    total = float(power.sum()) or 1.0
    channels = list(dict.fromkeys(info.channel for info in infos))
    members = {c: [j for j, info in enumerate(infos) if info.channel == c] for c in channels}
    share = {c: float(power[members[c]].sum()) / total for c in channels}
    ranked = sorted(channels, key=lambda c: -share[c])[:n]
    found = []
    for rank, c in enumerate(ranked):
        if rank > 0 and share[c] < MIN_SHARE:
            break
        j = members[c][int(np.argmax(power[members[c]]))]
        origin = origins[channels.index(c)]
        found.append(
            contribution(
                infos[j], float(observed[j]), float(centre[j]), float(scale[j]), share[c], origin, sigma
            )
        )
    return tuple(found)


def machine_sentence(
    machine: str,
    contributions: Sequence[Contribution],
    infos: Sequence[FeatureInfo],
    centre: float,
    start_ns: int,
    end_ns: int,
    state: AlertState,
    least_score: float | None = None,
) -> str:
    """ "press-4: x vibration 3.1 times normal at 312-375 Hz for 4 min", "press-4: Pressure mean 2.31 bar,
    expected 2.9 to 3.1, for 2 min". ``centre`` is the healthy centre of the first contribution's feature.

    A feature that is within its own expected range is "unusual beside the other readings", or "in an unusual pattern"
    where there is no other channel: it is their combination that the model has not seen.
    ``least_score``: the score, where it is known only to be at least that ("…, for 2 min; score at least 41").
    """
    top = contributions[0]
    info = next(i for i in infos if i.name == top.feature)
    lasted = duration(end_ns - start_ns)
    subject, place = _subject(info)
    seen, expected = _seen(top)
    if info.log:
        normal = readable(info, centre, 0.0)
        what = f"{subject} {times_normal(top.observed / normal if normal > 0 else math.inf)}{place}"
    else:
        what = f"{subject} {seen}"
    if _inside(top):
        alone = all(i.channel == info.channel for i in infos)
        what += ", in an unusual pattern" if alone else ", unusual beside the other readings"
    elif not info.log:
        what += f", expected {expected}{' at this time of the day' if info.daily else ''}"
    bound = "" if least_score is None else f"; score at least {significant(least_score)}"
    if state == "cleared":
        return f"{machine}: normal again after {lasted} (at worst {what}{bound})"
    return f"{machine}: {what}{',' if ',' in what else ''} for {lasted}{bound}"


def accepted_sentence(machine: str, by: str, said: str) -> str:
    """ "press-4: accepted as normal by Anna: Pressure mean 2.31 bar, expected 2.9 to 3.1, for 2 min". ``said``: what was
    said last of what is accepted."""
    return f"{machine}: accepted as normal by {by}: {said.removeprefix(f'{machine}: ')}"


def sensor_sentence(
    machine: str, channel: Channel, fault: str, value: float, start_ns: int, end_ns: int, state: AlertState
) -> str:
    """ "press-4: sensor Thermocouple flat at 25.4 °C for 10 min". ``fault`` is a :class:`SensorFault`'s
    value; ``value`` the reading in the channel's unit, NaN for none."""
    lasted = duration(end_ns - start_ns)
    if state == "cleared":
        return f"{machine}: sensor {channel.name} works again after {lasted}"
    if fault == "out_of_range" and channel.valid_range is not None and math.isfinite(value):
        low, high = channel.valid_range
        nearest = low if value < low else high
        seen, _ = against(value, nearest, channel.unit)
        allowed = f"{low:.10g} to {high:.10g}"
        return f"{machine}: sensor {channel.name} at {seen}, outside its range of {allowed}, for {lasted}"
    at = f" at {quantity(value, channel.unit)}" if math.isfinite(value) else ""
    return f"{machine}: sensor {channel.name} {_FAULTS[fault]}{at} for {lasted}"


def limit_sentence(
    machine: str,
    channel: Channel,
    limit: LimitSpec,
    value: float,
    start_ns: int,
    end_ns: int,
    state: AlertState,
) -> str:
    """ "press-4: bearing temperature 91.2 °C above the limit of 85 °C for 60 s". ``value``: the reading
    furthest beyond, in the channel's unit, NaN for none."""
    lasted = duration(end_ns - start_ns)
    above, below = limit.above, limit.below
    bounds = [f"{bound:.10g}" for bound in (below, above) if bound is not None]
    its = f"its limit{'s' if len(bounds) > 1 else ''} of {' to '.join(bounds)} {channel.unit}".rstrip()
    if state == "cleared":
        return f"{machine}: {channel.name} back within {its} after {lasted}"
    if math.isnan(value):
        return f"{machine}: {channel.name} beyond {its} for {lasted}"
    if below is None or (above is not None and above - value <= value - below):
        bound, side = above, "above" if above is not None and value > above else ""
    else:
        bound, side = below, "below" if value < below else ""
    seen, allowed = against(value, value if bound is None else bound, channel.unit)
    if not side:  # not back by the hysteresis yet
        return f"{machine}: {channel.name} {seen}, still near the limit of {allowed}, for {lasted}"
    return f"{machine}: {channel.name} {seen} {side} the limit of {allowed} for {lasted}"


def drift_sentence(
    machine: str,
    seen: Contribution,
    info: FeatureInfo,
    n_others: int,
    start_ns: int,
    end_ns: int,
    state: AlertState,
) -> str:
    """ "press-4: Pressure mean has drifted to 2.31 bar, beyond the allowed 2.9 to 3.1 (2 more channels too)".
    ``seen`` expects what re-centring may follow."""
    subject, place = _subject(info)
    if state == "cleared":
        return f"{machine}: {subject}{place} is back from its drift after {duration(end_ns - start_ns)}"
    others = f" ({n_others} more channel{'s' if n_others > 1 else ''} too)" if n_others else ""
    observed, allowed = _seen(seen)
    if _inside(seen):
        return f"{machine}: {subject}{place} has drifted: now {observed}, allowed {allowed}{others}"
    return f"{machine}: {subject}{place} has drifted to {observed}, beyond the allowed {allowed}{others}"


def stale_sentence(
    machine: str, device: str, channels: Sequence[str], start_ns: int, end_ns: int, state: AlertState
) -> str:
    """ "press-4: no data from press-4-vibration for 30 s"; names the channels where only some are silent, and
    not the device where it has the machine's name."""
    lasted = duration(end_ns - start_ns)
    source = "" if device == machine else f" from {device}"
    of = f" ({', '.join(channels)})" if channels else ""
    if state == "cleared":
        return f"{machine}: data{source}{of} again after {lasted}"
    return f"{machine}: no data{source}{of} for {lasted}"


def _seen(seen: Contribution) -> tuple[str, str]:
    """What was observed, with its unit, and what was expected, without."""
    low, high = seen.expected_low, seen.expected_high
    if low is None or high is None:
        return quantity(seen.observed, seen.unit), "otherwise"
    return compared(seen.observed, low, high, seen.unit)


def _inside(seen: Contribution) -> bool:
    """Whether what was seen is, by itself, what was expected."""
    low, high = seen.expected_low, seen.expected_high
    return (low is None or low <= seen.observed) and (high is None or seen.observed <= high)


def _subject(info: FeatureInfo) -> tuple[str, str]:
    """The label as a sentence begins with it, and the place (" at 312-375 Hz") that it ends with. The length
    of a fast window means nothing to who reads an alert."""
    if info.kind == "log_band":
        subject, at, band = info.label.rpartition(" at ")
        return (subject, at + band) if at else (info.label, "")
    if info.kind == "last":
        return info.label.removesuffix(" value"), ""
    return (info.label.rpartition(" over ")[0] or info.label) if info.fast else info.label, ""
