"""Recordings and datasets for the tests of training: made here, small, with faults where they are asked
for."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from cloud_sink.dataset import Dataset
from models.features import FeatureSpec, describe, extract, learn_floors, min_scales
from models.sensor_checks import learn_baselines
from models.signal import NS_PER_S, Channel, Device, Mode, WindowBatch, WindowSpec
from models.time_policy import TimeTreatment, default_policy

START_NS = 1_700_000_000 * NS_PER_S
CHANNELS = ("pressure", "flow", "current")


def slow_signal(n: int, seed: int = 0) -> NDArray[np.float64]:
    """[n, 3] at 1 Hz: a pressure and a flow that belong together, a current of its own; each wanders."""
    generator = np.random.default_rng(seed)
    cause = np.zeros((n, 2))
    noise = generator.normal(size=(n, 2))
    for i in range(1, n):
        cause[i] = 0.9 * cause[i - 1] + 0.3 * noise[i]
    fine = generator.normal(size=(n, 3))
    return np.stack(
        [
            3.0 + 0.1 * cause[:, 0] + 0.02 * fine[:, 0],
            32.0 + 2.0 * cause[:, 0] + 0.3 * fine[:, 1],
            1.3 + 0.05 * cause[:, 1] + 0.02 * fine[:, 2],
        ],
        axis=1,
    )


def dataset(
    signal: NDArray[np.float64],
    *,
    n: int = 20,
    hop: int = 1,
    anomalous_from: int | None = None,
    used: int | None = None,
) -> Dataset:
    """``signal`` as windows of the slow set at 1 Hz. The first ``used`` windows are trained on; labels say
    anomalous from row ``anomalous_from`` on."""
    window = WindowSpec(n=n, hop=hop, rate_hz=Fraction(1), mode=Mode.CONTINUOUS, n_fast=5)
    values = np.ascontiguousarray(
        sliding_window_view(signal.astype(np.float32), n, axis=0)[::hop].transpose(0, 2, 1)
    )
    valid = np.ones(values.shape, np.bool_)
    first = np.arange(values.shape[0]) * hop
    start_ns = START_NS + first * NS_PER_S
    end_ns = start_ns + n * NS_PER_S
    channels = tuple(Channel(name=name) for name in CHANNELS[: signal.shape[1]])
    device = Device(device_id="press-4", machine="press-4", mode=Mode.CONTINUOUS, channels=channels)
    mask = np.arange(values.shape[0]) < (values.shape[0] if used is None else used)
    spec = FeatureSpec(set="slow", n_fast=5, floors=learn_floors(values[mask], valid[mask]))
    batch = WindowBatch("press-4", start_ns[mask], end_ns[mask], values[mask], valid[mask])
    return Dataset(
        device=device,
        window=window,
        time=TimeTreatment.of(default_policy(window)),
        spec=spec,
        infos=describe(spec, channels, window.rate_hz, n),
        min_scale=min_scales(spec, len(channels), n),
        baselines=learn_baselines([batch], window),
        examples=values[mask][:: max(1, values.shape[0] // 16)],
        start_ns=start_ns,
        end_ns=end_ns,
        features=extract(spec, values, valid, window.rate_hz),
        used=mask,
        anomalous=None if anomalous_from is None else first + n > anomalous_from,
        set_aside={},
        sample_drops={},
    )


def write_csv(
    path: Path,
    signal: NDArray[np.float64],
    *,
    offset: str = "Z",
    separator: str = ",",
    anomaly: NDArray[np.bool_] | None = None,
) -> Path:
    """``signal`` at 1 Hz as CSV; ``offset`` "" leaves the times naive."""
    times = np.datetime_as_string(
        np.datetime64(START_NS, "ns") + np.arange(len(signal)) * np.timedelta64(1, "s"), unit="s"
    )
    header = ["time", *CHANNELS[: signal.shape[1]]]
    rows = [
        [f"{t}{offset}", *(f"{v:.6g}" for v in row)] for t, row in zip(times, signal.tolist(), strict=True)
    ]
    if anomaly is not None:
        header.append("anomaly")
        for row, flag in zip(rows, anomaly.tolist(), strict=True):
            row.append(str(int(flag)))
    path.write_text("\n".join(separator.join(row) for row in [header, *rows]) + "\n")
    return path
