"""What one gateway can do to what is learned of a fleet: how far it is believed, and how much it weighs. Pure.

Invariants, whatever one gateway says: it weighs at most ``max_share`` of the whole, or as much as the gateway that has seen
second most; it has one vote, however many devices it invents, on what the fleet is like; a device whose statistics lie far
from that is left out, and said to be; and of those that stay no feature's mean counts as farther off than MAX_OFF, nor its
standard deviation as larger than MAX_WIDER allows. Devices within that are as they are. These are bounds of single features:
along a direction in which some hang together a device may be far and within all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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


def _median(values: NDArray[np.float64], votes: NDArray[np.float64]) -> NDArray[np.float64]:
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
        spread = np.exp(_median(log_variance, votes) / 2)
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
    deviation = np.abs(values - _median(values, votes))
    scale = np.maximum(_MAD * _median(deviation, votes), least)
    found: NDArray[np.float64] = np.median(deviation / np.maximum(scale, 1e-300), axis=1)
    return np.where(np.isfinite(found), found, np.inf)


def bounded(each: Sequence[Moments], votes: NDArray[np.float64]) -> list[Moments]:
    """``each`` with no feature farther off, or wider, than the fleet's own devices make believable."""
    means, log_variance = np.array([m.mean for m in each]), _log_variances(each)
    middle, usual = _median(means, votes), _median(log_variance, votes)
    between = _MAD * _median(np.abs(means - middle), votes)
    room = MAX_OFF * np.sqrt(np.exp(usual) + between**2)
    wider = np.maximum(2.0 * np.log(MAX_WIDER), 3.0 * _MAD * _median(np.abs(log_variance - usual), votes))
    found = []
    for one, log in zip(each, log_variance, strict=True):
        mean = np.clip(one.mean, middle - room, middle + room)
        narrowed = np.exp(np.minimum(usual + wider - log, 0.0) / 2.0)
        with np.errstate(over="ignore"):
            comoment = (one.comoment * narrowed[:, None]) * narrowed[None, :]
        found.append(Moments(one.n, mean, comoment))
    return found


def bounded_rows(
    rows: NDArray[np.float32], of: NDArray[np.int64], own: Sequence[Moments], believed: Sequence[Moments]
) -> NDArray[np.float32]:
    """``rows`` float32[r, k], each of device ``of``, moved as the moments of its device were, from ``own`` to ``believed``, and
    none farther than MAX_ROW_OFF standard deviations from their mean."""
    before, after = (np.array([m.mean for m in each])[of] for each in (own, believed))
    was, spread = (np.array([m.spread for m in each])[of] for each in (own, believed))
    with np.errstate(over="ignore"):
        narrowed = np.where(was > 0.0, spread / np.where(was > 0.0, was, 1.0), 1.0)
        as_it_is = (narrowed > 1.0 - 1e-9) & (before == after)
        moved = np.where(as_it_is, rows, (rows - before) * narrowed + after)
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
