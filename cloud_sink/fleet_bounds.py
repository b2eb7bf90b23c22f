"""What one gateway can do to what is learned of a fleet: how far it is believed, and how much it weighs. Pure.

Invariants, whatever one gateway says: it weighs at most ``max_share`` of the whole, or as much as the gateway that has seen
second most; it has one vote, however many devices it invents, on what the fleet is like; a device whose statistics lie far
from that is left out, and said to be; and of those that stay no mean counts as farther off than MAX_OFF, nor a standard
deviation as larger than MAX_WIDER allows: neither of a feature, nor along any direction, in the units of what the usual device's
features do together there. Devices within that are as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud_sink.moments import Moments

MAX_SHARE = 0.25
MIN_SCREENED = 5  # devices: of fewer nobody can tell which is the odd one
MAX_DISTANCE = 8.0  # robust standard deviations, of the median over features
MAX_OFF = 3.0  # standard deviations, within and between devices, of a feature's mean
MAX_WIDER = 2.0  # times the standard deviation of the usual device, or three robust deviations of all, if that is more
MAX_ROW_OFF = 8.0  # standard deviations of its device, of a feature of a row
MAX_SHAPES = 512  # devices that the usual one's shape is found by
# Of the usual device's variance along a direction, in the units of its features: narrower than this no model whitens
# (cloud_sink.train.MAX_WHITENING_GAIN).
LEAST_POWER = 0.01
_ROUNDED = 1e-5  # of a mean: rows are float32
_MAD = 1.4826  # makes a median absolute deviation a standard deviation, of a Gaussian
_LEAST_SPREAD = 0.05  # in log variances, and in standard deviations: devices are never more alike than that


@dataclass(frozen=True, slots=True)
class Screened:
    """A device that is left out, and why."""

    gateway: str
    device: str
    text: str


def votes_of(gateways: Sequence[str]) -> NDArray[np.float64]:
    """Of each device, of ``gateways``: together 1 for each gateway."""
    counts = Counter(gateways)
    return np.array([1.0 / counts[gateway] for gateway in gateways])


def median_of(values: NDArray[np.float64], votes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median over ``values`` float64[m, k] by ``votes`` float64[m], float64[k]; between two halves their mean."""
    order = np.argsort(values, axis=0)
    ranked = np.take_along_axis(values, order, axis=0)
    below = np.cumsum(votes[order], axis=0) / votes.sum()
    column = np.arange(values.shape[1])
    low = np.argmax(below >= 0.5 - 1e-9, axis=0)
    high = np.argmax(below > 0.5 + 1e-9, axis=0)
    found: NDArray[np.float64] = ranked[low, column] / 2.0 + ranked[high, column] / 2.0
    return found


