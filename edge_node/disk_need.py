"""How much disk the black box and the feature log need, and write. Pure.

A value is 4 bytes, and a row of a device without a uniform rate has 8 more for its time; what is left of that after
compression is measured where there is a black box already. Each time that something is written costs a little more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from models.signal import Mode
from models.time_policy import RecordedDevice

HOUR_S = 3600.0
NOISE_RATIO = 0.97  # of float32 that are noise: the most that a signal takes; much of it at once takes 0.85
FLUSH_BYTES = 2600  # of a frame that holds hardly anything
BEGINNING_BYTES = (
    1200  # of a file of features, by device: what it is, and what is remembered of it; a file an hour
)


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes an hour: of signal as it comes, and of files. ``measured``: by what was written before, not by the worst case."""

    raw_bytes: float
    disk_bytes: float
    measured: bool


def values_per_s(device: RecordedDevice, record_n: int | None = None) -> float:
    """Values that ``device`` sends a second; ``record_n``: rows of each record of a burst device."""
    n_channels = max(1, len(device.channels))
    if device.mode is Mode.BURST and device.interval_s:
        return (record_n or float(device.rate_hz)) / device.interval_s * n_channels
    return float(device.rate_hz) * n_channels


def need(
    devices: Iterable[tuple[RecordedDevice, int | None]], flush_s: float, measured_ratio: float | None = None
) -> Need:
    """What an hour takes of ``devices``, each with the rows of its records if it sends bursts. ``measured_ratio``: bytes on disk
    per byte of signal of a black box that there is (:func:`ratio`), None where there is none."""
    raw = 0.0
    for device, record_n in devices:
        values = values_per_s(device, record_n)
        rows = values / max(1, len(device.channels))
        raw += 4 * values + (8 * rows if device.mode is Mode.IRREGULAR else 0.0)
    raw *= HOUR_S
    if measured_ratio is not None:
        return Need(raw, raw * measured_ratio, True)
    return Need(raw, raw * NOISE_RATIO + HOUR_S / flush_s * FLUSH_BYTES, False)


_BESIDE = 5  # words of a row of features that are none: its time, its length, which channels are suspect


def feature_bytes(devices: Iterable[tuple[float, int]], flush_s: float) -> float:
    """What an hour of features takes at most, of devices with so many windows a second, of so many features each."""
    each = [4 * (n_features + _BESIDE) * windows_per_s for windows_per_s, n_features in devices]
    rows = sum(each) * NOISE_RATIO + FLUSH_BYTES / flush_s
    return HOUR_S * rows + BEGINNING_BYTES * len(each) if each else 0.0


def ratio(sizes: Iterable[tuple[int, int]]) -> float | None:
    """Bytes on disk per byte of signal, of files of (bytes on disk, bytes of signal); None without any signal."""
    n_disk = n_raw = 0
    for disk, raw in sizes:
        n_disk += disk
        n_raw += raw
    return n_disk / n_raw if n_raw else None
