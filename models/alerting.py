"""What an alert says: which channel did it, what was seen against what was expected, in one sentence. Pure.

When an alert is raised is decided in ``episodes.py``; both are imported from here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.episode_counts import count_episodes
from models.episodes import AlertPolicy, Episodes, EpisodesState, Transition
from models.features import FeatureInfo, readable
from models.limits import LimitSpec
from models.messages import AlertState, Contribution
from models.signal import NS_PER_S, Channel

__all__ = [
    "AlertPolicy",
    "Episodes",
    "EpisodesState",
    "Transition",
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
]

EXPECTED_SIGMA = 3.0  # half the width of an expected range, in healthy standard deviations

_FAULTS = {
    "flatline": "flat at {value}",
    "stuck": "stuck at {value}",
    "saturated": "saturated at {value}",
    "out_of_range": "out of its valid range at {value}",
}


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
) -> tuple[Contribution, ...]:
    """The ``n`` channels that did most, each by its strongest feature.

    ``residual`` float32[k] of one window; a channel's share is its part of the squared residual. ``observed`` float32[k] are the
    features as measured, ``centre`` float64[k] where re-centring stood, ``origins`` one per channel in order of
    first appearance in ``infos``.
    """
    power = residual.astype(np.float64) ** 2
    total = float(power.sum()) or 1.0
    channels = list(dict.fromkeys(info.channel for info in infos))
    members = {c: [j for j, info in enumerate(infos) if info.channel == c] for c in channels}
    share = {c: float(power[members[c]].sum()) / total for c in channels}
    ranked = sorted(channels, key=lambda c: -share[c])[:n]
    found = []
    for c in ranked:
        j = members[c][int(np.argmax(power[members[c]]))]
        origin = origins[channels.index(c)]
        found.append(
            contribution(infos[j], float(observed[j]), float(centre[j]), float(scale[j]), share[c], origin)
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
) -> str:
    """ "press-4: x vibration 3.1 times normal at 312-375 Hz for 4 min". ``centre`` is the healthy centre of the first
    contribution's feature."""
    top = contributions[0]
    info = next(i for i in infos if i.name == top.feature)
    lasted = duration(end_ns - start_ns)
    if info.log:
        normal = readable(info, centre, 0.0)
        ratio = top.observed / normal if normal > 0 else float("inf")
        times = f"{_short(ratio)} times normal" if ratio >= 1.0 else f"{_short(100.0 * ratio)} % of normal"
        place = f" at {_band(info)}" if info.low_hz is not None else ""
        what = f"{_subject(info)} {times}{place}"
    else:
        what = f"{_subject(info)} {quantity(top.observed, top.unit)}"
    if _inside(top):
        what += ", unusual beside the other readings"
    elif not info.log:
        what += f", expected {_range(top)}"
    if state == "cleared":
        return f"{machine}: normal again after {lasted} (at worst {what})"
    return f"{machine}: {what}{',' if ',' in what else ''} for {lasted}"


def sensor_sentence(
    machine: str, channel: Channel, fault: str, value: float, start_ns: int, end_ns: int, state: AlertState
) -> str:
    """ "press-4: sensor Thermocouple flat at 25.4 °C for 10 min"."""
    lasted = duration(end_ns - start_ns)
    if state == "cleared":
        return f"{machine}: sensor {channel.name} works again after {lasted}"
    what = _FAULTS[fault].format(value=quantity(value, channel.unit))
    return f"{machine}: sensor {channel.name} {what} for {lasted}"


def limit_sentence(
    machine: str,
    channel: Channel,
    limit: LimitSpec,
    value: float,
    start_ns: int,
    end_ns: int,
    state: AlertState,
) -> str:
    """ "press-4: bearing temperature 91.2 °C above the limit of 85 °C for 60 s"."""
    lasted = duration(end_ns - start_ns)
    if state == "cleared":
        return f"{machine}: {channel.name} within the limit {limit.name} again after {lasted}"
    above, below = limit.above, limit.below
    # The bound that it is beyond, or, where it is not back by the hysteresis yet, next to.
    if below is None or (above is not None and above - value <= value - below):
        side, bound = ("above" if above is not None and value > above else "still near"), above
    else:
        side, bound = ("below" if value < below else "still near"), below
    allowed = limit.name if bound is None else quantity(bound, channel.unit)
    seen = "" if math.isnan(value) else f"{quantity(value, channel.unit)}, "
    return f"{machine}: {channel.name} {seen}{side} the limit of {allowed} for {lasted}"


def drift_sentence(
    machine: str,
    seen: Contribution,
    info: FeatureInfo,
    n_others: int,
    start_ns: int,
    end_ns: int,
    state: AlertState,
) -> str:
    """ "press-4: Pressure mean has drifted to 2.31 bar, commissioned at 2.9 to 3.1 bar (2 more channels too)"."""
    if state == "cleared":
        return f"{machine}: {info.label} is back from its drift after {duration(end_ns - start_ns)}"
    others = f" ({n_others} more channel{'s' if n_others > 1 else ''} too)" if n_others else ""
    observed = quantity(seen.observed, seen.unit)
    return f"{machine}: {info.label} has drifted to {observed}, commissioned at {_range(seen)}{others}"


def stale_sentence(
    machine: str, device: str, channels: Sequence[str], start_ns: int, end_ns: int, state: AlertState
) -> str:
    """ "press-4: no data from press-4-vibration for 30 s"; names the channels where only some are silent."""
    lasted = duration(end_ns - start_ns)
    if state == "cleared":
        return f"{machine}: data from {device} again after {lasted}"
    of = f" ({', '.join(channels)})" if channels else ""
    return f"{machine}: no data from {device}{of} for {lasted}"


def quantity(value: float, unit: str) -> str:
    """``value`` with its unit at about three significant digits: "91.2 °C", "0.00213 g", "12400 rpm"."""
    return f"{_short(value)} {unit}".rstrip()


def duration(ns: int) -> str:
    """A duration as people say it: "0.5 s", "60 s", "4 min", "2 h", "3 days"."""
    seconds = max(ns, 0) / NS_PER_S  # a clock that was set back
    if seconds < 1.0:
        return f"{seconds:.2g} s"
    if seconds < 100.0:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"


def _short(value: float) -> str:
    """Three significant digits without an exponent where a person would not use one."""
    value, size = value + 0.0, abs(value)  # no "-0"
    if size >= 1e7 or (size < 1e-4 and value != 0.0):
        return f"{value:.2e}"
    if size >= 100.0:
        return f"{value:.0f}"
    return f"{float(f'{value:.3g}'):g}"


def _range(seen: Contribution) -> str:
    low, high = seen.expected_low, seen.expected_high
    if low is None or high is None:
        return "otherwise"
    # Ends that would read alike at three digits get as many as tell them apart.
    for digits in range(3, 8):
        a, b = f"{float(f'{low:.{digits}g}'):g}", f"{float(f'{high:.{digits}g}'):g}"
        if a != b:
            break
    return f"{a} to {b} {seen.unit}".rstrip()


def _inside(seen: Contribution) -> bool:
    """Whether what was seen is, by itself, what was expected."""
    low, high = seen.expected_low, seen.expected_high
    return (low is None or low <= seen.observed) and (high is None or seen.observed <= high)


def _band(info: FeatureInfo) -> str:
    return f"{info.low_hz:g}-{info.high_hz:g} Hz"


def _subject(info: FeatureInfo) -> str:
    """The label without its band, which the sentence puts last."""
    if info.low_hz is None:
        return info.label
    return info.label.removesuffix(f" at {_band(info)}")