def _log_variances(each: Sequence[Moments]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", over="ignore"):
        found: NDArray[np.float64] = np.log(np.maximum([np.diag(m.covariance) for m in each], 1e-300))
    return found


def screened(
    names: list[tuple[str, str]], each: list[Moments], votes: NDArray[np.float64]
) -> tuple[Screened, ...]:
    """Devices whose means, or whose spreads, lie far from the others': by the median over features of the distance to the median
    device, in robust standard deviations. What most features say decides, for one feature of a good device may be far."""
    if len(each) < MIN_SCREENED:
        return ()
    means = np.array([m.mean for m in each])
    with np.errstate(over="ignore", invalid="ignore"):
        log_variance = _log_variances(each)
        spread = np.exp(median_of(log_variance, votes) / 2)
        off = _distance(means, _LEAST_SPREAD * spread, votes)
        wide = _distance(log_variance, np.full(means.shape[1], _LEAST_SPREAD), votes)
    found, n_votes = [], 0.0
    for i, (gateway, device) in enumerate(names):
        what = "means" if off[i] > MAX_DISTANCE else "spreads" if wide[i] > MAX_DISTANCE else None
        if what is not None:
            far = max(off[i], wide[i])
            n_votes += float(votes[i])
            found.append(
                Screened(
                    gateway, device, f"its {what} lie {far:.3g} deviations from those of the other devices"
                )
            )
    return tuple(found) if n_votes <= votes.sum() / 2 else ()


def _distance(
    values: NDArray[np.float64], least: NDArray[np.float64], votes: NDArray[np.float64]
) -> NDArray[np.float64]:
    deviation = np.abs(values - median_of(values, votes))
    scale = np.maximum(_MAD * median_of(deviation, votes), least)
    found: NDArray[np.float64] = np.median(deviation / np.maximum(scale, 1e-300), axis=1)
    return np.where(np.isfinite(found), found, np.inf)


@dataclass(frozen=True, slots=True, eq=False)
class Believed:
    """Devices as far as they are believed. ``narrowed``: by their number, of those that said they were wider, what takes a
    deviation as it was to one that is believed, float64[k, k]."""

    each: list[Moments]
    narrowed: Mapping[int, NDArray[np.float64]]


def bounded(each: Sequence[Moments], votes: NDArray[np.float64]) -> Believed:
    """``each`` with no feature, and then no direction, farther off or wider than the fleet's own devices make believable."""
    means, log_variance = np.array([m.mean for m in each]), _log_variances(each)
    middle, usual = median_of(means, votes), median_of(log_variance, votes)
    between = _MAD * median_of(np.abs(means - middle), votes)
    unit, apart = np.exp(usual / 2.0), np.sqrt(np.exp(usual) + between**2)
    wider = np.maximum(2.0 * np.log(MAX_WIDER), 3.0 * _MAD * median_of(np.abs(log_variance - usual), votes))
    off = np.clip(means - middle, -MAX_OFF * apart, MAX_OFF * apart)
    narrow = np.exp(np.minimum(usual + wider - log_variance, 0.0) / 2.0)

    scale = narrow / unit
    shapes = np.array([one.covariance * s[:, None] * s for one, s in zip(each, scale, strict=True)])
    root, inverse = _usual_shape(shapes, votes)
    inside = inverse @ shapes @ inverse
    widest = np.log(np.maximum(np.linalg.eigvalsh(inside)[:, -1], 1e-300))
    usual_widest = median_of(widest[:, None], votes)[0]
    scatter = median_of(np.abs(widest - usual_widest)[:, None], votes)[0]
    ceiling = usual_widest + max(2.0 * np.log(MAX_WIDER), 3.0 * _MAD * scatter)
    far = np.linalg.norm((off / apart) @ inverse, axis=1)
    reach = MAX_OFF * np.sqrt(1.0 + float(median_of(far[:, None], votes)[0]) ** 2)
    nearer = np.minimum(reach / np.maximum(far, 1e-300), 1.0)

    found, narrowed = [], {}
    for i, one in enumerate(each):
        comoment = one.comoment
        if widest[i] > ceiling:
            power, axes = np.linalg.eigh(inside[i])
            kept = (axes * np.sqrt(np.minimum(np.exp(ceiling) / np.maximum(power, 1e-300), 1.0))) @ axes.T
            narrowed[i] = unit[:, None] * (root @ kept @ inverse) * scale[i]
        elif (narrow[i] < 1.0).any():
            narrowed[i] = np.diag(narrow[i])
        if i in narrowed:
            comoment = narrowed[i] @ comoment @ narrowed[i].T
        as_it_is = (nearer[i] == 1.0) & (off[i] == one.mean - middle)
        mean = np.where(as_it_is, one.mean, middle + nearer[i] * off[i])
        found.append(Moments(one.n, mean, comoment))
    return Believed(found, narrowed)


def _usual_shape(
    shapes: NDArray[np.float64], votes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The square root of what covariances float64[m, k, k] are like by ``votes``, and its inverse: the exponential of the spatial
    median of their logarithms (Arsigny, Fillard, Pennec & Ayache 2006), which less than half of the votes cannot carry away
    (Lopuhaa & Rousseeuw 1991). Of many, evenly spaced ones."""
    some = np.unique(np.linspace(0, len(shapes) - 1, min(len(shapes), MAX_SHAPES)).astype(np.int64))
    power, axes = np.linalg.eigh(shapes[some])
    logs = (axes * np.log(np.maximum(power, LEAST_POWER))[:, None, :]) @ axes.swapaxes(1, 2)
    middle = np.average(logs, axis=0, weights=votes[some])
    for _ in range(50):  # Weiszfeld's
        apart = np.sqrt(((logs - middle) ** 2).sum(axis=(1, 2)))
        middle = np.average(logs, axis=0, weights=votes[some] / np.maximum(apart, 1e-9))
    power, axes = np.linalg.eigh(middle)
    return (axes * np.exp(power / 2.0)) @ axes.T, (axes * np.exp(-power / 2.0)) @ axes.T


def bounded_rows(
    rows: NDArray[np.float32], of: NDArray[np.int64], own: Sequence[Moments], believed: Believed
) -> NDArray[np.float32]:
    """``rows`` float32[r, k], each of device ``of``, moved as the moments of its device were, from ``own`` to ``believed``, and
    none farther than MAX_ROW_OFF standard deviations from their mean."""
    after, spread = (np.array([getattr(m, what) for m in believed.each])[of] for what in ("mean", "spread"))
    before = np.array([m.mean for m in own])[of]
    moved = np.where(before == after, rows, rows - before + after)
    for i in set(believed.narrowed).intersection(of.tolist()):
        mine = of == i
        moved[mine] = (rows[mine] - before[mine]) @ believed.narrowed[i].T + after[mine]
    room = MAX_ROW_OFF * spread + _ROUNDED * np.abs(after)
    found: NDArray[np.float32] = np.clip(moved, after - room, after + room).astype(np.float32)
    return found


def weights_of(gateways: list[str], n: list[float], max_share: float) -> list[float]:
    """Of each device: its windows, but those of one gateway together at most :func:`most_of`."""
    by_gateway: dict[str, float] = {}
    for gateway, count in zip(gateways, n, strict=True):
        by_gateway[gateway] = by_gateway.get(gateway, 0.0) + count
    most = most_of(list(by_gateway.values()), max_share)
    return [count * min(1.0, most / by_gateway[gateway]) for gateway, count in zip(gateways, n, strict=True)]


def most_of(counts: list[float], max_share: float) -> float:
    """What counts, at most, of each of ``counts``, one a gateway: ``max_share`` of all that then counts, or as much as the second
    largest, if that is more: who has just begun does not make little of what the others have seen."""
    second = sorted(counts)[-2] if len(counts) > 1 else counts[0]
    low, high = second, max(counts)
    for _ in range(100):  # the share of the largest grows with it
        middle = (low + high) / 2.0
        if middle <= max_share * sum(min(count, middle) for count in counts):
            low = middle
        else:
            high = middle
    return low
